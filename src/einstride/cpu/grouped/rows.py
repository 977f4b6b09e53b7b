"""Divide rows into tiles, and copy the x of a tile to a staging buffer, for grouped kernels.

The staging buffer lies on the stack. It holds one vector for each position of x that a tile of a
row reads: the channels of all groups of the panel, and zeros in the border. Products then read x at
constant offsets, for any strides and padding.

A vector holds several small groups. A product needs channel c of each group: a shuffle moves it to
the lanes of the group's outputs. No element is multiplied by the filter of another group, not even
by a zero there, so a NaN stays in its group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.ir_types import INT64
from einstride.codegen.vector_formats import shuffle
from einstride.cpu.grouped.shape import Lanes
from einstride.cpu.runtime.offset_tables import sources
from einstride.geometry.convolution import Geometry

Seen = tuple[tuple[bool, ...], ...]
"""For each position of a tile and each tap of the last axis: True if the tap may read x."""

MOST_RUNS = 4
"""Kinds of tiles that a kernel has code for, at most; chosen. A row with more kinds has one, whose
products at the border multiply zeros."""


@dataclass(frozen=True)
class Spec:
    """The parameters of a grouped kernel.

    Attributes
    ----------
    first, second, compute : str
        The dtypes of x, of y or gy, and of products and sums.
    shape : Lanes
        The layout of channels in vectors.
    rank : int
        Number of spatial axes.
    stride, dilation : int
        Stride and dilation of the last axis.
    runs : tuple of Seen
        The kinds of tiles in a row, in order.
    full_x, full_y : bool
        True if every panel fills its vectors of x, or of y.
    ahead : bool
        True if the next row is prefetched.
    even : bool
        True if all positions that tiles read lie in x, with a constant stride.
    """

    first: str
    second: str
    compute: str
    shape: Lanes
    rank: int
    stride: int
    dilation: int
    runs: tuple[Seen, ...]
    full_x: bool
    full_y: bool
    ahead: bool
    even: bool

    @property
    def taps(self) -> int:
        """The number of taps of the last axis."""
        return len(self.runs[0][0])

    @property
    def positions(self) -> int:
        """The number of positions in the longest tile."""
        return max(map(len, self.runs))

    def places(self, seen: Seen) -> dict[int, list[tuple[int, int]]]:
        """The positions of x that a tile reads, from its first, with the (position, tap) pairs."""
        found: dict[int, list[tuple[int, int]]] = {}
        for p, taps in enumerate(seen):
            for k, meets in enumerate(taps):
                if meets:
                    found.setdefault(p * self.stride + k * self.dilation, []).append((p, k))
        return dict(sorted(found.items()))

    @property
    def room(self) -> int:
        """The number of vectors in the staging buffer."""
        return max(len(self.places(seen)) for seen in self.runs)


def cut(g: Geometry, most: int) -> tuple[tuple[Seen, ...], list[tuple[int, int]], bool]:
    """Divide a row into tiles of at most `most` positions.

    Returns the kinds of tiles, the range of positions of each kind, and `Spec.even`.
    """
    width = g.out[-1]
    tile = -(-width // -(-width // most))
    meets = sources(g, g.rank - 1) >= 0
    for each in (meets, meets | True):
        runs: list[Seen] = []
        ranges: list[tuple[int, int]] = []
        for w in range(0, width, tile):
            seen = tuple(map(tuple, each[w : w + tile].tolist()))
            if runs and runs[-1] == seen:
                ranges[-1] = (ranges[-1][0], w + len(seen))
            else:
                runs.append(seen)
                ranges.append((w, w + len(seen)))
        if len(runs) <= MOST_RUNS:
            break
    even = g.padding_mode == "zeros" and each is meets
    return tuple(runs), ranges, even


def range_names() -> tuple[str, ...]:
    """The names of the arguments that hold the range of positions of each kind of tile."""
    return tuple(f"{end}{i}" for i in range(MOST_RUNS) for end in ("run", "stop"))


def aligned(code: Code, element: str, count: int) -> Pointer:
    """Allocate `count` elements on the stack, aligned to cache lines."""
    raw = code.scratch(element, count + 64)
    start = Value(code, code.builder.ptrtoint(raw.ir, INT64))
    return code.pointer((start + 63) & -64, element)


@dataclass(frozen=True)
class Source:
    """The channels of x of a panel in one row.

    The first position has the offset `first` from `x`, the next ones a stride of `step`, or the
    offsets in the table `line`. `here` is the number of the panel's input channels.
    """

    x: Pointer
    line: Pointer
    zeros: Pointer
    here: Value
    first: Value
    step: Value


def loaded(
    code: Code, spec: Spec, source: Source, c0: Value, offset: Value, even: bool = False
) -> Value:
    """Load a vector of x: channels from c0 on of all groups; zeros for a negative offset."""
    s = spec.shape

    def picked(pointer: Pointer) -> Pointer:
        return pointer if even else (offset >= 0).pick_pointer(pointer, source.zeros)

    if s.run:
        most = s.lanes if s.joined == 1 else s.joined * s.block
        left = (source.here - c0).least(most)
        there = None if spec.full_x else code.first_lanes(left, s.lanes)
        pointer = picked(source.x.at(offset + c0))
        return pointer.load_as(spec.first, spec.compute, s.lanes, there)
    each = (code.number(s.inputs) - c0).least(s.block)
    found: Value | None = None
    for j in range(s.joined):
        count = (code.number(j * s.inputs) < source.here).pick(each, code.number(0))
        mask = _range(code, j * s.block, count, s.lanes)
        shift = c0 + j * (s.inputs - s.block)
        pointer = picked(source.x.at(offset + shift))
        part = pointer.load_as(spec.first, spec.compute, s.lanes, mask)
        found = part if found is None else mask.pick(part, found)
    return found if found is not None else code.zero(spec.compute, s.lanes)


def stage(code: Code, spec: Spec, source: Source, block: Value, seen: Seen, to: Pointer) -> None:
    """Copy a block of channels, at each position that a tile reads, to the staging buffer."""
    at, before = source.first, 0
    for i, q in enumerate(spec.places(seen)):
        for _ in range(q - before):
            at = at + source.step
        before = q
        offset = at if spec.even else source.line.at(q).load()
        found = loaded(code, spec, source, block * spec.shape.block, offset, spec.even)
        to.at(i * spec.shape.lanes).store(found)


def _range(code: Code, first: int, count: Value, lanes: int) -> Mask:
    """A mask of `count` lanes from lane `first` on; `count` must not be negative."""
    if not first:
        return code.first_lanes(count, lanes)
    before = code.first_lanes(code.number(first), lanes)
    return code.first_lanes(count + first, lanes) ^ before


def channel(spec: Spec, pointer: Pointer, c: Any) -> Value:
    """Broadcast channel c of each group, at a position of x, to the lanes of its outputs."""
    s = spec.shape
    if s.joined == 1:
        return pointer.code.splat(pointer.at(c).load(), s.lanes)
    return shuffle(pointer.load(s.lanes), s.order[c])
