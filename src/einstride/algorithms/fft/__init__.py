"""Convolution as products of Fourier spectra, tile by tile (overlap-save).

A tile of T outputs reads a range of x; over a period of L positions (see `axes`),

- forward          Y(w) = X(w) F(-w)         a product for each frequency w
- filter gradient  F'(w) = sum X(w) gy(-w)   over examples and tiles; one inverse transform
- input gradient   by stride phases (see `input_gradient_phases`): each a forward pass over gy

Up to 160 positions a transform is a real matrix product over the positions needed alone, so that
strides, dilations and zeros cost nothing; longer transforms are the library's FFT. Tiles, periods
and blocks are chosen by predicted time. Channels are summed by matrix products, one per frequency.

Error, of any element against the norms of the operands: c * u * log2(L) * ||x||_2 * ||f||_2 for a
period L by FFT, with u the unit roundoff of the planes (Higham 2002, theorem 24.2), and sqrt(L)
instead of log2(L) for a period by matrix, whose sums have L terms; the terms of all axes add up.
`error_bound` evaluates it. It is no bound element by element: `accuracy="elementwise"` is refused,
and a NaN spreads over its tile.

Start with `axes` and `correlate`; `compiled` calls the depthwise kernels of `einstride.cpu.fft`.
"""

from __future__ import annotations

from dataclasses import replace
from math import log2, prod, sqrt
from typing import TYPE_CHECKING, Any

from einstride.algorithms.fft import compiled
from einstride.algorithms.fft.axes import choices
from einstride.algorithms.fft.correlate import correlate, filter_spectrum
from einstride.algorithms.fft.gradient_plan import reduction
from einstride.algorithms.fft.plan import TilePlan, correlation
from einstride.algorithms.fft.reduce import reduce
from einstride.algorithms.fft.work import frequencies, planes_of
from einstride.arrays.ops import adjoint_filter, flip, interleave
from einstride.geometry import input_gradient_phases
from einstride.geometry.arithmetic import UNIT_ROUNDOFF
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Cost, Facts, Job
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits

EXACT = False
"""False: results are rounded, even where all products and sums are integers."""

LONGEST = 1 << 40
"""Positions of an axis, at most: for longer ones no tiles and periods are searched."""


def forward(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None = None, out: Array | None = None,
    prepared: Any = None,
) -> Array:  # fmt: skip
    """x (B, *S, C), f (*K, C // G, D) -> y (B, *O, D), plus the bias (D), in `out` if given."""
    if _compiled(job, b.traits):
        return compiled.forward(x, f, job, b, bias, out, prepared)
    g = job.geometry
    f = flip(f, g.rank, b) if g.flip else f
    return correlate(x, f, g, job, b, bias, out, None if prepared is None else prepared[0])


def filter_grad(
    x: Array, gy: Array, job: Job, b: Backend, bias: None = None, out: Array | None = None
) -> Array:
    """x (B, *S, C), gy (B, *O, D) -> gf (*K, C // G, D), or (B, *K, C // G, D) per example."""
    if _compiled(job, b.traits):
        return compiled.filter_grad(x, gy, job, b, bias, out)
    g = job.geometry
    first = 1 if job.per_example else 0
    destination = flip(out, g.rank, b, first) if g.flip and out is not None else out
    gf = reduce(x, gy, job, b, destination)
    if out is not None:
        return out
    return flip(gf, g.rank, b, first) if g.flip else gf


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None = None, out: Array | None = None,
    prepared: Any = None,
) -> Array:  # fmt: skip
    """gy (B, *O, D), f (*K, C // G, D) -> gx (B, *S, C), plus the bias (C), in `out` if given."""
    if _compiled(job, b.traits):
        return compiled.input_grad(gy, f, job, b, bias, out, prepared)
    g, result, job = job.geometry, job.arithmetic.result, _within_limit(job)
    phases = input_gradient_phases.phases(g)
    adjoint = adjoint_filter(f, g.groups, g.flip, b) if phases.read_filter else f
    parts: dict[tuple[int, ...], Array] = {}
    for i, phase in enumerate(phases):
        positions = phase.positions(g.stride)
        destination = None if out is None else out[(slice(None), *positions, ...)]
        if phase.geometry is not None:
            sub = flip(adjoint[(*phase.taps, ...)], g.rank, b)
            spectrum = None if prepared is None else prepared[i]
            parts[phase.remainder] = correlate(
                gy, sub, phase.geometry, job, b, bias, destination, spectrum
            )
        elif destination is not None:
            destination[...] = 0 if bias is None else bias
        else:
            size = (len(range(s)[at]) for s, at in zip(g.size, positions, strict=True))
            zeros = b.zeros((g.batch, *size, g.channels), result, gy)
            parts[phase.remainder] = zeros if bias is None else zeros + b.astype(bias, result)
    if out is not None:
        return out
    if all(s == 1 for s in g.stride):
        return parts[(0,) * g.rank]
    return interleave(parts, g.stride, g.x_shape, b)


def prepare(f: Array, job: Job, b: Backend) -> Any:
    """Return `prepared` of `forward` and `input_grad`: the filter's spectra for this job."""
    if _compiled(job, b.traits):
        return compiled.prepare(f, job, b)
    g = job.geometry
    if job.direction == "forward":
        f = flip(f, g.rank, b) if g.flip else f
        return (filter_spectrum(f, g, job, correlation(g, job, b.traits, True), b),)
    adjoint, job = adjoint_filter(f, g.groups, g.flip, b), _within_limit(job)
    found: list[Array | None] = []
    for phase in input_gradient_phases.phases(g):
        h = phase.geometry
        if h is None:
            found.append(None)
            continue
        sub = flip(adjoint[(*phase.taps, ...)], g.rank, b)
        found.append(filter_spectrum(sub, h, job, correlation(h, job, b.traits, True), b))
    return tuple(found)


@cached(1024)
def _compiled(job: Job, traits: Traits) -> bool:
    """True if compiled kernels of einstride do the job.

    The lanes of a vector hold tiles of all examples if there is one channel: no kernel does that
    for one example alone, nor for a filter gradient of several filters.
    """
    g = job.geometry
    per_example = job.per_example and g.batch > 1
    several = per_example or g.filters > 1
    gradient = job.direction == "filter_grad"
    if g.channels == 1 and (job.batch_invariant or (gradient and several)):
        return False
    if not traits.compiled:
        return False
    if compiled.supports(job, traits) is not None:
        return False
    if g.channels == 1 and gradient and job.hard:  # array code takes as little memory as is asked
        return compiled.workspace(job) <= job.limit
    return True


def supports(job: Job, traits: Traits) -> str | None:
    """Return None if this algorithm can do the job, else why not."""
    if _compiled(job, traits):
        return None
    if job.arithmetic.exact:
        return "integers must be exact, and spectra are rounded"
    if job.accuracy == "elementwise":
        return "its error is bounded by norms, not element by element"
    if not traits.has_fft:
        return "its blocks have no transforms"
    if job.direction == "input_grad" and (reason := input_gradient_phases.refused(job.geometry)):
        return reason
    if max(job.geometry.size) > LONGEST:
        return f"an axis is longer than {LONGEST} positions"
    if not all(choices(h, a, 1) for h in _geometries(job) for a in range(h.rank)):
        return "the filter reaches over more positions than the longest transform has"
    if job.batch_invariant and job.direction == "filter_grad" and not job.per_example:
        return "a filter gradient sums over the batch"
    return None


def _geometries(job: Job) -> list[Geometry]:
    """List the convolutions of a job: one, or one per stride phase of an input gradient."""
    if job.direction != "input_grad":
        return [job.geometry]
    return [
        p.geometry for p in input_gradient_phases.phases(job.geometry) if p.geometry is not None
    ]


def _plans(job: Job, traits: Traits) -> list[tuple[Geometry, TilePlan]]:
    job = _within_limit(job)
    if job.direction == "filter_grad":
        return [(job.geometry, reduction(job, traits))]
    return [(h, correlation(h, job, traits)) for h in _geometries(job)]


def error_bound(job: Job, traits: Traits) -> float:
    """Bound the error of a job's plan, relative to ||x||_2 ||f||_2."""
    worst = 0.0
    for _, plan in _plans(job, traits):
        total = sum(log2(a.period) if a.fast else sqrt(a.period) for a in plan.axes)
        worst = max(worst, 6 * (3 * total + 2))
    return worst * UNIT_ROUNDOFF[job.sums]


def describe(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Facts:
    """Describe the tiles and the transform length of each axis, and the kernels."""
    if _compiled(job, b.traits):
        return compiled.describe(job)
    plans = _plans(job, b.traits)
    if not plans:
        return {"compiled": False, "kernel": "none: no tap meets an element"}
    _, plan = max(plans, key=lambda found: found[0].multiply_adds)
    found: Facts = {
        "transforms": {
            f"axis {a}": f"length {x.period} by {'FFT' if x.fast else 'matrix'}, "
            f"{x.tiles} tiles of {x.outputs} outputs"
            for a, x in enumerate(plan.axes)
        },
        "compiled": False,
        "kernel": "FFTs and matrix products of the array library",
        "error": f"{error_bound(job, b.traits):.0e} ||x|| ||f||",
        "tiles in a block": plan.signals,
        "threads": plan.threads,
    }
    if job.direction != "filter_grad":
        found["filter"] = "transformed once, first" if plan.kept else "transformed in each block"
    return found | ({"passes": len(plans)} if len(plans) > 1 else {})


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Predict products of spectra, and each stage of a transform moved once."""
    if _compiled(job, traits):
        return compiled.cost(job, traits, rates)
    n = moved = workspace = 0
    seconds = rates["call"]
    for h, plan in _plans(job, traits):
        q = frequencies(plan.axes, planes_of(job))
        tiles = prod(a.tiles for a in plan.axes)
        n += 2 * q * h.batch * tiles * prod(h.f_shape[-2:])
        moved += 8 * q * h.batch * tiles * (h.channels + h.filters) * job.itemsize
        workspace = max(workspace, plan.workspace)
        seconds += plan.seconds + rates["block"]
    return Cost(n, workspace + _adjoint_bytes(job), moved, seconds)


def _adjoint_bytes(job: Job) -> int:
    """Count the bytes of an input gradient's filter with channels exchanged, and of its copies."""
    g = job.geometry
    if job.direction != "input_grad":
        return 0
    copies = 1 + (g.groups > 1) + job.arithmetic.compute.startswith("complex")
    return copies * prod(g.f_shape) * job.itemsize


def _within_limit(job: Job) -> Job:
    """Return the job with its hard limit reduced by the copies of the filter."""
    return replace(job, limit=max(job.limit - _adjoint_bytes(job), 0)) if job.hard else job
