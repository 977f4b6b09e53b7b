"""How the compiled minimal filtering cuts its work: forms, blocks, shares, scratch memory.

All sizes are in elements unless they say bytes. Integers only; see `calls`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from einstride.cpu.runtime.chunks import COARSE, chunk_count
from einstride.cpu.winograd.tables import Split, counted
from einstride.cpu.winograd.tiles import Form
from einstride.geometry.convolution import Geometry
from einstride.support.caches import cached

BLOCK = 72
"""Tiles of a block, where memory allows: its V and M stay near, and each panel is used often."""

GRADIENT_BLOCK = 96
"""Tiles of a block of a filter gradient: each brings all sums into the cache and out again."""

SMALLEST = 30
"""Tiles of a block that is small only to give all threads work."""

ALONE = 144
"""Tiles of a block that transforms its filter itself: it should be the only one."""

FEW = 64
"""Tiles, all together, below which the filter is transformed slice by slice, just before use."""

SUMS = 8
"""Chunks that a filter gradient is cut into at least, if need be by shares of the tiles."""

C_BLOCK, D_BLOCK = 132, 128
"""Channels of a chunk of a filter gradient: 132 is a multiple of every height of register tiles."""


@dataclass(frozen=True)
class ForwardPlan:
    """The blocks of a forward pass.

    Attributes
    ----------
    form : Form
        Of the kernel.
    reading : str
        "prepared", or how the kernel reads the filter that it transforms itself.
    tiles, block, blocks, splits, panels : int
        All tiles, those of a block; blocks; parts of the panels that are chunks of their own.
    depth : int
        Taps of the outer axes times channels.
    slice : int
        Rows of the filter that are multiplied at once.
    threads : int
        Workers.
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
        """From one point to the next in V, not a multiple of the cache's sets."""
        return self.block * self.depth + self.form.lanes

    @property
    def m_at(self) -> int:
        """Where M begins."""
        return self.form.points * self.v_point

    @property
    def u_at(self) -> int:
        """Where a slice of U begins."""
        rows = -(-self.block // self.form.tile) * self.form.tile
        return self.m_at + rows * self.m_row

    @property
    def m_row(self) -> int:
        """From one tile to the next in M."""
        return self.form.points * self.form.width + self.form.lanes

    @property
    def f_point(self) -> int:
        """From one point to the next in a panel of U."""
        rows = self.depth if self.reading == "prepared" else self.slice
        return rows * self.form.width + self.form.lanes

    @property
    def u_size(self) -> int:
        """Of the whole transformed filter."""
        return self.panels * self.form.points * (self.depth * self.form.width + self.form.lanes)

    @property
    def trash_at(self) -> int:
        """Where what is outside y is written."""
        own = 0 if self.reading == "prepared" else self.form.points * self.f_point
        return self.u_at + own

    @property
    def worker(self) -> int:
        """Scratch memory of a worker."""
        return self.trash_at + self.form.width


@dataclass(frozen=True)
class GradientPlan:
    """The blocks of a filter gradient.

    Attributes
    ----------
    form : Form
        Of the kernels.
    tiles, block, share, shares : int
        All tiles, those of a block, of a share; shares.
    c_block, c_blocks, d_block, d_blocks, taps : int
        Channels and output channels of a chunk; taps of the outer axes.
    threads : int
        Workers.
    """

    form: Form
    tiles: int
    block: int
    share: int
    shares: int
    c_block: int
    c_blocks: int
    d_block: int
    d_blocks: int
    taps: int
    threads: int

    @property
    def chunks(self) -> int:
        """Of the first kernel."""
        return self.taps * self.c_blocks * self.d_blocks * self.shares

    @property
    def v_point(self) -> int:
        """From one point to the next in V."""
        return self.block * self.c_block + self.form.lanes

    @property
    def y_point(self) -> int:
        """From one point to the next in Y."""
        return self.block * self.d_block + self.form.lanes

    @property
    def y_at(self) -> int:
        """Where Y begins."""
        return self.form.points * self.v_point

    @property
    def worker(self) -> int:
        """V and Y of a worker."""
        return self.y_at + self.form.points * self.y_point

    @property
    def w_row(self) -> int:
        """From one channel to the next in W."""
        return self.d_block + self.form.lanes

    @property
    def w_point(self) -> int:
        """From one point to the next in W."""
        return self.c_block * self.w_row + self.form.lanes

    @property
    def sums(self) -> int:
        """All W: one of each chunk if there are shares to add up, else one of each worker."""
        count = self.chunks if self.shares > 1 else self.threads
        return count * self.form.points * self.w_point


def register_tile(filters: int, lanes: int, registers: int) -> tuple[int, int]:
    """Rows and vectors of a block of products: 24 of 32 registers, or 12 of 16, hold sums."""
    most, heights = (4, (12, 12, 8, 6)) if registers >= 32 else (2, (8, 6))
    count = -(-filters // lanes)
    vectors = _even(count, -(-count // most), 1)
    return heights[vectors - 1], vectors


@cached(1024)
def forward_plan(
    g: Geometry, split: Split, form: Form, reading: str, threads: int, ceiling: int
) -> ForwardPlan:
    """Blocks for at most `ceiling` elements of scratch memory, or for as few as can be.

    `reading` is "prepared" or the reading of a filter to be transformed on the way.
    """
    inner, outer, taps = counted(g, split)
    tiles = g.batch * outer * prod(inner)
    panels = -(-g.filters // form.width)
    alone = reading != "prepared"
    depth = taps * g.channels
    slice_ = min(128, g.channels) if alone else min(256, depth)
    plan = ForwardPlan(form, reading, tiles, 1, 1, 1, panels, depth, slice_, threads)
    fine = max(-(-tiles // chunk_count(threads)), SMALLEST)  # no worker waits long for another
    most = ALONE if alone else min(BLOCK, fine)
    while True:
        blocks = -(-tiles // most)
        height = form.tile
        block = _even(tiles, blocks, height)
        blocks = -(-tiles // block)
        plan = replace(plan, block=block, blocks=blocks, splits=_splits(blocks, panels, threads))
        if plan.worker * threads <= ceiling or (most <= height and plan.slice <= form.lanes):
            return plan
        if most > height:
            most = max(most * 3 // 4, height)
        else:
            plan = replace(plan, slice=max(plan.slice // 2, form.lanes))


def _splits(blocks: int, panels: int, threads: int) -> int:
    """Parts of the panels: as few as give each of several workers two chunks, if that can be."""
    wanted = chunk_count(threads, COARSE)
    equal = (n for n in range(1, panels) if panels % n == 0 and blocks * n >= wanted)
    return next(equal, panels)


@cached(1024)
def gradient_plan(
    g: Geometry, split: Split, form: Form, threads: int, ceiling: int
) -> GradientPlan:
    """Blocks for at most `ceiling` elements of scratch memory, or for as few as can be.

    The shares, and with them the bits, depend on geometry and ceiling, not on the threads.
    """
    inner, outer, taps = counted(g, split)
    tiles = g.batch * outer * prod(inner)
    c_most, d_most, block = (
        C_BLOCK,
        max(D_BLOCK // form.width, 1) * form.width,
        min(GRADIENT_BLOCK, tiles),
    )
    shares = None
    while True:
        c_blocks, d_blocks = -(-g.channels // c_most), -(-g.filters // d_most)
        c_block = _even(g.channels, c_blocks, form.tile)
        d_block = _even(g.filters, d_blocks, form.width)
        if shares is None:
            sums = form.points * taps * c_blocks * c_block * d_blocks * (d_block + form.lanes)
            fit = max(ceiling // 2 // max(sums, 1), 1)
            shares = min(-(-SUMS // (taps * c_blocks * d_blocks)), -(-tiles // 32), fit)
        share = -(-tiles // shares)
        even = _even(share, -(-share // block), 1)
        plan = GradientPlan(
            form, tiles, even, share, -(-tiles // share),
            c_block, c_blocks, d_block, d_blocks, taps, threads,
        )  # fmt: skip
        smallest = c_most <= form.tile and d_most <= form.width and block <= 8
        if plan.worker * threads + plan.sums <= ceiling or smallest:
            return plan
        if block > 24 or (block > 8 and c_most <= form.tile and d_most <= form.width):
            block = max(block // 2, 8)
        elif c_most > form.tile:
            c_most = max(c_most // 2, form.tile)
        else:
            d_most = max(d_most // 2 // form.width, 1) * form.width


def _even(count: int, blocks: int, unit: int) -> int:
    """The size of equal blocks, in whole units."""
    each = -(-count // blocks)
    return -(-each // unit) * unit
