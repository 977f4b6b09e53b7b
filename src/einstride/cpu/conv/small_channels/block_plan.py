"""Choose the blocks of an input gradient and list its columns (`small_channels.blocks`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import Target
from einstride.cpu.conv.small_channels.lines import FMA_LATENCY, Tiling, tile_rows
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
class BlockTiling(Tiling):
    """The columns of an input gradient in panels, and the blocks in tiles.

    A span is a contiguous part of gx within a block: positions of the last axis with channels.

    Attributes
    ----------
    axes : tuple of Axis
        The blocks on each spatial axis.
    span, spans : int
        Elements per span, spans per panel.
    spans_per_line : int
        Spans that cover the positions of a block on the last axis.
    """

    axes: tuple[Axis, ...]
    span: int
    spans: int
    spans_per_line: int

    @property
    def taps(self) -> int:
        """Taps of a block, on all axes."""
        return prod(axis.taps for axis in self.axes)


@cached(1024)
def tiling(g: Geometry, compute: str, target: Target) -> BlockTiling:
    """Choose the tiling of an input gradient with the least predicted time."""
    lanes = target.lanes(ITEMSIZE[compute])
    max_columns = (4 if target.registers >= 32 else 2) * lanes
    axes = [
        [
            _divide_axis(g, a, m)
            for m in STRIDES
            if m == 1 or ((m - 1) * s < n and m * s * g.channels <= max_columns)
        ]
        for a, (s, n) in enumerate(zip(g.stride, g.size, strict=True))
    ]
    tilings = [
        _choose_spans(g, chosen, lanes, target.registers, max_columns)
        for chosen in product(*axes)
        if prod(axis.block for axis in chosen) * g.channels <= max_columns
        or all(axis.strides == 1 for axis in chosen)
    ]
    return min(tilings, key=lambda tiling: tiling.work)


def tiling_like(whole: Geometry, g: Geometry, compute: str, target: Target) -> BlockTiling:
    """Return the tiling of `whole` for a part of its rows, `g`: both read the same panels."""
    chosen = tiling(whole, compute, target)
    if g == whole:
        return chosen
    axes = tuple(_divide_axis(g, a, axis.strides) for a, axis in enumerate(chosen.axes))
    return replace(chosen, axes=axes)


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
            BlockTiling(lanes, vectors, rows, panels, work, axes, span, spans, spans_per_line)
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
    outer = [axis.block for axis in blocks.axes[:-1]]
    offset: Any = np.arange(g.channels) * f_strides[n]
    for a in reversed(range(n)):  # to (taps, block, taps and blocks of the inner axes, C)
        taps = to_offsets(_tap_numbers(g, a, blocks.axes[a]), f_strides[a], 0)
        offset = np.add.outer(taps, offset)
    offset = offset.transpose(*range(0, 2 * n, 2), *range(1, 2 * n, 2), 2 * n)
    offset = offset.reshape(blocks.taps, prod(outer) * width)
    offset = np.append(offset, np.full((blocks.taps, 1), OUTSIDE), axis=1)
    block, part = np.divmod(np.arange(blocks.panels * blocks.spans), blocks.spans_per_line)
    first = part * blocks.span
    count = np.where(block < prod(outer), np.minimum(blocks.span, width - first), 0)
    block %= prod(outer)
    element = np.arange(blocks.span)
    index = (block * width + first)[:, None] + element
    index[element >= count[:, None]] = -1  # the offset of zeros
    column = np.full((blocks.panels, blocks.width), -1)
    column[:, : blocks.spans * blocks.span] = index.reshape(blocks.panels, -1)
    offsets = np.ascontiguousarray(offset[:, column].transpose(1, 0, 2))
    positions = tuple(map(np.ascontiguousarray, np.unravel_index(block, outer))) if outer else ()
    return Columns(offsets, column.ravel() % g.channels, first, count, positions)
