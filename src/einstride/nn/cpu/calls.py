"""Call compiled kernels instead of array functions, for NumPy arrays of float32 or float64."""

from __future__ import annotations

from math import prod
from typing import Any

from einstride.arrays.backends import Array, Backend, numpy
from einstride.cpu.runtime.aligned_memory import address
from einstride.cpu.runtime.operands import operand, packed
from einstride.nn.pool_axis import Axis
from einstride.support.caches import cached

ALIGN = 64
"""Alignment of large results in bytes: a cache line, and the widest vector."""
ALIGN_FROM_BYTES = 1 << 16
"""Smallest result in bytes that is worth aligning."""
DTYPES = ("float32", "float64")


def ready(b: Backend, *arrays: Array) -> bool:
    """True if kernels accept these arrays: all of one supported native dtype, and none empty."""
    if not b.traits.compiled:
        return False
    dtype = arrays[0].dtype
    return b.dtype_name(arrays[0]) in DTYPES and all(
        a.dtype == dtype and a.dtype.isnative and a.size for a in arrays
    )


def as_contiguous(x: Array, b: Backend, like: Array | None = None) -> Array:
    """Return x, or a copy, in row-major order without gaps, aligned, and in the dtype of `like`."""
    return operand(x, b, None if like is None else b.dtype_name(like), packed)


def result_array(shape: tuple[int, ...], like: Array, reusable: Array | None, b: Backend) -> Array:
    """Return an array for a result: `reusable` if it fits, else a new one."""
    if reusable is None or reusable.shape != shape or reusable.dtype != like.dtype:
        return new_array(shape, like, b)
    return reusable if reusable.flags.writeable and packed(reusable) else new_array(shape, like, b)


def new_array(shape: tuple[int, ...], like: Array, b: Backend) -> Array:
    """Allocate an array; large ones are aligned, with which kernels take about 10 % less time."""
    size = like.dtype.itemsize * prod(shape)
    if size < ALIGN_FROM_BYTES or b.empty is not numpy.empty:  # an arena aligns its blocks itself
        return b.empty(shape, b.dtype_name(like), like)
    buffer = b.empty((size + ALIGN,), "uint8", like)
    start = -address(buffer) % ALIGN
    return buffer[start : start + size].view(like.dtype).reshape(shape)


def apply(function: str, reusable: Array | None, b: Backend, *arrays: Array) -> Array:
    """Apply a function of `einstride.nn.cpu.elementwise` to the elements of arrays of one shape."""
    from einstride.nn.cpu import elementwise

    operands = tuple(as_contiguous(a, b) for a in arrays)
    y = result_array(arrays[0].shape, arrays[0], reusable, b)
    elementwise.apply(function, operands, y, b)
    return y


def pool(
    x: Array, axes: tuple[Axis, ...], largest: bool, exclude_padding: bool, b: Backend
) -> Array:  # fmt: skip
    """Pool x (B, *S, C): the maximum, if `largest`, or the mean of each window."""
    from einstride.nn.cpu import pooling

    shape = (x.shape[0], *(a.out for a in axes), x.shape[-1])
    y = new_array(shape, x, b)
    pooling.pool(as_contiguous(x, b), _windows(axes), largest, exclude_padding, y, b)
    return y


def pool_gradient(
    gy: Array, x: Array | None, axes: tuple[Axis, ...], exclude_padding: bool, b: Backend
) -> Array:
    """Compute the gradient of max pooling if x is given, else of average pooling."""
    from einstride.nn.cpu import pooling

    shape = (gy.shape[0], *(a.size for a in axes), gy.shape[-1])
    gx = new_array(shape, gy, b)
    x = None if x is None else as_contiguous(x, b)
    pooling.pool_gradient(as_contiguous(gy, b), x, _windows(axes), exclude_padding, gx, b)
    return gx


@cached(256)
def _windows(axes: tuple[Axis, ...]) -> Any:
    from einstride.nn.cpu.pooling import Window

    return tuple(Window(a.size, a.kernel, a.stride, a.padding, a.dilation, a.out) for a in axes)
