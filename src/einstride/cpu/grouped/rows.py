"""What the kernels of small groups share: how a row is cut into tiles, and x put on a stage.

The stage is a piece of the stack that holds what one tile of a row sees of x, one vector for each
place: the channels that all groups of the panel need, zeros in a border. Products then read it at
constant places, whatever strides and borders x has.

Small groups lie side by side in a vector. A product takes channel c of each of them: a shuffle
brings it to the lanes of its group's outputs. So no number ever meets another group's filter, not
even a zero: a NaN stays in its group.
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
"""For each position of a tile and each tap of the last axis: does it meet x, or may it?"""

MOST_RUNS = 4
"""Kinds of tiles that one kernel has; more than that are all treated alike."""


@dataclass(frozen=True)
class Spec:
    """What a kernel is made for.

    Attributes
    ----------
    first, second, compute : str
        The dtypes of x, of y or gy, and of products and sums.
    shape : Lanes
        How channels lie in vectors.
    rank : int
        Spatial axes.
    stride, dilation : int
        Of the last axis.
    runs : tuple of Seen
        The tiles of a row, by what they see.
    full_x, full_y : bool
        Does every panel fill its vectors of x, and of y?
    ahead : bool
        Is the next row worth asking for before its turn?
    even : bool
        Does all that tiles see lie in x, in even steps?
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
        """Of the last axis."""
        return len(self.runs[0][0])

    @property
    def positions(self) -> int:
        """In the longest tile of a row."""
        return max(map(len, self.runs))

    def places(self, seen: Seen) -> dict[int, list[tuple[int, int]]]:
        """What a tile sees: places of x after its first, with the pairs (position, tap) there."""
        found: dict[int, list[tuple[int, int]]] = {}
        for p, taps in enumerate(seen):
            for k, meets in enumerate(taps):
                if meets:
                    found.setdefault(p * self.stride + k * self.dilation, []).append((p, k))
        return dict(sorted(found.items()))

    @property
    def room(self) -> int:
        """Vectors of x on the stage."""
        return max(len(self.places(seen)) for seen in self.runs)


def cut(g: Geometry, most: int) -> tuple[tuple[Seen, ...], list[tuple[int, int]], bool]:
    """The tiles of a row, at most `most` positions each: what they see, their ranges, and whether
    all that they see lies in x, in even steps."""
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
    """The words that say which positions are which run's."""
    return tuple(f"{end}{i}" for i in range(MOST_RUNS) for end in ("run", "stop"))


def aligned(code: Code, element: str, count: int) -> Pointer:
    """Room on the stack for vectors, none of them across two lines of the cache."""
    raw = code.scratch(element, count + 64)
    start = Value(code, code.builder.ptrtoint(raw.ir, INT64))
    return code.pointer((start + 63) & -64, element)


@dataclass(frozen=True)
class Source:
    """Where a panel's channels of x begin, in one row; and how many there are.

    The first place lies `first` from x; others by steps, or where `line` says.
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
    """A vector of x: channels from c0 on, of all groups; zeros for a negative offset."""
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
    """Put a block of channels of all places that a tile sees on the stage."""
    at, before = source.first, 0
    for i, q in enumerate(spec.places(seen)):
        for _ in range(q - before):
            at = at + source.step
        before = q
        offset = at if spec.even else source.line.at(q).load()
        found = loaded(code, spec, source, block * spec.shape.block, offset, spec.even)
        to.at(i * spec.shape.lanes).store(found)


def _range(code: Code, first: int, count: Value, lanes: int) -> Mask:
    """A mask that is on in `count` lanes from a known one on; `count` is not negative."""
    if not first:
        return code.first_lanes(count, lanes)
    before = code.first_lanes(code.number(first), lanes)
    return code.first_lanes(count + first, lanes) ^ before


def channel(spec: Spec, pointer: Pointer, c: Any) -> Value:
    """Channel c of every group at a place of x, on the lanes of its group's outputs."""
    s = spec.shape
    if s.joined == 1:
        return pointer.code.splat(pointer.at(c).load(), s.lanes)
    return shuffle(pointer.load(s.lanes), s.order[c])
