"""Tensor core products on the host equal plain products, with the fragments of the PTX manual."""

from __future__ import annotations

import numpy as np
import pytest

import cupy_host

pytest_plugins = ["cupy_host.fixtures"]

CODE = """
extern "C" __global__ void multiply(const unsigned *a, const unsigned *b, float *d) {
    unsigned left[4], right[2];
    float sums[4];
    for (int i = 0; i < 4; i++) left[i] = a[threadIdx.x * 4 + i], sums[i] = d[threadIdx.x * 4 + i];
    for (int i = 0; i < 2; i++) right[i] = b[threadIdx.x * 2 + i];
    GUARD mma_KIND(sums, left, right);
    for (int i = 0; i < 4; i++) d[threadIdx.x * 4 + i] = sums[i];
}
"""
LOAD = """
extern "C" __global__ void load(const unsigned short *m, unsigned *to) {
    __shared__ __attribute__((aligned(16))) unsigned short tile[32][8];
    for (int i = 0; i < 8; i++) tile[threadIdx.x][i] = m[threadIdx.x * 8 + i];
    __syncthreads();
    unsigned found[4];
    LOADER(found, &tile[threadIdx.x][SHIFT]);
    for (int i = 0; i < 4; i++) to[threadIdx.x * 4 + i] = found[i];
}
"""
GROUP, MEMBER = np.arange(32) // 4, np.arange(32) % 4


def places(halves):
    """Return (rows, columns) of A, B and D that lane l holds in element i, as the manual lists."""
    if halves:  # mma.m16n8k16: pairs of 16-bit numbers
        i = np.arange(8)[None]
        a = (GROUP[:, None] + 8 * (i // 2 % 2), MEMBER[:, None] * 2 + i % 2 + 8 * (i // 4))
        i = np.arange(4)[None]
        b = (MEMBER[:, None] * 2 + i % 2 + 8 * (i // 2), GROUP[:, None] + 0 * i)
    else:  # mma.m16n8k8 of tf32
        i = np.arange(4)[None]
        a = (GROUP[:, None] + 8 * (i % 2), MEMBER[:, None] + 4 * (i // 2))
        i = np.arange(2)[None]
        b = (MEMBER[:, None] + 4 * i, GROUP[:, None] + 0 * i)
    i = np.arange(4)[None]
    return a, b, (GROUP[:, None] + 8 * (i // 2), MEMBER[:, None] * 2 + i % 2)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "tf32"])
def test_product(host, cp, kind):
    dtype = {"float16": "f2", "tf32": "f4"}.get(kind)
    dtype = np.dtype(dtype or pytest.importorskip("ml_dtypes").bfloat16)
    depth = 8 if kind == "tf32" else 16
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 9, s).astype(dtype) for s in ((16, depth), (depth, 8)))
    c = rng.integers(-8, 9, (16, 8)).astype("f4")
    of_a, of_b, of_d = places(depth == 16)
    registers = [np.ascontiguousarray(m[at]).view("u4") for m, at in ((a, of_a), (b, of_b))]
    d = cp.asarray(np.ascontiguousarray(c[of_d]))
    code = CODE.replace("KIND", kind).replace("GUARD", "")
    cp.RawKernel(code, "multiply")((1,), (32,), (*map(cp.asarray, registers), d))
    np.testing.assert_array_equal(d.get(), (c + a.astype("f4") @ b.astype("f4"))[of_d])


def test_a_missing_lane_is_a_fault(host, cp):
    code = CODE.replace("KIND", "tf32").replace("GUARD", "if (threadIdx.x < 31)")
    a, b, d = (cp.zeros((32, n), kind) for n, kind in ((4, "u4"), (2, "u4"), (4, "f4")))
    with host.expect(cupy_host.HostFault):
        cp.RawKernel(code, "multiply")((1,), (32,), (a, b, d))


def test_tf32_has_ten_bits_after_the_point(host, cp):
    code = """extern "C" __global__ void f(const float *x, unsigned *y) {
        y[threadIdx.x] = to_tf32(x[threadIdx.x]);
    }"""
    given = [1 + 2.0**-11, 1 + 2.0**-11 - 2.0**-23, -1 - 2.0**-11, 1 + 2.0**-10, np.inf]
    expected = [1 + 2.0**-10, 1, -1 - 2.0**-10, 1 + 2.0**-10, np.inf]
    y = cp.empty(5, "u4")
    cp.RawKernel(code, "f")((1,), (5,), (cp.asarray(np.array(given, "f4")), y))
    np.testing.assert_array_equal(y.get().view("f4"), np.array(expected, "f4"))


@pytest.mark.parametrize("loader", ["load_matrices", "load_transposed"])
def test_four_matrices(host, cp, loader):
    """Lane l gets elements 2 * (l % 4) and 2 * (l % 4) + 1 of row l / 4 of each matrix."""
    m = np.arange(32 * 8, dtype="u2").reshape(4, 8, 8)
    to = cp.empty((32, 4), "u4")
    code = LOAD.replace("LOADER", loader).replace("SHIFT", "0")
    cp.RawKernel(code, "load")((1,), (32,), (cp.asarray(m), to))
    seen = m if loader == "load_matrices" else m.transpose(0, 2, 1)
    expected = np.stack([seen[:, GROUP, 2 * MEMBER + i] for i in range(2)], axis=-1)
    found = to.get().view("u2").reshape(32, 4, 2).transpose(1, 0, 2)
    np.testing.assert_array_equal(found, expected)
    with host.expect(cupy_host.Misaligned):
        cp.RawKernel(code.replace("][0]", "][1]"), "load")((1,), (32,), (cp.asarray(m), to))
