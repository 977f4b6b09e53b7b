"""Split a convolution by frequencies into blocks, by predicted time, under the limit. No arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product as combinations
from math import prod
from typing import TYPE_CHECKING

from einstride.algorithms.fft import work
from einstride.algorithms.fft.axes import Axis, choices
from einstride.calibration import rates
from einstride.geometry.blocking import Boxes, block_lengths
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Shape
from einstride.geometry.problem import Job
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Traits

Axes = tuple[Axis, ...]

SMALL = 1 << 20
"""Multiply-adds below which only one split of each axis is tried: not worth a long search."""

FEW_TAPS = 16
"""Taps below which only one split of each axis is tried: not worth a long search."""

WIDEST = 512
"""Channels of all groups of a block, at most: more would only enlarge the workspace."""


@dataclass(frozen=True)
class TilePlan:
    """The tiles, blocks and threads of a convolution by frequencies.

    Attributes
    ----------
    axes : tuple of Axis
        The tiles of each spatial axis.
    lengths : tuple of int
        The largest block: examples, tiles on each axis, then groups (or, without groups, filters).
    channels : int
        Channels of x in one step, without groups; the spectra of the steps are added. A filter
        gradient has one step, and blocks of `channels` channels.
    kept : bool
        True if the filter is transformed once, before the blocks; False if in each block.
    threads : int
        Blocks that are computed at once.
    workspace : int
        Bytes of all threads together.
    seconds : float
        Predicted seconds.
    partial_sums : int
        Partial sums of a filter gradient, each over a part of the positions.
    """

    axes: Axes
    lengths: Shape
    channels: int
    kept: bool
    threads: int
    workspace: int
    seconds: float
    partial_sums: int = 1

    @property
    def signals(self) -> int:
        """Count the examples times tiles of the largest block."""
        return prod(self.lengths[:-1])

    @property
    def width(self) -> int:
        """Count the groups, or filters, of the largest block."""
        return self.lengths[-1]


def slab_bytes(g: Geometry, job: Job, axes: Axes, lengths: Shape, c: int) -> int:
    """Count the bytes of a copy of x with its border, for a block of examples and tiles."""
    inside = all(
        x.origin + x.first >= 0 and x.origin + x.first + (x.tiles - 1) * x.step + x.inputs <= s
        for x, s in zip(axes, g.size, strict=True)
    )
    if inside:
        return 0
    copies = 1 if g.padding_mode == "zeros" else 2
    return copies * lengths[0] * work.positions(axes, lengths[1:]) * c * job.operand_itemsize


def units_of(g: Geometry) -> int:
    """Return the length of the last axis of blocks: groups, or filters if there is one group."""
    return g.groups if g.groups > 1 else g.filters


class Search:
    """Enumerate the plans of one forward convolution, with memory and time."""

    def __init__(self, g: Geometry, job: Job, traits: Traits, prepared: bool) -> None:
        self.g, self.job, self.traits, self.prepared = g, job, traits, prepared
        self.rates = rates(traits.library, job.arithmetic.compute)
        self.planes, self.item = work.planes_of(job), work.real_item(job)
        self._costs: dict[Axes, work.AxesCost] = {}

    def axes_cost(self, axes: Axes) -> work.AxesCost:
        """Return elements and seconds per signal, computed once for each choice of axes."""
        found = self._costs.get(axes)
        if found is None:
            found = self._costs[axes] = work.axes_cost(axes, self.planes, self.rates)
        return found

    def widths(self, width: int, channels: int) -> tuple[int, int, int]:
        """Return the channels and filters of a block, and the channels of one filter."""
        g = self.g
        if g.groups > 1:
            inner = g.channels // g.groups
            return width * inner, width * (g.filters // g.groups), inner
        return channels, width, channels

    def memory(self, axes: Axes, width: int, channels: int, kept: bool, lengths: Shape) -> int:
        """Count the bytes of one worker."""
        t, n = self.axes_cost(axes), prod(lengths)
        c, d, inner = self.widths(width, channels)
        total = n * (t.x * c + 2 * max(t.x_stage * c, t.y_stage * d))
        total += t.q * 2 * n * d * (2 if self.g.channels == self.g.groups else 3)
        total += n * t.y * d  # a copy, where a block does not end with a whole tile
        if not kept:
            total += (t.taps + 2 * t.f_stage) * inner * d
        total = total * self.item + work.fast_bytes(axes, self.traits.block_bytes, self.item)
        total += slab_bytes(self.g, self.job, axes, lengths, c)
        return total + total // 8  # an eighth for the library's own buffers

    def seconds(self, axes: Axes, lengths: Shape, channels: int, kept: bool) -> float:
        """Predict the seconds of all blocks, with all threads at work."""
        g, t, r = self.g, self.axes_cost(axes), self.rates
        *signals, width = lengths
        c, d, inner = self.widths(width, channels)
        n = prod(signals)
        one = t.x_time(n * c) + work.product(t.q, n, g, c, d, r) + 8 * work.STEP
        one += n * c * t.x * r["turn"]
        if not kept:
            one += t.f_time(inner * d)
        one *= 1 if g.groups > 1 else -(-g.channels // channels)
        one += t.y_time(n * d) + n * d * t.y * r["turn"]
        blocks = len(Boxes((g.batch, *(x.tiles for x in axes), units_of(g)), lengths))
        total = blocks * one * self.job.threads / min(blocks, self.job.threads)
        if kept and not self.prepared:
            total += t.f_time(prod(g.f_shape[-2:]))
        return total

    def plans(self) -> Iterator[TilePlan]:
        """Enumerate the plans under the limit."""
        g, block = self.g, self.traits.block_bytes
        for axes in combinations(
            *(choices(g, a, choice_count(g, self.job)) for a in range(g.rank))
        ):
            whole = self.axes_cost(axes).q * 2 * prod(g.f_shape[-2:]) * self.item
            for kept in (True, False) if whole > block // 2 and not self.prepared else (True,):
                shared = whole if kept and not self.prepared else 0
                for threads in dict.fromkeys((self.job.threads, 1)):
                    top = (self.job.limit - shared) // threads
                    known = set()
                    for budget in sorted({min(n, top) for n in (block // 2, 2 * block, top)}):
                        found = self.blocks(axes, budget, kept)
                        if found is not None and found not in known:
                            known.add(found)
                            plan = self.make_plan(axes, *found, kept, threads, shared)
                            if plan.workspace <= self.job.limit:
                                yield plan
                    if known:
                        break

    def blocks(self, axes: Axes, budget: int, kept: bool) -> tuple[Shape, int] | None:
        """Return (lengths, channels) of the largest block within a budget of bytes, or None."""
        g = self.g
        ones = (1,) * (g.rank + 1)
        if self.memory(axes, 1, 1, kept, ones) > budget:
            return None
        sizes = (1 if self.job.batch_invariant else g.batch, *(x.tiles for x in axes))
        for width in steps(min(units_of(g), units_of(g) if kept or g.groups > 1 else 64)):
            if g.groups > 1 and width > 1 and width * (g.channels // g.groups) > WIDEST:
                continue
            for channels in (1,) if g.groups > 1 else steps(g.channels):
                # A filter that is transformed in every block should be in one block only.
                lengths = largest_fit(
                    sizes, prod(sizes) if not kept and g.groups == 1 else 1, budget,
                    partial(self.memory, axes, width, channels, kept),
                )  # fmt: skip
                if lengths is not None:
                    return (*lengths, width), channels
        return None

    def make_plan(
        self, axes: Axes, lengths: Shape, channels: int, kept: bool, threads: int, shared: int
    ) -> TilePlan:
        """Make a plan, with its workspace and seconds."""
        *signals, width = lengths
        need = threads * self.memory(axes, width, channels, kept, tuple(signals))
        if kept and not self.prepared:
            t = self.axes_cost(axes)
            c, d = spectrum_part(self.g, t.taps + 2 * t.f_stage, self.traits)
            first = (t.taps + 2 * t.f_stage) * c * d * self.item
            first += work.fast_bytes(axes, self.traits.block_bytes, self.item)
            need = shared + max(need, threads * first)
        seconds = self.seconds(axes, lengths, channels, kept) * self.job.threads / threads
        return TilePlan(axes, lengths, channels, kept, threads, need, seconds)

    def smallest(self) -> TilePlan:
        """Return the plan that needs the least memory: one signal and one filter at a time."""
        g, small = self.g, []
        for axes in combinations(*(choices(g, a, 4) for a in range(g.rank))):
            for kept in (True,) if self.prepared else (True, False):
                lengths = (1,) * (g.rank + 2)
                whole = self.axes_cost(axes).q * 2 * prod(g.f_shape[-2:]) * self.item
                shared = whole if kept and not self.prepared else 0
                small.append(self.make_plan(axes, lengths, g.channels, kept, 1, shared))
        return min(small, key=lambda p: p.workspace)


def spectrum_part(g: Geometry, each: int, traits: Traits) -> tuple[int, int]:
    """Return (channels, filters) whose spectra, of `each` elements, a worker makes at a time."""
    c, d = g.f_shape[-2:]
    top = traits.block_bytes // 8
    while d > 8 and each * c * d > top:
        d = -(-d // 2)
    while c > 1 and each * c * d > top:
        c = -(-c // 2)
    while d > 1 and each * c * d > top:
        d = -(-d // 2)
    return c, d


def choice_count(g: Geometry, job: Job) -> int:
    """Return how many splits of an axis to compare: few for a small convolution."""
    if job.hard and g.multiply_adds >= FEW_TAPS * FEW_TAPS:  # the fastest may not fit
        return {1: 12, 2: 6}.get(g.rank, 3)
    if g.multiply_adds < SMALL or prod(g.kernel) < FEW_TAPS:
        return 1
    return {1: 8, 2: 4}.get(g.rank, 2)


def largest_fit(
    sizes: Shape, smallest: int, budget: int, bytes_of: Callable[[Shape], int]
) -> Shape | None:
    """Return the sides of the largest block within a budget of bytes, or None.

    A block has at least `smallest` signals.
    """
    one = bytes_of((1,) * len(sizes))
    if one > budget:
        return None
    n = max(min(prod(sizes), budget // max(one // 2, 1)), smallest)
    while n >= smallest:
        lengths = block_lengths(sizes, n)
        if bytes_of(lengths) <= budget:
            return lengths
        n = min(n - 1, n * 3 // 4)
    return None


def steps(n: int) -> Iterator[int]:
    """Enumerate n, n / 2 and so on, rounded up, down to 8; then 1."""
    while n > 8:
        yield n
        n = -(-n // 2)
    yield n
    if n > 1:
        yield 1


@cached(1024)
def correlation(g: Geometry, job: Job, traits: Traits, prepared: bool = False) -> TilePlan:
    """Choose the fastest plan of a forward convolution under the limit, else the smallest."""
    if job.batch_invariant and g.batch > 1:  # the plan must not depend on the batch
        one = correlation(replace(g, batch=1), job, traits, prepared)
        return replace(one, seconds=one.seconds * g.batch)
    search = Search(g, job, traits, prepared)
    found = min(search.plans(), key=lambda p: p.seconds, default=None)
    return search.smallest() if found is None else found
