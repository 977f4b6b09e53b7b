"""How a spectral convolution is cut into blocks: by predicted time, below the ceiling. Numbers."""

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
"""Multiply-adds of a convolution that is not worth a long search."""

FEW = 16
"""Taps of a filter that is not worth a long search."""

LINE = 512
"""Channels of groups that one block has, at most: more would only widen its memory."""


@dataclass(frozen=True)
class Plan:
    """Blocks of a spectral convolution.

    Attributes
    ----------
    axes : tuple of Axis
        How the spatial axes are tiled.
    lengths : tuple of int
        The largest block: examples, tiles on each axis, then groups (or, without groups, filters).
    channels : int
        Channels of x in one step, without groups; the steps are summed as spectra. A filter
        gradient has one step, and blocks of so many channels.
    kept : bool
        Is the filter's spectrum made once, beforehand?
    threads : int
        Blocks at once.
    workspace : int
        Bytes, all threads together.
    seconds : float
        Predicted.
    shares : int
        Of a filter gradient: sums over parts of the positions, side by side.
    """

    axes: Axes
    lengths: Shape
    channels: int
    kept: bool
    threads: int
    workspace: int
    seconds: float
    shares: int = 1

    @property
    def signals(self) -> int:
        """Examples times tiles of the largest block."""
        return prod(self.lengths[:-1])

    @property
    def width(self) -> int:
        """Groups, or filters, of the largest block."""
        return self.lengths[-1]


def slab_bytes(g: Geometry, job: Job, axes: Axes, lengths: Shape, c: int) -> int:
    """A copy of x with its border, where blocks need one: of examples and tiles."""
    inside = all(
        x.origin + x.first >= 0 and x.origin + x.first + (x.tiles - 1) * x.step + x.inputs <= s
        for x, s in zip(axes, g.size, strict=True)
    )
    if inside:
        return 0
    copies = 1 if g.padding_mode == "zeros" else 2
    return copies * lengths[0] * work.positions(axes, lengths[1:]) * c * job.operand_itemsize


def units_of(g: Geometry) -> int:
    """Groups, or filters without groups: what the last axis of blocks counts."""
    return g.groups if g.groups > 1 else g.filters


class Search:
    """The plans of one forward convolution, to be compared."""

    def __init__(self, g: Geometry, job: Job, traits: Traits, prepared: bool) -> None:
        self.g, self.job, self.traits, self.prepared = g, job, traits, prepared
        self.rates = rates(traits.library, job.arithmetic.compute)
        self.planes, self.item = work.planes_of(job), work.real_item(job)
        self._frames: dict[Axes, work.Frame] = {}

    def frame(self, axes: Axes) -> work.Frame:
        """Made once for each choice of axes."""
        found = self._frames.get(axes)
        if found is None:
            found = self._frames[axes] = work.frame(axes, self.planes, self.rates)
        return found

    def widths(self, width: int, channels: int) -> tuple[int, int, int]:
        """Channels and filters of a block, and channels under one filter."""
        g = self.g
        if g.groups > 1:
            inner = g.channels // g.groups
            return width * inner, width * (g.filters // g.groups), inner
        return channels, width, channels

    def memory(self, axes: Axes, width: int, channels: int, kept: bool, lengths: Shape) -> int:
        """Bytes of one worker."""
        t, n = self.frame(axes), prod(lengths)
        c, d, inner = self.widths(width, channels)
        total = n * (t.x * c + 2 * max(t.x_stage * c, t.y_stage * d))
        total += t.q * 2 * n * d * (2 if self.g.channels == self.g.groups else 3)
        total += n * t.y * d  # a copy, where blocks do not end with the tiles
        if not kept:
            total += (t.taps + 2 * t.f_stage) * inner * d
        total = total * self.item + work.pieces_bytes(axes, self.traits.block_bytes, self.item)
        total += slab_bytes(self.g, self.job, axes, lengths, c)
        return total + total // 8  # the library's own, in transforms and products

    def seconds(self, axes: Axes, lengths: Shape, channels: int, kept: bool) -> float:
        """Predicted, of all blocks on all threads."""
        g, t, r = self.g, self.frame(axes), self.rates
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

    def plans(self) -> Iterator[Plan]:
        """Candidates below the ceiling."""
        g, block = self.g, self.traits.block_bytes
        for axes in combinations(
            *(choices(g, a, most_choices(g, self.job)) for a in range(g.rank))
        ):
            whole = self.frame(axes).q * 2 * prod(g.f_shape[-2:]) * self.item
            for kept in (True, False) if whole > block // 2 and not self.prepared else (True,):
                shared = whole if kept and not self.prepared else 0
                for threads in dict.fromkeys((self.job.threads, 1)):
                    top = (self.job.limit - shared) // threads
                    known = set()
                    for budget in sorted({min(n, top) for n in (block // 2, 2 * block, top)}):
                        found = self.blocks(axes, budget, kept)
                        if found is not None and found not in known:
                            known.add(found)
                            plan = self.made(axes, *found, kept, threads, shared)
                            if plan.workspace <= self.job.limit:
                                yield plan
                    if known:
                        break

    def blocks(self, axes: Axes, budget: int, kept: bool) -> tuple[Shape, int] | None:
        """(lengths, channels) of the largest block within a budget of bytes; None if none is."""
        g = self.g
        ones = (1,) * (g.rank + 1)
        if self.memory(axes, 1, 1, kept, ones) > budget:
            return None
        sizes = (1 if self.job.batch_invariant else g.batch, *(x.tiles for x in axes))
        for width in steps(min(units_of(g), units_of(g) if kept or g.groups > 1 else 64)):
            if g.groups > 1 and width > 1 and width * (g.channels // g.groups) > LINE:
                continue
            for channels in (1,) if g.groups > 1 else steps(g.channels):
                # A filter that is transformed in every block should have but one.
                lengths = fitting(
                    sizes, prod(sizes) if not kept and g.groups == 1 else 1, budget,
                    partial(self.memory, axes, width, channels, kept),
                )  # fmt: skip
                if lengths is not None:
                    return (*lengths, width), channels
        return None

    def made(
        self, axes: Axes, lengths: Shape, channels: int, kept: bool, threads: int, shared: int
    ) -> Plan:
        """A plan with its figures."""
        *signals, width = lengths
        need = threads * self.memory(axes, width, channels, kept, tuple(signals))
        if kept and not self.prepared:
            t = self.frame(axes)
            c, d = kept_part(self.g, t.taps + 2 * t.f_stage, self.traits)
            first = (t.taps + 2 * t.f_stage) * c * d * self.item
            first += work.pieces_bytes(axes, self.traits.block_bytes, self.item)
            need = shared + max(need, threads * first)
        seconds = self.seconds(axes, lengths, channels, kept) * self.job.threads / threads
        return Plan(axes, lengths, channels, kept, threads, need, seconds)

    def least(self) -> Plan:
        """The plan that needs the least memory and still ends: one signal and filter at a time."""
        g, small = self.g, []
        for axes in combinations(*(choices(g, a, 4) for a in range(g.rank))):
            for kept in (True,) if self.prepared else (True, False):
                lengths = (1,) * (g.rank + 2)
                whole = self.frame(axes).q * 2 * prod(g.f_shape[-2:]) * self.item
                shared = whole if kept and not self.prepared else 0
                small.append(self.made(axes, lengths, g.channels, kept, 1, shared))
        return min(small, key=lambda p: p.workspace)


def kept_part(g: Geometry, each: int, traits: Traits) -> tuple[int, int]:
    """(channels, filters) whose spectra one worker makes at a time, of so many elements each."""
    c, d = g.f_shape[-2:]
    top = traits.block_bytes // 8
    while d > 8 and each * c * d > top:
        d = -(-d // 2)
    while c > 1 and each * c * d > top:
        c = -(-c // 2)
    while d > 1 and each * c * d > top:
        d = -(-d // 2)
    return c, d


def most_choices(g: Geometry, job: Job) -> int:
    """How many ways to cut an axis are looked at: few where little is at stake."""
    if job.hard and g.multiply_adds >= FEW * FEW:  # the quickest may not fit
        return {1: 12, 2: 6}.get(g.rank, 3)
    if g.multiply_adds < SMALL or prod(g.kernel) < FEW:
        return 1
    return {1: 8, 2: 4}.get(g.rank, 2)


def fitting(
    sizes: Shape, least: int, budget: int, bytes_of: Callable[[Shape], int]
) -> Shape | None:
    """The largest run of at least so many signals within a budget of bytes."""
    one = bytes_of((1,) * len(sizes))
    if one > budget:
        return None
    n = max(min(prod(sizes), budget // max(one // 2, 1)), least)
    while n >= least:
        lengths = block_lengths(sizes, n)
        if bytes_of(lengths) <= budget:
            return lengths
        n = min(n - 1, n * 3 // 4)
    return None


def steps(n: int) -> Iterator[int]:
    """n, n / 2 and so on, rounded up, to 8; then 1."""
    while n > 8:
        yield n
        n = -(-n // 2)
    yield n
    if n > 1:
        yield 1


@cached(1024)
def correlation(g: Geometry, job: Job, traits: Traits, prepared: bool = False) -> Plan:
    """The quickest plan of a forward convolution below the ceiling, else the smallest."""
    if job.batch_invariant and g.batch > 1:  # nothing may depend on how many there are
        one = correlation(replace(g, batch=1), job, traits, prepared)
        return replace(one, seconds=one.seconds * g.batch)
    search = Search(g, job, traits, prepared)
    found = min(search.plans(), key=lambda p: p.seconds, default=None)
    return search.least() if found is None else found
