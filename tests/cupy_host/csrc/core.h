/* What the pieces of the host share: fault records, the memory map, and the kernel scheduler. */
#ifndef CUPY_HOST_CORE_H
#define CUPY_HOST_CORE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HOST_WARP 32
#define HOST_MAX_DEVICES 8
#define HOST_MAX_THREADS 1024
#define HOST_MAX_SHARED (228 * 1024)

/* Numbers are known to faults.py; keep both lists alike. */
enum host_fault_kind {
    HOST_OK = 0,
    HOST_OUT_OF_BOUNDS = 1,   /* device memory that no live array owns */
    HOST_WRONG_DEVICE = 2,    /* memory of a device other than the launch's */
    HOST_HOST_POINTER = 3,    /* an address that no device could read */
    HOST_MISALIGNED = 4,
    HOST_SHARED_RACE = 5,     /* two threads, one shared byte, no barrier between them */
    HOST_DIVERGENT_BARRIER = 6,
    HOST_DIVERGENT_WARP = 7,
    HOST_TOO_MUCH_SHARED = 8,
    HOST_KERNEL_ASSERT = 9,
};

struct host_index { unsigned x, y, z; };

struct host_fault {
    int kind;
    int is_write;
    uint64_t address;
    uint64_t size;
    struct host_index thread, block;
    int other_thread; /* of a race: the linear index of the other thread, or -1 for several */
};
extern struct host_fault host_last_fault;

/* ---- memory.c: the address space of all devices, and which bytes of it arrays own ---- */
int host_memory_reserve(int devices, uint64_t bytes_per_device);
uint64_t host_memory_base(int device);
int host_memory_device(uint64_t address);           /* -1: not device memory */
/* Counts of bytes by device. Python's lock is held in every function of this core (PyDLL), so each
 * is one step, whatever other threads do. */
extern int64_t host_live[HOST_MAX_DEVICES], host_peak[HOST_MAX_DEVICES];
extern int64_t host_reserved[HOST_MAX_DEVICES];
void host_memory_count(int device, int64_t bytes);    /* arrays got (or gave back) so many */
void host_memory_forget_peaks(void);
int host_memory_take(int device, int64_t bytes, int64_t capacity); /* 1: there are not so many */
uint64_t host_memory_extend(int device, uint64_t extent, uint64_t margin); /* 0: no addresses */
void host_memory_own(uint64_t address, uint64_t size);
void host_memory_disown(uint64_t address, uint64_t size);
int host_memory_owned(uint64_t address, uint64_t size);
void host_memory_fill(uint64_t address, int byte, uint64_t size);
int64_t host_memory_mismatch(uint64_t address, int byte, uint64_t size);
void host_memory_copy(uint64_t target, uint64_t source, uint64_t size);
void host_memory_discard(uint64_t address, uint64_t size);
void host_pinned_add(uint64_t address, uint64_t size);
void host_pinned_remove(uint64_t address);
int host_pinned(uint64_t address, uint64_t size);
/* Fault kind of an access by `device`, HOST_OK if it is allowed; -1 if not device memory. */
int host_memory_verdict(uint64_t address, uint64_t size, int device);

/* ---- scheduler.c: blocks, threads as fibres, barriers ---- */
struct host_launch {
    void (*entry)(void **);
    void **arguments;
    unsigned grid[3], block[3];
    unsigned dynamic_shared;
    int device;
    int order;      /* 0 forward, 1 reverse, 2 shuffled by `seed` */
    uint64_t seed;
    uint64_t image_low, image_high;   /* the kernel's shared object: its constants and tables */
    uint64_t shared_low, shared_size; /* its static shared memory */
};
int host_launch(const struct host_launch *launch);
struct host_traffic;
/* `host_launch` with what it left, as one step: the records belong to this launch alone. */
int host_run(const struct host_launch *launch, int counted, struct host_fault *fault,
             struct host_traffic *moved);
void host_abort(int kind, uint64_t address, uint64_t size, int is_write, int other_thread);
/* Range of a loaded shared object and where its thread-local block lies, from any address in it. */
int host_image(const void *inside, uint64_t *low, uint64_t *high, uint64_t *tls, uint64_t *tls_size);

/* What kernels call (through the macros of cuda_shim.h). */
extern struct host_index host_thread_idx, host_block_idx, host_block_dim, host_grid_dim;
extern char host_dynamic_shared[HOST_MAX_SHARED];
void host_sync_threads(void);
int host_sync_reduce(int predicate, int operation); /* 0 count, 1 and, 2 or */
void host_sync_warp(unsigned mask);
uint64_t host_exchange(unsigned mask, uint64_t value, int source_lane);
unsigned host_vote(unsigned mask, int predicate);
/* `size` bytes of each lane, in order, for every lane: all 32 must call. */
void host_gather(const void *mine, unsigned size, void *all);
unsigned host_active_mask(void);
void host_check(const volatile void *address, unsigned size, int is_write);
void host_check_atomic(const volatile void *address, unsigned size);

/* ---- race.c: who touched which shared byte since the last barrier ---- */
struct host_toucher { unsigned thread, warp, warp_epoch; };
void host_race_new_epoch(void);
/* 0, or 1 + the other thread's index, or -1 for several. */
int host_race_touch(unsigned offset, unsigned size, int is_write, struct host_toucher me);

/* ---- traffic.c: bytes that a launch moves, by a model ---- */
struct host_traffic { uint64_t read, written, least_read, least_written, overflowed; };
extern struct host_traffic host_traffic_counts;
void host_traffic_begin(int wanted); /* forgets, and counts if wanted */
void host_traffic_block(void);
void host_traffic_touch(uint64_t address, unsigned size, int is_write);

#ifdef __cplusplus
}
#endif
#endif
