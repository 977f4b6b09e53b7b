"""Plan the blocks, partial sums and scratch memory of the Winograd kernels.

All sizes, offsets and strides are in elements.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from einstride.cpu.runtime.chunks import COARSE, chunk_count
from einstride.cpu.winograd.tables import FilteredAxes, tile_counts
from einstride.cpu.winograd.tiles import Form
from einstride.geometry.convolution import Geometry
from einstride.support.caches import cached

BLOCK = 72
"""Tiles in a forward block, at most. Measured (bench/NOTES.md): of 36 to 144 tiles, 72 or more are
fastest; V and M of a larger block leave the cache, a smaller block reads each panel more often."""

GRADIENT_BLOCK = 96
"""Tiles in a block of a filter gradient, at most. Measured (bench/NOTES.md): of 48 to 160, large
layers gain from 96 on. Every block reads and writes all sums."""

MIN_BLOCK = 30
"""Tiles in a forward block of a small layer: small enough that no thread waits long for another
(bench/NOTES.md). Smaller blocks read each panel more often."""

FUSED_BLOCK = 144
"""Tiles in a forward block that transforms the filter itself, at most; chosen. Every block
transforms the whole filter, so one block should hold all tiles."""

FEW_TILES = 64
"""Tiles of a layer up to which the filter is transformed slice by slice, just before its use.
Measured (bench/NOTES.md): faster by a quarter for 7x7x512 with batch 8, slower with 128 tiles."""

MIN_CHUNKS = 8
"""Chunks of a filter gradient, at least; chosen. Where taps and channel blocks give fewer, the
tiles are divided into partial sums. Changing it changes the order of sums, and so the bits."""

C_BLOCK, D_BLOCK = 132, 128
"""Input and output channels in a chunk of a filter gradient, at most; chosen. 132 is a multiple of
the heights 6 and 12 of register tiles."""


@dataclass(frozen=True)
class ForwardPlan:
    """The blocks of a forward pass.

    Attributes
    ----------
    form : Form
        The form of the kernel.
    reading : str
        "prepared" or "fused": whether U is made beforehand or by the kernel.
    tiles, block, blocks : int
        All tiles, tiles in a block, and blocks.
    splits, panels : int
        Ranges of panels that are chunks of their own, and all panels.
    depth : int
        Taps of the outer axes times channels: rows of U.
    slice : int
        Rows of U that are multiplied at once.
    threads : int
        Threads that take chunks.
    """

    form: Form
    reading: str
    tiles: int
    block: int
    blocks: int
    splits: int
    panels: int
    depth: int
    slice: int
    threads: int

    @property
    def v_point(self) -> int:
        """The stride of points in V; a vector longer than needed, so that cache sets differ."""
        return self.block * self.depth + self.form.lanes

    @property
    def m_at(self) -> int:
        """The offset of M in scratch memory."""
        return self.form.points * self.v_point

    @property
    def u_at(self) -> int:
        """The offset of a slice of U in scratch memory."""
        rows = -(-self.block // self.form.tile) * self.form.tile
        return self.m_at + rows * self.m_row

    @property
    def m_row(self) -> int:
        """The stride of tiles in M."""
        return self.form.points * self.form.width + self.form.lanes

    @property
    def f_point(self) -> int:
        """The stride of points in a panel of U."""
        rows = self.depth if self.reading == "prepared" else self.slice
        return rows * self.form.width + self.form.lanes

    @property
    def u_size(self) -> int:
        """The size of the whole transformed filter."""
        return self.panels * self.form.points * (self.depth * self.form.width + self.form.lanes)

    @property
    def discard_at(self) -> int:
        """The offset of the memory to which outputs outside y are written."""
        u_slice = 0 if self.reading == "prepared" else self.form.points * self.f_point
        return self.u_at + u_slice

    @property
    def worker_size(self) -> int:
        """The size of a thread's scratch memory."""
        return self.discard_at + self.form.width


@dataclass(frozen=True)
class GradientPlan:
    """The blocks of a filter gradient.

    Attributes
    ----------
    form : Form
        The form of the kernels.
    tiles, block, tiles_per_sum, partial_sums : int
        All tiles, tiles in a block, tiles in a partial sum, and partial sums.
    c_block, c_blocks, d_block, d_blocks : int
        Input channels in a block, blocks of them, and the same of output channels.
    taps : int
        Taps of the outer axes.
    threads : int
        Threads that take chunks.
    """

    form: Form
    tiles: int
    block: int
    tiles_per_sum: int
    partial_sums: int
    c_block: int
    c_blocks: int
    d_block: int
    d_blocks: int
    taps: int
    threads: int

    @property
    def chunks(self) -> int:
        """The number of chunks of the kernel that sums over tiles."""
        return self.taps * self.c_blocks * self.d_blocks * self.partial_sums

    @property
    def v_point(self) -> int:
        """The stride of points in V."""
        return self.block * self.c_block + self.form.lanes

    @property
    def y_point(self) -> int:
        """The stride of points in Y."""
        return self.block * self.d_block + self.form.lanes

    @property
    def y_at(self) -> int:
        """The offset of Y in scratch memory."""
        return self.form.points * self.v_point

    @property
    def worker_size(self) -> int:
        """The size of a thread's scratch memory: V and Y."""
        return self.y_at + self.form.points * self.y_point

    @property
    def w_row(self) -> int:
        """The stride of channels in W."""
        return self.d_block + self.form.lanes

    @property
    def w_point(self) -> int:
        """The stride of points in W."""
        return self.c_block * self.w_row + self.form.lanes

    @property
    def sums_size(self) -> int:
        """The size of all W: one for each chunk if there are partial sums, else for each thread."""
        count = self.chunks if self.partial_sums > 1 else self.threads
        return count * self.form.points * self.w_point


def register_tile(filters: int, lanes: int, registers: int) -> tuple[int, int]:
    """Choose a register tile's rows and vectors: sums fill at most 24 of 32 registers, 12 of 16."""
    max_vectors, heights = (4, (12, 12, 8, 6)) if registers >= 32 else (2, (8, 6))
    count = -(-filters // lanes)
    vectors = _equal_size(count, -(-count // max_vectors), 1)
    return heights[vectors - 1], vectors


@cached(1024)
def forward_plan(
    g: Geometry, axes: FilteredAxes, form: Form, reading: str, threads: int, limit: int
) -> ForwardPlan:
    """Plan a forward pass within `limit` elements of scratch memory, or within the least possible.

    `reading` is "prepared" or "fused"; see `ForwardPlan`.
    """
    inner, outer, taps = tile_counts(g, axes)
    tiles = g.batch * outer * prod(inner)
    panels = -(-g.filters // form.width)
    fused = reading != "prepared"
    depth = taps * g.channels
    slice_ = min(128, g.channels) if fused else min(256, depth)
    plan = ForwardPlan(form, reading, tiles, 1, 1, 1, panels, depth, slice_, threads)
    even_block = max(
        -(-tiles // chunk_count(threads)), MIN_BLOCK
    )  # threads finish at about the same time
    max_block = FUSED_BLOCK if fused else min(BLOCK, even_block)
    while True:
        blocks = -(-tiles // max_block)
        height = form.tile
        block = _equal_size(tiles, blocks, height)
        blocks = -(-tiles // block)
        plan = replace(
            plan, block=block, blocks=blocks, splits=_count_splits(blocks, panels, threads)
        )
        if plan.worker_size * threads <= limit or (
            max_block <= height and plan.slice <= form.lanes
        ):
            return plan
        if max_block > height:
            max_block = max(max_block * 3 // 4, height)
        else:
            plan = replace(plan, slice=max(plan.slice // 2, form.lanes))


def _count_splits(blocks: int, panels: int, threads: int) -> int:
    """Count the ranges of panels: the fewest equal ones that give each thread two chunks."""
    min_chunks = chunk_count(threads, COARSE)
    equal = (n for n in range(1, panels) if panels % n == 0 and blocks * n >= min_chunks)
    return next(equal, panels)


@cached(1024)
def gradient_plan(
    g: Geometry, axes: FilteredAxes, form: Form, threads: int, limit: int
) -> GradientPlan:
    """Plan a filter gradient within `limit` elements of scratch memory, or the least possible.

    The partial sums, and with them the bits, depend on geometry and limit, not on the threads.
    """
    inner, outer, taps = tile_counts(g, axes)
    tiles = g.batch * outer * prod(inner)
    max_c_block, max_d_block, block = (
        C_BLOCK,
        max(D_BLOCK // form.width, 1) * form.width,
        min(GRADIENT_BLOCK, tiles),
    )
    partial_sums = None
    while True:
        c_blocks, d_blocks = -(-g.channels // max_c_block), -(-g.filters // max_d_block)
        c_block = _equal_size(g.channels, c_blocks, form.tile)
        d_block = _equal_size(g.filters, d_blocks, form.width)
        if partial_sums is None:
            sums = form.points * taps * c_blocks * c_block * d_blocks * (d_block + form.lanes)
            max_sums = max(limit // 2 // max(sums, 1), 1)
            partial_sums = min(
                -(-MIN_CHUNKS // (taps * c_blocks * d_blocks)), -(-tiles // 32), max_sums
            )
        tiles_per_sum = -(-tiles // partial_sums)
        equal_block = _equal_size(tiles_per_sum, -(-tiles_per_sum // block), 1)
        plan = GradientPlan(
            form, tiles, equal_block, tiles_per_sum, -(-tiles // tiles_per_sum),
            c_block, c_blocks, d_block, d_blocks, taps, threads,
        )  # fmt: skip
        is_smallest = max_c_block <= form.tile and max_d_block <= form.width and block <= 8
        if plan.worker_size * threads + plan.sums_size <= limit or is_smallest:
            return plan
        if block > 24 or (block > 8 and max_c_block <= form.tile and max_d_block <= form.width):
            block = max(block // 2, 8)
        elif max_c_block > form.tile:
            max_c_block = max(max_c_block // 2, form.tile)
        else:
            max_d_block = max(max_d_block // 2 // form.width, 1) * form.width


def _equal_size(count: int, blocks: int, unit: int) -> int:
    """Return the size of `blocks` equal blocks of `count` elements, rounded up to whole units."""
    size = -(-count // blocks)
    return -(-size // unit) * unit
