"""Convolution by Winograd's minimal filtering, for filters of 2 to 7 taps per axis and stride 1.

F(m, r) computes m outputs of r taps from a = m + r - 1 products instead of m r (see `cook_toom` for
its matrices A, B and G; on several axes they are Kronecker products). On tiles d of the input, m
positions apart,

- forward          y = A^T [(G f) (B^T d)]           products over the channels, at each point
- filter gradient  f' = G^T sum (B^T d)^T (A gy)     over the tiles, in a fixed order
- input gradient   the forward pass over gy, its filter flipped and transposed

F(4x4, 3x3) takes 36 products where the definition takes 144. The steps run on blocks of tiles that
stay in cache. A dilated convolution is computed by phases. The first axis of a volume may be summed
directly, over transforms on the other two axes (`plan`).

Start with `tile_transforms`, the steps on one block of arrays; `compiled` calls the kernels of
`einstride.cpu.winograd`.

Error: bounded by the norms only, so `accuracy="elementwise"` is refused, and a NaN or Inf reaches
all outputs of its tiles. `geometry.winograd_error` predicts its root mean square against that of
the exact result, and bounds it in the worst case; in float32 with 64 channels 3e-7 are expected for
F(2x2, 3x3) and 2e-6 for F(4x4, 3x3). Tiles that lose more against a plain sum than its
`MOST_GROWTH` are never used.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from einstride.algorithms.winograd import compiled
from einstride.algorithms.winograd.array_passes import correlate, reduce, transformed
from einstride.algorithms.winograd.plan import BlockPlan, choose_plan
from einstride.arrays.ops import adjoint_filter, flip, is_complex
from einstride.geometry import input_gradient_phases
from einstride.geometry.arithmetic import UNIT_ROUNDOFF
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Cost, Facts, Job
from einstride.geometry.tile_sizes import work
from einstride.geometry.winograd_error import expected_error

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits

EXACT = False
"""False: results are rounded, even where all products and sums are integers."""


def forward(
    x: Array, f: Array, job: Job, b: Backend,
    bias: Array | None = None, out: Array | None = None, prepared: Any = None,
) -> Array:  # fmt: skip
    """x (B, *S, C), f (*K, C // G, D) -> y (B, *O, D), plus the bias (D), in `out` if given."""
    if _compiled(job, b.traits):
        return compiled.forward(x, f, job, b, bias, out, prepared)
    return _correlate(x, f, job, b, bias, out, prepared)


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend,
    bias: Array | None = None, out: Array | None = None, prepared: Any = None,
) -> Array:  # fmt: skip
    """gy (B, *O, D), f (*K, C // G, D) -> gx (B, *S, C), plus the bias (C), in `out` if given."""
    if _compiled(job, b.traits):
        return compiled.input_grad(gy, f, job, b, bias, out, prepared)
    return _correlate(gy, f, job, b, bias, out, prepared)


def filter_grad(
    x: Array, gy: Array, job: Job, b: Backend, bias: None = None, out: Array | None = None
) -> Array:
    """x (B, *S, C), gy (B, *O, D) -> gf (*K, C // G, D), in `out` if given."""
    g = job.geometry
    if _compiled(job, b.traits):
        return compiled.filter_grad(x, gy, job, b, bias, out)
    destination = flip(out, g.rank, b) if g.flip and out is not None else out
    gf = reduce(x, gy, _plan(g, job, b.traits), job, b, destination)
    if out is not None:
        return out
    return flip(gf, g.rank, b) if g.flip else gf


def prepare(f: Array, job: Job, b: Backend) -> Any:
    """Return the plan and the transformed filter: `prepared` of forward pass and input gradient.

    The transform (taps, Q, C // G, D) has Q / K times as many elements as f.
    """
    if _compiled(job, b.traits):
        return compiled.prepare(f, job, b)
    g = _pass_geometry(job)
    plan = _plan(g, job, b.traits, prepared=True)
    return plan, transformed(_pass_filter(f, job, b), plan.tile_sizes, g, job, b)


def _compiled(job: Job, traits: Traits) -> bool:
    """True if compiled kernels of einstride do the job."""
    return traits.compiled and compiled.supports(job, traits) is None


def _correlate(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Array | None, prepared: Any
) -> Array:
    """Compute a forward pass, or an input gradient as a forward pass over gy."""
    g = _pass_geometry(job)
    if prepared is not None:
        plan, u = prepared
        return correlate(x, f, plan, g, job, b, bias, out, u)
    plan = _plan(g, job, b.traits)
    return correlate(x, _pass_filter(f, job, b), plan, g, job, b, bias, out, None)


def _pass_geometry(job: Job) -> Geometry:
    """Return the geometry of the forward pass that computes a job."""
    if job.direction != "input_grad":
        return job.geometry
    (phase,) = input_gradient_phases.phases(job.geometry)  # only one: the stride is 1
    if phase.geometry is None:
        raise RuntimeError("an input gradient of stride 1 has a term for every element")
    return phase.geometry


def _pass_filter(f: Array, job: Job, b: Backend) -> Array:
    """Return the filter of the forward pass that computes a job."""
    g = job.geometry
    if job.direction != "input_grad":
        return flip(f, g.rank, b) if g.flip else f
    return adjoint_filter(f, g.groups, not g.flip, b)


def _plan(g: Geometry, job: Job, traits: Traits, prepared: bool = False) -> BlockPlan:
    plan = choose_plan(g, job, traits, prepared)
    if isinstance(plan, str):
        raise RuntimeError(f"winograd runs only what it supports: {plan}")
    return plan


def supports(job: Job, traits: Traits) -> str | None:
    """Return None if this algorithm can do the job, else why not."""
    if _compiled(job, traits):
        return None
    g = job.geometry
    if job.arithmetic.exact:
        return "its divisions are not exact on integers"
    if job.accuracy == "elementwise":
        return "its error is bounded by the norms, not for each element"
    if max(g.stride) > 1:
        return "the stride must be 1: most of its outputs would be discarded"
    if g.groups > 1 and min(g.channels, g.filters) == g.groups:
        return "one channel in a group leaves no matrix products"
    if job.per_example:
        return "it sums over the batch, not for each example"
    if job.batch_invariant and job.direction == "filter_grad":
        return "a filter gradient sums over the batch"
    plan = choose_plan(_pass_geometry(job), job, traits)
    return plan if isinstance(plan, str) else None


def describe(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Facts:
    """Describe the tile F(m, r) of each axis, its error, the blocks, and the kernels."""
    if _compiled(job, b.traits):
        return compiled.describe(job)
    plan = _plan(_pass_geometry(job), job, b.traits)
    tile_sizes = plan.tile_sizes
    axes = {
        f"axis {a}": f"F({m}, {r})" if r > 1 else "taps summed directly"
        for a, (m, r) in enumerate(zip(tile_sizes.m, tile_sizes.kernel, strict=True))
    }
    found: Facts = {
        "tile": str(tile_sizes),
        "axes": axes,
        "compiled": False,
        "kernel": "matrix products of arrays",
        "error": _error(plan, job),
        "blocks": len(plan.blocks),
        "tiles in a block": prod(plan.counts),
        "threads": plan.threads,
    }
    if job.direction != "filter_grad":
        return found | {"filters at once": plan.slab}
    units = plan.parts * plan.slabs  # a unit: some blocks for some channels, done by one thread
    return found | {"units": units, "channels in a unit": plan.slab, "partial sums": plan.parts}


def _error(plan: BlockPlan, job: Job) -> str:
    """Format the predicted error of a plan."""
    gradient = job.direction == "filter_grad"
    terms = plan.tile_sizes.terms(_pass_geometry(job), gradient) * (
        2 if is_complex(job.sums) else 1
    )
    error = (
        expected_error(plan.tile_sizes.outputs_and_taps, gradient, terms) * UNIT_ROUNDOFF[job.sums]
    )
    return f"{error:.0e} normwise"


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Predict products at the library's matrix rate, slower transforms, and copies of tiles."""
    if _compiled(job, traits):
        return compiled.cost(job, traits, rates)
    g = _pass_geometry(job)
    plan = _plan(g, job, traits)
    counted = work(g, plan.tile_sizes, job.direction == "filter_grad", plan.slabs, len(plan.blocks))
    tiles = counted.moved * job.itemsize
    moved = tiles + (prod(g.x_shape) + prod(g.f_shape) + prod(g.y_shape)) * job.itemsize
    columns = min(g.filters, g.channels) // g.groups
    slower = rates["thin"] if g.groups == 1 else rates["grouped"]
    products = (
        counted.products * (1 + slower / max(columns, 1)) + counted.transforms * rates["transform"]
    )
    seconds = (
        rates["call"]
        + len(plan.blocks) * plan.slabs * rates["block"]
        + products * rates["matmul"] * -(-job.threads // plan.threads)
        + tiles * rates["tiles"]
    )
    note = f"{plan.tile_sizes}, error {_error(plan, job)}"
    return Cost(counted.products + counted.transforms, plan.workspace, moved, seconds, note)
