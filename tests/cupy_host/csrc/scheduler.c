/* Runs a grid: block after block, every CUDA thread a fibre. A fibre runs until it ends or meets a
 * barrier; a barrier opens when all of the block (or warp) stand before it. The caller holds
 * Python's lock, so there is one launch at a time. */
#define _GNU_SOURCE
#include "core.h"
#include "fibre.h"
#include "order.h"

#include <string.h>
#include <sys/mman.h>

#define STACK_BYTES (256u * 1024u)
#define POISON 0xFF

enum state { NOT_STARTED, RUNNING, AT_BLOCK_BARRIER, AT_WARP_BARRIER, ENDED };

struct thread {
    fibre_context context;
    struct host_index index;
    int slot; /* its stack */
    enum state state;
    unsigned mask; /* of the warp barrier it stands before */
    unsigned warp_epoch;
    uint64_t offered, delivered; /* to the other lanes: delivered when the warp barrier opens */
    const void *shown;           /* to all lanes, between two warp barriers */
};

struct host_fault host_last_fault;
struct host_index host_thread_idx, host_block_idx, host_block_dim, host_grid_dim;
char host_dynamic_shared[HOST_MAX_SHARED] __attribute__((aligned(256)));

static struct thread threads[HOST_MAX_THREADS];
static unsigned thread_count, ended, barriers;
static int reduction[2][3]; /* of __syncthreads_count, _and, _or; two intervals */
static fibre_context scheduler;
static struct thread *current;
static const struct host_launch *launch;
static int aborted;
static char *stacks;
static int free_slots[HOST_MAX_THREADS], free_count;

static unsigned linear(const struct thread *t) { return (unsigned)(t - threads); }

static void leave(void) { fibre_switch(&current->context, &scheduler); }

void host_abort(int kind, uint64_t address, uint64_t size, int is_write, int other_thread) {
    host_last_fault = (struct host_fault){kind, is_write, address, size,
                                          current ? current->index : (struct host_index){0, 0, 0},
                                          host_block_idx, other_thread};
    aborted = 1;
    if (current) leave(); /* never comes back */
}

static void fibre_main(void) {
    launch->entry(launch->arguments);
    current->state = ENDED;
    leave();
}

static void run(struct thread *t) {
    current = t;
    t->state = RUNNING;
    host_thread_idx = t->index;
    fibre_switch(&scheduler, &t->context);
    current = NULL;
    if (t->state == ENDED) {
        ended++;
        free_slots[free_count++] = t->slot;
    }
}

/* A stack is taken only when a thread starts and is back when it ends: a kernel without a barrier
 * runs on one stack, however many threads it has. */
static void start(struct thread *t) {
    t->slot = free_slots[--free_count];
    fibre_prepare(&t->context, stacks + (size_t)t->slot * STACK_BYTES, STACK_BYTES, fibre_main);
    run(t);
}

static void wait_at(enum state barrier, unsigned mask) {
    struct thread *me = current;
    me->state = barrier;
    me->mask = mask;
    leave();
}

void host_sync_threads(void) { wait_at(AT_BLOCK_BARRIER, 0); }

int host_sync_reduce(int predicate, int operation) {
    int *slot = reduction[barriers & 1];
    unsigned before = barriers;
    slot[0] += predicate != 0;
    slot[1] &= predicate != 0;
    slot[2] |= predicate != 0;
    host_sync_threads();
    return reduction[before & 1][operation];
}

void host_sync_warp(unsigned mask) { wait_at(AT_WARP_BARRIER, mask); }

static struct thread *lane(const struct thread *of, int number) {
    unsigned at = linear(of) / HOST_WARP * HOST_WARP + (unsigned)number;
    return at < thread_count ? &threads[at] : NULL;
}

/* No lane can pass its next barrier before every lane released with it has run, and so has read. */
uint64_t host_exchange(unsigned mask, uint64_t value, int source_lane) {
    struct thread *me = current;
    int from = source_lane & (HOST_WARP - 1);
    me->offered = value;
    host_sync_warp(mask);
    struct thread *source = lane(me, from);
    return source && (mask >> from & 1) ? source->delivered : value;
}

unsigned host_vote(unsigned mask, int predicate) {
    struct thread *me = current;
    unsigned votes = 0;
    me->offered = predicate != 0;
    host_sync_warp(mask);
    for (int i = 0; i < HOST_WARP; i++) {
        struct thread *other = lane(me, i);
        if (other && (mask >> i & 1) && other->state != ENDED && other->delivered) votes |= 1u << i;
    }
    return votes;
}

unsigned host_active_mask(void) {
    unsigned mask = 0;
    for (int i = 0; i < HOST_WARP; i++) {
        struct thread *other = lane(current, i);
        if (other && other->state != ENDED) mask |= 1u << i;
    }
    return mask;
}

void host_gather(const void *mine, unsigned size, void *all) {
    struct thread *me = current;
    me->shown = mine;
    host_sync_warp(0xFFFFFFFFu);
    for (int i = 0; i < HOST_WARP; i++) {
        const struct thread *other = lane(me, i);
        if (!other || other->state == ENDED) host_abort(HOST_DIVERGENT_WARP, 0, 0, 0, -1);
        memcpy((char *)all + (size_t)i * size, other->shown, size);
    }
    host_sync_warp(0xFFFFFFFFu);
}

static void touch_shared(uint64_t address, unsigned offset, unsigned size, int is_write) {
    unsigned me = linear(current);
    struct host_toucher toucher = {me, me / HOST_WARP, current->warp_epoch};
    int other = host_race_touch(offset, size, is_write, toucher);
    if (other) host_abort(HOST_SHARED_RACE, address, size, is_write, other > 0 ? other - 1 : -1);
}

static void check(uint64_t address, unsigned size, int is_write, int may_race) {
    if (!current) return;
    uint64_t stack = (uint64_t)stacks + (uint64_t)current->slot * STACK_BYTES;
    if (address - stack < STACK_BYTES) return;
    int verdict = host_memory_verdict(address, size, launch->device);
    if (verdict == HOST_OK) {
        host_traffic_touch(address, size, is_write);
        return;
    }
    if (verdict > 0) {
        host_abort(verdict, address, size, is_write, -1);
        return;
    }
    if (address - launch->shared_low < launch->shared_size) {
        if (may_race)
            touch_shared(address, (unsigned)(address - launch->shared_low), size, is_write);
        return;
    }
    uint64_t offset = address - (uint64_t)host_dynamic_shared;
    if (offset < HOST_MAX_SHARED) {
        if (offset + size > launch->dynamic_shared)
            host_abort(HOST_OUT_OF_BOUNDS, address, size, is_write, -1);
        else if (may_race)
            touch_shared(address, (unsigned)(HOST_MAX_SHARED + offset), size, is_write);
        return;
    }
    if (address >= launch->image_low && address < launch->image_high) return;
    if (!host_pinned(address, size)) host_abort(HOST_HOST_POINTER, address, size, is_write, -1);
}

/* Every read and write of a kernel comes to one of these two. */
void host_check(const volatile void *pointer, unsigned size, int is_write) {
    check((uint64_t)pointer, size, is_write, 1);
}

void host_check_atomic(const volatile void *pointer, unsigned size) {
    check((uint64_t)pointer, size, 1, 0);
}

/* ---- opening barriers ---- */

static int warp_ready(const struct thread *t) {
    for (int i = 0; i < HOST_WARP; i++) {
        if (!(t->mask >> i & 1)) continue;
        const struct thread *other = lane(t, i);
        if (!other || other->state == ENDED) continue; /* a partial warp; lanes that returned */
        if (other->state != AT_WARP_BARRIER || other->mask != t->mask) return 0;
    }
    return 1;
}

/* Opens every barrier that is complete, marking its threads RUNNING; 0 if none was. */
static int open_barriers(void) {
    static unsigned char open[HOST_MAX_THREADS];
    unsigned at_block = 0, opened = 0;
    for (unsigned i = 0; i < thread_count; i++) {
        struct thread *t = &threads[i];
        at_block += t->state == AT_BLOCK_BARRIER;
        open[i] = t->state == AT_WARP_BARRIER && warp_ready(t);
        opened += open[i];
    }
    for (unsigned i = 0; i < thread_count; i++)
        if (open[i]) {
            threads[i].state = RUNNING;
            threads[i].warp_epoch++;
            threads[i].delivered = threads[i].offered;
        }
    if (opened || !at_block) return (int)opened;
    if (at_block != thread_count) { /* some ended, or stand before a warp barrier for ever */
        host_abort(HOST_DIVERGENT_BARRIER, 0, 0, 0, -1);
        return 0;
    }
    host_race_new_epoch();
    barriers++;
    int *next = reduction[barriers & 1];
    next[0] = 0, next[1] = 1, next[2] = 0;
    for (unsigned i = 0; i < thread_count; i++) threads[i].state = RUNNING;
    return (int)thread_count;
}

/* ---- blocks ---- */

static void run_block(const unsigned *order) {
    ended = 0;
    host_traffic_block();
    reduction[barriers & 1][0] = 0, reduction[barriers & 1][1] = 1, reduction[barriers & 1][2] = 0;
    host_race_new_epoch();
    if (launch->shared_size) memset((void *)launch->shared_low, POISON, launch->shared_size);
    memset(host_dynamic_shared, POISON, launch->dynamic_shared);
    for (unsigned i = 0; i < thread_count; i++) threads[i].state = NOT_STARTED;
    for (unsigned i = 0; i < thread_count && !aborted; i++) start(&threads[order[i]]);
    while (ended < thread_count && !aborted) {
        if (!open_barriers()) {
            if (!aborted) host_abort(HOST_DIVERGENT_WARP, 0, 0, 0, -1);
            return;
        }
        for (unsigned i = 0; i < thread_count && !aborted; i++)
            if (threads[order[i]].state == RUNNING) run(&threads[order[i]]);
    }
}

static int prepare(const struct host_launch *args) {
    static const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    if (!stacks) {
        size_t bytes = (size_t)HOST_MAX_THREADS * STACK_BYTES;
        void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (memory == MAP_FAILED) return -1;
        stacks = memory;
        for (int i = 0; i < HOST_MAX_THREADS; i++) /* a stack that overflows stops here */
            mprotect(stacks + (size_t)i * STACK_BYTES, 4096, PROT_NONE);
    }
    launch = args;
    aborted = 0;
    current = NULL;
    free_count = 0;
    for (int i = HOST_MAX_THREADS - 1; i >= 0; i--) free_slots[free_count++] = i;
    thread_count = args->block[0] * args->block[1] * args->block[2];
    host_block_dim = (struct host_index){args->block[0], args->block[1], args->block[2]};
    host_grid_dim = (struct host_index){args->grid[0], args->grid[1], args->grid[2]};
    for (unsigned i = 0; i < thread_count; i++) {
        unsigned row = i / args->block[0];
        threads[i].index.x = i % args->block[0];
        threads[i].index.y = row % args->block[1];
        threads[i].index.z = row / args->block[1];
        threads[i].warp_epoch = 0;
    }
    return 0;
}

int host_launch(const struct host_launch *args) {
    unsigned order[HOST_MAX_THREADS];
    if (prepare(args)) return -1;
    uint64_t state = args->seed;
    order_threads(order, thread_count, args->order, &state);
    uint64_t blocks = (uint64_t)args->grid[0] * args->grid[1] * args->grid[2];
    uint64_t step, at = order_blocks(blocks, args->order, &state, &step);
    for (uint64_t i = 0; i < blocks && !aborted; i++, at = (at + step) % blocks) {
        uint64_t row = at / args->grid[0];
        host_block_idx.x = (unsigned)(at % args->grid[0]);
        host_block_idx.y = (unsigned)(row % args->grid[1]);
        host_block_idx.z = (unsigned)(row / args->grid[1]);
        run_block(order);
    }
    current = NULL;
    return aborted ? host_last_fault.kind : HOST_OK;
}

int host_run(const struct host_launch *args, int counted, struct host_fault *fault,
             struct host_traffic *moved) {
    host_traffic_begin(counted);
    int failed = host_launch(args);
    *fault = host_last_fault;
    *moved = host_traffic_counts;
    return failed;
}
