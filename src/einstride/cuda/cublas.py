"""Multiply matrices, or stacks of matrices, by one call of cuBLAS without copying operands.

`cupy.matmul` copies operands whose rows have gaps, does not support stacks of bfloat16, does not
document the dtype of sums for stacks of float16, and follows a process-wide switch for TF32. With
`gemmEx` none of that holds: sums are formed in float32 at least, and float32 is rounded to TF32
only if the caller asks for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from einstride.cuda import cublas_graph
from einstride.support.caches import cached

LARGEST = 2**31 - 1  # of cuBLAS's 32-bit integers

# dtype: (CUDA's number of it, cuBLAS's number of the type of sums, the dtype of alpha and beta)
_F32, _F64, _TF32 = 68, 70, 77
TYPES = {
    "float16": (2, _F32, "float32"),
    "bfloat16": (14, _F32, "float32"),
    "float32": (0, _F32, "float32"),
    "float64": (1, _F64, "float64"),
    "complex64": (4, _F32, "complex64"),
    "complex128": (5, _F64, "complex128"),
}
_DEFAULT = -1  # cuBLAS chooses its algorithm


@cached(8, "code")  # all dtypes of scalars: there are 4
def _scalars(name: str) -> Any:
    """Return the array (1, 0) in host memory, where cuBLAS reads alpha and beta."""
    return np.array([1, 0], name)


def gemm(a: Any, b: Any, out: Any, tf32: bool = False) -> bool:
    """Compute ``out[...] = a @ b`` for matrices or stacks, on the current device and stream.

    Products of float16 or bfloat16 may be stored in a float32 `out` without rounding.

    Returns False, with `out` unspecified, for operands that cuBLAS does not support: other dtypes,
    matrices without a dense axis, overlapping rows, sizes beyond its 32-bit integers.
    """
    name = str(a.dtype.name)
    if name not in TYPES or b.dtype != a.dtype:
        return False
    if out.dtype != a.dtype and not (a.dtype.itemsize == 2 and out.dtype.name == "float32"):
        return False
    if a.ndim != out.ndim or b.ndim != out.ndim or a.shape[:-2] != b.shape[:-2]:
        return False
    if max(*a.shape, *b.shape, *out.shape) > LARGEST:
        return False
    if out.size == 0:
        return True
    if a.shape[-1] == 0:
        out[...] = 0
        return True
    if out.ndim > 3:
        return _loop_over_stack(a, b, out, tf32)
    layout = _layout(out)
    if layout is None:
        return False
    ldc, transposed = layout
    if transposed:  # cuBLAS writes dense columns; out' = b' a'
        a, b, out = b.swapaxes(-1, -2), a.swapaxes(-1, -2), out.swapaxes(-1, -2)
    first, second = _layout(b), _layout(a)
    if first is None or second is None:
        return False

    # cuBLAS reads row-major matrices as their transposes, and out' = b' a'.
    from cupy.cuda import cublas, get_cublas_handle

    kind, sums, scale = TYPES[name]
    into = TYPES[str(out.dtype.name)][0]
    sums = _TF32 if tf32 and name in ("float32", "complex64") else sums
    one = _scalars(scale).ctypes.data
    zero = one + _scalars(scale).itemsize
    (ld_b, op_b), (ld_a, op_a) = first, second
    sizes = (int(op_b), int(op_a), out.shape[-1], out.shape[-2], a.shape[-1], one)
    captured = cublas_graph.capturing()
    handle = get_cublas_handle()
    arguments: tuple[Any, ...]
    if out.ndim == 2:
        name, function = "cublasGemmEx", cublas.gemmEx
        arguments = (
            *sizes, b.data.ptr, kind, ld_b, a.data.ptr, kind, ld_a, zero,
            out.data.ptr, into, ldc, sums, _DEFAULT,
        )  # fmt: skip
    else:
        name, function = "cublasGemmStridedBatchedEx", cublas.gemmStridedBatchedEx
        between = [m.strides[0] // m.dtype.itemsize for m in (b, a, out)]
        arguments = (
            *sizes, b.data.ptr, kind, ld_b, between[0], a.data.ptr, kind, ld_a, between[1],
            zero, out.data.ptr, into, ldc, between[2], out.shape[0], sums, _DEFAULT,
        )  # fmt: skip
    if captured:
        cublas_graph.call(name, handle, *arguments)
    else:
        function(handle, *arguments)
    return True


def _loop_over_stack(a: Any, b: Any, out: Any, tf32: bool) -> bool:
    """Multiply stacks with several leading axes by one call per index of the shortest of these."""
    lengths = out.shape[:-2]
    axis = lengths.index(min(lengths))
    a, b, out = (m.swapaxes(0, axis) for m in (a, b, out))
    return all(gemm(a[i], b[i], out[i], tf32) for i in range(lengths[axis]))


def _layout(m: Any) -> tuple[int, bool] | None:
    """Return the leading dimension, and whether columns are dense, not rows; None if neither is."""
    rows, columns = m.shape[-2:]
    down, across = m.strides[-2:]
    unit = m.dtype.itemsize
    if m.ndim == 3 and m.strides[0] % unit:
        return None
    for length, stride, count, gap, transposed in (
        (columns, across, rows, down, False),
        (rows, down, columns, across, True),
    ):
        leading = gap // unit if count > 1 else length
        if (stride == unit or length == 1) and gap % unit == 0 and length <= leading <= LARGEST:
            return leading, transposed
    return None
