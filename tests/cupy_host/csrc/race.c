/* Races on shared memory. For every shared byte: the last thread that wrote it and the threads that
 * read it, each with the barrier interval (epoch) in which it did. Two threads that touch one byte
 * in one interval, one of them writing, race; threads of one warp are also ordered by __syncwarp. */
#include "core.h"

#define SEVERAL_OF_ONE_WARP 0x8000u /* the low bits hold the warp */
#define SEVERAL_WARPS 0xFFFFu

struct touch { uint32_t epoch; uint16_t thread; uint16_t warp_epoch; };
/* The dynamic part lies after the static part: a block has at most HOST_MAX_SHARED of both. */
static struct touch writers[2 * HOST_MAX_SHARED], readers[2 * HOST_MAX_SHARED];
static uint32_t epoch = 1;

void host_race_new_epoch(void) { epoch++; }

static unsigned warp_of(uint16_t thread) {
    return thread & SEVERAL_OF_ONE_WARP ? thread & 0x7FFFu : thread / HOST_WARP;
}

static int races(const struct touch *other, struct host_toucher me) {
    if (other->epoch != epoch || other->thread == me.thread) return 0;
    if (other->thread == SEVERAL_WARPS) return 1;
    return warp_of(other->thread) != me.warp || other->warp_epoch >= me.warp_epoch;
}

static int name_of(const struct touch *other) {
    return other->thread & SEVERAL_OF_ONE_WARP ? -1 : 1 + (int)other->thread;
}

int host_race_touch(unsigned offset, unsigned size, int is_write, struct host_toucher me) {
    for (unsigned i = offset; i < offset + size; i++) {
        struct touch *writer = &writers[i], *reader = &readers[i];
        if (races(writer, me)) return name_of(writer);
        if (is_write) {
            if (races(reader, me)) return name_of(reader);
            writer->epoch = epoch;
            writer->thread = (uint16_t)me.thread;
            writer->warp_epoch = (uint16_t)me.warp_epoch;
            continue;
        }
        uint16_t who = (uint16_t)me.thread;
        if (reader->epoch == epoch && reader->thread != me.thread) {
            int same_warp = reader->thread != SEVERAL_WARPS && warp_of(reader->thread) == me.warp;
            who = (uint16_t)(same_warp ? SEVERAL_OF_ONE_WARP | me.warp : SEVERAL_WARPS);
        }
        reader->epoch = epoch;
        reader->thread = who;
        reader->warp_epoch = (uint16_t)me.warp_epoch;
    }
    return 0;
}
