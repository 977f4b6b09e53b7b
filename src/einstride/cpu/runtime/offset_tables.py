"""Make tables of offsets: for each output and tap, the offset of the element of x that it reads.

`padded_elements` lists the element of x at each position of a padded axis, with any padding mode;
-1 stands for a zero. All other tables of an axis are read from this list. `to_offsets` turns
indices of elements into offsets, also for axes with negative strides, and -1 into `OUTSIDE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from einstride.geometry.convolution import Geometry
from einstride.geometry.padding_modes import segments

OUTSIDE = -(1 << 60)
"""The offset of an element in a border of zeros: kernels add the offsets of several axes, and a
sum with this one stays negative for every array that fits into memory."""

LOOKUPS = 1 << 12
"""Entries of a table that are looked up at once. Chosen: the temporary index takes 32 KiB, so that
making a table takes hardly more memory than the table."""


def padded_elements(g: Geometry, axis: int) -> Any:
    """List the element of x at each position of a padded axis; -1 in a border of zeros."""
    size, (low, high) = g.size[axis], g.padding[axis]
    elements = np.empty(max(size + low + high, 0), np.int64)
    for segment in segments(-low, size + high, size, g.padding_mode):
        if segment.step == 0:
            elements[segment.positions] = segment.source
        else:
            elements[segment.positions] = np.arange(
                segment.source,
                segment.source + segment.step * (segment.stop - segment.start),
                segment.step,
            )
    return elements


def at_taps(values: Any, g: Geometry, axis: int, outputs: Any = None) -> Any:
    """List (O, K) the value at each tap of each output, or of the `outputs` given.

    `values` holds one value for each position of the padded axis.
    """
    outputs = np.arange(g.out[axis]) if outputs is None else outputs
    table = np.empty((len(outputs), g.kernel[axis]), np.int64)
    k = np.arange(g.kernel[axis]) * g.dilation[axis]
    rows = max(LOOKUPS // max(len(k), 1), 1)
    for first in range(0, len(table), rows):
        o = outputs[first : first + rows, None] * g.stride[axis]
        table[first : first + rows] = values[o + k]
    return table


def sources(g: Geometry, axis: int, outputs: Any = None) -> Any:
    """List (O, K) the element of x that each output's tap reads; -1 in a border of zeros."""
    return at_taps(padded_elements(g, axis), g, axis, outputs)


def lowest_offset(count: int, stride: int) -> int:
    """Return the smallest offset of an axis' elements: 0, or negative for a negative stride."""
    return min((count - 1) * stride, 0)


def to_offsets(elements: Any, stride: int, lowest: int) -> Any:
    """Turn indices into offsets from the element at the offset `lowest`; -1 into `OUTSIDE`."""
    table = np.multiply(elements, stride, dtype=np.int64, order="C")
    table -= lowest
    table[elements < 0] = OUTSIDE
    return table


def offsets(g: Geometry, axis: int, stride: int, outputs: Any = None) -> tuple[Any, int]:
    """List (O, K) the offsets in x of each output's taps; also return the offset to add to x.

    An offset is negative only in a border of zeros, even where the stride of x is negative.
    """
    lowest = lowest_offset(g.size[axis], stride)
    return at_taps(to_offsets(padded_elements(g, axis), stride, lowest), g, axis, outputs), lowest


def output_ranges(g: Geometry, axis: int) -> tuple[Any, Any]:
    """List (K,) each tap's first output that reads x, and one past the last; 0, 0 if none does."""
    out, s, low = g.out[axis], g.stride[axis], g.padding[axis][0]
    taps = np.arange(g.kernel[axis], dtype=np.int64)
    if g.padding_mode != "zeros":
        return np.zeros_like(taps), np.full_like(taps, out)
    position = taps * g.dilation[axis] - low  # the position in x of the first output's tap
    first = np.maximum(-(position // s), 0)
    last = np.minimum((g.size[axis] - 1 - position) // s + 1, out)
    reads_x = first < last
    return np.where(reads_x, first, 0), np.where(reads_x, last, 0)


def grid(counts: Sequence[int], strides: Sequence[int]) -> Any:
    """List the offset of each element of an array with these axes, in row-major order."""
    table = np.zeros(1, np.int64)
    for count, stride in zip(counts, strides, strict=True):
        table = (table[:, None] + np.arange(count) * stride).ravel()
    return table
