"""Write the copies between an array in any memory order and a channels_last staging buffer.

Where the positions of an axis are contiguous in the array, as in channels_first, squares of
positions and channels are transposed in registers:

    array    c0: p0 p1 p2 p3        staging buffer    p0: c0 c1 c2 c3
             c1: p0 p1 p2 p3                          p1: c0 c1 c2 c3
             ...                                      ...

Other arrays are copied element by element. Elements are moved as bits: nothing is converted.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.ir_types import ELEMENTS, bytes_of
from einstride.codegen.vector_ops import load_transposed, transpose

LINE = 64
"""Bytes of a cache line: a unit of a copy reads or writes whole lines of as many channels as a
vector has lanes. With less, arrays whose channels lie a power of two apart would read each line
several times, since their lines evict each other."""


@dataclass(frozen=True)
class Copy:
    """How a side of a kernel, x or y, is copied.

    Attributes
    ----------
    element : str
        The name of a dtype with the size of the array's elements.
    lanes : int
        The side of a square that is transposed in registers.
    axes : int
        The axes of positions, those that are contiguous to each other counted as one.
    contiguous : int or None
        The axis whose neighbouring positions are contiguous in the array, None if there is none.
    rows : bool
        True if neighbouring channels are contiguous in the array, too: rows of channels are copied.
    """

    element: str
    lanes: int
    axes: int
    contiguous: int | None
    rows: bool = False


@dataclass(frozen=True)
class Side:
    """The addresses and strides of one copy, while a kernel is written.

    Attributes
    ----------
    array, staging : Pointer
        The first element of the block in the array, and in the staging buffer.
    counts : list of Value
        The positions on each axis.
    strides : list of Value
        The stride of each axis in the array.
    channels, channel : Value
        The number of channels, and their stride in the array.
    """

    array: Pointer
    staging: Pointer
    counts: list[Value]
    strides: list[Value]
    channels: Value
    channel: Value


def write_copy(code: Code, copy: Copy, side: Side, into_staging: bool) -> None:
    """Write the copy of a block to its staging buffer, or from there to the array."""
    pitches = [side.channels]  # the strides of the axes in the staging buffer
    for count in reversed(side.counts[1:]):
        pitches.insert(0, pitches[0] * count)
    axis = None if copy.rows else copy.contiguous
    others = [a for a in range(copy.axes) if a != axis]
    with ExitStack() as stack:
        array, staging = side.array, side.staging
        for a in others:
            i = stack.enter_context(code.loop(0, side.counts[a]))
            array, staging = array.at(i * side.strides[a]), staging.at(i * pitches[a])
        if copy.rows:
            target, source = (staging, array) if into_staging else (array, staging)
            _copy_row(code, copy, side, target, source)
            return
        if axis is None:
            with code.loop(0, side.channels) as c:
                elements = staging.at(c), array.at(c * side.channel)
                target, source = elements if into_staging else elements[::-1]
                target.store(source.load())
            return
        write = _gather if into_staging else _scatter
        # A vector behind the last channel overwrites positions that are written later.
        write(code, copy, side, array, staging, pitches[axis], axis == copy.axes - 1)


def _copy_row(code: Code, copy: Copy, side: Side, target: Pointer, source: Pointer) -> None:
    """Copy the channels of a position, contiguous on both sides."""
    lanes, full = copy.lanes, side.channels - side.channels % copy.lanes
    with code.loop(0, full, lanes) as c:
        target.at(c).store(source.at(c).load(lanes))
    with code.loop(full, side.channels) as c:
        target.at(c).store(source.at(c).load())


Square = Callable[[Value, Value, Value | None, bool], None]
"""``write(p, c, positions, all_channels)`` writes the square from position p and channel c on;
`positions`: how many of it exist, None if all do."""


def _loop_over_squares(code: Code, copy: Copy, side: Side, write: Square) -> None:
    """Visit all squares in ascending order of positions, those with the last channels first."""
    lanes, (count, channels) = copy.lanes, (side.counts[copy.contiguous or 0], side.channels)
    unit = max(LINE // bytes_of(ELEMENTS[copy.element]), lanes)
    all_units, full = count - count % unit, channels - channels % lanes

    def visit_squares(starts: list[Value], positions: Value | None) -> None:
        with code.when(full < channels):
            for start in starts:
                write(start, full, positions, False)
        with code.loop(0, full, lanes) as c:
            for start in starts:
                write(start, c, positions, True)

    with code.loop(0, all_units, unit) as p:
        visit_squares([p + i for i in range(0, unit, lanes)], None)
    is_short = count < lanes
    with code.when(is_short):
        visit_squares([code.number(0)], count)
    with code.when(is_short ^ 1), code.loop(all_units, count, lanes) as p:
        visit_squares([p.minimum(count - lanes)], None)  # some positions are copied twice


def _steps(first: Pointer, stride: Value, count: int) -> list[Pointer]:
    """Return `count` addresses that lie a stride apart, each computed from the one before."""
    found = [first]
    for _ in range(count - 1):
        found.append(found[-1].at(stride))
    return found


def _gather(
    code: Code, copy: Copy, side: Side, array: Pointer, staging: Pointer, pitch: Value,
    overwritten: bool,
) -> None:  # fmt: skip
    """Copy channels of contiguous positions to positions of contiguous channels."""
    lanes = copy.lanes

    def write(p: Value, c: Value, positions: Value | None, all_channels: bool) -> None:
        mask = None if positions is None else code.first_lanes(positions, lanes)
        channels = [c + j for j in range(lanes)]
        if not all_channels:  # the last channel again in place of those that do not exist
            channels = [n.minimum(side.channels - 1) for n in channels]
        rows = [array.at(n * side.channel).at(p) for n in channels]
        if all_channels:
            rows = _steps(array.at(c * side.channel).at(p), side.channel, lanes)
        targets = _steps(staging.at(p * pitch).at(c), pitch, lanes)
        if positions is None:
            vectors = load_transposed(rows)
        else:
            vectors = transpose([row.load(lanes, mask) for row in rows])
        partial: Mask | None = None
        if not all_channels and not overwritten:
            partial = code.first_lanes(side.channels - c, lanes)
        for j, vector in enumerate(vectors):
            if positions is None:
                targets[j].store(vector, partial)
                continue
            with code.when(code.number(j) < positions):
                targets[j].store(vector, partial)

    _loop_over_squares(code, copy, side, write)


def _scatter(
    code: Code, copy: Copy, side: Side, array: Pointer, staging: Pointer, pitch: Value,
    overwritten: bool,
) -> None:  # fmt: skip
    """Copy positions of contiguous channels to channels of contiguous positions."""
    lanes = copy.lanes

    def write(p: Value, c: Value, positions: Value | None, all_channels: bool) -> None:
        mask = None if positions is None else code.first_lanes(positions, lanes)
        places = [p + j for j in range(lanes)]
        if positions is not None:
            places = [n.minimum(p + positions - 1) for n in places]
        rows = [staging.at(n * pitch).at(c) for n in places]
        if positions is None:
            rows = _steps(staging.at(p * pitch).at(c), pitch, lanes)
        targets = _steps(array.at(c * side.channel).at(p), side.channel, lanes)
        for j, vector in enumerate(load_transposed(rows)):
            if all_channels:
                targets[j].store(vector, mask)
                continue
            with code.when(c + j < side.channels):
                targets[j].store(vector, mask)

    _loop_over_squares(code, copy, side, write)
