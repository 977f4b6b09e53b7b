"""The stand-ins for cuBLAS and cuFFT give right results, and refuse what the real ones refuse."""

from __future__ import annotations

import numpy as np
import pytest

import cupy_host
from cupy_host import events

pytest_plugins = ["cupy_host.fixtures"]


@pytest.mark.parametrize("op_b", [0, 1, 2])
@pytest.mark.parametrize("op_a", [0, 1, 2])
@pytest.mark.parametrize("name", ["s", "d", "c", "z"])
def test_gemm_operations(cp, name, op_a, op_b):
    from cupy_backends.cuda.libs import cublas

    dtype = np.dtype({"s": "f4", "d": "f8", "c": "c8", "z": "c16"}[name])
    rng = np.random.default_rng(0)

    def matrix(rows, columns):  # column-major, with two unused rows
        full = rng.integers(-3, 4, (columns, rows + 2, 2)) @ [1, 1j]
        return full.astype(dtype) if dtype.kind == "c" else full.real.astype(dtype)

    m, n, k = 3, 5, 4
    a = matrix(*((m, k) if op_a == 0 else (k, m)))
    b = matrix(*((k, n) if op_b == 0 else (n, k)))
    c = matrix(m, n)
    operation = [lambda v: v, lambda v: v.T, lambda v: v.conj().T]
    product = operation[op_a](a[:, :-2].T) @ operation[op_b](b[:, :-2].T)
    expected = c.copy()
    expected[:, :-2] = (2 * product + 3 * c[:, :-2].T).T
    alpha, beta = np.array(2, dtype), np.array(3, dtype)
    da, db, dc = cp.asarray(a), cp.asarray(b), cp.asarray(c)
    getattr(cublas, f"{name}gemm")(
        cp.cuda.device.get_cublas_handle(), op_a, op_b, m, n, k, alpha.ctypes.data, da.data.ptr,
        a.shape[1], db.data.ptr, b.shape[1], beta.ctypes.data, dc.data.ptr, c.shape[1],
    )  # fmt: skip
    assert np.array_equal(cp.asnumpy(dc), expected)


def gemm_ex(cp, a, b, c, sizes, leads, compute=68, kind=0):
    from cupy_backends.cuda.libs import cublas

    one, zero = np.array(1, "f4"), np.array(0, "f4")
    cublas.gemmEx(
        cp.cuda.device.get_cublas_handle(), 0, 0, *sizes, one.ctypes.data, a.data.ptr, kind,
        leads[0], b.data.ptr, kind, leads[1], zero.ctypes.data, c.data.ptr, kind, leads[2],
        compute, 0,
    )  # fmt: skip


@pytest.mark.parametrize("leads", [(3, 4, 4), (4, 3, 4), (4, 4, 3), (0, 4, 4)])
def test_wrong_leading_dimension_is_refused(cp, leads):
    from cupy_backends.cuda.libs import cublas

    a = cp.ones((4, 4), "f4")
    with pytest.raises(cublas.CUBLASError, match="INVALID_VALUE"):
        gemm_ex(cp, a, a, cp.empty_like(a), (4, 4, 4), leads)


def test_leading_dimension_past_the_operand_is_caught(host, cp):
    a = cp.ones((4, 4), "f4")
    with host.expect(cupy_host.OutOfBounds):
        gemm_ex(cp, a, a, cp.empty_like(a), (4, 4, 4), (5, 4, 4))


def test_empty_and_scaling_gemm(cp):
    a, c = cp.ones((4, 4), "f4"), cp.full((4, 4), 7, "f4")
    gemm_ex(cp, a, a, c, (0, 4, 4), (4, 4, 4))
    assert float(c[0, 0]) == 7
    gemm_ex(cp, a, a, c, (4, 4, 0), (4, 4, 4))
    assert not cp.asnumpy(c).any()


def test_tf32_rounds_only_when_asked(cp):
    x = np.float32(1 + 2**-12)
    a, c = cp.full((1, 1), x), cp.empty((1, 1), "f4")
    gemm_ex(cp, a, a, c, (1, 1, 1), (1, 1, 1), compute=68)
    assert float(c[0, 0]) == np.float32(x * x)
    gemm_ex(cp, a, a, c, (1, 1, 1), (1, 1, 1), compute=77)
    assert float(c[0, 0]) == 1


def test_gemm_log_and_unsupported_types(host, cp):
    from cupy_backends.cuda.libs import cublas

    a = cp.ones((8, 8), "f2")
    stream = cp.cuda.Stream(non_blocking=True)
    with stream, host.recording() as seen:
        a @ a
    [call] = seen.of(events.BlasCall)
    assert call.routine == "cublasGemmEx"
    assert (call.m, call.n, call.k) == (8, 8, 8)
    assert call.dtypes == ("float16",) * 3
    assert call.compute == "32F"
    assert call.stream == stream.ptr
    assert call.device == 0
    with pytest.raises(cublas.CUBLASError, match="NOT_SUPPORTED"):
        gemm_ex(cp, a, a, cp.empty_like(a), (8, 8, 8), (8, 8, 8), compute=64, kind=2)


def test_handle_of_another_device(host, cp):
    from cupy_backends.cuda.libs import cublas

    with cp.cuda.Device(1):
        other = cp.cuda.device.get_cublas_handle()
    a, one = cp.ones((1, 1), "f4"), np.ones(1, "f4")
    with host.expect(cupy_host.WrongDevice):
        cublas.sgemm(other, 0, 0, 1, 1, 1, one.ctypes.data, a.data.ptr, 1, a.data.ptr, 1,
                     one.ctypes.data, a.data.ptr, 1)  # fmt: skip


def test_scalar_in_the_wrong_memory(host, cp):
    from cupy_backends.cuda.libs import cublas

    a, one = cp.ones((2,), "f4"), np.ones(1, "f4")
    handle = cp.cuda.device.get_cublas_handle()
    with host.expect(cupy_host.HostPointer):
        cublas.sscal(handle, 1, a.data.ptr + 4, a.data.ptr, 1)
    cublas.setPointerMode(handle, 1)
    try:
        cublas.sscal(handle, 1, a.data.ptr + 4, a.data.ptr, 1)
        with host.expect(cupy_host.HostPointer):
            cublas.sscal(handle, 1, one.ctypes.data, a.data.ptr, 1)
    finally:
        cublas.setPointerMode(handle, 0)


def test_vector_routines(cp):
    import cupy.cublas

    x = np.array([1 + 2j, -3j, 4], "c16")
    a = cp.asarray(x)
    assert complex(cupy.cublas.dotc(a, a)) == np.vdot(x, x)
    assert complex(cupy.cublas.dotu(a, a)) == x @ x
    assert float(cupy.cublas.nrm2(a)) == pytest.approx(np.linalg.norm(x))
    assert int(cupy.cublas.iamax(a)) == 3  # index from one of the largest |real| + |imag|
    m = np.arange(6, dtype="f4").reshape(2, 3)
    y = cp.empty(2, "f4")
    cupy.cublas.gemv("N", 1.0, cp.asarray(m), cp.ones(3, "f4"), 0.0, y)
    assert np.array_equal(cp.asnumpy(y), m.sum(axis=1))


def test_unprovided_calls_are_named(host, cp):
    from cupy_backends.cuda.libs import cublas

    with pytest.raises(cublas.CUBLASError):
        cublas.strsm(cp.cuda.device.get_cublas_handle(), 0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 1)
    with pytest.raises(cupy_host.NotProvided, match="cublasStrsm is not provided by the host"):
        host.check()
    for call, name in (
        (lambda: cp.cuda.runtime.mallocManaged(8), "cuda mallocManaged"),
        (lambda: cp.sort(cp.arange(3)), "thrust"),
        (lambda: cp.random.rand(3), "curand"),
    ):
        with pytest.raises((cupy_host.NotProvided, ImportError)):
            call()
        with pytest.raises(cupy_host.NotProvided, match=name):
            host.check()


@pytest.mark.parametrize("shape", [(1,), (8,), (3, 12), (2, 7, 11), (4, 6, 10, 5), (2, 97)])
@pytest.mark.parametrize("name", ["f4", "f8", "c8", "c16"])
def test_fft(cp, name, shape):
    rng = np.random.default_rng(0)
    dtype = np.dtype(name)
    x = (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype("c16")
    x = (x if dtype.kind == "c" else x.real).astype(dtype)
    a = cp.asarray(x)
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype.itemsize // (1 + (dtype.kind == "c")) == 4 \
        else {"rtol": 1e-10, "atol": 1e-10}  # fmt: skip
    axes = tuple(range(1, len(shape))) or (0,)
    assert np.allclose(cp.asnumpy(cp.fft.fft(a, axis=0)), np.fft.fft(x, axis=0), **tolerance)
    assert np.allclose(
        cp.asnumpy(cp.fft.fftn(a, axes=axes)), np.fft.fftn(x, axes=axes), **tolerance
    )
    back = cp.fft.ifftn(cp.fft.fftn(a, axes=axes), axes=axes)
    assert np.allclose(cp.asnumpy(back), x, **tolerance)
    if dtype.kind == "f":
        half = cp.fft.rfftn(a, axes=axes)
        assert np.allclose(cp.asnumpy(half), np.fft.rfftn(x, axes=axes), **tolerance)
        sizes = [shape[i] for i in axes]
        again = cp.fft.irfftn(half, s=sizes, axes=axes)
        assert np.allclose(cp.asnumpy(again), x, **tolerance)


def test_fft_log(host, cp):
    a = cp.ones((3, 8), "c8")
    with host.recording() as seen:
        cp.fft.fft(a)
    [call] = seen.of(events.FftCall)
    assert (call.kind, call.lengths, call.batch) == ("C2C", (8,), 3)
