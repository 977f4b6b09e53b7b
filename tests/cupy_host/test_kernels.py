"""The CuPy host finds every kind of fault in kernels, each made on purpose."""

from __future__ import annotations

import numpy as np
import pytest

import cupy_host
from cupy_host import events

pytest_plugins = ["cupy_host.fixtures"]


def kernel(cp, name, code):
    return cp.RawKernel(code, name)


REVERSE = """
extern "C" __global__ void reverse(const float *x, float *y) {
    __shared__ float tile[64];
    int t = threadIdx.x;
    tile[t] = x[t];
    BARRIER
    y[t] = tile[63 - t];
}
"""


@pytest.mark.parametrize("order", ["forward", "reverse", "shuffle"])
def test_missing_barrier_is_a_race(host, cp, order):
    host.fibre_order = order
    x, y = cp.arange(64, dtype="f4"), cp.empty(64, "f4")
    kernel(cp, "reverse", REVERSE.replace("BARRIER", "__syncthreads();"))((1,), (64,), (x, y))
    assert np.array_equal(cp.asnumpy(y), np.arange(64)[::-1])
    with host.expect(cupy_host.SharedRace):
        kernel(cp, "reverse", REVERSE.replace("BARRIER", ""))((1,), (64,), (x, y))


def test_race_on_a_shared_scalar(host, cp):
    code = """
    extern "C" __global__ void broadcast(const float *x, float *y) {
        __shared__ float first;
        if (threadIdx.x == 0) first = x[0];
        y[threadIdx.x] = first;
    }
    """
    x = cp.ones(8, "f4")
    with host.expect(cupy_host.SharedRace):
        kernel(cp, "broadcast", code)((1,), (8,), (x, x))


def test_second_use_of_a_tile_needs_a_barrier(host, cp):
    """A tile is refilled while other threads still read it."""
    code = """
    extern "C" __global__ void loop(const float *x, float *y) {
        __shared__ float tile[32];
        float sum = 0;
        for (int k = 0; k < 2; k++) {
            tile[threadIdx.x] = x[32 * k + threadIdx.x];
            __syncthreads();
            for (int i = 0; i < 32; i++) sum += tile[i];
            BARRIER
        }
        y[threadIdx.x] = sum;
    }
    """
    x, y = cp.ones(64, "f4"), cp.empty(32, "f4")
    kernel(cp, "loop", code.replace("BARRIER", "__syncthreads();"))((1,), (32,), (x, y))
    assert cp.asnumpy(y).tolist() == [64] * 32
    with host.expect(cupy_host.SharedRace):
        kernel(cp, "loop", code.replace("BARRIER", ""))((1,), (32,), (x, y))


@pytest.mark.parametrize(
    "body",
    [
        "if (threadIdx.x < 16) __syncthreads();",
        "if (threadIdx.x < 16) { __syncthreads(); } __syncthreads();",
        "if (threadIdx.x == 5) return; __syncthreads();",
    ],
)
def test_divergent_barrier(host, cp, body):
    code = f'extern "C" __global__ void diverge() {{ {body} }}'
    with host.expect(cupy_host.DivergentBarrier):
        kernel(cp, "diverge", code)((2,), (64,), ())


def test_warp_functions(cp):
    code = """
    extern "C" __global__ void warp(const int *x, int *y) {
        int lane = threadIdx.x % 32, v = x[threadIdx.x];
        for (int d = 16; d; d /= 2) v += __shfl_xor_sync(0xFFFFFFFFu, v, d);
        int up = __shfl_up_sync(0xFFFFFFFFu, lane, 1);
        unsigned odd = __ballot_sync(0xFFFFFFFFu, lane & 1);
        __shared__ int tile[64];
        tile[threadIdx.x] = lane;
        __syncwarp();
        int neighbour = tile[threadIdx.x ^ 1];
        y[threadIdx.x] = v + 1000 * up + (odd == 0xAAAAAAAAu ? 100000 : 0) + 1000000 * neighbour;
    }
    """
    x = np.arange(64, dtype="i4")
    y = cp.empty(64, "i4")
    kernel(cp, "warp", code)((1,), (64,), (cp.asarray(x), y))
    lane, sums = x % 32, np.repeat(x.reshape(2, 32).sum(axis=1), 32)
    assert np.array_equal(
        cp.asnumpy(y), sums + 1000 * np.maximum(lane - 1, 0) + 100000 + 1000000 * (lane ^ 1)
    )


def test_dynamic_shared_memory_has_its_size_and_its_limit(host, cp):
    code = """
    extern "C" __global__ void fill(float *y, int n) {
        extern __shared__ float buffer[];
        for (int i = threadIdx.x; i < n; i += blockDim.x) buffer[i] = i;
        __syncthreads();
        y[threadIdx.x] = buffer[n - 1 - threadIdx.x];
    }
    """
    y, fill = cp.empty(8, "f4"), kernel(cp, "fill", code)
    fill((1,), (8,), (y, np.int32(100)), shared_mem=400)
    assert float(y[0]) == 99
    with host.expect(cupy_host.OutOfBounds):
        fill((1,), (8,), (y, np.int32(101)), shared_mem=400)
    with host.expect(cupy_host.LaunchLimit):
        fill((1,), (8,), (y, np.int32(100)), shared_mem=64 * 1024)
    fill.max_dynamic_shared_size_bytes = 64 * 1024
    fill((1,), (8,), (y, np.int32(100)), shared_mem=64 * 1024)


def test_shared_memory_starts_poisoned_in_every_block(cp):
    code = """
    extern "C" __global__ void stale(int *y) {
        __shared__ int seen;
        if (threadIdx.x == 0) { y[blockIdx.x] = seen; seen = 5; }
    }
    """
    y = cp.empty(4, "i4")
    kernel(cp, "stale", code)((4,), (2,), (y,))
    assert cp.asnumpy(y).tolist() == [-1] * 4


@pytest.mark.parametrize("shape", [(2048,), (32, 32, 2), (1, 1, 65)])
def test_too_many_threads(host, cp, shape):
    with host.expect(cupy_host.LaunchLimit):
        kernel(cp, "nothing", 'extern "C" __global__ void nothing() {}')((1,), shape, ())


TOUCH = 'extern "C" __global__ void touch(float *x, long long i, float *y) { y[0] = x[i]; }'


@pytest.mark.parametrize("index", [10, 127, -1, 1 << 20])
def test_raw_kernel_out_of_bounds(host, cp, index):
    x, y = cp.ones(10, "f4"), cp.empty(1, "f4")
    touch = kernel(cp, "touch", TOUCH)
    touch((1,), (1,), (x, np.int64(9), y))
    with host.expect(cupy_host.OutOfBounds):
        touch((1,), (1,), (x, np.int64(index), y))


def test_fault_message_tells_where(host, cp):
    x, y = cp.ones(10, "f4"), cp.empty(1, "f4")
    expected = r"touch: thread \(0, 0, 0\).*reads 4 bytes at 8 bytes past the end of the 40-byte"
    with pytest.raises(cupy_host.OutOfBounds, match=expected + ".*test_kernels.py"):
        kernel(cp, "touch", TOUCH)((1,), (1,), (x, np.int64(12), y))
    host.faults.clear()


def test_use_after_free(host, cp):
    x, y = cp.ones(1000, "f4"), cp.empty(1, "f4")
    address = x.data.ptr
    del x
    with host.expect(cupy_host.OutOfBounds):
        kernel(cp, "touch", TOUCH)((1,), (1,), (np.uint64(address), np.int64(0), y))


def test_host_pointer_in_a_kernel(host, cp):
    x, y = np.ones(1, "f4"), cp.empty(1, "f4")
    with host.expect(cupy_host.HostPointer):
        kernel(cp, "touch", TOUCH)((1,), (1,), (np.uint64(x.ctypes.data), np.int64(0), y))


def test_misaligned_access(host, cp):
    x, y = cp.ones(4, "f4"), cp.empty(1, "f4")
    with host.expect(cupy_host.Misaligned):
        kernel(cp, "touch", TOUCH)((1,), (1,), (np.uint64(x.data.ptr + 2), np.int64(0), y))


def test_view_past_the_end(host, cp):
    x = cp.ones(16, "f4")
    for shape, strides in (((5, 4), (16, 4)), ((4, 4), (16, 8)), ((2, 4), (-16, 4))):
        view = cp.lib.stride_tricks.as_strided(x, shape, strides)
        with host.expect(cupy_host.OutOfBounds):
            view + 1
        with host.expect(cupy_host.OutOfBounds):
            view.copy()
    good = cp.lib.stride_tricks.as_strided(x, (13, 4), (4, 4))
    assert float(good.sum()) == 52


def test_kernel_assert(host, cp):
    code = 'extern "C" __global__ void k(int n) { assert(n > 0); }'
    with host.expect(cupy_host.KernelAssert):
        kernel(cp, "k", code)((1,), (1,), (np.int32(0),))


def test_compile_errors_and_options(cp):
    with pytest.raises(cp.cuda.compiler.CompileException, match="nonsense"):
        kernel(cp, "k", 'extern "C" __global__ void k() { nonsense; }').compile()
    with pytest.raises(cp.cuda.compiler.CompileException, match="--strange"):
        cp.RawKernel('extern "C" __global__ void k() {}', "k", options=("--strange",)).compile()


def test_fibre_orders_differ_and_are_logged(host, cp):
    code = """
    extern "C" __global__ void arrive(int *count, int *order) {
        order[atomicAdd(count, 1)] = blockIdx.x * blockDim.x + threadIdx.x;
    }
    """
    arrive, found = kernel(cp, "arrive", code), {}
    for name in ("forward", "reverse", "shuffle"):
        host.fibre_order = name
        count, order = cp.zeros(1, "i4"), cp.empty(96, "i4")
        with host.recording() as seen:
            arrive((3,), (32,), (count, order))
        assert seen.of(events.Launch)[0].order == name
        found[name] = cp.asnumpy(order).tolist()
        assert sorted(found[name]) == list(range(96))
    assert found["forward"] == list(range(96))
    assert found["reverse"] == list(range(96))[::-1]
    assert found["shuffle"] not in (found["forward"], found["reverse"])
