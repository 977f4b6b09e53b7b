"""Where the elements of tiles lie: whole numbers for the kernels of minimal filtering, no arrays.

The spatial axes are split into two inner ones, filtered by F(m, r), and outer ones, whose taps are
summed like channels. A dilated inner axis is cut into as many phases as its dilation, each a dense
convolution of its own: only the tables know.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod

from einstride.borders import segments
from einstride.geometry import Geometry

OUTSIDE = -(1 << 60)
"""An offset so negative that no sum with two others becomes positive."""

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
        m and r of the inner axes.
    """

    inner: tuple[int | None, int | None]
    outer: tuple[int, ...]
    axes: tuple[Pair, Pair]

    @property
    def points(self) -> int:
        """Products of a tile, for each pair of channels."""
        return prod(m + r - 1 for m, r in self.axes)


@dataclass(frozen=True)
class Tiles:
    """How many tiles there are, and where their elements lie, in elements from an example's first.

    Attributes
    ----------
    inner : tuple of (int, int)
        Tiles on the inner axes.
    outer, taps : int
        Positions and taps of all outer axes together.
    data, result : tuple of array
        Tables of the inner axes: (tile, element) of the input's patch and of the output's tile.
    outer_data, outer_result : array
        The same of the outer axes: (position, tap) and (position).
    """

    inner: Pair
    outer: int
    taps: int
    data: tuple[array[int], array[int]]
    result: tuple[array[int], array[int]]
    outer_data: array[int]
    outer_result: array[int]


def counted(g: Geometry, split: Split) -> tuple[Pair, int, int]:
    """Tiles on the inner axes, positions and taps of the outer ones."""
    inner = tuple(
        1 if a is None else sum(-(-n // m) for n in _phases(g.out[a], g.dilation[a]))
        for a, (m, _) in zip(split.inner, split.axes, strict=True)
    )
    outer, taps = (prod(sizes[a] for a in split.outer) for sizes in (g.out, g.kernel))
    return (inner[0], inner[1]), outer, taps


def _phases(out: int, dilation: int) -> list[int]:
    """Outputs of each phase that has any."""
    return [len(range(p, out, dilation)) for p in range(min(dilation, out))]


@lru_cache(maxsize=256)
def tables(g: Geometry, split: Split, x_steps: Sequence[int], y_steps: Sequence[int]) -> Tiles:
    """The tables for arrays with so many elements from one position to the next on each axis."""
    inner, outer, taps = counted(g, split)
    pairs = [
        _inner(g, a, m, r, 0 if a is None else x_steps[a], 0 if a is None else y_steps[a])
        for a, (m, r) in zip(split.inner, split.axes, strict=True)
    ]
    data, result = array("q"), array("q")
    sources = {a: _sources(g, a) for a in split.outer}
    for at in product(*(range(g.out[a]) for a in split.outer)):
        result.append(sum(o * y_steps[a] for o, a in zip(at, split.outer, strict=True)))
        for tap in product(*(range(g.kernel[a]) for a in split.outer)):
            found = [
                (sources[a][o * g.stride[a] + k * g.dilation[a]], x_steps[a])
                for o, k, a in zip(at, tap, split.outer, strict=True)
            ]
            inside = all(source >= 0 for source, _ in found)
            data.append(sum(source * step for source, step in found) if inside else OUTSIDE)
    return Tiles(
        inner, outer, taps,
        (pairs[0][0], pairs[1][0]), (pairs[0][1], pairs[1][1]), data, result,
    )  # fmt: skip


def _sources(g: Geometry, axis: int) -> list[int]:
    """Which element each position of the padded axis comes from; -1 for zeros."""
    low, high = g.padding[axis]
    found = []
    for run in segments(-low, g.size[axis] + high, g.size[axis], g.padding_mode):
        found += [run.source + run.step * i for i in range(run.stop - run.start)]
    return found


def _inner(
    g: Geometry, axis: int | None, m: int, r: int, x_step: int, y_step: int
) -> tuple[array[int], array[int]]:
    if axis is None:
        return array("q", [0]), array("q", [0])
    data, result = array("q"), array("q")
    sources, d, out = _sources(g, axis), g.dilation[axis], g.out[axis]
    for phase in range(min(d, out)):
        count = len(range(phase, out, d))
        for first in range(0, count, m):
            there = min(m, count - first)
            for i in range(m + r - 1):
                source = sources[phase + d * (first + i)] if i < there + r - 1 else -1
                data.append(source * x_step if source >= 0 else OUTSIDE)
            for i in range(m):
                result.append((phase + d * (first + i)) * y_step if i < there else OUTSIDE)
    return data, result


def tap_offsets(g: Geometry, split: Split, f_steps: Sequence[int]) -> array[int]:
    """Where the taps of the outer axes lie in the filter."""
    taps = product(*(range(g.kernel[a]) for a in split.outer))
    steps = [f_steps[a] for a in split.outer]
    return array("q", [sum(k * s for k, s in zip(tap, steps, strict=True)) for tap in taps])
