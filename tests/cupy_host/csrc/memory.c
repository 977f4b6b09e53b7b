/* The devices' memory: one reserved stretch of addresses per device, with a shadow that says which
 * bytes an array owns. One shadow byte stands for 8 bytes and holds how many of them, from the
 * first, are owned: a fresh shadow (all zero, never touched, so never paged in) owns nothing. */
#define _GNU_SOURCE
#include "core.h"

#include <string.h>
#include <sys/mman.h>

static uint64_t base, total, per_device;
static uint8_t *shadow;

int64_t host_live[HOST_MAX_DEVICES], host_peak[HOST_MAX_DEVICES], host_reserved[HOST_MAX_DEVICES];
static uint64_t taken[HOST_MAX_DEVICES]; /* addresses given out so far */

void host_memory_count(int device, int64_t bytes) {
    host_live[device] += bytes;
    if (host_live[device] > host_peak[device]) host_peak[device] = host_live[device];
}

void host_memory_forget_peaks(void) { memcpy(host_peak, host_live, sizeof host_peak); }

int host_memory_take(int device, int64_t bytes, int64_t capacity) {
    if (bytes > 0 && host_reserved[device] + bytes > capacity) return 1;
    host_reserved[device] += bytes;
    return 0;
}

uint64_t host_memory_extend(int device, uint64_t extent, uint64_t margin) {
    if (2 * margin + taken[device] + extent > per_device) return 0;
    taken[device] += extent;
    return base + per_device * (uint64_t)device + margin + taken[device] - extent;
}

int host_memory_reserve(int devices, uint64_t bytes_per_device) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    per_device = bytes_per_device;
    total = bytes_per_device * (uint64_t)devices;
    void *memory = mmap(NULL, total, PROT_READ | PROT_WRITE, flags, -1, 0);
    void *map = mmap(NULL, total / 8, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (memory == MAP_FAILED || map == MAP_FAILED) return 1;
    base = (uint64_t)memory;
    shadow = map;
    return 0;
}

uint64_t host_memory_base(int device) { return base + per_device * (uint64_t)device; }

int host_memory_device(uint64_t address) {
    return address - base < total ? (int)((address - base) / per_device) : -1;
}

/* `address` is a multiple of 8: every allocation starts at a multiple of 256. */
void host_memory_own(uint64_t address, uint64_t size) {
    uint8_t *first = shadow + (address - base) / 8;
    memset(first, 8, size / 8);
    if (size % 8) first[size / 8] = (uint8_t)(size % 8);
}

void host_memory_disown(uint64_t address, uint64_t size) {
    memset(shadow + (address - base) / 8, 0, (size + 7) / 8);
}

int host_memory_owned(uint64_t address, uint64_t size) {
    uint64_t offset = address - base;
    if (offset >= total || size > total - offset) return 0;
    uint64_t end = offset + size;
    for (uint64_t granule = offset / 8; granule * 8 < end; granule++) {
        uint64_t upto = end - granule * 8;
        if (shadow[granule] < (upto < 8 ? upto : 8)) return 0;
    }
    return 1;
}

int host_memory_verdict(uint64_t address, uint64_t size, int device) {
    uint64_t offset = address - base;
    if (offset >= total) return -1;
    if (offset / per_device != (uint64_t)device) return HOST_WRONG_DEVICE;
    if ((offset & 7) + size <= 8)
        return (offset & 7) + size <= shadow[offset >> 3] ? HOST_OK : HOST_OUT_OF_BOUNDS;
    return host_memory_owned(address, size) ? HOST_OK : HOST_OUT_OF_BOUNDS;
}

void host_memory_fill(uint64_t address, int byte, uint64_t size) {
    memset((void *)address, byte, size);
}

/* Offset of the first byte that is not `byte`, or -1. */
int64_t host_memory_mismatch(uint64_t address, int byte, uint64_t size) {
    const uint8_t *p = (const uint8_t *)address;
    if (size == 0 || (p[0] == byte && memcmp(p, p + 1, size - 1) == 0)) return -1;
    for (uint64_t i = 0; i < size; i++)
        if (p[i] != byte) return (int64_t)i;
    return -1;
}

void host_memory_copy(uint64_t target, uint64_t source, uint64_t size) {
    memmove((void *)target, (const void *)source, size);
}

/* Gives whole pages back to the system; their next use reads zero until it is poisoned. */
void host_memory_discard(uint64_t address, uint64_t size) {
    madvise((void *)address, size, MADV_DONTNEED);
}

/* Pinned host memory, which a device may reach: few ranges, so a plain list. */
#define MAX_PINNED 4096
static struct { uint64_t low, high; } pinned[MAX_PINNED];
static int pinned_count;

void host_pinned_add(uint64_t address, uint64_t size) {
    if (pinned_count == MAX_PINNED) return;
    pinned[pinned_count].low = address;
    pinned[pinned_count++].high = address + size;
}

void host_pinned_remove(uint64_t address) {
    for (int i = 0; i < pinned_count; i++)
        if (pinned[i].low == address) {
            pinned[i] = pinned[--pinned_count];
            return;
        }
}

int host_pinned(uint64_t address, uint64_t size) {
    for (int i = 0; i < pinned_count; i++)
        if (pinned[i].low <= address && address + size <= pinned[i].high) return 1;
    return 0;
}
