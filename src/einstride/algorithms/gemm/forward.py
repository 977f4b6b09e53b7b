"""Compute a forward convolution by matrix products: rows of windows times the filter, in blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from einstride.algorithms.gemm.by_tap import correlate_by_tap
from einstride.algorithms.gemm.im2col import Rows, slab_elements
from einstride.arrays.ops import (
    add,
    box_index,
    groups_first,
    has_contiguous_axis,
    is_complex,
    merged,
    row_major,
    split_groups,
)
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.blocking import SMALL, Box, Boxes, Tiling, tile
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Job
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits


def filter_matrix(f: Array, g: Geometry, compute: str, b: Backend) -> tuple[Array, bool]:
    """Return the filter as a matrix F, and True if its rows are ordered (K, C), not (C, K).

    F is (K * C, D) for one group, else (G, K * C // G, D // G); a view wherever f allows one.
    """
    n, xp = g.rank, b.xp
    readable = b.dtype_name(f) == compute and not b.copied(f)
    if g.groups > 1:
        split = split_groups(f, g.groups, b)
        matrix = merged(split, n + 1, b) if readable else None
        if matrix is not None:
            return xp.permute_dims(matrix, (1, 0, 2)), True
        split = xp.permute_dims(split, (n + 1, *range(n + 1), n + 2))
        shape = (g.groups, prod(g.f_shape[:-1]), g.filters // g.groups)
        return xp.reshape(row_major(split, compute, b), shape), True
    if readable:
        orders: tuple[tuple[tuple[int, ...], bool], ...] = (
            (tuple(range(n + 2)), True),
            ((n, *range(n), n + 1), False),
        )
        for order, inner in orders:
            matrix = merged(xp.permute_dims(f, order), n + 1, b)
            if matrix is not None and has_contiguous_axis(matrix, b):
                return matrix, inner
    rows = prod(g.f_shape[:-1])
    if b.strides is not None and abs(b.strides(f)[-2]) < abs(b.strides(f)[-1]):
        # The input channels are contiguous in memory: copying them as spans is many times faster.
        reordered = xp.permute_dims(f, (n + 1, *range(n + 1)))
        reordered = xp.reshape(row_major(reordered, compute, b), (g.filters, rows))
        return xp.matrix_transpose(reordered), True
    return xp.reshape(row_major(f, compute, b), (rows, g.filters)), True


def filter_bytes(g: Geometry, job: Job) -> int:
    """Count the bytes of copies of f: the matrix of `g`, and the copies made on the way to it.

    An input gradient exchanges the channels of the whole filter; a stride phase `g` takes some of
    its taps.
    """
    backwards, size = job.direction == "input_grad", max(job.itemsize, ITEMSIZE[job.operands[1]])
    whole = (backwards and g.groups > 1) + (backwards and is_complex(job.arithmetic.compute))
    matrix = 1 + (job.operands[1] != job.arithmetic.compute)
    return size * (whole * prod(job.geometry.f_shape) + matrix * prod(g.f_shape))


@cached(1024)
def position_tiles(g: Geometry, job: Job, traits: Traits) -> Tiling:
    """Split the output positions of `correlate` into blocks."""
    row = prod(g.f_shape[:-1]) * g.groups * job.itemsize
    operand = job.operand_itemsize
    matrix = filter_bytes(g, job)

    def bytes_of(lengths: tuple[int, ...]) -> int:
        slab = slab_elements(g, lengths, g.kernel) * operand
        return prod(lengths) * (row + g.filters * job.itemsize) + slab

    return row_tiles(g, job, traits, row, bytes_of, matrix)


def row_tiles(
    g: Geometry,
    job: Job,
    traits: Traits,
    row: int,
    bytes_of: Callable[[tuple[int, ...]], int],
    shared: int = 0,
) -> Tiling:
    """Split output positions, whose rows have `row` bytes each, into blocks for threads.

    Where results must not depend on the batch, the blocks are those of a batch of one.
    """
    batch, work = g.batch, g.multiply_adds
    if job.batch_invariant:
        batch, work = 1, work // max(g.batch, 1)
    found = tile(
        (batch, *g.out),
        max(traits.block_bytes // max(row, 1), 1),
        job.threads if work > SMALL else 1,
        job.limit if job.hard else job.limit + shared,
        bytes_of,
        shared,
    )
    return replace(found, boxes=Boxes((g.batch, *g.out), found.lengths))


def correlate(
    x: Array, f: Array, g: Geometry, job: Job, b: Backend, bias: Array | None, out: Array | None
) -> Array:
    """Compute y (B, *O, D) = conv(x, f) + bias without flip; the result lies in `out` if given."""
    plan = position_tiles(g, job, b.traits)
    compute, result = job.arithmetic.compute, job.arithmetic.result
    if correlate_by_tap(x, f, g, job, b, out):
        if bias is not None and out is not None:
            add(out, b.astype(bias, result), b)
        return out
    matrix, inner = filter_matrix(f, g, compute, b)
    taps = tuple((0, k) for k in g.kernel)
    bias = None if bias is None else b.astype(bias, job.sums)
    # Multiply into the result unless the bias would be added in a dtype narrower than the sums'.
    in_result = result == job.sums or (result == compute and bias is None)
    width = prod(g.f_shape[:-1]) * g.groups

    flat = merged(out, g.rank + 1, b) if out is not None and in_result else None
    flat = flat if flat is not None and has_contiguous_axis(flat, b) else None

    def make() -> Callable[[Box], Array | None]:
        slab = slab_elements(g, plan.lengths, g.kernel)
        rows = Rows(x, g, plan.rows * width, slab, compute, inner, b)
        staging: list[Array] = []  # a buffer for results that `matmul` cannot write to `out`

        def one(box: Box) -> Array | None:
            r = rows.of(box, taps)
            if out is None:
                y = _flat(b.matmul(r, matrix, None), g, b)
                return b.astype(y if bias is None else y + bias, result)
            in_out = flat is not None
            if flat is not None:  # a box is a contiguous span of positions
                at = plan.boxes.first_position(box)
                y = flat[at : at + prod(hi - lo for lo, hi in box)]
            else:
                destination = out[box_index(box)]  # (n, *o, D)
                y = merged(destination, g.rank + 1, b) if in_result else None
                in_out = y is not None and has_contiguous_axis(y, b)
            if not in_out:
                if not staging:
                    staging.append(b.empty((plan.rows * g.filters,), job.sums, x))
                positions = prod(destination.shape[:-1])
                y = b.xp.reshape(staging[0][: positions * g.filters], (positions, g.filters))
            b.matmul(r, matrix, groups_first(y, g.groups, b))
            if bias is not None:
                y += bias
            if not in_out:
                destination[...] = b.xp.reshape(y, destination.shape)
            return None

        return one

    blocks = b.run(make, plan.boxes, plan.threads)
    return out if out is not None else b.xp.reshape(b.xp.concat(blocks, axis=0), g.y_shape)


def _flat(stack: Array, g: Geometry, b: Backend) -> Array:
    """Return (G, p, D // G) as (p, D)."""
    if g.groups == 1:
        return stack
    return b.xp.reshape(b.xp.permute_dims(stack, (1, 0, 2)), (stack.shape[1], g.filters))
