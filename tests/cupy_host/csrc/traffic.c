/* A model of a launch's traffic with device memory: each block has a cache that forgets nothing and
 * starts empty, so that a block fetches a sector of 32 bytes once and writes it back once. Beside it
 * the same with one cache for the whole launch: the least that the launch could move. */
#include "core.h"

#include <string.h>

#define SECTOR_BITS 5
#define SLOTS (1u << 22)
enum { READ = 1, WRITTEN = 2 };

struct slot { uint64_t sector; uint32_t block; uint8_t in_block, in_launch; };
static struct slot table[SLOTS]; /* never touched, so never paged in, unless traffic is counted */
static uint32_t block_number, used;
static int counting;

struct host_traffic host_traffic_counts;

void host_traffic_begin(int wanted) {
    memset(&host_traffic_counts, 0, sizeof host_traffic_counts);
    if (counting && used) memset(table, 0, sizeof table);
    used = 0;
    block_number = 0;
    counting = wanted;
}

void host_traffic_block(void) { block_number++; }

static struct slot *find(uint64_t sector) {
    uint32_t at = (uint32_t)(sector * 0x9E3779B97F4A7C15ull >> 42);
    for (;; at = (at + 1) & (SLOTS - 1)) {
        struct slot *s = &table[at];
        if (s->sector == sector) return s;
        if (s->sector) continue;
        if (used >= SLOTS / 4 * 3) return NULL;
        used++;
        s->sector = sector;
        return s;
    }
}

void host_traffic_touch(uint64_t address, unsigned size, int is_write) {
    if (!counting) return;
    uint64_t last = (address + size - 1) >> SECTOR_BITS;
    for (uint64_t sector = address >> SECTOR_BITS; sector <= last; sector++) {
        struct slot *s = find(sector);
        if (!s) {
            host_traffic_counts.overflowed = 1;
            return;
        }
        if (s->block != block_number) s->block = block_number, s->in_block = 0;
        uint64_t bytes = 1u << SECTOR_BITS;
        int flag = is_write ? WRITTEN : READ;
        /* What a block or launch wrote itself it need not fetch. */
        if (!(s->in_block & flag) && (is_write || !s->in_block))
            *(is_write ? &host_traffic_counts.written : &host_traffic_counts.read) += bytes;
        if (!(s->in_launch & flag) && (is_write || !s->in_launch))
            *(is_write ? &host_traffic_counts.least_written : &host_traffic_counts.least_read) += bytes;
        s->in_block |= flag, s->in_launch |= flag;
    }
}
