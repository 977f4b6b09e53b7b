"""Index the tiles of a convolution: the phases of dilation, blocks of tiles, their elements.

A dilated convolution is one undilated convolution for each residue of the positions modulo the
dilation: a *phase*. Integers only; no arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import overload

from einstride.geometry.blocking import Box, Boxes
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Shape
from einstride.geometry.tile_sizes import TileSizes


@dataclass(frozen=True)
class Phase:
    """The outputs at r, r + d, ... of each axis, d the dilation, as an undilated convolution.

    Attributes
    ----------
    first : tuple of int
        The residue r per axis.
    out : tuple of int
        The number of outputs per axis.
    """

    first: Shape
    out: Shape


def phase_of(g: Geometry, first: Shape) -> Phase:
    """Return the phase with these residues."""
    axes = zip(first, g.out, g.dilation, strict=True)
    return Phase(first, tuple(len(range(r, o, d)) for r, o, d in axes))


def residues(g: Geometry) -> Shape:
    """Return the number of phases per axis."""
    return tuple(map(min, g.dilation, g.out))


@dataclass(frozen=True)
class Blocks(Sequence[tuple[Phase, Box]]):
    """A sequence of every block of tiles of every phase; elements are made when indexed."""

    g: Geometry
    m: Shape
    lengths: Shape

    def tiles(self, phase: Phase) -> Shape:
        """Return the number of tiles of a phase, as (B, *T)."""
        return (self.g.batch, *(-(-o // m) for o, m in zip(phase.out, self.m, strict=True)))

    def __len__(self) -> int:
        return -(-self.g.batch // self.lengths[0]) * prod(
            map(self._boxes_of_all_phases, range(self.g.rank))
        )

    def _boxes(self, a: int, residue: int) -> int:
        """Count the boxes along an axis, of the phase with this residue."""
        outputs = len(range(residue, self.g.out[a], self.g.dilation[a]))
        tiles = -(-outputs // self.m[a])
        return -(-tiles // self.lengths[a + 1])

    def _longer_phases(self, a: int) -> tuple[int, int]:
        """Return the residues of an axis, and how many of them have one output more than others."""
        count = residues(self.g)[a]
        return count, self.g.out[a] % count if count else 0

    def _boxes_of_all_phases(self, a: int) -> int:
        """Count the boxes along an axis, of all its phases, which have one of two lengths."""
        count, longer = self._longer_phases(a)
        if not count:
            return 0
        return longer * self._boxes(a, 0) + (count - longer) * self._boxes(a, count - 1)

    @overload
    def __getitem__(self, i: int) -> tuple[Phase, Box]: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[tuple[Phase, Box]]: ...
    def __getitem__(self, i: int | slice) -> tuple[Phase, Box] | Sequence[tuple[Phase, Box]]:
        if isinstance(i, slice):
            return [self[j] for j in range(len(self))[i]]
        if not 0 <= i < len(self):
            raise IndexError(i)
        axes, first = range(self.g.rank), []
        each = -(-self.g.batch // self.lengths[0])  # boxes of a phase on the axes before this one
        rest = prod(map(self._boxes_of_all_phases, axes))
        for a in axes:
            rest //= self._boxes_of_all_phases(a)
            count, longer = self._longer_phases(a)
            some, others = (each * rest * self._boxes(a, r) for r in (0, count - 1))
            if i < longer * some:
                residue, i = divmod(i, some)
            else:
                residue, i = divmod(i - longer * some, others)
                residue += longer
            first.append(residue)
            each *= self._boxes(a, residue)
        phase = phase_of(self.g, tuple(first))
        return phase, Boxes(self.tiles(phase), self.lengths)[i]


class BlockRange:
    """The elements of x and y that belong to a block of tiles.

    Attributes
    ----------
    starts : list of int
        The index in x of the first element of the first tile, per axis; negative in the border.
    reach : list of int
        The number of elements from `starts` on, one dilation apart, that belong to the phase.
    outputs : list of slice
        The block's outputs in y.
    limits : tuple of int
        The number of the block's outputs, per axis.
    """

    def __init__(self, phase: Phase, box: Box, s: TileSizes, g: Geometry) -> None:
        first = [lo * m for (lo, _), m in zip(box[1:], s.m, strict=True)]
        ends = [hi * m for (_, hi), m in zip(box[1:], s.m, strict=True)]
        begin = [r + i * d for r, i, d in zip(phase.first, first, g.dilation, strict=True)]
        self.starts = [at - low for at, (low, _) in zip(begin, g.padding, strict=True)]
        self.reach = [o - i + k - 1 for o, i, k in zip(phase.out, first, g.kernel, strict=True)]
        self.limits = tuple(min(e, o) - i for e, o, i in zip(ends, phase.out, first, strict=True))
        axes = zip(begin, self.limits, g.dilation, strict=True)
        self.outputs = [slice(at, at + (n - 1) * d + 1, d) for at, n, d in axes]
