"""Where the elements of tiles lie, as tables for the kernels of minimal filtering.

The spatial axes are split into two inner ones, filtered by F(m, r), and outer ones, whose taps are
summed like channels. A dilated inner axis is cut into as many phases as its dilation, each a dense
convolution of its own: only the tables know.
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
class Split:
    """Which axes are filtered by F(m, r), and how.

    Attributes
    ----------
    inner : tuple of (int or None)
        Two axes; None stands for an axis of length one that is not there.
    outer : tuple of int
        All others.
    axes : tuple of (int, int)
        m and r of the inner axes; (1, 1) for one that is not there.
    """

    inner: tuple[int | None, int | None]
    outer: tuple[int, ...]
    axes: tuple[Pair, Pair]

    @property
    def points(self) -> int:
        """Products of a tile, for each pair of channels."""
        return prod(m + r - 1 for m, r in self.axes)

    def __str__(self) -> str:
        """F(4x4, 3x3)."""
        axes = [pair for pair, a in zip(self.axes, self.inner, strict=True) if a is not None]
        m, r = ("x".join(map(str, numbers)) for numbers in zip(*axes, strict=True))
        return f"F({m}, {r})"


@dataclass(frozen=True, eq=False)
class Tiles:
    """Where the elements of tiles lie, in elements; negative if outside.

    Attributes
    ----------
    data, result : tuple of array
        Of the inner axes: (tile, element) of the input's patch and of the output's tile.
    outer_data, outer_result : array
        Of the outer axes together: (position, tap) and (position).
    data_back, result_back : int
        What to add to an example's address: an array may run backwards in memory.
    """

    data: tuple[Any, Any]
    result: tuple[Any, Any]
    outer_data: Any
    outer_result: Any
    data_back: int
    result_back: int


@cached(1024)
def counted(g: Geometry, split: Split) -> tuple[Pair, int, int]:
    """Tiles on the inner axes, positions and taps of the outer ones."""
    inner = [
        1 if a is None else tiles_of_phases(g.out[a], g.dilation[a], m)
        for a, (m, _) in zip(split.inner, split.axes, strict=True)
    ]
    outer, taps = (prod(sizes[a] for a in split.outer) for sizes in (g.out, g.kernel))
    return (inner[0], inner[1]), outer, taps


def _phases(out: int, dilation: int) -> list[int]:
    """Outputs of each phase that has any."""
    return [len(range(p, out, dilation)) for p in range(min(dilation, out))]


@kept
def tables(g: Geometry, split: Split, x_steps: tuple[int, ...], y_steps: tuple[int, ...]) -> Tiles:
    """The tables for arrays with so many elements from one position to the next on each axis."""
    x_back = [lowest_offset(s, t) for s, t in zip(g.size, x_steps, strict=True)]
    y_back = [lowest_offset(s, t) for s, t in zip(g.out, y_steps, strict=True)]
    pairs = [
        (np.zeros((1, 1), np.int64), np.zeros((1, 1), np.int64))
        if a is None
        else _inner(g, a, m, r, (x_steps[a], x_back[a]), (y_steps[a], y_back[a]))
        for a, (m, r) in zip(split.inner, split.axes, strict=True)
    ]
    data, result = np.zeros((1, 1), np.int64), np.zeros(1, np.int64)
    for a in split.outer:
        here = to_offsets(sources(g, a), x_steps[a], x_back[a])
        data = (data[:, None, :, None] + here[:, None]).reshape(len(data) * len(here), -1)
        there = np.arange(g.out[a]) * y_steps[a] - y_back[a]
        result = (result[:, None] + there).ravel()
    data = np.where(data < 0, OUTSIDE, data)  # several axes at once: once is enough
    return Tiles(
        (pairs[0][0], pairs[1][0]), (pairs[0][1], pairs[1][1]),
        np.ascontiguousarray(data), result, sum(x_back), sum(y_back),
    )  # fmt: skip


def _inner(g: Geometry, axis: int, m: int, r: int, x: Pair, y: Pair) -> tuple[Any, Any]:
    """The tables of one axis; a tile reads only what its outputs that exist need."""
    data, result = [], []
    held, d, out = np.append(padded_elements(g, axis), -1), g.dilation[axis], g.out[axis]
    for phase, count in enumerate(_phases(out, d)):
        first = np.arange(0, count, m)[:, None]
        there = np.minimum(count - first, m)
        i, j = np.arange(m + r - 1), np.arange(m)
        at = np.where(i < there + r - 1, phase + d * (first + i), len(held) - 1)
        data.append(to_offsets(held[at], *x))
        outputs = (phase + d * (first + j)) * y[0] - y[1]
        result.append(np.where(j < there, outputs, OUTSIDE))
    return np.concatenate(data), np.concatenate(result)


def tap_offsets(g: Geometry, split: Split, steps: tuple[int, ...]) -> Any:
    """Where the taps of the outer axes lie in the filter."""
    return grid([g.kernel[a] for a in split.outer], [steps[a] for a in split.outer])
