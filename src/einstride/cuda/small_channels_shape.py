"""The box and the slab of a block of thin.cu: by a model of the bytes that it moves."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from math import gcd, prod

from einstride.cuda.axis_map import Line, split_even, upto
from einstride.support.caches import cached

SECTOR = 32  # bytes that memory gives at once
SHARED = 48 << 10  # bytes of a block that no kernel has to ask for
THREADS = 256
MOST_SIDE = 128  # of a box, or eight times the halo where that is more
FEW = 8  # channels of a group, on either side
PROCESSORS = 132  # of an H100: fewer blocks leave some of them idle
MOST_COLUMN = 8  # taps of a thread of the filter gradient
LARGEST = 2**20  # of what is counted in 32 bits


@dataclass(frozen=True)
class Shape:
    """A block: outputs on three axes, channels of a slab, places of x with the halo."""

    box: tuple[int, int, int]
    slab: int
    length: tuple[int, int, int]
    run: int
    moved: float

    def boxes(self, lines: tuple[Line, ...]) -> tuple[int, ...]:
        """How many along each axis."""
        return tuple(-(-v.count // b) for v, b in zip(lines, self.box, strict=True))


@dataclass(frozen=True)
class Thin:
    """What a shape depends on: lines of three axes, groups, bytes, order of memory."""

    lines: tuple[Line, Line, Line]
    groups: int
    group_in: int
    group_out: int
    item_x: int
    item_y: int
    item_sum: int
    channels_inner: bool
    filter_grad: bool
    batch: int


def three(lines: tuple[Line, ...], channels_inner: bool) -> tuple[Line, Line, Line]:
    """The lines on three axes; threads run along the channels, or else along the last axis."""
    none = Line(1, 1, 1, 1, 0, 1)
    lines = tuple(v.usual for v in lines)
    if len(lines) == 1:
        return (none, lines[0], none) if channels_inner else (none, none, lines[0])
    first, second, third = (none,) * (3 - len(lines)) + lines
    return first, second, third


def column(thin: Thin) -> int:
    """How many taps of the middle axis a thread of the filter gradient has."""
    return min(thin.lines[1].taps, MOST_COLUMN)


def turns(thin: Thin) -> int:
    """Threads that share the taps of the middle axis; the last may have fewer of them."""
    return -(-thin.lines[1].taps // column(thin))


def pairs(thin: Thin, slab: int) -> int:
    """Threads that a slab of the filter gradient needs at least."""
    return thin.lines[0].taps * turns(thin) * thin.lines[2].taps * thin.group_in * slab


def slices(thin: Thin, box: tuple[int, int, int], slab: int) -> int:
    """Shares of a block's positions that its threads sum side by side."""
    return max(1, min(THREADS // pairs(thin, slab), box[2]))


def bytes_of_weights(thin: Thin, slab: int) -> int:
    """Shared memory before the tile."""
    if thin.filter_grad:
        return 0
    used = prod(v.taps for v in thin.lines) * thin.group_in * slab * thin.item_sum
    return upto(used, 16)


def plane(length: tuple[int, int, int]) -> int:
    """Elements from channel to channel where channels are outermost: odd, against conflicts."""
    return prod(length) | 1


def bytes_of_tile(thin: Thin, length: tuple[int, int, int], slab: int, item: int) -> int:
    """Shared memory of a box of so many places and channels."""
    places = prod(length) if thin.channels_inner else plane(length)
    return upto(places * slab * item, 16)


def lengths(thin: Thin, box: tuple[int, ...]) -> tuple[int, int, int]:
    """Places that a box of outputs sees on each axis, and those that a last thread looks at."""
    lines = thin.lines
    if thin.filter_grad:
        middle = replace(lines[1], taps=turns(thin) * column(thin))
        lines = (lines[0], middle, lines[2])
    first, second, third = (
        ((b - 1) * v.move + (v.taps - 1) * v.reach) // v.den + 1
        for v, b in zip(lines, box, strict=True)
    )
    return first, second, third


def shared(thin: Thin, box: tuple[int, int, int], slab: int) -> int:
    """All shared memory of a block."""
    slab_in = slab // thin.group_out * thin.group_in
    used = bytes_of_weights(thin, slab)
    used += bytes_of_tile(thin, lengths(thin, box), slab_in, thin.item_x)
    if thin.filter_grad:
        used += bytes_of_tile(thin, box, slab, thin.item_y)
        sums = slices(thin, box, slab) * pairs(thin, slab) * column(thin)
        used = max(used, sums * thin.item_sum)
    return used


def _slabs(thin: Thin) -> list[int]:
    """Channels of the result that a block may have, whole groups of them."""
    largest = max(thin.item_x * thin.group_in, thin.item_y * thin.group_out)
    targets = (16, 32, 64, 128, 256, 512) if thin.channels_inner else (0, 16, 32, 64)
    unit = 1
    if thin.channels_inner and thin.group_in == thin.group_out == 1:
        unit = max(1, 16 // thin.item_x)  # whole words
    counts = {upto(max(t // largest, 1), unit) for t in targets}
    whole = upto(thin.groups, unit)
    return sorted({min(n, whole) * thin.group_out for n in counts})


def _row_bytes(
    run: int, whole: int, channels: int, all_channels: int, item: int, inner: bool
) -> float:
    """Bytes of the sectors that a run of places of a row touches, for each byte of the run.

    A run may begin anywhere in a sector that its steps allow, and touches one more for that.
    """
    if inner and channels < all_channels:
        used = channels * item
        apart = gcd(used, all_channels * item)
    else:
        place = (channels if inner else 1) * item
        used = run * place
        apart = place * (whole if run >= whole else 1)
    return (used + SECTOR - gcd(apart, SECTOR)) / used


@cached(1024)
def shape_of(thin: Thin) -> Shape | None:
    """The block that moves the fewest bytes; None if no box fits shared memory."""
    if max(thin.group_in, thin.group_out) > FEW:
        return None
    if any(max(v.move, v.reach, v.den, v.taps) > LARGEST for v in thin.lines):
        return None
    middle = thin.lines[1]
    run = 4 if not thin.filter_grad and middle.count > 1 else 1
    unit = run * middle.den if run > 1 else 1
    most = [max(MOST_SIDE, 8 * (v.taps - 1) * v.reach // v.move) for v in thin.lines]
    sides = [split_even(v.count, unit if a == 1 else 1, most[a]) for a, v in enumerate(thin.lines)]
    best: Shape | None = None
    for slab in _slabs(thin):
        if thin.filter_grad and pairs(thin, slab) > THREADS:
            continue
        for box in itertools.product(sides[0], sides[1], sides[2]):
            if shared(thin, box, slab) > SHARED:
                continue
            found = _measured(thin, box, slab, run)
            if best is None or found.moved < best.moved:
                best = found
    return best


def _measured(thin: Thin, box: tuple[int, int, int], slab: int, run: int) -> Shape:
    """The shape with the bytes that all of its blocks move, and what idle threads cost besides."""
    lines, slab_in = thin.lines, slab // thin.group_out * thin.group_in
    length, inner, last = lengths(thin, box), thin.channels_inner, thin.lines[2]
    boxes = prod(-(-v.count // b) for v, b in zip(lines, box, strict=True))
    slabs = -(-thin.groups * thin.group_out // slab)
    inside = prod(min(n, v.size) for n, v in zip(length, lines, strict=True))
    outside = prod(min(b, v.count) for b, v in zip(box, lines, strict=True))
    everything = thin.groups * thin.group_in, thin.groups * thin.group_out
    row = min(length[2], last.size), last.size
    seen = float(inside * slab_in * thin.item_x)
    seen *= _row_bytes(*row, slab_in, everything[0], thin.item_x, inner)
    row = min(box[2], last.count), last.count
    made = float(outside * slab * thin.item_y)
    made *= _row_bytes(*row, slab, everything[1], thin.item_y, inner)
    work = prod(box) * slab / run / (4 if inner and thin.group_in == thin.group_out == 1 else 1)
    idle = 1.0 if thin.filter_grad else 1 + 0.2 * max(0.0, THREADS / work - 1)
    waste = prod(box) * boxes / prod(v.count for v in lines)
    few = max(1.0, PROCESSORS / (boxes * slabs * thin.batch)) ** 0.5
    moved = (seen + made) * boxes * slabs * idle * few * (0.9 + 0.1 * waste)
    return Shape(box, slab, length, run, moved)
