"""Choose the tiles of Winograd's algorithm, and split it into blocks and slabs under the limit.

A slab is a range of channels whose transforms are held at once. Integers only; no arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from einstride.algorithms.winograd.tile_grid import Blocks, phase_of, residues
from einstride.algorithms.winograd.tile_transforms import COLUMNS, Frame, slice_tiles
from einstride.arrays.ops import is_complex
from einstride.geometry import winograd_error
from einstride.geometry.blocking import SMALL, block_lengths, tile
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Shape
from einstride.geometry.problem import Job
from einstride.geometry.tile_sizes import (
    FEWEST_TAPS,
    MOST_TAPS,
    TileSizes,
    candidates,
    work,
)
from einstride.geometry.winograd_error import MOST_GROWTH
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Traits

MOST_PHASES = 4096
"""Phases of a dilated convolution, at most: each is computed by blocks of its own."""


TILES = 128
"""Tiles of a block: enough rows for the matrix products, few enough for the second-level cache.

It is for a `block_bytes` of 2 MiB and scales with it.
"""


@dataclass(frozen=True)
class BlockPlan:
    """The blocks, slabs and threads for tiles of one size.

    Attributes
    ----------
    tile_sizes : TileSizes
        F(m, r) of each axis.
    blocks : Blocks
        The blocks of tiles; one worker computes a block.
    width, slab : int
        All filters, and the filters (columns D of f) whose transform is held at once; in a filter
        gradient all channels, and the channels of a unit.
    parts : int
        Partial sums of a filter gradient, independent of the number of threads.
    threads : int
        Blocks that are computed at once.
    workspace : int
        Bytes of all threads together.
    most_workers : int
        Workers of a filter gradient whose buffers fit under the limit.
    """

    tile_sizes: TileSizes
    blocks: Blocks
    width: int
    slab: int
    parts: int
    threads: int
    workspace: int
    most_workers: int = 1

    @property
    def slabs(self) -> int:
        """Count the slabs: of channels in a filter gradient, else of filters."""
        return -(-self.width // self.slab)

    @property
    def counts(self) -> Shape:
        """Return the sides (n, *t) of the largest block, in tiles."""
        return self.blocks.lengths


def frame_of(g: Geometry, s: TileSizes) -> Frame:
    """Return the frame of the tiles of x."""
    return Frame(s.window, s.m, g.dilation, g.padding_mode)


def x_tile_counts(counts: Shape, taps: int) -> Shape:
    """Return the sides of the box of x's tiles that a box of y's tiles reads.

    On a first axis whose taps are summed directly, each tile of y reads `taps` tiles of x.
    """
    return counts if taps == 1 else (counts[0], counts[1] + taps - 1, *counts[2:])


def block_bytes(g: Geometry, s: TileSizes, job: Job, counts: Shape, slab: int) -> int:
    """Count the bytes of one worker of a forward pass."""
    x_counts = x_tile_counts(counts, s.taps)
    v = s.points * prod(x_counts) * g.channels
    sums = s.points * prod(counts) * slab
    gather = s.points * slice_tiles(x_counts, g.channels) * g.channels
    outputs = 2 * prod(s.m) * slice_tiles(counts, slab) * slab
    borders = frame_of(g, s).slab(x_counts, g.channels) * job.operand_itemsize
    term = sums // counts[0] if s.taps > 1 else 0
    return (v + sums + term + gather + outputs) * job.itemsize + borders


def filter_rows(width: int, traits: Traits) -> int:
    """Return how many input channels of the filter one matrix product transforms."""
    return max(4 * COLUMNS * max(traits.block_bytes >> 21, 1) // width, 1)


def filter_bytes(g: Geometry, s: TileSizes, job: Job, slab: int) -> int:
    """Count the bytes of a slab's transformed filter, and of the copies made on the way to it."""
    inner = g.channels // g.groups * slab
    copies = 1 + (job.operands[1] != job.sums)
    whole = 0
    if job.direction == "input_grad":  # exchanging channels may copy the filter
        whole = ((g.groups > 1) + is_complex(job.sums)) * prod(g.f_shape)
    return ((s.taps * s.points + copies * prod(g.kernel)) * inner + whole) * job.itemsize


@cached(4096)
def forward_plan(
    g: Geometry, s: TileSizes, job: Job, traits: Traits, prepared: bool = False
) -> BlockPlan:
    """Plan blocks and slabs under the limit if any fit, else with the least workspace."""
    batch = 1 if job.batch_invariant else g.batch
    tiles = Blocks(g, s.m, (1,)).tiles(phase_of(g, (0,) * g.rank))
    tiles = (batch, *tiles[1:])
    work = g.multiply_adds // max(g.batch, 1) * batch
    threads = job.threads if work > SMALL and traits.mutable else 1
    most = max(TILES * traits.block_bytes >> 21, 1)
    found: list[BlockPlan] = []
    slab = g.filters
    while True:
        shared = 0 if prepared else filter_bytes(g, s, job, slab)

        def bytes_of(counts: Shape, slab: int = slab) -> int:
            return block_bytes(g, s, job, counts, slab)

        for tiles_per_block in (most, max(most // 4, 1)):
            if traits.mutable:
                t = tile(tiles, tiles_per_block, threads, job.limit, bytes_of, shared)
                lengths, workers, need = t.lengths, t.threads, t.workspace
            else:  # whole examples, so that blocks in order concatenate to the batch
                n = max(min(tiles_per_block // prod(tiles[1:]), batch), 1)
                lengths, workers = (n, *tiles[1:]), 1
                need = shared + 2 * bytes_of(lengths)
            plan = BlockPlan(s, Blocks(g, s.m, lengths), g.filters, slab, 1, workers, need)
            if need <= job.limit and workers == threads:
                return plan
            found.append(plan)
        if prepared or g.groups > 1 or slab <= 16 or not traits.mutable:
            return min(found, key=lambda p: (max(p.workspace, job.limit), -p.threads))
        slab = -(-slab // 2)


def gradient_bytes(
    g: Geometry, s: TileSizes, job: Job, counts: Shape, slab: int, traits: Traits
) -> int:
    """Count the bytes of one worker of a filter gradient, for `slab` channels of x."""
    x_counts = x_tile_counts(counts, s.taps)
    v, z = s.points * prod(x_counts) * slab, s.points * prod(counts) * g.filters
    gather = s.points * slice_tiles(x_counts, slab) * slab
    gather += prod(s.m) * slice_tiles(counts, g.filters) * g.filters
    total = s.points * s.taps * (slab // g.groups) * g.filters
    term = gradient_term(s, slab // g.groups * g.filters, traits)
    borders = frame_of(g, s).slab(x_counts, slab) + prod(s.m) * prod(counts) * g.filters
    copies = 2 + (s.taps > 1) + (g.groups > 1) + is_complex(job.sums)
    found = copies * prod(g.kernel) * (slab // g.groups) * g.filters
    return (v + z + gather + total + term + found) * job.itemsize + borders * job.operand_itemsize


TERM = 1 << 16
"""Elements of the buffer for products before they are added to a sum: it stays in cache."""


def gradient_term(s: TileSizes, share: int, traits: Traits) -> int:
    """Count the elements of the buffer for products: of one point at least, of all at most."""
    elements = TERM * max(traits.block_bytes >> 21, 1) // max(share, 1)
    return min(max(elements, 1), s.points) * share


PARTS = 8
"""Units of a filter gradient, about, and so the threads that it can use; bits depend on it."""

SIDE_BY_SIDE = 2
"""Workers of a filter gradient whose buffers should fit under the limit."""

SUM_BYTES = 5 << 20
"""Bytes of the sums of one unit, at most: every block reads and writes them, so they should stay
in a cache. Smaller units transform gy more often."""


@cached(4096)
def gradient_plan(g: Geometry, s: TileSizes, job: Job, traits: Traits) -> BlockPlan:
    """Plan the units of a filter gradient independently of the threads, and so the bits of sums."""
    tiles = Blocks(g, s.m, (1,)).tiles(phase_of(g, (0,) * g.rank))
    whole = s.points * s.taps * (g.channels // g.groups) * g.filters * job.itemsize
    slab = g.channels
    most = SUM_BYTES * max(traits.block_bytes >> 21, 1)
    if traits.mutable and g.groups == 1:
        slab = max(-(-g.channels // max(-(-whole // most), 1)), min(g.channels, 16))
    first, slabs = slab, -(-g.channels // slab)
    tiles_per_block = max(TILES * traits.block_bytes >> 21, 1)
    tiles_per_block = min(tiles_per_block, max(prod(tiles) * slabs // PARTS, 16))
    rows = max(tiles_per_block, 1)
    threads = job.threads if g.multiply_adds > SMALL and traits.mutable else 1
    final = prod(g.f_shape) * job.itemsize
    least = 1 if g.groups > 1 else min(slab, 32)
    side_by_side = g.multiply_adds > SMALL and traits.mutable
    concurrent = SIDE_BY_SIDE if side_by_side else 1
    while True:
        slabs = -(-g.channels // slab)
        lengths = block_lengths(tiles, rows)
        blocks = Blocks(g, s.m, lengths)
        parts = 1
        if side_by_side:
            parts = max(min(PARTS // slabs, len(blocks), (2 << 20) // max(final, 1)), 1)
        each = gradient_bytes(g, s, job, lengths, slab, traits)
        shared = parts * final if parts > 1 else 0
        if shared + concurrent * each <= job.limit:
            break
        if rows > min(tiles_per_block, 32 if concurrent > 1 else 1):
            rows = max(rows // 2, 1)
        elif g.groups == 1 and slab > (least if concurrent > 1 else 1):
            slab = max(slab // 2, 1)
        elif concurrent > 1:  # one worker with large blocks is better than several with tiny ones
            concurrent, rows, slab = 1, tiles_per_block, first
        else:
            break
    most_workers = min((job.limit - shared) // max(each, 1), parts * slabs)
    workers = max(min(threads, most_workers), 1)
    return BlockPlan(
        s, blocks, g.channels, slab, parts, workers, shared + workers * each, most_workers
    )


@cached(4096)
def choose_plan(g: Geometry, job: Job, traits: Traits, prepared: bool = False) -> BlockPlan | str:
    """Choose the plan with the least work that is accurate enough and fits, or say why none does.

    `g` is the geometry of the forward pass that is run: of an input gradient, its one phase.
    """
    if not FEWEST_TAPS <= max(g.kernel) <= MOST_TAPS:
        return f"some axis of f must have {FEWEST_TAPS} taps, and none more than {MOST_TAPS}"
    if prod(residues(g)) > MOST_PHASES:
        return f"the dilation sorts the positions into more than {MOST_PHASES} phases"
    gradient = job.direction == "filter_grad"
    judged = replace(g, batch=1) if job.batch_invariant else g
    found: list[tuple[bool, float, BlockPlan]] = []
    for s in candidates(g.kernel, g.out):
        if winograd_error.growth(s.outputs_and_taps, gradient) > MOST_GROWTH:
            continue
        if gradient:
            plan = gradient_plan(g, s, job, traits)
        else:
            plan = forward_plan(g, s, job, traits, prepared)
        blocks = len(plan.blocks) * judged.batch // max(g.batch, 1)
        score = work(judged, s, gradient, plan.slabs, blocks, prepared).score
        if gradient:  # whatever the number of threads: the bits must not depend on it
            score *= 1 if plan.most_workers >= SIDE_BY_SIDE or g.multiply_adds <= SMALL else 2
        else:
            score *= -(-job.threads // plan.threads)
        below = plan.workspace <= job.limit
        found.append((not below, score if below else plan.workspace, plan))
    if not found:
        return "no tile has few enough points and small enough errors"
    return min(found, key=lambda entry: entry[:2])[2]
