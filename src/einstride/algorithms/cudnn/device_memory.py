"""Describe the memory order of CuPy arrays to cuDNN, and copy filters into an order it reads.

Arrays come as canonical views, x (B, *S, C) and f (*K, C // G, D), of any memory order. cuDNN's
axes are (B, C, *S) and (D, C // G, *K), each with its stride. It reads two orders: channels last,
(B, *S, C) with filters (D, *K, C // G), and channels first, (B, C, *S) with (D, C // G, *K).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from einstride.arrays.ops import flip as flipped

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend


@dataclass(frozen=True, slots=True)
class Tensor:
    """An array as cuDNN sees it: axes (N, C, *S) in any memory order, strides in elements."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str
    alignment: int = 16


def is_contiguous(a: Array, order: Sequence[int]) -> bool:
    """True if the elements are contiguous with the axes of `order` from slowest to fastest."""
    step = a.dtype.itemsize
    for axis in reversed(order):
        if a.shape[axis] != 1 and a.strides[axis] != step:
            return False
        step *= a.shape[axis]
    return True


def channels_first(a: Array) -> bool:
    """True if (B, *S, C) is contiguous as (B, C, *S), and not as (B, *S, C)."""
    n = a.ndim
    return not is_contiguous(a, range(n)) and is_contiguous(a, (0, n - 1, *range(1, n - 1)))


def filter_is_contiguous(f: Array, first: bool) -> bool:
    """True if (*K, C // G, D) is contiguous in the order for channels first, or for last."""
    n = f.ndim - 2
    return is_contiguous(f, (n + 1, n, *range(n)) if first else (n + 1, *range(n + 1)))


def new_filter(shape: Sequence[int], name: str, first: bool, b: Backend, like: Array) -> Array:
    """Allocate a filter in one of the two orders; return its canonical view."""
    *kernel, inner, filters = shape
    n = len(kernel)
    if first:
        whole = b.empty((filters, inner, *kernel), name, like)
        return b.xp.permute_dims(whole, (*range(2, n + 2), 1, 0))
    whole = b.empty((filters, *kernel, inner), name, like)
    return b.xp.permute_dims(whole, (*range(1, n + 2), 0))


def arranged(f: Array, flip: bool, first: bool, b: Backend) -> Array:
    """Return the filter, or a copy, in one of the two orders; reversed on its taps if `flip`."""
    if filter_is_contiguous(f, first) and not flip:
        return f
    made = new_filter(f.shape, b.dtype_name(f), first, b, f)
    made[...] = flipped(f, f.ndim - 2, b) if flip else f
    return made


def readable(a: Array) -> bool:
    """True if cuDNN can read the array: positive strides of whole elements, one of them 1.

    No two elements may share memory.
    """
    item = a.dtype.itemsize
    axes = sorted((step, n) for step, n in zip(a.strides, a.shape, strict=True) if n > 1)
    if a.data.ptr % item or any(step % item for step, _ in axes):
        return False
    if axes and axes[0][0] != item:
        return False
    return all(step * n <= following for (step, n), (following, _) in pairwise(axes))


def tensor(
    shape: Sequence[int], strides: Sequence[int], filters: bool, name: str, alignment: int = 16
) -> Tensor:
    """Describe to cuDNN a canonical array whose strides are `strides` elements.

    cuDNN needs at least two spatial axes. An axis of length 1 gets the stride that it would have
    in a packed array, because engines check it.
    """
    n = len(shape) - 2
    order = (n + 1, n, *range(n)) if filters else (0, n + 1, *range(1, n + 1))
    sizes, steps = [shape[i] for i in order], [strides[i] for i in order]
    if n == 1:
        sizes.insert(2, 1)
        steps.insert(2, 0)
    channels_last = sizes[1] == 1 or steps[1] == 1
    slowest_first = (0, *range(2, len(sizes)), 1) if channels_last else range(len(sizes))
    step = 1
    for axis in reversed(slowest_first):
        if sizes[axis] == 1:
            steps[axis] = step
        step = steps[axis] * sizes[axis]
    return Tensor(tuple(sizes), tuple(steps), name, alignment)
