"""Divide a convolution into blocks: bands of rows of one example, with some of the channels.

A band is a convolution of its own, whose padding is what its windows read beyond its rows:

    x        . . . . . . . . . .          rows of x; taps of neighbouring bands overlap
    band 0   o o o x                      the first band has the padding before x,
    band 1       x o o x                  the ones between have none,
    band 2           x o o o              the last band has the padding behind x

Bands with equal geometries are of one kind, which has its kernel calls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from einstride.geometry.convolution import Direction, Geometry

BLOCK_BYTES = 1 << 17
"""Bytes of a block of x and y together from which it is divided into bands of rows: a quarter of a
core's second-level cache, or less. With larger blocks the copies leave the cache before they are
read; of smaller ones, bands read more rows of x twice. Timed from 2**16 to 2**19."""

FAST_BYTES = 1 << 16
"""Bytes of a block of several units of channels, about: with more, depthwise layers of small images
take longer, with fewer, each block takes a start. Timed from 2**14 to 2**18."""

CHUNKS = 4
"""Blocks for each thread, at least, where the channels allow it: no thread then waits long for the
last block."""


Rows = tuple[int, int]
"""The first row, and one past the last."""


@dataclass(frozen=True)
class Block:
    """One block of an example.

    Attributes
    ----------
    kind : Geometry
        The convolution of the block, with a batch of one.
    x_row, y_row : int
        The first row of the block in x and in y, on the first spatial axis.
    band : int
        The number of the band.
    unit : int
        The number of the first unit of channels.
    """

    kind: Geometry
    x_row: int
    y_row: int
    band: int
    unit: int


@dataclass(frozen=True)
class BlockPlan:
    """The blocks of one example.

    Attributes
    ----------
    blocks : tuple of Block
        All blocks of an example.
    kinds : tuple of Geometry
        The different geometries of the blocks.
    unit : int
        The groups of a unit of channels.
    bands : int
        The number of bands.
    """

    blocks: tuple[Block, ...]
    kinds: tuple[Geometry, ...]
    unit: int
    bands: int


def block_plan(
    g: Geometry, direction: Direction, unit: int, items: tuple[int, int], threads: int
) -> BlockPlan:
    """Divide a pass into blocks that stay in cache.

    Parameters
    ----------
    g : Geometry
        The geometry of the forward convolution.
    direction : {"forward", "input_grad", "filter_grad"}
        The pass.
    unit : int
        Groups that a block has a multiple of; the last block has the rest, too.
    items : tuple of int
        The bytes of an element of x (or gx), and of y (or gy).
    threads : int
        The threads that take blocks.
    """
    units = max(g.groups // unit, 1)
    size = _bytes(g, items) * unit // g.groups
    many = min(max(FAST_BYTES // max(size, 1), 1), units)
    if threads > 1:
        many = min(many, max(g.batch * units // (CHUNKS * threads), 1))
    bands = [((0, g.size[0]), (0, g.out[0]))]
    if size > BLOCK_BYTES:
        bands = list(_bands(g, direction, BLOCK_BYTES / size))
    blocks = []
    for first in range(0, units - many + 1, many):
        is_last = first + 2 * many > units
        groups = g.groups - first * unit if is_last else many * unit
        blocks += [
            Block(_kind(g, groups, x, y), x[0], y[0], i, first) for i, (x, y) in enumerate(bands)
        ]
    return BlockPlan(tuple(blocks), tuple(dict.fromkeys(b.kind for b in blocks)), unit, len(bands))


def _bytes(g: Geometry, items: tuple[int, int]) -> int:
    """Count the bytes of x and y of one example."""
    return prod(g.size) * g.channels * items[0] + prod(g.out) * g.filters * items[1]


def _kind(g: Geometry, groups: int, x: Rows, y: Rows) -> Geometry:
    """Return the geometry of rows [x[0], x[1]) of x and [y[0], y[1]) of y, for some groups."""
    size, out, (low, high) = x[1] - x[0], y[1] - y[0], g.padding[0]
    if (size, out) != (g.size[0], g.out[0]):
        low += x[0] - y[0] * g.stride[0]
        high = (out - 1) * g.stride[0] + g.extent[0] - size - low
    return replace(
        g, batch=1, groups=groups, channels=g.channels // g.groups * groups,
        filters=g.filters // g.groups * groups, size=(size, *g.size[1:]), out=(out, *g.out[1:]),
        padding=((low, high), *g.padding[1:]),
    )  # fmt: skip


def _bands(g: Geometry, direction: Direction, share: float) -> Iterator[tuple[Rows, Rows]]:
    """Divide the first axis into bands of about `share` of its rows; yield their rows of x and y.

    An input gradient divides x, other passes y: the other array's rows are those that taps meet.
    Padding that repeats x is not divided.
    """
    stride, extent, (low, _), rows = g.stride[0], g.extent[0], g.padding[0], g.out[0]
    if g.padding_mode != "zeros" and g.padding[0] != (0, 0):
        yield (0, g.size[0]), (0, rows)
        return
    if direction != "input_grad":
        band = max(int(rows * share), 1)
        for first in range(0, rows, band):
            last = min(first + band, rows)
            start = min(max(first * stride - low, 0), g.size[0] - 1)
            stop = min(max((last - 1) * stride - low + extent, start + 1), g.size[0])
            yield (start, stop), (first, last)
        return
    band = max(int(g.size[0] * share) // stride, 1) * stride
    for start in range(0, g.size[0], band):
        stop = min(start + band, g.size[0])
        first = min(max(-(-(start + low - extent + 1) // stride), 0), rows - 1)
        last = min(max((stop - 1 + low) // stride + 1, first + 1), rows)
        yield (start, stop), (first, last)
