"""Decide which NumPy arrays a kernel can address, and copy the others.

A kernel is given an array's address and a stride in elements for each axis. Its arrays must
therefore hold numbers in native byte order, at aligned addresses, with strides that are multiples
of the element size:

    packed record (u1, f4):  |b|f f f f|b|f f f f|     field f4: stride 5, not a multiple of 4
    record (f4, f4):         |f f f f|g g g g|...      field f4: stride 8, two elements

Every caller's array goes to a kernel through `operand` or `result_array`. Both test the array that
the kernel will be given, after the conversion of its dtype: NumPy's conversions keep the memory
order and put broadcast axes innermost, so a test before the conversion says nothing about its
result.

Strides of axes of length one are tested too, though no element lies there: then no stride of an
addressable array has a remainder, and `element_strides` can refuse to round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from einstride.arrays.backends.adapter import Backend

Predicate = Callable[[Any], bool]


def addressable(a: Any) -> bool:
    """True if a kernel can read and write an array in place."""
    # The size of an element divides all strides if it divides their greatest common divisor.
    return bool(a.flags.aligned and a.dtype.isnative and gcd(*a.strides) % a.itemsize == 0)


def contiguous_channels(a: Any) -> bool:
    """True if an array is addressable and its channels are contiguous."""
    return (a.shape[-1] <= 1 or a.strides[-1] == a.itemsize) and addressable(a)


def viewable_as_pairs(a: Any) -> bool:
    """True if an array is addressable and NumPy can view its complex numbers as pairs of floats.

    The view needs a channel stride of one element, even where there is one channel.
    """
    return bool(a.strides[-1] == a.itemsize) and addressable(a)


def contiguous_lines(a: Any) -> bool:
    """True if an array is addressable and its last spatial axis with the channels is contiguous."""
    *_, n, channels = a.shape
    return contiguous_channels(a) and bool(n <= 1 or a.strides[-2] == channels * a.itemsize)


def packed(a: Any) -> bool:
    """True if an array is addressable and contiguous in row-major order."""
    return bool(a.flags.c_contiguous) and addressable(a)


def usable(a: Any, b: Backend, dtype: str | None, needs: Predicate) -> bool:
    """True if an array has this dtype (None: any) and satisfies the predicate `needs`."""
    return (dtype is None or dtype == b.dtype_name(a)) and needs(a)


def operand(a: Any, b: Backend, dtype: str | None = None, needs: Predicate = addressable) -> Any:
    """Return `a` if it is `usable`, else a row-major copy of it in `dtype` (None: its own).

    A row-major copy satisfies every predicate of this module.
    """
    if usable(a, b, dtype, needs):
        return a
    copy = b.empty(a.shape, dtype or b.dtype_name(a), a)
    copy[...] = a
    return copy


def result_array(
    out: Any, b: Backend, dtype: str | None = None, needs: Predicate = addressable
) -> Any:
    """Return the array that a kernel writes: `out` if it is `usable`, else a new row-major array.

    The caller copies the new array, which has the dtype `dtype` (None: that of `out`), to `out`.
    """
    if usable(out, b, dtype, needs):
        return out
    return b.empty(out.shape, dtype or b.dtype_name(out), out)


def element_stride(stride: int, size: int) -> int:
    """Convert a stride in bytes to elements of `size` bytes; an error if it is no integer."""
    count, remainder = divmod(stride, size)
    if remainder:
        raise RuntimeError(
            f"a kernel was to be given a stride of {stride} bytes between elements of {size} bytes"
        )
    return count


def element_strides(
    strides: Sequence[int], size: int, shape: Sequence[int] | None = None, of_single: int = 0
) -> tuple[int, ...]:
    """Convert strides to elements of `size` bytes; with `shape`, `of_single` where it is one."""
    if shape is None:
        return tuple([element_stride(stride, size) for stride in strides])
    return tuple(
        [
            element_stride(s, size) if n > 1 else of_single
            for s, n in zip(strides, shape, strict=True)
        ]
    )


def copy_bytes(*arrays: Any, contiguous: bool = False) -> int:
    """Count the bytes of row-major copies of the unaddressable arrays; None counts nothing.

    With `contiguous`, arrays with gaps or another memory order are copied, too.
    """
    needs = packed if contiguous else addressable
    return sum(a.nbytes for a in arrays if a is not None and not needs(a))
