"""Choose the blocks of an input gradient and list its columns (`small_channels.blocks`)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import machine
from einstride.cpu.conv.small_channels.lines import FMA_LATENCY, tile_rows
from einstride.cpu.runtime.offset_tables import OUTSIDE, to_offsets
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Shape
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

# Terms of the predicted time, in multiply-adds of vectors; the package says how they were fitted.
LOOK_UP, TAP = 8.0, 10.0
"""Time per tap of a tile: to look up the offset of each block, and for the tap itself."""

STORE, TILE, ROW = 12.0, 60.0, 100.0
"""Time per vector of a span that is stored with masks; per tile; per row of tiles."""

STRIDES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
"""The numbers of strides that a block may span on an axis."""


@dataclass(frozen=True)
class Axis:
    """The blocks along an axis: `block` positions each, the first begins `low` positions before gx.

    Tap t of block q meets output first + q * strides + t.
    """

    strides: int
    block: int
    low: int
    count: int
    taps: int
    first: int

    def outputs(self, out: int) -> Any:
        """List (count, taps) the output that each tap of each block meets; -1 for none."""
        outputs = self.first + np.arange(self.count)[:, None] * self.strides + np.arange(self.taps)
        return np.where((outputs >= 0) & (outputs < out), outputs, -1)


def _divide_axis(g: Geometry, a: int, strides: int) -> Axis:
    s, low, reach = g.stride[a], g.padding[a][0], (g.kernel[a] - 1) * g.dilation[a]
    block = strides * s
    first_block, outputs_before = low // block, reach // s
    count = (low + g.size[a] - 1) // block - first_block + 1
    taps = (block - 1) // s + outputs_before + 1
    first = first_block * strides - outputs_before
    return Axis(strides, block, low - first_block * block, count, taps, first)


def _tap_numbers(g: Geometry, a: int, axis: Axis) -> Any:
    """List (taps, block) the filter's tap between an output and a position; -1 for none."""
    reach = (g.kernel[a] - 1) * g.dilation[a]
    outputs = np.arange(axis.taps)[:, None] - reach // g.stride[a]
    distance = np.arange(axis.block) - g.stride[a] * outputs
    k, remainder = np.divmod(distance, g.dilation[a])
    inside = (distance >= 0) & (distance <= reach) & (remainder == 0)
    return np.where(inside, g.kernel[a] - 1 - k if g.flip else k, -1)


@dataclass(frozen=True)
class BlockTiling:
    """How the columns of an input gradient are divided into panels, and blocks into tiles.

    A span is a contiguous part of gx within a block: positions of the last axis with channels.

    Attributes
    ----------
    axes : tuple of Axis
        The blocks on each spatial axis.
    lanes, vectors, rows : int
        Lanes of a vector, vectors per panel, blocks per tile.
    span, spans : int
        Elements per span, spans per panel.
    spans_per_line, panels : int
        Spans that cover the positions of a block on the last axis; panels in all.
    work : float
        Predicted time, in multiply-adds of vectors.
    """

    axes: tuple[Axis, ...]
    lanes: int
    vectors: int
    rows: int
    span: int
    spans: int
    spans_per_line: int
    panels: int
    work: float

    @property
    def width(self) -> int:
        """Columns per panel."""
        return self.lanes * self.vectors

    @property
    def taps(self) -> int:
        """Taps of a block, on all axes."""
        return prod(axis.taps for axis in self.axes)


def tiling(g: Geometry, compute: str) -> BlockTiling:
    """Choose the tiling of an input gradient for this machine."""
    on = machine()
    return choose_block_tiling(g, on.lanes(ITEMSIZE[compute]), on.registers)


@cached(1024)
def choose_block_tiling(g: Geometry, lanes: int, registers: int) -> BlockTiling:
    """Choose the tiling with the least predicted time."""
    max_columns = (4 if registers >= 32 else 2) * lanes
    axes = [
        [
            _divide_axis(g, a, m)
            for m in STRIDES
            if m == 1 or ((m - 1) * s < n and m * s * g.channels <= max_columns)
        ]
        for a, (s, n) in enumerate(zip(g.stride, g.size, strict=True))
    ]
    tilings = []
    for chosen in product(*axes):
        columns = prod(axis.block for axis in chosen) * g.channels
        if columns <= max_columns or all(axis.strides == 1 for axis in chosen):
            tilings.append(_choose_spans(g, chosen, lanes, registers, max_columns))
    return min(tilings, key=lambda tiling: tiling.work)


def _choose_spans(
    g: Geometry, axes: tuple[Axis, ...], lanes: int, registers: int, max_columns: int
) -> BlockTiling:
    width = axes[-1].block * g.channels
    spans_per_line = -(-width // max_columns)
    span = width if spans_per_line == 1 else -(-width // (spans_per_line * lanes)) * lanes
    spans_per_line = -(-width // span)
    all_spans = prod(axis.block for axis in axes[:-1]) * spans_per_line
    lines, line = g.batch * prod(axis.count for axis in axes[:-1]), axes[-1].count
    taps = prod(axis.taps for axis in axes)
    tilings = []
    for spans in range(1, min(max_columns // span, all_spans) + 1):
        vectors, panels = -(-spans * span // lanes), -(-all_spans // spans)
        rows = tile_rows(vectors, line, registers)
        products = g.filters * max(vectors * rows, vectors + rows, FMA_LATENCY)
        writes = rows * spans * -(-span // lanes) * STORE
        tile = taps * (products + LOOK_UP * rows + TAP) + writes + TILE
        work = panels * lines * (-(-line // rows) * tile + ROW)
        tilings.append(
            BlockTiling(axes, lanes, vectors, rows, span, spans, spans_per_line, panels, work)
        )
    return min(tilings, key=lambda tiling: tiling.work)


@dataclass(frozen=True)
class Columns:
    """The columns of all panels.

    Attributes
    ----------
    offsets : array
        (panels, taps, width) the offset in f of each column; negative for zeros.
    channels : array
        (panels * width) the channel of each column.
    first, count : array
        For each span: its first element within the block on the last axis, and its length.
    positions : tuple of array
        For each span: its position in the block on each other axis.
    """

    offsets: Any
    channels: Any
    first: Any
    count: Any
    positions: tuple[Any, ...]


@kept
def columns(g: Geometry, blocks: BlockTiling, f_strides: Shape) -> Columns:
    """List the columns of a filter (*K, C, D) with these strides in elements, none negative."""
    n, width = g.rank, blocks.axes[-1].block * g.channels
    offset: Any = np.arange(g.channels) * f_strides[n]
    for a in reversed(range(n)):  # to (taps, block, taps and blocks of the inner axes, C)
        taps = to_offsets(_tap_numbers(g, a, blocks.axes[a]), f_strides[a], 0)
        offset = np.add.outer(taps, offset)
    offset = offset.transpose(*range(0, 2 * n, 2), *range(1, 2 * n, 2), 2 * n)
    outer = [axis.block for axis in blocks.axes[:-1]]
    all_spans = prod(outer) * blocks.spans_per_line
    offset = _fill_up(
        offset.reshape(blocks.taps, -1, width), 2, blocks.spans_per_line * blocks.span
    )
    offset = offset.reshape(blocks.taps, all_spans, blocks.span)
    offset = _fill_up(offset, 1, blocks.panels * blocks.spans)
    offset = offset.reshape(blocks.taps, blocks.panels, -1).transpose(1, 0, 2)
    spans = np.arange(blocks.panels * blocks.spans)
    first = spans % blocks.spans_per_line * blocks.span
    count = np.where(spans < all_spans, np.minimum(blocks.span, width - first), 0)
    block = spans % all_spans // blocks.spans_per_line
    positions = tuple(map(np.ascontiguousarray, np.unravel_index(block, outer))) if outer else ()
    channels = np.zeros((blocks.panels, blocks.width), np.int64)
    elements = (first[:, None] + np.arange(blocks.span)).reshape(blocks.panels, -1)
    channels[:, : elements.shape[1]] = elements % g.channels
    return Columns(_fill_up(offset, 2, blocks.width), channels.ravel(), first, count, positions)


def _fill_up(offsets: Any, axis: int, size: int) -> Any:
    """Extend an axis of offsets to a size, by offsets that stand for zeros."""
    filled = np.full((*offsets.shape[:axis], size, *offsets.shape[axis + 1 :]), OUTSIDE, np.int64)
    filled[(slice(None),) * axis + (slice(offsets.shape[axis]),)] = offsets
    return filled
