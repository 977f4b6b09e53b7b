"""Split a convolution into blocks of its result, and find what each block reads of its operands.

A block is computed by a convolution of its own, over a part of the operand and with a padding of
its own, which gives the values that the whole convolution has there:

    elements of x    0 . . . . . . . . . . . . . size
    block of y                 [ o0 ... o1 )
    windows of it        [ o0 * stride - low, (o1 - 1) * stride - low + extent )
    part of x                the elements among these positions; what they lack is its padding

All functions are about one axis: blocks of several axes are products.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from einstride.geometry.convolution import Geometry
from einstride.geometry.padding_modes import segments

Range = tuple[int, int]
"""The integers [start, stop)."""

ZEROS, CONSTANT, HOLES = -1, -2, -3
"""Sources of positions that hold no element: a border of zeros or of a constant, and the zeros
between the elements of a dilated input."""


class Fill(NamedTuple):
    """Describe which elements consecutive positions of an axis hold.

    The positions hold the elements ``source + i * step``, or what a source of `ZEROS`, `CONSTANT`
    or `HOLES` stands for.
    """

    length: int
    source: int
    step: int


class Part(NamedTuple):
    """Describe the part of an operand's axis that a block of the result reads.

    Attributes
    ----------
    ranges : tuple of (start, stop)
        The elements that are read, in ascending order; those of one range follow the previous ones.
    padding : (int, int)
        Padding of the block's own convolution; a negative number crops.
    fills : tuple of Fill
        How positions are filled from the elements of `ranges`, numbered from 0, where the border
        repeats elements; empty if the elements themselves are convolved.
    size : int
        Positions of the block in the input of its convolution.
    """

    ranges: tuple[Range, ...]
    padding: Range
    fills: tuple[Fill, ...]
    size: int


class Folded(NamedTuple):
    """Describe the parts of gy behind a block of gx, where the border repeats elements.

    Attributes
    ----------
    parts : tuple of Part
        One part for each contiguous range of padded positions that hold elements of the block.
    folds : tuple of (Range, Range, step)
        Positions, numbered through the ranges, the elements of the block that they hold, and the
        difference between the elements of neighbouring positions, as in `Segment`.
    size : int
        Elements of the block, with the zeros of the input dilation between them.
    """

    parts: tuple[Part, ...]
    folds: tuple[tuple[Range, Range, int], ...]
    size: int


def blocks(bounds: Sequence[int], step: int, size: int, count: int, unit: int = 1) -> list[Range]:
    """Split the `count` positions of a result's axis where the chunks of an operand end.

    Element i of the operand lies at position i * `unit` of `size`, result j at position j * `step`.
    What the filter takes from the ends of the axis, or adds there, is shared equally by both ends:
    a result with as many positions as the operand has its chunks.
    """
    lost = size - count * step
    shift = 0 if abs(lost) < max(step, unit) else lost // 2
    cuts = {min(max(-((shift - bound * unit) // step), 0), count) for bound in bounds[1:-1]}
    return list(pairwise(sorted({0, count} | cuts))) if count else [(0, 0)]


def bounds(lengths: Sequence[int]) -> list[int]:
    """Return where chunks of these lengths begin, and where the last one ends."""
    return [0, *accumulate(lengths)]


def read_by_outputs(g: Geometry, axis: int, block: Range) -> Part:
    """Return the part of x that the windows of a block of outputs see on a spatial axis."""
    size, (low, _), dilation = g.size[axis], g.padding[axis], _input_dilation(g, axis)
    start = block[0] * g.stride[axis] - low
    stop = (block[1] - 1) * g.stride[axis] - low + g.extent[axis]
    if block[0] == block[1]:
        return Part(((0, 0),), (0, 0), (), 0)
    # A constant fills corners, too: all axes of a border with one are filled, one after another.
    if g.border is None and (g.padding_mode == "zeros" or (start >= 0 and stop <= size)):
        first = -(-max(start, 0) // dilation)
        last = (min(stop, size) - 1) // dilation + 1
        if first < last:
            padding = (first * dilation - start, stop - (last - 1) * dilation - 1)
            return Part(((first, last),), padding, (), last - first)
        return Part(((0, 0),), (0, 0), (Fill(stop - start, ZEROS, 0),), stop - start)
    spans = segments(start, stop, size, g.modes[axis])
    empty = CONSTANT if g.modes[axis] == "constant" else ZEROS
    ranges = _united(
        [
            (-(-s.elements.start // dilation), (s.elements.stop - 1) // dilation + 1)
            for s in spans
            if s.source >= 0
        ]
    )
    fills: list[Fill] = []
    for s in spans:
        source = empty if s.source < 0 else s.source
        fills += _fills(source, s.step, s.stop - s.start, dilation, ranges)
    return Part(tuple(ranges), (0, 0), tuple(fills), stop - start)


def _fills(
    source: int, step: int, length: int, dilation: int, ranges: Sequence[Range]
) -> list[Fill]:
    """Return the fills of one segment, from elements numbered through `ranges`."""
    if source < 0:
        return [Fill(length, source, 0)]
    if dilation == 1:
        return [Fill(length, _number(source, ranges), step)]
    found = []
    for position in range(source, source + length * step, step) if step else [source] * length:
        element, between = divmod(position, dilation)
        found.append(Fill(1, HOLES if between else _number(element, ranges), 0))
    return found


def _united(ranges: list[Range]) -> list[Range]:
    """Unite ranges that overlap or touch, in ascending order; empty ones are left out."""
    found: list[Range] = []
    for start, stop in sorted(r for r in ranges if r[0] < r[1]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(stop, found[-1][1]))
        else:
            found.append((start, stop))
    return found or [(0, 0)]


def _number(element: int, ranges: Sequence[Range]) -> int:
    """Return the place of an element among those of the ranges."""
    before = 0
    for start, stop in ranges:
        if start <= element < stop:
            return before + element - start
        before += stop - start
    raise RuntimeError(f"element {element} is in none of {ranges}")


def read_by_inputs(g: Geometry, axis: int, block: Range) -> Part:
    """Return the part of gy that a block of gx depends on, where the border holds zeros."""
    dilation = _input_dilation(g, axis)
    start, stop = block[0] * dilation, (block[1] - 1) * dilation + 1
    return _outputs_over(g, axis, start, stop, block[1] - block[0])


def _outputs_over(g: Geometry, axis: int, start: int, stop: int, size: int) -> Part:
    """Return the outputs whose windows meet the positions [start, stop), which the block has."""
    stride, extent, low = g.stride[axis], g.extent[axis], g.padding[axis][0]
    first = max(-((extent - 1 - start - low) // stride), 0)
    last = min((stop - 1 + low) // stride + 1, g.out[axis])
    if first >= last or start >= stop:
        return Part(((0, 0),), (0, 0), (), size)
    before = start + low - first * stride
    after = (last - first - 1) * stride + extent - (stop - start) - before
    return Part(((first, last),), (before, after), (), size)


def folded_inputs(g: Geometry, axis: int, block: Range) -> Folded:
    """Return the parts of gy that a block of gx depends on, where the border repeats elements."""
    size, (low, high), dilation = g.size[axis], g.padding[axis], _input_dilation(g, axis)
    start, stop = block[0] * dilation, (block[1] - 1) * dilation + 1
    ranges: list[Range] = []
    folds: list[tuple[Range, Range, int]] = []
    before = 0
    for s in segments(-low, size + high, size, g.modes[axis]):
        if s.source < 0:
            continue
        elements = max(s.elements.start, start), min(s.elements.stop, stop)
        if elements[0] >= elements[1]:
            continue
        first = s.start - low
        if s.step == 1:
            first, count = first + elements[0] - s.source, elements[1] - elements[0]
        elif s.step == -1:
            first, count = first + s.source - elements[1] + 1, elements[1] - elements[0]
        else:
            count = s.stop - s.start
        if ranges and ranges[-1][1] == first:
            ranges[-1] = (ranges[-1][0], first + count)
        else:
            ranges.append((first, first + count))
        inside = elements[0] - start, elements[1] - start
        folds.append(((before, before + count), inside, s.step))
        before += count
    parts = tuple(_outputs_over(g, axis, lo, hi, hi - lo) for lo, hi in ranges)
    return Folded(parts, tuple(folds), stop - start)


def group_blocks(chunked: Sequence[tuple[Sequence[int], int]], groups: int) -> list[Range]:
    """Split the groups where chunks of channels end between two groups on all arrays.

    `chunked` has the bounds of an array's chunks of channels, and its channels in a group.
    """
    cuts = set(range(groups + 1))
    for ends, each in chunked:
        cuts &= {end // each for end in ends if end % each == 0}
    return list(pairwise(sorted(cuts | {0, groups})))


def _input_dilation(g: Geometry, axis: int) -> int:
    return g.input_dilation[axis] if g.input_dilation else 1
