"""Overlap-save: products of spectra, tile by tile, by matrices for short periods and FFT for long.

A tile of T outputs needs the x under it; over a period of L positions (see `axes`),

- forward          Y(w) = X(w) F(-w)         a product for each frequency w
- filter gradient  F'(w) = sum X(w) gy(-w)   over examples and tiles, brought back once
- input gradient   by stride phases (see `input_gradient_phases`): each a forward pass over gy

Up to 160 positions a transform is a real matrix product with just the positions that are wanted, so
that strides, dilations and zeros cost nothing; beyond, it is the library's FFT. Tiles, periods and
blocks are chosen by predicted time. Matrix products in the frequency domain mix the channels.

Error, of any element against the norms of the operands: c * u * log2(L) * ||x||_2 * ||f||_2 for a
period L by FFT, with u the unit roundoff of the planes (Higham 2002, theorem 24.2), and sqrt(L) in
the place of log2(L) for a period by matrix, whose sums have L terms; the terms of all axes add up.
`error_bound` evaluates it. It is no bound element by element: `accuracy="elementwise"` is refused,
and a NaN spreads over its tile.

Start with `axes` and `correlate`; `compiled` hands depthwise jobs to `einstride.cpu.fft`.
"""

from __future__ import annotations

from dataclasses import replace
from math import log2, prod, sqrt
from typing import TYPE_CHECKING, Any

from einstride.algorithms.fft import compiled
from einstride.algorithms.fft.axes import choices
from einstride.algorithms.fft.correlate import correlate, filter_spectrum
from einstride.algorithms.fft.gradient_plan import reduction
from einstride.algorithms.fft.plan import Plan, correlation
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
"""Results are rounded, even where all products and sums are integers."""

LONGEST = 1 << 26
"""Positions of an axis for which tiles and periods are looked for."""


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
    place = flip(out, g.rank, b, first) if g.flip and out is not None else out
    gf = reduce(x, gy, job, b, place)
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
    g, result, job = job.geometry, job.arithmetic.result, _within(job)
    phases = input_gradient_phases.phases(g)
    turned = adjoint_filter(f, g.groups, g.flip, b) if phases.read_filter else f
    parts: dict[tuple[int, ...], Array] = {}
    for i, phase in enumerate(phases):
        steps = tuple(slice(r, None, s) for r, s in zip(phase.remainder, g.stride, strict=True))
        place = None if out is None else out[(slice(None), *steps, ...)]
        if phase.geometry is not None:
            sub = flip(turned[(*phase.taps, ...)], g.rank, b)
            kept = None if prepared is None else prepared[i]
            parts[phase.remainder] = correlate(gy, sub, phase.geometry, job, b, bias, place, kept)
        elif place is not None:
            place[...] = 0 if bias is None else bias
        else:
            size = (len(range(s)[step]) for s, step in zip(g.size, steps, strict=True))
            zeros = b.zeros((g.batch, *size, g.channels), result, gy)
            parts[phase.remainder] = zeros if bias is None else zeros + b.astype(bias, result)
    if out is not None:
        return out
    if all(s == 1 for s in g.stride):
        return parts[(0,) * g.rank]
    return interleave(parts, g.stride, g.x_shape, b)


def prepare(f: Array, job: Job, b: Backend) -> Any:
    """What `forward` and `input_grad` take as `prepared`: spectra of the filter, for this job."""
    if _compiled(job, b.traits):
        return compiled.prepare(f, job, b)
    g = job.geometry
    if job.direction == "forward":
        f = flip(f, g.rank, b) if g.flip else f
        return (filter_spectrum(f, g, job, correlation(g, job, b.traits, True), b),)
    turned, job = adjoint_filter(f, g.groups, g.flip, b), _within(job)
    found: list[Array | None] = []
    for phase in input_gradient_phases.phases(g):
        h = phase.geometry
        if h is None:
            found.append(None)
            continue
        sub = flip(turned[(*phase.taps, ...)], g.rank, b)
        found.append(filter_spectrum(sub, h, job, correlation(h, job, b.traits, True), b))
    return tuple(found)


@cached(1024)
def _compiled(job: Job, traits: Traits) -> bool:
    """Will kernels of our own do it? Not where one channel leaves all lanes but one empty."""
    alone = job.geometry.channels == 1
    if not traits.compiled or (alone and (job.batch_invariant or job.direction == "filter_grad")):
        return False
    return compiled.supports(job, traits) is None


def supports(job: Job, traits: Traits) -> str | None:
    """None if it can do the job, else why not."""
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
    """The convolution, or those of an input gradient's stride phases."""
    if job.direction != "input_grad":
        return [job.geometry]
    return [
        p.geometry for p in input_gradient_phases.phases(job.geometry) if p.geometry is not None
    ]


def _plans(job: Job, traits: Traits) -> list[tuple[Geometry, Plan]]:
    job = _within(job)
    if job.direction == "filter_grad":
        return [(job.geometry, reduction(job, traits))]
    return [(h, correlation(h, job, traits)) for h in _geometries(job)]


def error_bound(job: Job, traits: Traits) -> float:
    """The largest error over ||x||_2 ||f||_2 that is to be expected of the plan of a job."""
    worst = 0.0
    for _, plan in _plans(job, traits):
        total = sum(log2(a.period) if a.fast else sqrt(a.period) for a in plan.axes)
        worst = max(worst, 6 * (3 * total + 2))
    return worst * UNIT_ROUNDOFF[job.sums]


def describe(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Facts:
    """Each axis' tiles and the length of their transforms, and whether kernels are compiled."""
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
    """Products of spectra; what is moved is each stage of a transform, once."""
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
    return Cost(n, workspace + _turning(job), moved, seconds)


def _turning(job: Job) -> int:
    """Bytes of the filter turned for an input gradient, and of what leads to it."""
    g = job.geometry
    if job.direction != "input_grad":
        return 0
    copies = 1 + (g.groups > 1) + job.arithmetic.compute.startswith("complex")
    return copies * prod(g.f_shape) * job.itemsize


def _within(job: Job) -> Job:
    """The job with what is left of its ceiling beside the turned filter."""
    return replace(job, limit=max(job.limit - _turning(job), 0)) if job.hard else job
