/* The order in which blocks and threads run: 0 forward, 1 reverse, 2 shuffled. */
#ifndef CUPY_HOST_ORDER_H
#define CUPY_HOST_ORDER_H

#include <stdint.h>

static uint64_t order_random(uint64_t *state) { /* splitmix64 */
    uint64_t z = (*state += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static void order_threads(unsigned *threads, unsigned count, int order, uint64_t *state) {
    for (unsigned i = 0; i < count; i++) threads[i] = order == 1 ? count - 1 - i : i;
    if (order != 2) return;
    for (unsigned i = count - 1; i > 0; i--) {
        unsigned j = (unsigned)(order_random(state) % (i + 1)), kept = threads[i];
        threads[i] = threads[j];
        threads[j] = kept;
    }
}

static uint64_t order_gcd(uint64_t a, uint64_t b) { return b ? order_gcd(b, a % b) : a; }

/* The first block; *step leads to the next, modulo the count. A step coprime to the count visits
 * every block once. */
static uint64_t order_blocks(uint64_t count, int order, uint64_t *state, uint64_t *step) {
    *step = order == 1 ? count - 1 : 1;
    if (order != 2) return order == 1 ? count - 1 : 0;
    do *step = order_random(state) % count + 1;
    while (order_gcd(*step, count) != 1);
    return order_random(state) % count;
}

#endif
