"""Describe convolutions to the direct kernels: index maps of axes, strides, integer types.

Forward pass and input gradient, and all layouts, are the same to this module: it works on integers
and on the shapes and strides of CuPy arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

MOST_BLOCKS = 2**31 - 1
"""CUDA's limit on the blocks of a launch along the first axis of the grid."""
MAX_POSITION = 2**28
"""Positions on an axis must stay below this for 32-bit indices: tiles.cu marks list entries that do
not exist by subtracting 2**29 from their position."""
MAX_OFFSET = 2**31 - 2**12
"""Offsets in elements must stay below this for 32-bit indices; the rest is a margin for tiles."""


@dataclass(frozen=True)
class AxisMap:
    """Index map of one spatial axis: which position of x each output reads with each tap.

    Output p reads with tap k the position (p * output_step + start + k * tap_step) / denominator,
    or nothing if that is no integer.

    Attributes
    ----------
    count, size, taps : int
        Number of outputs, positions of x, and taps.
    output_step, start, tap_step, denominator : int
        Coefficients of the map: (stride, -padding, dilation, 1) in a forward pass; in an input
        gradient the denominator is the stride.
    """

    count: int
    size: int
    taps: int
    output_step: int
    start: int
    tap_step: int
    denominator: int = 1

    @property
    def normalized(self) -> AxisMap:
        """Return an equivalent map with positive `tap_step`: a negative one reverses the taps.

        Coefficients of axes with a single tap or output, which have no effect, become 1.
        """
        axis = self
        if self.tap_step < 0:
            axis = replace(
                self, start=self.start + (self.taps - 1) * self.tap_step, tap_step=-self.tap_step
            )
        if self.taps == 1:
            axis = replace(axis, tap_step=1)
        return replace(axis, output_step=1) if self.count == 1 else axis


@dataclass(frozen=True)
class ArrayLayout:
    """The properties of an array that a launch depends on: layout, dtype and alignment.

    Attributes
    ----------
    shape, strides : tuple of int
        As in NumPy; strides in bytes.
    dtype : numpy.dtype
        The dtype of the elements.
    address : int
        The address of the first element modulo 16, the widest load of a device in bytes.
    """

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Any
    address: int


def layout_of(a: Any) -> ArrayLayout:
    """Return the layout of an array."""
    return ArrayLayout(a.shape, a.strides, a.dtype, a.data.ptr % 16)


def strides(a: Any) -> list[int]:
    """Return the strides of an array in elements."""
    return [s // a.dtype.itemsize for s in a.strides]


def readable(a: Any) -> bool:
    """True if the array's address and strides are multiples of the size of its elements."""
    item = a.dtype.itemsize
    return not any(s % item for s in a.strides) and a.data.ptr % item == 0


def index_type(arrays: Iterable[Any], axes: Sequence[AxisMap], totals: Iterable[int] = ()) -> str:
    """Return the C integer type that holds all positions and offsets of a launch."""
    extents = [*totals]
    for a in arrays:
        extents.append(
            sum(max(n - 1, 0) * abs(t) for n, t in zip(a.shape, strides(a), strict=True))
        )
        extents += [abs(t) * max(n, 1) for n, t in zip(a.shape, strides(a), strict=True)]
    positions = [0]
    for v in axes:
        ends = abs(v.start) + v.count * v.output_step + v.taps * abs(v.tap_step)
        positions += [ends + 2 * v.size, v.denominator, v.count * 2]
    narrow = max(extents, default=0) < MAX_OFFSET and max(positions) < MAX_POSITION
    return "int" if narrow else "long long"


def as_struct(fields: Sequence[int]) -> Any:
    """Pack 64-bit integers into a struct that a kernel takes by value."""
    struct = np.array(fields, np.int64)
    return struct.view(f"V{struct.nbytes}")


def round_up(n: int, unit: int) -> int:
    """Round n up to a multiple of `unit`."""
    return -(-n // unit) * unit


def even_lengths(count: int, unit: int, most: int) -> list[int]:
    """Return lengths of boxes, multiples of `unit`, that split `count` evenly, the largest first.

    There are at most eight lengths, none above `most` rounded up.
    """
    found: list[int] = []
    parts = max(1, -(-count // most))
    while len(found) < 8:
        equal = -(-count // parts)
        size = round_up(equal, unit)
        if size not in found:
            found.append(size)
        if size <= unit:
            break
        parts = max(parts + 1, -(-count // (equal - 1)))
    return found
