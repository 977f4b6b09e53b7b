"""Where compiled kernels stand in for array code: NumPy arrays of float32 or float64."""

from __future__ import annotations

from math import prod
from typing import Any

from einstride.arrays.backends import Array, Backend, numpy
from einstride.cpu.runtime.aligned_memory import address
from einstride.cpu.runtime.operands import operand, packed
from einstride.nn.pool_axis import Axis
from einstride.support.caches import cached

ALIGN = 64
LARGE = 1 << 16
"""Bytes from which an array is worth aligning."""
KINDS = ("float32", "float64")


def ready(b: Backend, *arrays: Array) -> bool:
    """Can kernels take these arrays: one dtype they are written for, and something inside?"""
    if not b.traits.compiled:
        return False
    kind = arrays[0].dtype
    return b.dtype_name(arrays[0]) in KINDS and all(
        a.dtype == kind and a.dtype.isnative and a.size for a in arrays
    )


def dense(x: Array, b: Backend, like: Array | None = None) -> Array:
    """x without gaps, in row-major order and aligned: itself, or a copy; in the dtype of `like`."""
    return operand(x, b, None if like is None else b.dtype_name(like), packed)


def result_array(shape: tuple[int, ...], like: Array, mine: Array | None, b: Backend) -> Array:
    """Where a result goes: an array of ours that is not needed again, or a new one."""
    if mine is None or mine.shape != shape or mine.dtype != like.dtype:
        return new(shape, like, b)
    return mine if mine.flags.writeable and packed(mine) else new(shape, like, b)


def new(shape: tuple[int, ...], like: Array, b: Backend) -> Array:
    """A new array; a large one begins where vectors do, which makes kernels a tenth quicker."""
    size = like.dtype.itemsize * prod(shape)
    if size < LARGE or b.empty is not numpy.empty:  # an arena's blocks begin so anyway
        return b.empty(shape, b.dtype_name(like), like)
    whole = b.empty((size + ALIGN,), "uint8", like)
    start = -address(whole) % ALIGN
    return whole[start : start + size].view(like.dtype).reshape(shape)


def apply(function: str, mine: Array | None, b: Backend, *arrays: Array) -> Array:
    """A function of `einstride.nn.cpu.elementwise` of the elements of arrays of one shape."""
    from einstride.nn.cpu import elementwise

    given = tuple(dense(a, b) for a in arrays)
    y = result_array(arrays[0].shape, arrays[0], mine, b)
    elementwise.apply(function, given, y, b)
    return y


def pool(
    x: Array, axes: tuple[Axis, ...], largest: bool, inside: bool, b: Backend
) -> Array:  # fmt: skip
    """The pool of x (B, *S, C)."""
    from einstride.nn.cpu import pooling

    shape = (x.shape[0], *(a.out for a in axes), x.shape[-1])
    y = new(shape, x, b)
    pooling.pool(dense(x, b), _windows(axes), largest, inside, y, b)
    return y


def pool_gradient(
    gy: Array, x: Array | None, axes: tuple[Axis, ...], inside: bool, b: Backend
) -> Array:
    """The gradient of a pool: of the maximum if x is given, else of the mean."""
    from einstride.nn.cpu import pooling

    shape = (gy.shape[0], *(a.size for a in axes), gy.shape[-1])
    gx = new(shape, gy, b)
    given = None if x is None else dense(x, b)
    pooling.pool_gradient(dense(gy, b), given, _windows(axes), inside, gx, b)
    return gx


@cached(256)
def _windows(axes: tuple[Axis, ...]) -> Any:
    from einstride.nn.cpu.pooling import Window

    return tuple(Window(a.size, a.kernel, a.stride, a.padding, a.dilation, a.out) for a in axes)
