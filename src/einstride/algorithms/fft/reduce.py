"""Compute a filter gradient by frequencies: products of spectra, summed, transformed back once.

A unit is a part of the channels and filters, over some of the tiles. For each of its boxes of
tiles, X (Q, 2, n, c) times the spectrum G (Q, 2, n, d) of conj(gy), contracted over n, is added to
a sum of spectra. At the end the inverse transform computes the positions of the taps alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from einstride.algorithms.fft import work
from einstride.algorithms.fft.blocks import assemble, tiles_of_x, tiles_of_y
from einstride.algorithms.fft.correlate import real_of
from einstride.algorithms.fft.gradient_plan import Search, reduction
from einstride.algorithms.fft.plan import TilePlan
from einstride.algorithms.fft.planes import contract, copy, sum_signals, to_array, write_planes
from einstride.algorithms.fft.scratch import Scratch
from einstride.algorithms.fft.transforms import Transform
from einstride.geometry.blocking import Box, Boxes
from einstride.geometry.problem import Job

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend


@dataclass(frozen=True)
class Unit:
    """A part of a filter gradient: channels and filters (of whole groups), and boxes to sum over.

    `index` is the partial sum that it belongs to, or the example.
    """

    channels: tuple[int, int]
    filters: tuple[int, int]
    boxes: Sequence[Box]
    index: int


def units_of(job: Job, plan: TilePlan) -> tuple[list[Unit], tuple[int, ...]]:
    """List all units in row-major order, and count them on each axis of the result."""
    g = job.geometry
    tiles = tuple(a.tiles for a in plan.axes)
    lengths = plan.lengths[:-1]
    if job.per_example:
        spans = Boxes(tiles, lengths[1:])
        runs: list[Sequence[Box]] = [[((e, e + 1), *s) for s in spans] for e in range(g.batch)]
    else:
        every = Boxes((g.batch, *tiles), lengths)
        share = -(-len(every) // plan.partial_sums)
        runs = [every.part(i, i + share) for i in range(0, len(every), share)]
    if g.groups > 1:
        cg, r = g.channels // g.groups, g.filters // g.groups
        steps = [(lo, min(lo + plan.width, g.groups)) for lo in range(0, g.groups, plan.width)]
        parts = [((lo * cg, hi * cg), (lo * r, hi * r)) for lo, hi in steps]
        counts = (1, len(steps))
    else:
        cs = [(i, min(i + plan.channels, g.channels)) for i in range(0, g.channels, plan.channels)]
        ds = [(i, min(i + plan.width, g.filters)) for i in range(0, g.filters, plan.width)]
        parts = [(c, d) for c in cs for d in ds]
        counts = (len(cs), len(ds))
    units = [Unit(c, d, boxes, i) for i, boxes in enumerate(runs) for c, d in parts]
    return units, (len(runs), *(1,) * g.rank, *counts)


def reduce(x: Array, gy: Array, job: Job, b: Backend, out: Array | None) -> Array:
    """Compute gf (*K, C // G, D), or (B, *K, C // G, D) per example, before any flip."""
    g, result = job.geometry, job.arithmetic.result
    plan = reduction(job, b.traits)
    units, counts = units_of(job, plan)
    totals: list[Array] = []
    if out is not None:
        if job.per_example:
            totals = [out[i, ...] for i in range(g.batch)]
        elif counts[0] == 1:
            totals = [out]
        else:
            totals = [b.empty(g.f_shape, job.sums, x) for _ in range(counts[0])]

    def make() -> Callable[[Unit], Array | None]:
        worker = _Worker(job, plan, x, b)

        def one(unit: Unit) -> Array | None:
            p = worker.gradient(x, gy, unit)
            if out is None:
                found = to_array(p, result, b)
                return b.xp.conj(found) if p.shape[0] == 2 else found
            lo, hi = unit.channels if g.groups == 1 else (0, g.channels // g.groups)
            write_planes(p, totals[unit.index][..., lo:hi, slice(*unit.filters)], conjugated=True)
            return None

        return one

    found = b.run(make, units, plan.threads)
    if out is None:
        if job.per_example:
            found = [part[None, ...] for part in found]
            return assemble(found, counts, b)
        return assemble(found, counts[1:], b)
    if not job.per_example and len(totals) > 1:
        for other in totals[1:]:
            totals[0] += other
        out[...] = totals[0]
    return out


class _Worker:
    """One worker's memory and transforms."""

    def __init__(self, job: Job, plan: TilePlan, like: Array, b: Backend) -> None:
        self._g, self._plan, self._b = job.geometry, plan, b
        self._u, self._dtype = work.planes_of(job), real_of(job)
        sizes = Search(job, b.traits).sizes(plan.axes, plan.signals, plan.width, plan.channels)
        self._memory = Scratch(sizes, self._u, self._dtype, like, b)
        axes, u, dtype = plan.axes, self._u, self._dtype
        self._x = Transform(axes, tuple(a.x_positions for a in axes), u, -1, dtype, like, b)
        self._y = Transform(axes, tuple(a.y_positions for a in axes), u, 1, dtype, like, b, "cd")
        self._f = Transform(axes, tuple(a.f_positions for a in axes), u, 1, dtype, like, b)

    def gradient(self, x: Array, gy: Array, unit: Unit) -> Array:
        """Return planes (u, *K, c, d) of the sum of x conj(gy), the conjugate of the gradient."""
        g, b, xp, axes, memory = self._g, self._b, self._b.xp, self._plan.axes, self._memory
        c, d = unit.channels[1] - unit.channels[0], unit.filters[1] - unit.filters[0]
        groups = c // (g.channels // g.groups) if g.groups > 1 else 1
        total: Array = None
        for box in unit.boxes:
            n = prod(hi - lo for lo, hi in box)
            xs = tiles_of_x(x, g, axes, box, unit.channels, self._dtype, memory, b)
            xs = xp.reshape(xs, (*xs.shape[: g.rank + 1], -1))
            xs = self._x.analyse(xs, memory)
            ys = tiles_of_y(gy, axes, box, unit.filters, True, self._dtype, memory, b, "y")
            ys = xp.reshape(ys, (*ys.shape[: g.rank + 1], -1))
            ys = self._y.analyse(ys, memory)
            q = xs.shape[0]
            ys = xp.reshape(ys, (q, 2, n, groups, d // groups))
            if g.groups > 1 and c == groups:
                total = sum_signals(xp.reshape(xs, (q, 2, n, groups, 1)), ys, total, memory, b)
            else:
                total = contract(xp.reshape(xs, (q, 2 * n, c)), ys, groups, total, memory, b)
        spectrum = total
        if not (g.groups > 1 and c == groups):  # (Q, G, c, 2, r) -> (Q, 2, c, G, r)
            spectrum = copy(xp.permute_dims(total, (0, 3, 2, 1, 4)), memory, "spectrum", b)
        found = self._f.synthesise(xp.reshape(spectrum, (spectrum.shape[0], 2, -1)), memory)
        return xp.reshape(found, (self._u, *g.kernel, c // groups, d))
