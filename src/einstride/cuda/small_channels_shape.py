"""Choose the outputs and channels of a block of small_channels.cu by the bytes that it moves.

A block computes a *box* of output positions for a *slab* of channels (whole groups), from a tile of
x in shared memory: the box's inputs with their halo.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from math import gcd, prod

from einstride.cuda.axis_map import AxisMap, even_lengths, round_up
from einstride.support.caches import cached

SECTOR = 32
"""Bytes of one memory transaction of the device."""
SHARED_BYTES = 48 << 10
"""Shared memory that CUDA gives a block without a special request."""
THREADS = 256
"""Threads of a block, as in small_channels.cuh."""
MAX_SIDE = 128
"""Longest side of a box that is tried, or eight times the halo if that is more."""
MAX_GROUP_CHANNELS = 8
"""Most input or output channels of a group for which these kernels are used."""
PROCESSORS = 132
"""Multiprocessors of an H100; launches with fewer blocks count as slower."""
MAX_COLUMN = 8
"""Most taps of the middle axis that one thread of the filter gradient sums."""
LARGEST = 2**20
"""Limit of strides, dilations and taps, with which the kernels' 32-bit integers do not overflow."""


@dataclass(frozen=True)
class BlockShape:
    """The outputs and channels that one block computes, and the positions of x that it reads.

    Attributes
    ----------
    box : tuple of int
        Outputs on three axes.
    slab : int
        Output channels.
    length : tuple of int
        Positions of x that the box reads, with the halo.
    run : int
        Consecutive outputs of the middle axis that one thread computes.
    moved : float
        Predicted bytes that the whole launch moves, weighted for idle threads.
    """

    box: tuple[int, int, int]
    slab: int
    length: tuple[int, int, int]
    run: int
    moved: float

    def boxes(self, axes: tuple[AxisMap, ...]) -> tuple[int, ...]:
        """Return the number of boxes along each axis."""
        return tuple(-(-v.count // b) for v, b in zip(axes, self.box, strict=True))


@dataclass(frozen=True)
class SmallChannels:
    """What a `BlockShape` depends on: index maps, groups, bytes per element, layout."""

    axes: tuple[AxisMap, AxisMap, AxisMap]
    groups: int
    group_in: int
    group_out: int
    item_x: int
    item_y: int
    item_sum: int
    channels_inner: bool
    filter_grad: bool
    batch: int


def three_axes(axes: tuple[AxisMap, ...], channels_inner: bool) -> tuple[AxisMap, AxisMap, AxisMap]:
    """Extend index maps to three axes; threads run along the channels, or else the last axis."""
    none = AxisMap(1, 1, 1, 1, 0, 1)
    axes = tuple(v.normalized for v in axes)
    if len(axes) == 1:
        return (none, axes[0], none) if channels_inner else (none, none, axes[0])
    first, second, third = (none,) * (3 - len(axes)) + axes
    return first, second, third


def column_tap_count(problem: SmallChannels) -> int:
    """Return how many taps of the middle axis a thread of the filter gradient sums."""
    return min(problem.axes[1].taps, MAX_COLUMN)


def column_thread_count(problem: SmallChannels) -> int:
    """Return how many threads divide the taps of the middle axis; the last may have fewer taps."""
    return -(-problem.axes[1].taps // column_tap_count(problem))


def pair_count(problem: SmallChannels, slab: int) -> int:
    """Return how many threads a slab of the filter gradient needs at least."""
    outer_taps = problem.axes[0].taps * problem.axes[2].taps
    return outer_taps * column_thread_count(problem) * problem.group_in * slab


def slice_count(problem: SmallChannels, box: tuple[int, int, int], slab: int) -> int:
    """Return into how many slices, summed by different threads, a block's positions are divided."""
    return max(1, min(THREADS // pair_count(problem, slab), box[2]))


def bytes_of_weights(problem: SmallChannels, slab: int) -> int:
    """Return the bytes of shared memory for weights, before the tile."""
    if problem.filter_grad:
        return 0
    used = prod(v.taps for v in problem.axes) * problem.group_in * slab * problem.item_sum
    return round_up(used, 16)


def plane_stride(length: tuple[int, int, int]) -> int:
    """Return the stride of outermost channels in a tile: odd, against bank conflicts."""
    return prod(length) | 1


def bytes_of_tile(
    problem: SmallChannels, length: tuple[int, int, int], slab: int, item: int
) -> int:
    """Return the bytes of shared memory for a tile of `length` positions and `slab` channels."""
    positions = prod(length) if problem.channels_inner else plane_stride(length)
    return round_up(positions * slab * item, 16)


def lengths(problem: SmallChannels, box: tuple[int, ...]) -> tuple[int, int, int]:
    """Return the positions that a box of outputs reads on each axis, with those of unused taps."""
    axes = problem.axes
    if problem.filter_grad:
        middle = replace(axes[1], taps=column_thread_count(problem) * column_tap_count(problem))
        axes = (axes[0], middle, axes[2])
    first, second, third = (
        ((b - 1) * v.output_step + (v.taps - 1) * v.tap_step) // v.denominator + 1
        for v, b in zip(axes, box, strict=True)
    )
    return first, second, third


def shared_bytes(problem: SmallChannels, box: tuple[int, int, int], slab: int) -> int:
    """Return the bytes of shared memory of a block."""
    slab_in = slab // problem.group_out * problem.group_in
    used = bytes_of_weights(problem, slab)
    used += bytes_of_tile(problem, lengths(problem, box), slab_in, problem.item_x)
    if problem.filter_grad:
        used += bytes_of_tile(problem, box, slab, problem.item_y)
        sums = (
            slice_count(problem, box, slab) * pair_count(problem, slab) * column_tap_count(problem)
        )
        used = max(used, sums * problem.item_sum)
    return used


def _slabs(problem: SmallChannels) -> list[int]:
    """Return the numbers of output channels to try for a slab, whole groups."""
    largest = max(problem.item_x * problem.group_in, problem.item_y * problem.group_out)
    targets = (16, 32, 64, 128, 256, 512) if problem.channels_inner else (0, 16, 32, 64)
    unit = 1
    if problem.channels_inner and problem.group_in == problem.group_out == 1:
        unit = max(1, 16 // problem.item_x)  # slabs of 16-byte words
    counts = {round_up(max(t // largest, 1), unit) for t in targets}
    whole = round_up(problem.groups, unit)
    return sorted({min(n, whole) * problem.group_out for n in counts})


def _row_bytes(
    run: int, whole: int, channels: int, all_channels: int, item: int, inner: bool
) -> float:
    """Return bytes of the sectors that a run of positions touches, per byte of the run.

    A run begins anywhere in a sector, as far as its strides allow, and so touches a part of one
    more sector.
    """
    if inner and channels < all_channels:
        used = channels * item
        alignment = gcd(used, all_channels * item)
    else:
        position = (channels if inner else 1) * item
        used = run * position
        alignment = position * (whole if run >= whole else 1)
    return (used + SECTOR - gcd(alignment, SECTOR)) / used


@cached(1024)
def choose_shape(problem: SmallChannels) -> BlockShape | None:
    """Choose the block that moves the fewest bytes; None if no box fits shared memory."""
    if max(problem.group_in, problem.group_out) > MAX_GROUP_CHANNELS:
        return None
    if any(max(v.output_step, v.tap_step, v.denominator, v.taps) > LARGEST for v in problem.axes):
        return None
    middle = problem.axes[1]
    run = 4 if not problem.filter_grad and middle.count > 1 else 1
    unit = run * middle.denominator if run > 1 else 1
    most = [max(MAX_SIDE, 8 * (v.taps - 1) * v.tap_step // v.output_step) for v in problem.axes]
    sides = [
        even_lengths(v.count, unit if a == 1 else 1, most[a]) for a, v in enumerate(problem.axes)
    ]
    best: BlockShape | None = None
    for slab in _slabs(problem):
        if problem.filter_grad and pair_count(problem, slab) > THREADS:
            continue
        for box in itertools.product(sides[0], sides[1], sides[2]):
            if shared_bytes(problem, box, slab) > SHARED_BYTES:
                continue
            found = _with_cost(problem, box, slab, run)
            if best is None or found.moved < best.moved:
                best = found
    return best


def _with_cost(
    problem: SmallChannels, box: tuple[int, int, int], slab: int, run: int
) -> BlockShape:
    """Make a shape with the predicted bytes that all its blocks move, weighted for idle threads."""
    axes, slab_in = problem.axes, slab // problem.group_out * problem.group_in
    length, inner, last = lengths(problem, box), problem.channels_inner, problem.axes[2]
    boxes = prod(-(-v.count // b) for v, b in zip(axes, box, strict=True))
    slabs = -(-problem.groups * problem.group_out // slab)
    inside = prod(min(n, v.size) for n, v in zip(length, axes, strict=True))
    outside = prod(min(b, v.count) for b, v in zip(box, axes, strict=True))
    all_channels = problem.groups * problem.group_in, problem.groups * problem.group_out
    row = min(length[2], last.size), last.size
    seen = float(inside * slab_in * problem.item_x)
    seen *= _row_bytes(*row, slab_in, all_channels[0], problem.item_x, inner)
    row = min(box[2], last.count), last.count
    made = float(outside * slab * problem.item_y)
    made *= _row_bytes(*row, slab, all_channels[1], problem.item_y, inner)
    per_thread = 4 if inner and problem.group_in == problem.group_out == 1 else 1
    work = prod(box) * slab / run / per_thread
    idle = 1.0 if problem.filter_grad else 1 + 0.2 * max(0.0, THREADS / work - 1)
    waste = prod(box) * boxes / prod(v.count for v in axes)
    underuse = max(1.0, PROCESSORS / (boxes * slabs * problem.batch)) ** 0.5
    moved = (seen + made) * boxes * slabs * idle * underuse * (0.9 + 0.1 * waste)
    return BlockShape(box, slab, length, run, moved)
