"""Which arrays a kernel can address, and copies of those that it cannot. NumPy arrays only.

A kernel is told where an array begins and, for each axis, how many elements it must go on. So each
of its arrays must hold numbers in the machine's byte order, at addresses that are multiples of the
numbers' alignment, and strides must be multiples of the size of an element:

    packed record (u1, f4):  |b|f f f f|b|f f f f|     field f4: stride 5, not a multiple of 4
    record (f4, f4):         |f f f f|g g g g|...      field f4: stride 8, two elements

All that a kernel reads or writes in a caller's array goes through `operand` or `target`, which look
at the array that the kernel will be given: after its dtype was converted. NumPy's conversions keep
the memory order of the array and put broadcast axes innermost, so what was true of an array before
its conversion says nothing of the array after it.

The strides of axes of length one are looked at too, though nothing is ever that far away: then no
stride of an addressable array has a remainder, and `steps` can refuse to round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from einstride.arrays.backends.adapter import Backend

Predicate = Callable[[Any], bool]


def addressable(a: Any) -> bool:
    """True if a kernel can read and write the array where it lies."""
    # A number divides all strides exactly if it divides their greatest common divisor.
    return bool(a.flags.aligned and a.dtype.isnative and gcd(*a.strides) % a.itemsize == 0)


def neighbours(a: Any) -> bool:
    """True if it is addressable and neighbouring channels are neighbours in memory."""
    return (a.shape[-1] <= 1 or a.strides[-1] == a.itemsize) and addressable(a)


def paired(a: Any) -> bool:
    """True if it is addressable and a view of its complex numbers as pairs of real ones exists.

    Such a view needs channels that are neighbours in memory, even where there is one channel.
    """
    return bool(a.strides[-1] == a.itemsize) and addressable(a)


def lines(a: Any) -> bool:
    """True if it is addressable and each line of the last spatial axis has no gaps.

    A line is that axis with its channels: one contiguous span.
    """
    *_, n, channels = a.shape
    return neighbours(a) and bool(n <= 1 or a.strides[-2] == channels * a.itemsize)


def packed(a: Any) -> bool:
    """True if it is addressable and has no gaps at all, in row-major order."""
    return bool(a.flags.c_contiguous) and addressable(a)


def usable(a: Any, b: Backend, dtype: str | None, needs: Predicate) -> bool:
    """True if a kernel can be given the array as it is: in this dtype, and lying as it `needs`."""
    return (dtype is None or dtype == b.dtype_name(a)) and needs(a)


def operand(a: Any, b: Backend, dtype: str | None = None, needs: Predicate = addressable) -> Any:
    """An array with the values of `a` of which `needs` is true: `a` itself, or a packed copy.

    With `dtype`, in that dtype. Packed arrays satisfy every predicate of this module.
    """
    if usable(a, b, dtype, needs):
        return a
    copy = b.empty(a.shape, dtype or b.dtype_name(a), a)
    copy[...] = a
    return copy


def target(out: Any, b: Backend, dtype: str | None = None, needs: Predicate = addressable) -> Any:
    """Where a kernel writes a result: `out` if `needs` is true of it, else a new packed array.

    With `dtype`, in that dtype. The caller copies the new array to `out` in the end.
    """
    if usable(out, b, dtype, needs):
        return out
    return b.empty(out.shape, dtype or b.dtype_name(out), out)


def whole(stride: int, size: int) -> int:
    """A stride in elements of `size` bytes."""
    count, rest = divmod(stride, size)
    if rest:
        raise RuntimeError(
            f"a kernel was to be given a stride of {stride} bytes between elements of {size} bytes"
        )
    return count


def steps(
    strides: Sequence[int], size: int, shape: Sequence[int] | None = None, single: int = 0
) -> tuple[int, ...]:
    """Strides in elements of `size` bytes; with `shape`, `single` for axes of length one."""
    if shape is None:
        return tuple([whole(stride, size) for stride in strides])
    return tuple([whole(s, size) if n > 1 else single for s, n in zip(strides, shape, strict=True)])


def copied(*arrays: Any) -> int:
    """Bytes of packed copies of those arrays that are not addressable; None is no array."""
    return sum(a.nbytes for a in arrays if a is not None and not addressable(a))
