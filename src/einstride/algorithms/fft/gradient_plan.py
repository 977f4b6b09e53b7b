"""Split a filter gradient by frequencies into units, by predicted time, under the limit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import product as combinations
from math import prod
from typing import TYPE_CHECKING

from einstride.algorithms.fft import plan as forward
from einstride.algorithms.fft import work
from einstride.algorithms.fft.axes import choices
from einstride.algorithms.fft.plan import (
    Axes,
    TilePlan,
    choice_count,
    largest_fit,
    slab_bytes,
    steps,
    units_of,
)
from einstride.geometry.blocking import Boxes
from einstride.geometry.keywords import Shape
from einstride.geometry.problem import Job
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Traits

TRIED = 3
"""Widths of units that are compared, the largest first: narrower ones only transform more often."""


class Search(forward.Search):
    """Enumerate the plans of one filter gradient, with memory and time."""

    def __init__(self, job: Job, traits: Traits) -> None:
        super().__init__(job.geometry, job, traits, False)
        g = self.g
        self.pointwise = g.groups > 1 and g.channels == g.groups

    def unit_counts(self, width: int, channels: int) -> tuple[int, int, int]:
        """Return the channels and filters of a unit, and how many pairs of them have taps."""
        c, d, _ = self.widths(width, channels)
        return c, d, c * d // (width if self.g.groups > 1 else 1)

    def sizes(self, axes: Axes, n: int, width: int, channels: int) -> dict[str, int]:
        """Count the elements of a worker's buffers, by name."""
        t = self.axes_cost(axes)
        c, d, pairs = self.unit_counts(width, channels)
        stage = max(t.x_stage * n * c, t.f_stage * pairs)
        sums = t.q * 2 * pairs
        return {
            "load": t.x * n * c, "y": t.y * n * d, "a": stage, "b": stage,
            "c": t.y_stage * n * d, "d": t.y_stage * n * d,
            "factor": t.q * 2 * n * d * (1 if self.pointwise else 2), "sum": sums,
            "product": 0 if self.pointwise else sums, "spectrum": 0 if self.pointwise else sums,
        }  # fmt: skip

    def unit_memory(self, axes: Axes, width: int, channels: int, lengths: Shape) -> int:
        """Count the bytes of one worker."""
        g, t = self.g, self.axes_cost(axes)
        c, d, _ = self.unit_counts(width, channels)
        total = sum(self.sizes(axes, prod(lengths), width, channels).values()) * self.item
        total += 2 * t.q * 2 * d * self.item if self.pointwise else 0  # sums over the signals
        total += work.fast_bytes(axes, self.traits.block_bytes, self.item)
        total += slab_bytes(g, self.job, axes, lengths, c)
        if any(a.tiles * a.outputs != o for a, o in zip(axes, g.out, strict=True)):
            slab = prod(n * a.outputs for n, a in zip(lengths[1:], axes, strict=True))
            total += lengths[0] * slab * d * self.job.operand_itemsize
        return total + total // 8  # an eighth for the library's own buffers

    def unit(
        self, axes: Axes, lengths: Shape, width: int, channels: int, threads: int, partial_sums: int
    ) -> TilePlan:
        """Make a plan, with its workspace and seconds."""
        g, job, t, r = self.g, self.job, self.axes_cost(axes), self.rates
        c, d, pairs = self.unit_counts(width, channels)
        n = prod(lengths)
        one = t.x_time(n * c) + t.y_time(n * d) + 10 * work.STEP
        one += n * (t.x * c + t.y * d) * r["turn"]
        if self.pointwise:
            one += t.q * 2 * n * d * 5 * r["plane"] + 8 * work.STEP
        else:
            groups = width if g.groups > 1 else 1
            slower = 1 + 8 * groups / c + 8 / (2 * n) + 8 * groups / d
            one += 4 * t.q * n * pairs * r["dft"] * slower + t.q * groups * work.CALL
            one += t.q * 2 * (2 * n * d + pairs) * r["plane"]
        parts = -(-units_of(g) // width) * (1 if g.groups > 1 else -(-g.channels // channels))
        sizes = (1 if job.per_example else g.batch, *(a.tiles for a in axes))
        units = parts * (g.batch if job.per_example else partial_sums)
        each = len(Boxes(sizes, lengths)) / partial_sums * one + t.f_time(pairs)
        need = threads * self.unit_memory(axes, width, channels, lengths)
        need += partial_sums * prod(g.f_shape) * job.itemsize if partial_sums > 1 else 0
        seconds = -(-units // threads) * each * job.threads
        return TilePlan(
            axes, (*lengths, width), channels, False, threads, need, seconds, partial_sums
        )

    def parts(self) -> Iterator[tuple[int, int]]:
        """Enumerate (width, channels) of units, the largest first."""
        g = self.g
        for width in steps(units_of(g)):
            if g.groups > 1:
                if width == 1 or width * max(g.channels, g.filters) // g.groups <= forward.WIDEST:
                    yield width, 1
                continue
            for channels in steps(g.channels):
                if width * 16 >= min(channels, g.filters) and channels * 16 >= min(
                    width, g.channels
                ):
                    yield width, channels

    def plans(self) -> Iterator[TilePlan]:
        """Enumerate the plans under the limit."""
        job, g, block = self.job, self.g, self.traits.block_bytes
        for axes in combinations(*(choices(g, a, choice_count(g, job)) for a in range(g.rank))):
            sizes = (1 if job.per_example else g.batch, *(a.tiles for a in axes))
            for threads in dict.fromkeys((job.threads, 1)):
                top, tried = job.limit // threads, 0
                for width, channels in self.parts():
                    known = set()
                    for budget in sorted({min(n, top) for n in (block, 3 * block, top)}):
                        lengths = largest_fit(
                            sizes, 1, budget,
                            partial(self.unit_memory, axes, width, channels),
                        )  # fmt: skip
                        if lengths is None or lengths in known:
                            continue
                        known.add(lengths)
                        for partial_sums in self.partial_sums(sizes, lengths, threads):
                            plan = self.unit(axes, lengths, width, channels, threads, partial_sums)
                            if plan.workspace <= job.limit:
                                yield plan
                    tried += bool(known)
                    if tried == TRIED:
                        break
                if tried:
                    break

    def partial_sums(self, sizes: Shape, lengths: Shape, threads: int) -> tuple[int, ...]:
        """Return the numbers of partial sums to compare."""
        if self.job.per_example or not self.traits.mutable:
            return (1,)
        return tuple(dict.fromkeys((1, min(threads, len(Boxes(sizes, lengths))))))

    def smallest(self) -> TilePlan:
        """Return the plan that needs the least memory."""
        g = self.g
        every = combinations(*(choices(g, a, 4) for a in range(g.rank)))
        small = (self.unit(axes, (1,) * (g.rank + 1), 1, g.channels, 1, 1) for axes in every)
        return min(small, key=lambda p: p.workspace)


@cached(1024)
def reduction(job: Job, traits: Traits) -> TilePlan:
    """Choose the fastest plan of a filter gradient under the limit, else the smallest."""
    g = job.geometry
    if job.batch_invariant and g.batch > 1:  # the plan must not depend on the batch
        one = reduction(replace(job, geometry=replace(g, batch=1)), traits)
        return replace(one, seconds=one.seconds * g.batch)
    search = Search(job, traits)
    found = min(search.plans(), key=lambda p: p.seconds, default=None)
    return search.smallest() if found is None else found
