"""Few positions, many channels: the products of a convolution, cut by tap instead of by position.

Deep layers have a filter larger than their images. Cut by position, every thread would read all of
it, pack it for BLAS and, in an input gradient, first copy it into another order. Cut by tap and
channel, each thread reads its share once, as it lies: y = sum over units of rows (p, c) F (c, D).
The units of a thread are fixed beforehand and the threads' sums are added in order, so that the
same call gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING

from einstride.algorithms.gemm.im2col import Rows, slab_elements
from einstride.arrays.ops import has_contiguous_axis, merged
from einstride.geometry.blocking import Box
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Job
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend

Unit = tuple[Box, tuple[int, int]]
"""One tap, as ranges on the kernel's axes, and a range of channels."""


MOST_TAPS = 1 << 12
"""Taps of a filter that is cut by tap: a plan lists them. A filter of more has enough positions to
fill threads, or more gigabytes than they save."""


@dataclass(frozen=True, slots=True)
class TapPlan:
    """The units of each thread.

    Attributes
    ----------
    shares : tuple of tuple of Unit
        One for each thread.
    channels : int
        In the largest unit.
    workspace : int
        Bytes, all threads together.
    """

    shares: tuple[tuple[Unit, ...], ...]
    channels: int
    workspace: int


@cached(1024)
def tap_plan(g: Geometry, job: Job) -> TapPlan | None:
    """How to cut by tap, or None where cutting by position is better or the ceiling is too low."""
    positions = g.batch * prod(g.out)
    if job.threads < 2 or g.groups > 1 or job.batch_invariant or positions > 2 * g.channels:
        return None
    if positions < 32 or g.channels < 64 or prod(g.f_shape) * job.itemsize < 1 << 20:
        return None
    if prod(g.kernel) > MOST_TAPS:
        return None
    taps = [tuple((i, i + 1) for i in tap) for tap in product(*map(range, g.kernel))]
    cuts = 1 if len(taps) % job.threads == 0 else job.threads
    channels = -(-g.channels // cuts)
    units = [
        (tap, (c, min(c + channels, g.channels)))
        for tap in taps
        for c in range(0, g.channels, channels)
    ]
    share = -(-len(units) // job.threads)
    shares = tuple(tuple(units[i : i + share]) for i in range(0, len(units), share))
    lengths = (g.batch, *g.out)
    slab = slab_elements(g, lengths, (1,) * g.rank) * job.operand_itemsize
    each = (positions * (channels + 2 * g.filters)) * job.itemsize + slab
    if len(shares) * each > job.limit:
        return None
    return TapPlan(shares, channels, len(shares) * each)


def by_tap(
    f: Array, g: Geometry, job: Job, b: Backend, out: Array | None
) -> tuple[TapPlan, Array] | None:
    """The cut by tap and the result as a matrix; None where that does not serve these arrays."""
    plan = tap_plan(g, job) if out is not None else None
    compute = job.arithmetic.compute
    if plan is None or not compute == job.arithmetic.result == b.dtype_name(f) or b.copied(f):
        return None
    flat = merged(out, g.rank + 1, b)
    if (
        flat is None
        or not has_contiguous_axis(flat, b)
        or not has_contiguous_axis(f[(0,) * g.rank], b)
    ):
        return None
    return plan, flat


def correlate_by_tap(
    x: Array, f: Array, g: Geometry, job: Job, b: Backend, out: Array | None
) -> bool:
    """y = conv(x, f) into `out`, cut by tap; False, and nothing done, where that does not serve."""
    found = by_tap(f, g, job, b, out)
    if found is None:
        return False
    plan, flat = found
    compute = job.arithmetic.compute
    box = tuple((0, n) for n in (g.batch, *g.out))
    positions = flat.shape[0]
    sums = [flat] + [b.empty(flat.shape, compute, x) for _ in plan.shares[1:]]

    def make() -> Callable[[int], None]:
        slab = slab_elements(g, (g.batch, *g.out), (1,) * g.rank)
        rows = Rows(x, g, positions * plan.channels, slab, compute, True, b)
        term = b.empty(flat.shape, compute, x)

        def one(i: int) -> None:
            for n, (tap, (lo, hi)) in enumerate(plan.shares[i]):
                matrix = f[tuple(k for k, _ in tap)][lo:hi, :]
                if n == 0:
                    b.matmul(rows.of(box, tap, (lo, hi)), matrix, sums[i])
                else:
                    sums[i] += b.matmul(rows.of(box, tap, (lo, hi)), matrix, term)

        return one

    b.run(make, range(len(plan.shares)), len(plan.shares))
    for other in sums[1:]:
        flat += other
    return True
