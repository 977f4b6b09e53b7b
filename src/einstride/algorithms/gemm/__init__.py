"""Convolution as matrix products over blocks of output positions, each small enough for a cache.

For p output positions in a block, the rows of R (p, K * C) hold their windows (im2col), and

- forward          y = R F               F (K * C, D) is the filter as a matrix
- filter gradient  F' = sum R^T gy       over the blocks, in a fixed order
- input gradient   by stride phases (see `input_gradient_phases`): each a forward pass over gy

for every group. Blocks are independent, so a backend may run them in parallel.
Start with `im2col`, which makes the rows, then `forward`.

Error, per element of the result: at most n * u * sum |x| |f| for n products and u the unit
roundoff of the dtype of the products, 2 * sqrt(2) times that for complex numbers, plus one rounding
where the result's dtype is narrower (Jeannerod and Rump 2013): `accuracy="elementwise"` holds.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from einstride.algorithms.gemm.by_tap import by_tap, tap_plan
from einstride.algorithms.gemm.filter_gradient import filter_units, reduce
from einstride.algorithms.gemm.forward import correlate, position_tiles
from einstride.algorithms.gemm.per_example import example_tiles, reduce_each
from einstride.arrays.ops import adjoint_filter, flip, interleave, transpose_filter
from einstride.geometry import input_gradient_phases
from einstride.geometry.problem import Cost, Facts, Job

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits

RATED_THREADS = 2
"""Threads that share the blocks in the calibrated rates of products and copies on the host."""


def forward(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None = None, out: Array | None = None
) -> Array:
    """x (B, *S, C), f (*K, C // G, D) -> y (B, *O, D), plus the bias (D), in `out` if given."""
    g = job.geometry
    f = flip(f, g.rank, b) if g.flip else f
    return correlate(x, f, g, job, b, bias, out)


def filter_grad(
    x: Array, gy: Array, job: Job, b: Backend, bias: None = None, out: Array | None = None
) -> Array:
    """x (B, *S, C), gy (B, *O, D) -> gf (*K, C // G, D), or (B, *K, C // G, D) per example."""
    g = job.geometry
    first = 1 if job.per_example else 0
    destination = flip(out, g.rank, b, first) if g.flip and out is not None else out
    gf = (reduce_each if job.per_example else reduce)(x, gy, job, b, destination)
    if out is not None:
        return out
    return flip(gf, g.rank, b, first) if g.flip else gf


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None = None, out: Array | None = None
) -> Array:
    """gy (B, *O, D), f (*K, C // G, D) -> gx (B, *S, C), plus the bias (C), in `out` if given."""
    g, result = job.geometry, job.arithmetic.result
    phases = input_gradient_phases.phases(g)
    f = adjoint_filter(f, g.groups, g.flip, b) if phases.read_filter else f
    parts: dict[tuple[int, ...], Array] = {}
    for phase in phases:
        positions = phase.positions(g.stride)
        destination = None if out is None else out[(slice(None), *positions, ...)]
        if phase.geometry is not None:
            sub = flip(f[(*phase.taps, ...)], g.rank, b)
            parts[phase.remainder] = correlate(gy, sub, phase.geometry, job, b, bias, destination)
        elif destination is not None:
            destination[...] = 0 if bias is None else bias
        else:
            size = (len(range(s)[step]) for s, step in zip(g.size, positions, strict=True))
            zeros = b.zeros((g.batch, *size, g.channels), result, gy)
            parts[phase.remainder] = zeros if bias is None else zeros + b.astype(bias, result)
    if out is not None:
        return out
    if all(s == 1 for s in g.stride):
        return parts[(0,) * g.rank]
    return interleave(parts, g.stride, g.x_shape, b)


def supports(job: Job, traits: Traits) -> str | None:
    """Return None if this algorithm can do the job, else why not."""
    if job.batch_invariant and job.direction == "filter_grad" and not job.per_example:
        return "a filter gradient sums over the batch"
    if job.direction == "input_grad":
        return input_gradient_phases.refused(job.geometry)
    return None


def describe(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Facts:
    """Describe the blocks of the matrix products, and the number of threads."""
    g, traits = job.geometry, b.traits
    found: Facts = {
        "compiled": False,
        "kernel": "matrix products of the array library",
        "windows": "copied by a kernel of our own" if b.copy_rows else "copied from a view",
    }
    if job.per_example:
        each = example_tiles(job, traits)
        return found | {
            "cut": "by examples and positions", "blocks": len(each.boxes),
            "rows in a block": each.rows, "threads": each.threads,
        }  # fmt: skip
    if job.direction == "filter_grad":
        units = filter_units(job, traits)
        return found | {
            "cut": "by taps and channels" if units.parts == 1 else "by positions",
            "units": len(units.units), "blocks of a unit": len(units.units[0].boxes),
            "rows in a block": units.tiling.rows, "taps in a unit": prod(units.taps),
            "channels in a unit": units.channels, "partial sums": units.parts,
            "threads": units.tiling.threads,
        }  # fmt: skip
    passes, h, f = 1, g, second
    if job.direction == "input_grad":
        phases = [p for p in input_gradient_phases.phases(g) if p.geometry is not None]
        if not phases:
            return found | {"kernel": "none: no tap meets an element"}
        phase = max(phases, key=lambda p: p.geometry.multiply_adds if p.geometry else 0)
        positions = phase.positions(g.stride)
        out, passes, h = out[(slice(None), *positions, ...)], len(phases), phase.geometry or g
        f = transpose_filter(f, 1, b) if g.groups == 1 else f  # a cut by tap has one group
    split = by_tap(f, h, job, b, out if traits.mutable else None)
    if split is not None:
        plan, _ = split
        found |= {
            "cut": "by tap and channel", "units": sum(map(len, plan.by_thread)),
            "channels in a unit": plan.channels, "threads": len(plan.by_thread),
        }  # fmt: skip
    else:
        tiles = position_tiles(h, job, traits)
        found |= {
            "cut": "by positions", "blocks": len(tiles.boxes), "rows in a block": tiles.rows,
            "columns of a row": prod(h.f_shape[:-1]) * h.groups, "threads": tiles.threads,
        }  # fmt: skip
    return found | ({"passes": passes} if passes > 1 else {})


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Predict rows written once and read once, and products at the library's matrix rate."""
    g, item = job.geometry, job.itemsize
    if job.direction == "input_grad":
        geometries = [p.geometry for p in input_gradient_phases.phases(g) if p.geometry is not None]
    else:
        geometries = [g]
    n = moved = workspace = blocks = 0
    for h in geometries:
        positions = h.batch * prod(h.out)
        row = prod(h.f_shape[:-1]) * h.groups
        n += h.multiply_adds
        moved += 2 * positions * row * item
        if job.per_example:
            tiles = example_tiles(job, traits)
            workspace = tiles.workspace
            blocks += len(tiles.boxes)
        elif job.direction == "filter_grad":
            plan = filter_units(job, traits)
            workspace = plan.tiling.workspace
            blocks += sum(len(u.boxes) for u in plan.units)
        else:
            tiles = position_tiles(h, job, traits)
            taps = tap_plan(h, job)
            workspace = max(workspace, tiles.workspace, taps.workspace if taps else 0)
            blocks += len(tiles.boxes)
    moved += (prod(g.x_shape) + prod(g.f_shape) + prod(g.y_shape)) * item
    # The fewer columns, the slower a product; its inner length holds all taps and is rarely small.
    columns = (g.channels if job.direction == "input_grad" else g.filters) // g.groups
    slower = rates["thin"] if g.groups == 1 else rates["grouped"]
    rate = rates["matmul"] * (1 + slower / max(columns, 1))
    spread = RATED_THREADS / job.threads if traits.on_host else 1.0
    seconds = rates["call"] + blocks * rates["block"] + spread * (n * rate + moved * rates["copy"])
    if job.direction != "filter_grad":  # the BLAS of every thread packs the filter
        seconds += job.threads * prod(g.f_shape) * rates["plane"]
    return Cost(n, workspace, moved, seconds)
