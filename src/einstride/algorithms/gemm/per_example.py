"""Compute the filter gradient of each example: a stack of matrix products for each block."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

from einstride.algorithms.gemm.forward import row_tiles
from einstride.algorithms.gemm.im2col import Rows, slab_elements
from einstride.arrays.ops import box_index, conjugate, is_complex, split_groups
from einstride.geometry.blocking import Box, Boxes, Tiling
from einstride.geometry.problem import Job
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits


@cached(1024)
def example_tiles(job: Job, traits: Traits) -> Tiling:
    """Split examples and positions into blocks; a block's examples form a stack of products."""
    g, item = job.geometry, job.itemsize
    row = prod(g.f_shape[:-1]) * g.groups * item

    converted = any(name != job.arithmetic.compute for name in job.operands)
    conjugated = is_complex(job.arithmetic.compute)

    def bytes_of(lengths: tuple[int, ...]) -> int:
        slab = slab_elements(g, lengths, g.kernel) * job.operand_itemsize
        total = (3 + 2 * conjugated) * lengths[0] * prod(g.f_shape) * item
        gradient = g.filters * item * (1 + converted + conjugated)
        return prod(lengths) * (row + gradient) + slab + total

    return row_tiles(g, job, traits, row, bytes_of)


def reduce_each(x: Array, gy: Array, job: Job, b: Backend, out: Array | None) -> Array:
    """Compute gf (B, *K, C // G, D) before any flip; positions are added in a fixed order."""
    g, compute, xp = job.geometry, job.arithmetic.compute, b.xp
    plan = example_tiles(job, b.traits)
    taps = tuple((0, k) for k in g.kernel)
    inner = prod(g.f_shape[:-1])
    width = g.filters // g.groups
    spans = Boxes(tuple(g.out), plan.lengths[1:])
    batches = [
        (lo, min(lo + plan.lengths[0], g.batch)) for lo in range(0, g.batch, plan.lengths[0])
    ]

    def make() -> Callable[[tuple[int, int]], Array | None]:
        slab = slab_elements(g, plan.lengths, g.kernel)
        rows = Rows(x, g, plan.rows * inner * g.groups, slab, compute, True, b)

        def product(n: int, box: Box) -> Array:
            """Compute (n, G, K * C // G, D // G) for the n examples of a box."""
            r = rows.of(box, taps)
            r = r if g.groups > 1 else r[None, ...]  # (G, n * p, K * C // G)
            p = r.shape[1] // n
            r = xp.permute_dims(xp.reshape(r, (g.groups, n, p, inner)), (1, 0, 3, 2))
            c = b.astype(gy[box_index(box)], compute)
            c = split_groups(xp.reshape(c, (n, p, g.filters)), g.groups, b)
            c = conjugate(xp.permute_dims(c, (0, 2, 1, 3)), b)
            stack = None
            if out is not None:
                stack = b.empty((*r.shape[:-1], c.shape[-1]), job.sums, x)
            return b.matmul(r, c, stack)

        def one(batch: tuple[int, int]) -> Array | None:
            n = batch[1] - batch[0]
            total = product(n, (batch, *spans[0]))
            for i in range(1, len(spans)):
                total = total + product(n, (batch, *spans[i]))
            total = xp.reshape(total, (n, g.groups, *g.kernel, inner // prod(g.kernel), width))
            order = (0, *range(2, g.rank + 3), 1, g.rank + 3)
            total = conjugate(xp.reshape(xp.permute_dims(total, order), (n, *g.f_shape)), b)
            if out is None:
                return b.astype(total, job.arithmetic.result)
            out[batch[0] : batch[1], ...] = total
            return None

        return one

    found = b.run(make, batches, plan.threads)
    return out if out is not None else xp.concat(found, axis=0)
