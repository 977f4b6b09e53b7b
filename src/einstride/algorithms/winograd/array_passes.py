"""Run minimal filtering on blocks of tiles by array operations: forward pass and filter gradient.

This module orders the three steps of `tile_transforms` and `tile_gemm`, and allocates their
buffers.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

from einstride.algorithms.winograd.plan import (
    BlockPlan,
    filter_rows,
    frame_of,
    gradient_term,
    x_tile_counts,
)
from einstride.algorithms.winograd.tile_gemm import accumulate, products, write_outputs
from einstride.algorithms.winograd.tile_grid import BlockRange, Phase
from einstride.algorithms.winograd.tile_transforms import Frame, Transform, constant, slice_tiles
from einstride.arrays.ops import conjugate, interleave, is_complex
from einstride.geometry.blocking import SMALL, Box
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Job
from einstride.geometry.tile_sizes import TileSizes

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend

Block = tuple[Phase, Box]


def transformed(
    f: Array,
    s: TileSizes,
    g: Geometry,
    job: Job,
    b: Backend,
    columns: tuple[int, int] | None = None,
) -> Array:
    """Transform the filter: u (taps, Q, C // G, D) = G f, for a range of the filters D."""
    xp, (lo, hi) = b.xp, columns or (0, g.filters)
    matrix = constant(s, "taps", job.sums, f, b)
    inner, width = f.shape[-2], hi - lo
    shape = (s.taps, s.points, inner, width)
    u = b.empty(shape, job.sums, f) if b.traits.mutable else None

    def one(unit: tuple[int, int, int]) -> Array:
        k, c0, c1 = unit
        part = f[k : k + 1, ...] if s.taps > 1 else f
        part = b.astype(part[..., c0:c1, lo:hi], job.sums)
        part = xp.reshape(part, (prod(s.kernel), (c1 - c0) * width))
        return b.matmul(matrix, part, None if u is None else _flat(u[k, :, c0:c1, :], b))

    step = inner if u is None else filter_rows(width, b.traits)
    units = [(k, c, min(c + step, inner)) for k in range(s.taps) for c in range(0, inner, step)]
    work = prod(s.kernel) * prod(shape)
    found = b.run(lambda: one, units, job.threads if work > SMALL else 1)
    return u if u is not None else xp.reshape(xp.stack(found, axis=0), shape)


def _flat(stack: Array, b: Backend) -> Array:
    """Return (Q, ...) as a matrix."""
    return b.xp.reshape(stack, (stack.shape[0], prod(stack.shape[1:])))


def correlate(
    x: Array, f: Array, plan: BlockPlan, g: Geometry, job: Job, b: Backend,
    bias: Array | None, out: Array | None, u: Array | None,
) -> Array:  # fmt: skip
    """Compute y (B, *O, D) = conv(x, f) + bias without flip; `u` is the transformed f, if known."""
    bias = None if bias is None else b.astype(bias, job.sums)
    if out is None:
        u = transformed(f, plan.tile_sizes, g, job, b) if u is None else u
        return b.astype(_immutable(x, u, plan, g, job, b, bias), job.arithmetic.result)
    if u is not None:
        _slab(x, u, plan, g, job, b, bias, out)
        return out
    for lo in range(0, g.filters, plan.slab):
        hi = min(lo + plan.slab, g.filters)
        slab_filter = transformed(f, plan.tile_sizes, g, job, b, (lo, hi))
        _slab(
            x, slab_filter, plan, g, job, b, None if bias is None else bias[lo:hi], out[..., lo:hi]
        )
        del slab_filter  # before the next one is made
    return out


def _slab(
    x: Array, u: Array, plan: BlockPlan, g: Geometry, job: Job, b: Backend,
    bias: Array | None, out: Array,
) -> None:  # fmt: skip
    """Compute the output channels whose transformed filters are u, into `out`."""
    s, width = plan.tile_sizes, u.shape[-1]

    def make() -> Callable[[Block], None]:
        counts, x_counts = plan.counts, x_tile_counts(plan.counts, s.taps)
        transform = _transform(x, frame_of(g, s), x_counts, s, "data", job, b)
        v = b.empty((s.points * prod(x_counts) * g.channels,), job.sums, x)
        sums = b.empty((s.points * prod(counts) * width,), job.sums, x)
        term = None
        if s.taps > 1:
            term = b.empty((s.points * prod(counts[1:]) * width,), job.sums, x)
        buffer = b.empty((2 * prod(s.m) * slice_tiles(counts, width) * width,), job.sums, x)

        def one(block: Block) -> None:
            t, at = _sides(block), BlockRange(*block, s, g)
            batch, x_sides = block[1][0], x_tile_counts(t, s.taps)
            rows = _stack(v, s, prod(x_sides), g.channels, b)
            transform.of(batch, at.starts, at.reach, x_sides[1:], rows)
            total = _stack(sums, s, prod(t), width, b)
            products(rows, u, total, _stack(term, s, prod(t[1:]), width, b), t, g.groups, b)
            y = out[(slice(*batch), *at.outputs, ...)]
            write_outputs(total, s, t, y, at.limits, bias, buffer, b)

        return one

    b.run(make, plan.blocks, plan.threads)


def _transform(
    x: Array, frame: Frame, counts: tuple[int, ...], s: TileSizes, which: str, job: Job, b: Backend,
    conjugated: bool = False,
) -> Transform:  # fmt: skip
    """Make a worker's transform for boxes of at most `counts` tiles."""
    channels = x.shape[-1]
    gather = prod(frame.window) * slice_tiles(counts, channels) * channels
    slab = frame.slab(counts, channels)
    return Transform(x, frame, s, which, job.sums, slab, gather, b, conjugated)


def _stack(buffer: Any, s: TileSizes, tiles: int, channels: int, b: Backend) -> Array | None:
    """Return the beginning of a flat buffer as (Q, p, C)."""
    if buffer is None:
        return None
    return b.xp.reshape(buffer[: s.points * tiles * channels], (s.points, tiles, channels))


def _sides(block: Block) -> tuple[int, ...]:
    """Return the sides (n, *t) of a block."""
    return tuple(hi - lo for lo, hi in block[1])


def _immutable(
    x: Array, u: Array, plan: BlockPlan, g: Geometry, job: Job, b: Backend, bias: Array | None
) -> Array:
    """Compute y for libraries with immutable arrays: phase by phase, in spans of examples."""
    s = plan.tile_sizes
    transform = Transform(x, frame_of(g, s), s, "data", job.sums, 0, 0, b)

    def one(block: Block) -> Array:
        t, at = _sides(block), BlockRange(*block, s, g)
        rows = transform.of(block[1][0], at.starts, at.reach, x_tile_counts(t, s.taps)[1:], None)
        total = products(rows, u, None, None, t, g.groups, b)
        return write_outputs(total, s, t, None, at.limits, bias, None, b)

    found: dict[Phase, list[Array]] = {}
    for block, y in zip(plan.blocks, b.run(lambda: one, plan.blocks, 1), strict=True):
        found.setdefault(block[0], []).append(y)
    phases = {p.first: b.xp.concat(parts, axis=0) for p, parts in found.items()}
    if len(phases) == 1:
        return next(iter(phases.values()))
    return interleave(phases, g.dilation, g.y_shape, b)


def reduce(x: Array, gy: Array, plan: BlockPlan, job: Job, b: Backend, out: Array | None) -> Array:
    """Compute gf (*K, C // G, D) = conj(G^T sum (B^T x)^T (A conj(gy))), before any flip.

    A unit sums some blocks for some channels of x. The bits do not depend on the number of threads,
    because neither do the units nor the order of sums in a unit, and parts are added in order.
    """
    g, s = job.geometry, plan.tile_sizes
    gathered = constant(s, "taps^T", job.sums, x, b)
    slabs = [(lo, min(lo + plan.slab, g.channels)) for lo in range(0, g.channels, plan.slab)]
    units = [(part, span) for part in range(plan.parts) for span in slabs]
    parts: list[Any] = [out] * plan.parts
    if plan.parts > 1:
        parts = [b.empty(g.f_shape, job.sums, x) for _ in parts]

    def make() -> Callable[[tuple[int, tuple[int, int]]], Array | None]:
        counts, x_counts = plan.counts, x_tile_counts(plan.counts, s.taps)
        shape: tuple[int, ...] = (plan.slab, g.filters)
        if g.groups > 1:
            shape = (g.groups, plan.slab // g.groups, g.filters // g.groups)
        v: Any = None
        z: Any = None
        total: Any = None
        term: Any = None
        if out is not None:
            v = b.empty((s.points * prod(x_counts) * plan.slab,), job.sums, x)
            z = b.empty((s.points * prod(counts) * g.filters,), job.sums, x)
            total = b.empty((s.taps * s.points * prod(shape),), job.sums, x)
            term = b.empty((gradient_term(s, prod(shape), b.traits),), job.sums, x)
        frame, outputs = frame_of(g, s), Frame(s.m, s.m, g.dilation)
        of_gy = _transform(gy, outputs, counts, s, "output^T", job, b, is_complex(job.sums))

        def one(unit: tuple[int, tuple[int, int]]) -> Array | None:
            part, (lo, hi) = unit
            of_x = _transform(x[..., lo:hi], frame, x_counts, s, "data", job, b)
            sums: list[Any] = [None] * s.taps
            sides = (hi - lo, g.filters) if g.groups == 1 else shape
            total_view = None
            if total is not None:
                total_view = b.xp.reshape(
                    total[: s.taps * s.points * prod(sides)], (s.taps, s.points, *sides)
                )
            for i in range(part, len(plan.blocks), plan.parts):
                block = plan.blocks[i]
                t, at, batch = _sides(block), BlockRange(*block, s, g), block[1][0]
                x_sides = x_tile_counts(t, s.taps)
                rows = _stack(v, s, prod(x_sides), hi - lo, b)
                rows = of_x.of(batch, at.starts, at.reach, x_sides[1:], rows)
                columns = _stack(z, s, prod(t), g.filters, b)
                starts = [o.start for o in at.outputs]
                columns = of_gy.of(batch, starts, at.limits, t[1:], columns)
                accumulate(sums, rows, columns, total_view, term, t, g.groups, b)
            taps = [b.matmul(gathered, _flat(total, b), None) for total in sums]
            found = _as_filter(taps, s, sides, g, b)
            if out is None:
                return found
            inner = slice(lo, hi) if g.groups == 1 else slice(None)
            parts[part][(..., inner, slice(None))] = found
            return None

        return one

    found = b.run(make, units, plan.threads)
    if out is None:
        return b.astype(found[0], job.arithmetic.result)
    if plan.parts > 1:
        for other in parts[1:]:
            parts[0] += other
        out[...] = parts[0]
    return out


def _as_filter(
    taps: list[Array], s: TileSizes, sides: tuple[int, ...], g: Geometry, b: Backend
) -> Array:
    """Return the matrices (K, C * D) of the direct taps as (*K, c, D), conjugated."""
    found = b.xp.concat(taps, axis=0) if len(taps) > 1 else taps[0]
    if g.groups == 1:
        return conjugate(b.xp.reshape(found, (*g.kernel, *sides)), b)
    found = b.xp.reshape(found, (prod(g.kernel), *sides))
    found = b.xp.permute_dims(found, (0, 2, 1, 3))
    return conjugate(b.xp.reshape(found, (*g.kernel, sides[1], g.filters)), b)
