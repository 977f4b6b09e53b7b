"""Choose the blocks of an input gradient and list its columns (`small_channels.blocks`)."""

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

FMA_LATENCY = 8
"""Multiply-adds of vectors in the least time of one channel of a tap, the latency of one of them:
about four cycles at two per cycle."""

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
        """List (count, taps) the output that each tap of each block meets; -1 for none."""
        outputs = self.first + np.arange(self.count)[:, None] * self.strides + np.arange(self.taps)
        return np.where((outputs >= 0) & (outputs < out), outputs, -1)

    def tap_numbers(self) -> Any:
        """List (taps, block) the filter's tap between an output and a position; -1 for none."""
        reach = (self.kernel - 1) * self.dilation
        distance = np.arange(self.block) - self.stride * (
            np.arange(self.taps)[:, None] - self._outputs_before
        )
        k, remainder = np.divmod(distance, self.dilation)
        inside = (distance >= 0) & (distance <= reach) & (remainder == 0)
        return np.where(inside, self.kernel - 1 - k if self.flip else k, -1)

    @property
    def _outputs_before(self) -> int:
        """Outputs before a block's first output whose windows reach the block."""
        return (self.kernel - 1) * self.dilation // self.stride


def _divide_axis(g: Geometry, a: int, strides: int) -> Axis:
    s, low, reach = g.stride[a], g.padding[a][0], (g.kernel[a] - 1) * g.dilation[a]
    block = strides * s
    first_block, outputs_before = low // block, reach // s
    count = (low + g.size[a] - 1) // block - first_block + 1
    taps = (block - 1) // s + outputs_before + 1
    first = first_block * strides - outputs_before
    low -= first_block * block
    return Axis(s, g.dilation[a], g.kernel[a], g.flip, strides, low, count, taps, first)


@dataclass(frozen=True)
class BlockTiling:
    """How the columns of an input gradient are divided into panels, and blocks into tiles.

    A span is a contiguous part of gx within a block: positions of the last axis with channels.

    Attributes
    ----------
    axes : tuple of Axis
        The blocks on each spatial axis.
    lanes, vectors, positions : int
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
    positions: int
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


@cached(1024)
def choose_block_tiling(g: Geometry, lanes: int, registers: int) -> BlockTiling:
    """Choose the tiling with the least work."""
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
    return min(tilings, key=lambda blocks: blocks.work)


def _choose_spans(
    g: Geometry, axes: tuple[Axis, ...], lanes: int, registers: int, max_columns: int
) -> BlockTiling:
    width = axes[-1].block * g.channels
    spans_per_line = -(-width // max_columns)
    span = width if spans_per_line == 1 else -(-width // (spans_per_line * lanes)) * lanes
    spans_per_line = -(-width // span)
    all_spans = prod(axis.block for axis in axes[:-1]) * spans_per_line
    rows, line = g.batch * prod(axis.count for axis in axes[:-1]), axes[-1].count
    taps = prod(axis.taps for axis in axes)
    best: BlockTiling | None = None
    for spans in range(1, min(max_columns // span, all_spans) + 1):
        vectors = -(-spans * span // lanes)
        positions = 6 if vectors == 4 else min((registers - 1 - vectors) // vectors, 14)
        positions = -(-line // -(-line // min(positions, line)))
        panels = -(-all_spans // spans)
        products = g.filters * max(vectors * positions, vectors + positions, FMA_LATENCY)
        writes = positions * spans * -(-span // lanes) * STORE
        tile = taps * (products + LOOK_UP * positions + TAP) + writes + TILE
        work = panels * rows * (-(-line // positions) * tile + ROW)
        if best is None or work < best.work:
            best = BlockTiling(
                axes, lanes, vectors, positions, span, spans, spans_per_line, panels, work
            )
    if best is None:
        raise ValueError("a span is longer than a panel")
    return best


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
    at : list of array
        For each span: its position in the block on each other axis.
    """

    offsets: Any
    channels: Any
    first: Any
    count: Any
    positions: list[Any]


@kept
def columns(g: Geometry, blocks: BlockTiling, f_strides: Shape) -> Columns:
    """List the columns of a filter (*K, C, D) with these strides in elements, none negative."""
    offset: Any = np.arange(g.channels) * f_strides[g.rank]
    for a in reversed(range(g.rank)):
        tap_offsets = to_offsets(blocks.axes[a].tap_numbers(), f_strides[a], 0)
        inner = offset.reshape(1, *offset.shape)
        shape = (tap_offsets.shape[0], tap_offsets.shape[1], *[1] * offset.ndim)
        offset = (
            tap_offsets.reshape(shape) + inner
        )  # (taps, block, inner taps, inner blocks, ..., C)
    n = g.rank
    offset = offset.transpose(*range(0, 2 * n, 2), *range(1, 2 * n, 2), 2 * n)
    outer = [axis.block for axis in blocks.axes[:-1]]
    width = blocks.axes[-1].block * g.channels
    offset = offset.reshape(blocks.taps, prod(outer), width)
    span_offsets = np.full(
        (blocks.taps, prod(outer), blocks.spans_per_line * blocks.span), OUTSIDE, np.int64
    )
    span_offsets[..., :width] = offset
    all_spans = prod(outer) * blocks.spans_per_line
    padded = np.full((blocks.taps, blocks.panels * blocks.spans, blocks.span), OUTSIDE, np.int64)
    padded[:, :all_spans] = span_offsets.reshape(blocks.taps, all_spans, blocks.span)
    panel_offsets = np.full((blocks.panels, blocks.taps, blocks.width), OUTSIDE, np.int64)
    panel = padded.reshape(blocks.taps, blocks.panels, -1).transpose(1, 0, 2)
    panel_offsets[..., : panel.shape[-1]] = panel
    span_numbers = np.arange(blocks.panels * blocks.spans)
    first = span_numbers % blocks.spans_per_line * blocks.span
    count = np.where(span_numbers < all_spans, np.minimum(blocks.span, width - first), 0)
    block = span_numbers % all_spans // blocks.spans_per_line
    positions = [np.ascontiguousarray(i) for i in np.unravel_index(block, outer)] if outer else []
    elements = first.reshape(blocks.panels, -1, 1) + np.arange(blocks.span)
    channels = np.zeros((blocks.panels, blocks.width), np.int64)
    channels[:, : panel.shape[-1]] = elements.reshape(blocks.panels, -1) % g.channels
    return Columns(panel_offsets, channels.ravel(), first, count, positions)
