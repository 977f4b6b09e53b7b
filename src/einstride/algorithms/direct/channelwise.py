"""Few channels in a group: depthwise layers, small groups, images, stencils; no windows are copied.

Every pass is a direct sum in registers, by kernels compiled for this machine's vectors
(`einstride.simd`). The input gradient is a forward pass for each of its stride phases.

Error, per element of the result: at most n * u * sum |x| |f| for n products and u the unit
roundoff of the dtype of the products, 2 * sqrt(2) times that for complex numbers, plus one rounding
where the result's dtype is narrower: `accuracy="elementwise"` holds. The order of a sum depends on
its geometry alone, so that the batch and the number of threads leave the bits alone.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from einstride import adjoint
from einstride.job import Cost, Job
from einstride.primitives import conjugate, flip, is_complex, transpose_filter
from einstride.simd import compiler
from einstride.simd import sheets

if TYPE_CHECKING:
    from einstride.backends import Array, Backend, Traits


def forward(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None = None, out: Array | None = None
) -> Array:
    """x (B, *S, C), f (*K, C // G, D) -> y (B, *O, D), plus the bias (D), in `out` if given."""
    g = job.geometry
    f = flip(f, g.rank, b) if g.flip else f
    return sheets.correlate(x, f, g, job, b, bias, out)


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None = None, out: Array | None = None
) -> Array:
    """gy (B, *O, D), f (*K, C // G, D) -> gx (B, *S, C), plus the bias (C), in `out` if given."""
    g = job.geometry
    f = conjugate(transpose_filter(f, g.groups, b), b)
    f = flip(f, g.rank, b) if g.flip else f
    out = b.empty(g.x_shape, job.arithmetic.result, gy) if out is None else out
    for phase in adjoint.phases(g):
        steps = tuple(slice(r, None, s) for r, s in zip(phase.remainder, g.stride, strict=True))
        place = out[(slice(None), *steps, ...)]
        if phase.geometry is None:
            place[...] = 0 if bias is None else bias
        else:
            sub = flip(f[(*phase.taps, ...)], g.rank, b)
            sheets.correlate(gy, sub, phase.geometry, job, b, bias, place)
    return out


def filter_grad(
    x: Array, gy: Array, job: Job, b: Backend, bias: None = None, out: Array | None = None
) -> Array:
    """x (B, *S, C), gy (B, *O, D) -> gf (*K, C // G, D), or (B, *K, C // G, D) per example."""
    g = job.geometry
    out = b.empty(job.shape, job.arithmetic.result, x) if out is None else out
    place = flip(out, g.rank, b, 1 if job.per_example else 0) if g.flip else out
    sheets.accumulate(x, gy, job, b, place)
    return out


def supports(job: Job, traits: Traits) -> str | None:
    """None if it can do the job, else why not."""
    g = job.geometry
    if traits.library != "numpy":
        return "its kernels read NumPy's memory"
    if not compiler.available():
        return compiler.MISSING
    if sheets.entries(g) > sheets.ENTRIES:
        return "its tables of borders would be too large"
    return None


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Arrays are read and written once; only the filter may be copied."""
    g, item = job.geometry, job.itemsize
    workspace = 3 * prod(g.f_shape) * item
    moved = (prod(g.x_shape) + prod(g.f_shape) + prod(g.y_shape)) * item
    seconds = rates["call"] + g.multiply_adds * rates["einsum"] * 1e-9
    return Cost(g.multiply_adds, workspace, moved, seconds)
