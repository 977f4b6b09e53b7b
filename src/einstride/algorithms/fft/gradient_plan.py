"""How a filter gradient by frequencies is cut into units: by predicted time, below the ceiling."""

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
    Plan,
    fitting,
    most_choices,
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
"""Widths of units that are compared: still narrower ones only transform more often."""


class Search(forward.Search):
    """The plans of one filter gradient, to be compared."""

    def __init__(self, job: Job, traits: Traits) -> None:
        super().__init__(job.geometry, job, traits, False)
        g = self.g
        self.pointwise = g.groups > 1 and g.channels == g.groups

    def pairs(self, width: int, channels: int) -> tuple[int, int, int]:
        """Channels and filters of a unit, and how many pairs of them have taps."""
        c, d, _ = self.widths(width, channels)
        return c, d, c * d // (width if self.g.groups > 1 else 1)

    def sizes(self, axes: Axes, n: int, width: int, channels: int) -> dict[str, int]:
        """Elements of a worker's memory, by name."""
        t = self.frame(axes)
        c, d, pairs = self.pairs(width, channels)
        stage = max(t.x_stage * n * c, t.f_stage * pairs)
        sums = t.q * 2 * pairs
        return {
            "load": t.x * n * c, "y": t.y * n * d, "a": stage, "b": stage,
            "c": t.y_stage * n * d, "d": t.y_stage * n * d,
            "factor": t.q * 2 * n * d * (1 if self.pointwise else 2), "sum": sums,
            "product": 0 if self.pointwise else sums, "spectrum": 0 if self.pointwise else sums,
        }  # fmt: skip

    def unit_memory(self, axes: Axes, width: int, channels: int, lengths: Shape) -> int:
        """Bytes of one worker."""
        g, t = self.g, self.frame(axes)
        c, d, _ = self.pairs(width, channels)
        total = sum(self.sizes(axes, prod(lengths), width, channels).values()) * self.item
        total += 2 * t.q * 2 * d * self.item if self.pointwise else 0  # sums over the signals
        total += work.pieces_bytes(axes, self.traits.block_bytes, self.item)
        total += slab_bytes(g, self.job, axes, lengths, c)
        if any(a.tiles * a.outputs != o for a, o in zip(axes, g.out, strict=True)):
            slab = prod(n * a.outputs for n, a in zip(lengths[1:], axes, strict=True))
            total += lengths[0] * slab * d * self.job.operand_itemsize
        return total + total // 8  # the library's own, in transforms and products

    def unit(
        self, axes: Axes, lengths: Shape, width: int, channels: int, threads: int, shares: int
    ) -> Plan:
        """A plan with its figures."""
        g, job, t, r = self.g, self.job, self.frame(axes), self.rates
        c, d, pairs = self.pairs(width, channels)
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
        units = parts * (g.batch if job.per_example else shares)
        each = len(Boxes(sizes, lengths)) / shares * one + t.f_time(pairs)
        need = threads * self.unit_memory(axes, width, channels, lengths)
        need += shares * prod(g.f_shape) * job.itemsize if shares > 1 else 0
        seconds = -(-units // threads) * each * job.threads
        return Plan(axes, (*lengths, width), channels, False, threads, need, seconds, shares)

    def parts(self) -> Iterator[tuple[int, int]]:
        """(width, channels) of units, the largest first."""
        g = self.g
        for width in steps(units_of(g)):
            if g.groups > 1:
                if width == 1 or width * max(g.channels, g.filters) // g.groups <= forward.LINE:
                    yield width, 1
                continue
            for channels in steps(g.channels):
                if width * 16 >= min(channels, g.filters) and channels * 16 >= min(
                    width, g.channels
                ):
                    yield width, channels

    def plans(self) -> Iterator[Plan]:
        """Candidates below the ceiling."""
        job, g, block = self.job, self.g, self.traits.block_bytes
        for axes in combinations(*(choices(g, a, most_choices(g, job)) for a in range(g.rank))):
            sizes = (1 if job.per_example else g.batch, *(a.tiles for a in axes))
            for threads in dict.fromkeys((job.threads, 1)):
                top, tried = job.limit // threads, 0
                for width, channels in self.parts():
                    known = set()
                    for budget in sorted({min(n, top) for n in (block, 3 * block, top)}):
                        lengths = fitting(
                            sizes, 1, budget,
                            partial(self.unit_memory, axes, width, channels),
                        )  # fmt: skip
                        if lengths is None or lengths in known:
                            continue
                        known.add(lengths)
                        for shares in self.shares(sizes, lengths, threads):
                            plan = self.unit(axes, lengths, width, channels, threads, shares)
                            if plan.workspace <= job.limit:
                                yield plan
                    tried += bool(known)
                    if tried == TRIED:
                        break
                if tried:
                    break

    def shares(self, sizes: Shape, lengths: Shape, threads: int) -> tuple[int, ...]:
        """How many sums over parts of the positions to look at."""
        if self.job.per_example or not self.traits.mutable:
            return (1,)
        return tuple(dict.fromkeys((1, min(threads, len(Boxes(sizes, lengths))))))

    def smallest(self) -> Plan:
        """The plan that needs the least memory."""
        g = self.g
        every = combinations(*(choices(g, a, 4) for a in range(g.rank)))
        small = (self.unit(axes, (1,) * (g.rank + 1), 1, g.channels, 1, 1) for axes in every)
        return min(small, key=lambda p: p.workspace)


@cached(1024)
def reduction(job: Job, traits: Traits) -> Plan:
    """The quickest plan of a filter gradient below the ceiling, else the smallest."""
    g = job.geometry
    if job.batch_invariant and g.batch > 1:  # nothing may depend on how many there are
        one = reduction(replace(job, geometry=replace(g, batch=1)), traits)
        return replace(one, seconds=one.seconds * g.batch)
    search = Search(job, traits)
    found = min(search.plans(), key=lambda p: p.seconds, default=None)
    return search.smallest() if found is None else found
