"""Split a convolution of few positions and many channels by tap and channel instead of by position.

In deep layers the filter is larger than the images. Split by position, every thread would read the
whole filter, pack it for BLAS and, in an input gradient, first copy it into another order. Split by
tap and channel, each thread reads its part of the filter once, in place:
y = sum over units of rows (p, c) F (c, D). The units of a thread are fixed beforehand and the
partial sums of the threads are added in order, so that equal calls give equal bits.
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
"""Taps of a filter that is split by tap, at most, because a plan lists the taps. A larger filter
goes with enough positions to occupy the threads, or is so large that a split saves little."""


@dataclass(frozen=True, slots=True)
class TapPlan:
    """The units that each thread computes.

    Attributes
    ----------
    by_thread : tuple of tuple of Unit
        The units of each thread, in the order in which it adds them.
    channels : int
        Input channels of the largest unit.
    workspace : int
        Bytes of all threads together.
    """

    by_thread: tuple[tuple[Unit, ...], ...]
    channels: int
    workspace: int


@cached(1024)
def tap_plan(g: Geometry, job: Job) -> TapPlan | None:
    """Plan the split by tap; None if a split by position is better or the limit is too low."""
    positions = g.batch * prod(g.out)
    if job.threads < 2 or g.groups > 1 or job.batch_invariant or positions > 2 * g.channels:
        return None
    if positions < 32 or g.channels < 64 or prod(g.f_shape) * job.itemsize < 1 << 20:
        return None
    if prod(g.kernel) > MOST_TAPS:
        return None
    taps = [tuple((i, i + 1) for i in tap) for tap in product(*map(range, g.kernel))]
    blocks = 1 if len(taps) % job.threads == 0 else job.threads
    channels = -(-g.channels // blocks)
    units = [
        (tap, (c, min(c + channels, g.channels)))
        for tap in taps
        for c in range(0, g.channels, channels)
    ]
    per_thread = -(-len(units) // job.threads)
    by_thread = tuple(tuple(units[i : i + per_thread]) for i in range(0, len(units), per_thread))
    lengths = (g.batch, *g.out)
    slab = slab_elements(g, lengths, (1,) * g.rank) * job.operand_itemsize
    each = (positions * (channels + 2 * g.filters)) * job.itemsize + slab
    if len(by_thread) * each > job.limit:
        return None
    return TapPlan(by_thread, channels, len(by_thread) * each)


def by_tap(
    f: Array, g: Geometry, job: Job, b: Backend, out: Array | None
) -> tuple[TapPlan, Array] | None:
    """Return the split by tap and the result as a matrix; None if it does not suit these arrays."""
    plan = tap_plan(g, job) if out is not None else None
    compute = job.arithmetic.compute
    if plan is None or not compute == job.arithmetic.result == b.dtype_name(f) or b.copied(f):
        return None
    matrix_out = merged(out, g.rank + 1, b)
    if (
        matrix_out is None
        or not has_contiguous_axis(matrix_out, b)
        or not has_contiguous_axis(f[(0,) * g.rank], b)
    ):
        return None
    return plan, matrix_out


def correlate_by_tap(
    x: Array, f: Array, g: Geometry, job: Job, b: Backend, out: Array | None
) -> bool:
    """Compute y = conv(x, f) into `out`, split by tap; do nothing and return False if unsuited."""
    found = by_tap(f, g, job, b, out)
    if found is None:
        return False
    plan, matrix_out = found
    compute = job.arithmetic.compute
    box = tuple((0, n) for n in (g.batch, *g.out))
    positions = matrix_out.shape[0]
    sums = [matrix_out] + [b.empty(matrix_out.shape, compute, x) for _ in plan.by_thread[1:]]

    def make() -> Callable[[int], None]:
        slab = slab_elements(g, (g.batch, *g.out), (1,) * g.rank)
        rows = Rows(x, g, positions * plan.channels, slab, compute, True, b)
        term = b.empty(matrix_out.shape, compute, x)

        def one(i: int) -> None:
            for n, (tap, (lo, hi)) in enumerate(plan.by_thread[i]):
                matrix = f[tuple(k for k, _ in tap)][lo:hi, :]
                if n == 0:
                    b.matmul(rows.of(box, tap, (lo, hi)), matrix, sums[i])
                else:
                    sums[i] += b.matmul(rows.of(box, tap, (lo, hi)), matrix, term)

        return one

    b.run(make, range(len(plan.by_thread)), len(plan.by_thread))
    for other in sums[1:]:
        matrix_out += other
    return True
