"""How an input gradient is cut into blocks, and its tables (`small_channels.blocks`)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from einstride.cpu.runtime.offset_tables import OUTSIDE, to_offsets
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Shape
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

STARTED = 8
"""Multiply-adds of vectors that one channel of a tap takes at least: so long is one's latency."""

# Of the time, in multiply-adds of vectors: see the package.
LOOKED_UP, TAP = 8.0, 10.0
"""Per tap of a tile: for each block; and besides."""

WRITTEN, TILE, ROW = 12.0, 60.0, 100.0
"""Per vector of a run that is written, cut off at the ends of a line; per tile; per row of them."""

STRIDES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
"""How many strides a block may have on an axis."""


@dataclass(frozen=True)
class Axis:
    """The blocks along an axis: `block` positions each, the first of which begins `low` before gx.

    Tap t of block q meets output first + q * strides + t.
    """

    stride: int
    dilation: int
    kernel: int
    flip: bool
    strides: int
    low: int
    count: int
    taps: int
    first: int

    @property
    def block(self) -> int:
        """Positions in a block."""
        return self.strides * self.stride

    def outputs(self, out: int) -> Any:
        """(count, taps) the output that a block's tap meets, -1 where there is none."""
        found = self.first + np.arange(self.count)[:, None] * self.strides + np.arange(self.taps)
        return np.where((found >= 0) & (found < out), found, -1)

    def met(self) -> Any:
        """(taps, block) the filter's tap that joins an output and a position, -1 if none does."""
        reach = (self.kernel - 1) * self.dilation
        at = np.arange(self.block) - self.stride * (np.arange(self.taps)[:, None] - self._back)
        k, rest = np.divmod(at, self.dilation)
        inside = (at >= 0) & (at <= reach) & (rest == 0)
        return np.where(inside, self.kernel - 1 - k if self.flip else k, -1)

    @property
    def _back(self) -> int:
        """How many outputs before a block's first one still reach it."""
        return (self.kernel - 1) * self.dilation // self.stride


def _axis(g: Geometry, a: int, strides: int) -> Axis:
    s, low, reach = g.stride[a], g.padding[a][0], (g.kernel[a] - 1) * g.dilation[a]
    block = strides * s
    begin, back = low // block, reach // s
    count = (low + g.size[a] - 1) // block - begin + 1
    taps = (block - 1) // s + back + 1
    first = begin * strides - back
    low -= begin * block
    return Axis(s, g.dilation[a], g.kernel[a], g.flip, strides, low, count, taps, first)


@dataclass(frozen=True)
class Blocks:
    """How the columns of an input gradient are cut.

    Attributes
    ----------
    axes : tuple of Axis
        The blocks on each spatial axis.
    lanes, vectors, positions : int
        Numbers in a vector, vectors in a panel, blocks in a tile.
    piece, pieces : int
        Neighbours in a run, runs in a panel.
    split, panels : int
        Runs that a block's positions on the last axis are, panels in all.
    work : float
        Multiply-adds of vectors, and what takes as long.
    """

    axes: tuple[Axis, ...]
    lanes: int
    vectors: int
    positions: int
    piece: int
    pieces: int
    split: int
    panels: int
    work: float

    @property
    def width(self) -> int:
        """Columns in a panel."""
        return self.lanes * self.vectors

    @property
    def taps(self) -> int:
        """Taps in all."""
        return prod(axis.taps for axis in self.axes)


@cached(1024)
def choose(g: Geometry, lanes: int, registers: int) -> Blocks:
    """The cut with the least work."""
    most = (4 if registers >= 32 else 2) * lanes
    axes = [
        [
            _axis(g, a, m)
            for m in STRIDES
            if m == 1 or ((m - 1) * s < n and m * s * g.channels <= most)
        ]
        for a, (s, n) in enumerate(zip(g.stride, g.size, strict=True))
    ]
    found = []
    for cut in product(*axes):
        columns = prod(axis.block for axis in cut) * g.channels
        if columns <= most or all(axis.strides == 1 for axis in cut):
            found.append(_cut(g, cut, lanes, registers, most))
    return min(found, key=lambda blocks: blocks.work)


def _cut(g: Geometry, axes: tuple[Axis, ...], lanes: int, registers: int, most: int) -> Blocks:
    run = axes[-1].block * g.channels
    split = -(-run // most)
    piece = run if split == 1 else -(-run // (split * lanes)) * lanes
    split = -(-run // piece)
    runs = prod(axis.block for axis in axes[:-1]) * split
    rows, along = g.batch * prod(axis.count for axis in axes[:-1]), axes[-1].count
    taps = prod(axis.taps for axis in axes)
    best: Blocks | None = None
    for pieces in range(1, min(most // piece, runs) + 1):
        vectors = -(-pieces * piece // lanes)
        positions = 6 if vectors == 4 else min((registers - 1 - vectors) // vectors, 14)
        positions = -(-along // -(-along // min(positions, along)))
        panels = -(-runs // pieces)
        products = g.filters * max(vectors * positions, vectors + positions, STARTED)
        writes = positions * pieces * -(-piece // lanes) * WRITTEN
        tile = taps * (products + LOOKED_UP * positions + TAP) + writes + TILE
        work = panels * rows * (-(-along // positions) * tile + ROW)
        if best is None or work < best.work:
            best = Blocks(axes, lanes, vectors, positions, piece, pieces, split, panels, work)
    if best is None:
        raise ValueError("a run is longer than a panel")
    return best


@dataclass(frozen=True)
class Columns:
    """What stands in the columns, panel by panel.

    Attributes
    ----------
    offsets : array
        (panels, taps, width) where f is read, negative where zeros stand.
    channels : array
        (panels * width) the channel of a column.
    first, count : array
        For each run: its place on the last axis, and its length.
    at : list of array
        For each run: its position in the block, on each other axis.
    """

    offsets: Any
    channels: Any
    first: Any
    count: Any
    at: list[Any]


@kept
def columns(g: Geometry, blocks: Blocks, f_steps: Shape) -> Columns:
    """The columns of a filter (*K, C, D) with these steps between its numbers, none negative."""
    offset: Any = np.arange(g.channels) * f_steps[g.rank]
    for a in reversed(range(g.rank)):
        met = to_offsets(blocks.axes[a].met(), f_steps[a], 0)
        inner = offset.reshape(1, *offset.shape)
        shape = (met.shape[0], met.shape[1], *[1] * offset.ndim)
        offset = met.reshape(shape) + inner  # (taps, block, inner taps, inner blocks, ..., C)
    n = g.rank
    offset = offset.transpose(*range(0, 2 * n, 2), *range(1, 2 * n, 2), 2 * n)
    outer = [axis.block for axis in blocks.axes[:-1]]
    run = blocks.axes[-1].block * g.channels
    offset = offset.reshape(blocks.taps, prod(outer), run)
    cut = np.full((blocks.taps, prod(outer), blocks.split * blocks.piece), OUTSIDE, np.int64)
    cut[..., :run] = offset
    runs = prod(outer) * blocks.split
    every = np.full((blocks.taps, blocks.panels * blocks.pieces, blocks.piece), OUTSIDE, np.int64)
    every[:, :runs] = cut.reshape(blocks.taps, runs, blocks.piece)
    filled = np.full((blocks.panels, blocks.taps, blocks.width), OUTSIDE, np.int64)
    panel = every.reshape(blocks.taps, blocks.panels, -1).transpose(1, 0, 2)
    filled[..., : panel.shape[-1]] = panel
    number = np.arange(blocks.panels * blocks.pieces)
    first = number % blocks.split * blocks.piece
    count = np.where(number < runs, np.minimum(blocks.piece, run - first), 0)
    block = number % runs // blocks.split
    at = [np.ascontiguousarray(i) for i in np.unravel_index(block, outer)] if outer else []
    within = first.reshape(blocks.panels, -1, 1) + np.arange(blocks.piece)
    channels = np.zeros((blocks.panels, blocks.width), np.int64)
    channels[:, : panel.shape[-1]] = within.reshape(blocks.panels, -1) % g.channels
    return Columns(filled, channels.ravel(), first, count, at)
