/* CUDA C on a host compiler: included before every kernel. What a kernel uses that is not here
 * fails to compile by its own name, on purpose. */
#pragma once

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <math.h>
#include <stddef.h>
#include <type_traits>
#include <utility>

#define HOST_UNCHECKED __attribute__((no_sanitize_thread))

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __managed__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
/* Shared variables are thread-local ones: that gathers all of a module's in one place (its TLS
 * block), which the host finds, poisons before every block, and watches for races. Aligned, because
 * CuPy itself keeps floats in a shared array of char, which a device puts at offset 0. */
#define __shared__ static thread_local __attribute__((aligned(16)))
#define __grid_constant__

#include "vector_types.h"

extern "C" {
/* const: a kernel must not write them, and reads of constants need no check. */
extern const uint3 host_thread_idx, host_block_idx;
extern const uint3 host_block_dim, host_grid_dim;
extern char host_dynamic_shared[];
void host_sync_threads(void);
int host_sync_reduce(int predicate, int operation);
void host_sync_warp(unsigned mask);
uint64_t host_exchange(unsigned mask, uint64_t value, int source_lane);
unsigned host_vote(unsigned mask, int predicate);
void host_gather(const void *mine, unsigned size, void *all);
unsigned host_active_mask(void);
void host_check_atomic(const volatile void *address, unsigned size);
void host_abort(int kind, uint64_t address, uint64_t size, int is_write, int other_thread);
}

#define threadIdx host_thread_idx
#define blockIdx host_block_idx
#define blockDim host_block_dim
#define gridDim host_grid_dim
static const int warpSize = 32;

inline void __syncthreads() { host_sync_threads(); }
inline int __syncthreads_count(int p) { return host_sync_reduce(p, 0); }
inline int __syncthreads_and(int p) { return host_sync_reduce(p, 1); }
inline int __syncthreads_or(int p) { return host_sync_reduce(p, 2); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu) { host_sync_warp(mask); }
/* Fences: one thread runs at a time, so memory is always in order here. */
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

#undef assert
#define assert(condition) \
    ((condition) ? (void)0 : host_abort(9 /* HOST_KERNEL_ASSERT */, 0, __LINE__, 0, -1))
inline void __trap() { host_abort(9, 0, 0, 0, -1); }

#include "atomics.h"
#include "intrinsics.h"
#include "warp.h"
#include "mma.h"

using std::isfinite;
using std::isinf;
using std::isnan;
using std::max;
using std::min;
using std::signbit;

namespace cupy_host {
/* Copies the arguments out of CUDA's array of pointers; unchecked, since they lie with the caller.*/
template <class... A, size_t... I>
HOST_UNCHECKED inline void call(void (*kernel)(A...), void **p, std::index_sequence<I...>) {
    kernel(*reinterpret_cast<std::remove_cv_t<std::remove_reference_t<A>> *>(p[I])...);
}
template <class... A>
HOST_UNCHECKED inline void call(void (*kernel)(A...), void **p) {
    call(kernel, p, std::index_sequence_for<A...>{});
}
/* Bytes of each argument, and a 0 after the last. */
template <class... A>
HOST_UNCHECKED inline const int *sizes(void (*)(A...)) {
    static const int found[] = {(int)sizeof(std::remove_cv_t<std::remove_reference_t<A>>)..., 0};
    return found;
}
}  // namespace cupy_host
