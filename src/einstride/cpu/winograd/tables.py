"""Make the offset tables of tiles for the Winograd kernels.

Two spatial axes are inner axes, filtered by F(m, r); the taps of the outer axes are summed like
channels. An inner axis with dilation d consists of d phases, each a convolution without dilation;
only the tables know, and the kernels see tiles alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.cpu.runtime.offset_tables import (
    OUTSIDE,
    grid,
    lowest_offset,
    padded_elements,
    sources,
    to_offsets,
)
from einstride.geometry.blocking import tiles_of_phases
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

Pair = tuple[int, int]


@dataclass(frozen=True)
class FilteredAxes:
    """Hold the axes that are filtered by F(m, r), with m and r.

    Attributes
    ----------
    inner : tuple of (int or None)
        Two axes; None stands for an axis of length one that the arrays do not have.
    outer : tuple of int
        All other axes.
    outputs_and_taps : tuple of (int, int)
        (m, r) of F(m, r) of the inner axes; (1, 1) for None.
    """

    inner: tuple[int | None, int | None]
    outer: tuple[int, ...]
    outputs_and_taps: tuple[Pair, Pair]

    @property
    def points(self) -> int:
        """Products of a tile, for each pair of channels."""
        return prod(m + r - 1 for m, r in self.outputs_and_taps)

    def __str__(self) -> str:
        """Write m and r as F(4x4, 3x3)."""
        filtered = [
            pair for pair, a in zip(self.outputs_and_taps, self.inner, strict=True) if a is not None
        ]
        m, r = ("x".join(map(str, numbers)) for numbers in zip(*filtered, strict=True))
        return f"F({m}, {r})"


@dataclass(frozen=True, eq=False)
class TileTables:
    """Offsets of tiles in the arrays, in elements; negative outside of an array.

    Attributes
    ----------
    data, result : tuple of array
        For each inner axis: offsets (tile, element) of the input tile and of the output tile.
    outer_data, outer_result : array
        For all outer axes together: offsets (position, tap) in the input and (position) in the
        output.
    data_lowest, result_lowest : int
        Offsets to add to the address of an example: not 0 for axes with negative strides.
    """

    data: tuple[Any, Any]
    result: tuple[Any, Any]
    outer_data: Any
    outer_result: Any
    data_lowest: int
    result_lowest: int


@cached(1024)
def tile_counts(g: Geometry, axes: FilteredAxes) -> tuple[Pair, int, int]:
    """Count the tiles on the inner axes, and the positions and taps of the outer axes."""
    inner = [
        1 if a is None else tiles_of_phases(g.out[a], g.dilation[a], m)
        for a, (m, _) in zip(axes.inner, axes.outputs_and_taps, strict=True)
    ]
    outer, taps = (prod(sizes[a] for a in axes.outer) for sizes in (g.out, g.kernel))
    return (inner[0], inner[1]), outer, taps


def _phase_sizes(out: int, dilation: int) -> list[int]:
    """Return the number of outputs of each phase that has outputs."""
    return [len(range(p, out, dilation)) for p in range(min(dilation, out))]


@kept
def tables(
    g: Geometry, axes: FilteredAxes, x_strides: tuple[int, ...], y_strides: tuple[int, ...]
) -> TileTables:
    """Make the tables for arrays with these strides of their spatial axes, in elements."""
    x_lowest = [lowest_offset(s, t) for s, t in zip(g.size, x_strides, strict=True)]
    y_lowest = [lowest_offset(s, t) for s, t in zip(g.out, y_strides, strict=True)]
    pairs = [
        (np.zeros((1, 1), np.int64), np.zeros((1, 1), np.int64))
        if a is None
        else _inner_tables(g, a, m, r, (x_strides[a], x_lowest[a]), (y_strides[a], y_lowest[a]))
        for a, (m, r) in zip(axes.inner, axes.outputs_and_taps, strict=True)
    ]
    data, result = np.zeros((1, 1), np.int64), np.zeros(1, np.int64)
    for a in axes.outer:
        x_offsets = to_offsets(sources(g, a), x_strides[a], x_lowest[a])
        data = (data[:, None, :, None] + x_offsets[:, None]).reshape(len(data) * len(x_offsets), -1)
        y_offsets = np.arange(g.out[a]) * y_strides[a] - y_lowest[a]
        result = (result[:, None] + y_offsets).ravel()
    data = np.where(data < 0, OUTSIDE, data)  # a border on several axes: no sum of `OUTSIDE`
    return TileTables(
        (pairs[0][0], pairs[1][0]), (pairs[0][1], pairs[1][1]),
        np.ascontiguousarray(data), result, sum(x_lowest), sum(y_lowest),
    )  # fmt: skip


def _inner_tables(g: Geometry, axis: int, m: int, r: int, x: Pair, y: Pair) -> tuple[Any, Any]:
    """Return the offsets (tile, element) of input and output on one inner axis.

    A tile reads only the elements that its existing outputs need; the others are outside.
    """
    data, result = [], []
    elements, d, out = np.append(padded_elements(g, axis), -1), g.dilation[axis], g.out[axis]
    for phase, count in enumerate(_phase_sizes(out, d)):
        first = np.arange(0, count, m)[:, None]
        outputs_left = np.minimum(count - first, m)
        i, j = np.arange(m + r - 1), np.arange(m)
        positions = np.where(i < outputs_left + r - 1, phase + d * (first + i), len(elements) - 1)
        data.append(to_offsets(elements[positions], *x))
        outputs = (phase + d * (first + j)) * y[0] - y[1]
        result.append(np.where(j < outputs_left, outputs, OUTSIDE))
    return np.concatenate(data), np.concatenate(result)


def tap_offsets(g: Geometry, axes: FilteredAxes, strides: tuple[int, ...]) -> Any:
    """Return the offsets of the outer axes' taps in the filter."""
    return grid([g.kernel[a] for a in axes.outer], [strides[a] for a in axes.outer])
