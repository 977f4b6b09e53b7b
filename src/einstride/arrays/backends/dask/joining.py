"""Join slices of chunks to one array, and fill positions that hold no element of a chunk."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, product
from typing import Any

import numpy as np

from einstride.arrays.backends import numpy
from einstride.arrays.backends.adapter import Array
from einstride.geometry.chunks import CONSTANT, ZEROS, Fill, Range
from einstride.geometry.keywords import Shape

Cuts = tuple[tuple[Range, ...], ...]
"""For each axis of an operand, in the caller's order, the slices of consecutive chunks."""


def lengths_of(cuts: Cuts) -> list[int]:
    """Return the shape of what `gathered` returns."""
    return [sum(stop - start for start, stop in axis) for axis in cuts]


def gathered(chunks: Sequence[Array], cuts: Cuts) -> Array:
    """Return slices of chunks, given in row-major order, as one array.

    It is a view where the slices lie in memory as those of one array do: chunks of an array in
    memory or of a memory map. Otherwise it is a copy.
    """
    parts, places, shape = _sliced(chunks, cuts)
    if len(parts) == 1:
        return parts[0]
    if _lie_together(parts, places, shape):
        return np.lib.stride_tricks.as_strided(parts[0], shape, parts[0].strides, writeable=False)
    whole = new_like(parts[0], shape, parts[0].dtype.name)
    for part, place in zip(parts, places, strict=True):
        index = tuple(slice(i, i + n) for i, n in zip(place, part.shape, strict=True))
        whole[index] = part
    return whole


def new_like(chunk: Array, shape: Shape, dtype: str) -> Array:
    """Allocate an array of the library of a chunk."""
    if type(chunk) is np.ndarray:
        return numpy.result(shape, dtype, chunk)
    return np.empty_like(chunk, shape=shape, dtype=dtype)


def is_one_array(chunks: Sequence[Array], cuts: Cuts) -> bool:
    """True if `gathered` returns a view."""
    return len(chunks) == 1 or _lie_together(*_sliced(chunks, cuts))


def _sliced(chunks: Sequence[Array], cuts: Cuts) -> tuple[list[Array], list[Shape], Shape]:
    """Return the slices of the chunks, where each begins in their union, and the union's shape."""
    parts = [
        chunk[tuple(slice(*cut) for cut in cell)]
        for chunk, cell in zip(chunks, product(*cuts), strict=True)
    ]
    lengths = [[stop - start for start, stop in axis] for axis in cuts]
    starts = [[end - n for end, n in zip(accumulate(each), each, strict=True)] for each in lengths]
    return parts, list(product(*starts)), tuple(map(sum, lengths))


def _lie_together(parts: Sequence[Array], places: Sequence[Shape], shape: Shape) -> bool:
    """True if each element has the address that it has in the array of this shape with the first
    part's strides, so that this array reads no other memory.

    The caller holds the parts while it reads the array.
    """
    first = parts[0]
    if 0 in shape or any(type(part) is not np.ndarray for part in parts):
        return False
    dtype, strides, start = first.dtype, first.strides, _address(first)
    for part, place in zip(parts, places, strict=True):
        if part.dtype != dtype or part.strides != strides:
            return False
        if _address(part) != start + sum(i * n for i, n in zip(place, strides, strict=True)):
            return False
    return True


def _address(a: Array) -> int:
    address: int = a.__array_interface__["data"][0]
    return address


def filled(x: Array, axis: int, fills: Sequence[Fill]) -> Array:
    """Return the positions of an axis that hold these elements of x, or zeros."""
    length = sum(fill.length for fill in fills)
    whole = np.empty_like(x, shape=(*x.shape[:axis], length, *x.shape[axis + 1 :]))
    before, start = (slice(None),) * axis, 0
    for n, source, step in fills:
        place = (*before, slice(start, start + n))
        start += n
        if source < 0:
            whole[place] = 0
        elif step == 0:
            whole[place] = x[(*before, slice(source, source + 1))]
        elif step == 1:
            whole[place] = x[(*before, slice(source, source + n))]
        else:
            whole[place] = np.flip(x[(*before, slice(source - n + 1, source + 1))], axis)
    return whole


def fill_border(x: Array, axis: int, fills: Sequence[Fill], constant: Any) -> None:
    """Write what the border of an axis holds, also where the borders of two axes meet."""
    before, start = (slice(None),) * axis, 0
    for n, source, _ in fills:
        if source in (ZEROS, CONSTANT):
            x[(*before, slice(start, start + n))] = constant if source == CONSTANT else 0
        start += n


def callers_axis(order: Shape | None, axis: int) -> int:
    """Return the place, in the caller's order, of an axis of the canonical order."""
    return axis if order is None else order[axis]


def callers_shape(shape: Shape, order: Shape | None) -> Shape:
    """Return the shape, in the caller's order, of an array of a canonical shape."""
    return shape if order is None else tuple(shape[order.index(i)] for i in range(len(order)))
