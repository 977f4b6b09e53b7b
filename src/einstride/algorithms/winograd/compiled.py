"""Call the compiled kernels of Winograd's minimal filtering on NumPy arrays: see `cpu.winograd`.

`winograd` uses this module where `supports` returns None. Complex arrays are filtered as real ones
of twice the channels (`complex_as_real`). The bits of a result depend neither on the number of
threads nor on the memory order of the operands.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from einstride.arrays.ops import adjoint_filter, flip, is_complex
from einstride.codegen import jit
from einstride.cpu import complex_as_real
from einstride.cpu.runtime.operands import (
    contiguous_channels,
    operand,
    packed,
    result_array,
    viewable_as_pairs,
)
from einstride.geometry import input_gradient_phases
from einstride.geometry.arithmetic import ITEMSIZE, UNIT_ROUNDOFF
from einstride.geometry.channel_slices import by_groups, each_group
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Cost, Facts, Job
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits
    from einstride.cpu.winograd.plan import ForwardPlan, GradientPlan
    from einstride.cpu.winograd.tables import FilteredAxes

DTYPES = ("float32", "float64", "complex64", "complex128")
LEAST = 16
"""Channels of a group, at least: smaller groups do not fill the vectors of these kernels."""

SMALL = 1 << 22
"""Multiply-adds up to which one thread computes: waking a second one takes longer than it saves."""

TABLES = 8 << 20
"""Bytes of offset tables, at most; a job that needs more is left to other algorithms."""


def forward(
    x: Array, f: Array, job: Job, b: Backend,
    bias: Array | None = None, out: Array | None = None, prepared: Any = None,
) -> Array:  # fmt: skip
    """x (B, *S, C), f (*K, C // G, D) -> y (B, *O, D), plus the bias (D), in `out` if given."""
    if job.geometry.groups > 1:
        return by_groups(forward, job.geometry.y_shape, x, f, job, b, bias, out, prepared)
    return _correlate(x, f, job, b, bias, out, prepared)


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend,
    bias: Array | None = None, out: Array | None = None, prepared: Any = None,
) -> Array:  # fmt: skip
    """gy (B, *O, D), f (*K, C // G, D) -> gx (B, *S, C), plus the bias (C), in `out` if given."""
    if job.geometry.groups > 1:
        return by_groups(input_grad, job.geometry.x_shape, gy, f, job, b, bias, out, prepared)
    return _correlate(gy, f, job, b, bias, out, prepared)


def filter_grad(
    x: Array, gy: Array, job: Job, b: Backend, bias: None = None, out: Array | None = None
) -> Array:
    """x (B, *S, C), gy (B, *O, D) -> gf (*K, C // G, D), in `out` if given."""
    from einstride.cpu.winograd import calls

    if job.geometry.groups > 1:
        return by_groups(filter_grad, job.geometry.f_shape, x, gy, job, b, None, out)
    g, compute, needs = job.geometry, job.arithmetic.compute, _needs(job)
    axes, _ = _choice(job, prepared=False)
    gf = b.empty(g.f_shape, job.arithmetic.result, x) if out is None else out
    destination, x, gy = result_array(gf, b, *needs), operand(x, b, *needs), operand(gy, b, *needs)
    run, written = g, destination
    if is_complex(compute):
        run, x, gy = (
            complex_as_real.doubled(g),
            complex_as_real.floats(x),
            complex_as_real.floats(gy),
        )
        written = b.empty(run.f_shape, complex_as_real.real(compute), x)
    calls.filter_grad(x, gy, run, axes, written, b.launch, _threads(job), _kernel_limit(job))
    if written is not destination:
        complex_as_real.combine(written, destination)
    if destination is not gf:
        gf[...] = destination
    return gf


def prepare(f: Array, job: Job, b: Backend) -> Any:
    """Return the transformed filter: `prepared` of the forward pass and input gradient."""
    from einstride.cpu.winograd import calls

    if job.geometry.groups > 1:
        return [prepare(f[p.second], p.job, b) for p in each_group(job)]
    axes, _ = _choice(job, prepared=True)
    return axes, calls.prepare(
        _kernel_filter(f, job, b),
        _real_geometry(_pass_geometry(job), job),
        axes,
        b.launch,
        _threads(job),
    )


def _correlate(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Array | None, prepared: Any
) -> Array:
    """Compute a forward pass, or an input gradient as a forward pass over gy."""
    from einstride.cpu.winograd import calls

    g, compute, needs = _pass_geometry(job), job.arithmetic.compute, _needs(job)
    axes, u = prepared or (_choice(job, prepared=False)[0], None)
    y = b.empty(g.y_shape, job.arithmetic.result, x) if out is None else out
    destination = result_array(y, b, *needs)
    bias = None if bias is None else operand(bias, b, compute, packed)
    x, written = operand(x, b, *needs), destination
    if is_complex(compute):
        x, written = complex_as_real.floats(x), complex_as_real.floats(destination)
        bias = None if bias is None else complex_as_real.floats(bias)
    calls.forward(
        x, None if u else _kernel_filter(f, job, b), _real_geometry(g, job), axes, bias, written,
        b.launch, _threads(job), _kernel_limit(job), u,
    )  # fmt: skip
    if destination is not y:
        y[...] = destination
    return y


def _threads(job: Job) -> int:
    return job.threads if job.geometry.multiply_adds > SMALL else 1


def _needs(job: Job) -> tuple[str, Any]:
    """Return the dtype of the kernels and the predicate on strides: the arguments of `operand`."""
    compute = job.arithmetic.compute
    return compute, viewable_as_pairs if is_complex(compute) else contiguous_channels


def _pass_geometry(job: Job) -> Geometry:
    """Return the geometry of the forward pass of a job, without flip: `_kernel_filter` flips f."""
    if job.direction == "forward":
        return replace(job.geometry, flip=False)
    (phase,) = input_gradient_phases.phases(job.geometry)  # only one: the stride is 1
    if phase.geometry is None:
        raise RuntimeError("an input gradient of stride 1 has a term for every element")
    return phase.geometry


def _real_geometry(g: Geometry, job: Job) -> Geometry:
    """Return the geometry of the kernels: complex channels count twice."""
    return complex_as_real.doubled(g) if is_complex(job.arithmetic.compute) else g


def _kernel_filter(f: Array, job: Job, b: Backend) -> Array:
    """Return the filter of a job's forward pass for the kernels: a view unless it is converted."""
    f = _pass_filter(f, job, b)
    return complex_as_real.filters(f) if is_complex(job.arithmetic.compute) else f


def _pass_filter(f: Array, job: Job, b: Backend) -> Array:
    g, f = job.geometry, operand(f, b, job.arithmetic.compute)
    if job.direction == "forward":
        return flip(f, g.rank, b) if g.flip else f
    return adjoint_filter(f, g.groups, not g.flip, b)


@cached(1024)
def _choice(job: Job, prepared: bool) -> tuple[FilteredAxes, float]:
    from einstride.cpu.winograd.choice import choose_axes

    gradient = job.direction == "filter_grad"
    g = _real_geometry(job.geometry if gradient else _pass_geometry(job), job)
    if job.batch_invariant:
        g = replace(g, batch=1)
    item = ITEMSIZE[complex_as_real.real(job.arithmetic.compute)]
    found = choose_axes(g, item, _threads(job), jit.host_target(), gradient, prepared)
    if found is None:
        raise RuntimeError("compiled Winograd runs only what it supports")
    return found


@cached(1024)
def supports(job: Job, traits: Traits) -> str | None:
    """Return None if the compiled kernels can do the job, else why not."""
    from einstride.cpu.winograd.choice import candidates

    g, a = job.geometry, job.arithmetic
    if traits.kernels != "cpu":
        return f"there are no kernels of our own for {traits.library}"
    if not jit.available():
        return jit.MISSING
    if a.compute not in DTYPES or a.exact:
        return f"kernels of minimal filtering compute {' and '.join(DTYPES)}, not {a.compute}"
    if job.accuracy == "elementwise":
        return "its error is bounded by the norms, not for each element"
    if g.groups > 1:
        if min(g.channels, g.filters) < LEAST * g.groups:
            return f"kernels of minimal filtering take groups of {LEAST} channels or more"
        return None if job.empty else supports(each_group(job)[0].job, traits)
    if job.per_example:
        return "it sums over the batch, not for each example"
    if job.batch_invariant and job.direction == "filter_grad":
        return "a filter gradient sums over the batch"
    if job.empty:
        return "there is nothing to multiply"
    if job.direction == "input_grad" and max(g.stride) > 1:
        return "an input gradient needs a stride of 1"
    run = g if job.direction == "filter_grad" else _pass_geometry(job)
    if _table_bytes(run) > TABLES:
        return f"the tables of offsets would take {_table_bytes(run)} bytes"
    if not any(True for _ in candidates(run, job.direction == "filter_grad")):
        return "no axis of stride 1 has 2 to 7 taps"
    return None


def _copies(job: Job) -> int:
    """Count the bytes of filters that are converted, and of copies of x and y.

    Arrays of another dtype than the products' are always converted. Copies of arrays with
    unsupported strides are counted where the limit is hard.
    """
    g, compute = job.geometry, job.arithmetic.compute
    item, shapes = ITEMSIZE[compute], [g.x_shape, g.y_shape]
    filters = prod(g.f_shape) * item
    if is_complex(compute):
        filters *= 4
    elif not job.hard and job.operands[1] == compute:
        filters = 0
    if job.direction == "input_grad":
        shapes.reverse()
    second = job.operands[1] if job.direction == "filter_grad" else job.arithmetic.result
    names = (job.operands[0], second)
    return filters + item * sum(
        prod(shape)
        for shape, name in zip(shapes, names, strict=True)
        if job.hard or name != compute
    )


def _kernel_limit(job: Job) -> int:
    """Return the workspace limit of the kernels: the job's, less copies and tables."""
    run = job.geometry if job.direction == "filter_grad" else _pass_geometry(job)
    return max(job.limit - _copies(job) - _first_call_table_bytes(_real_geometry(run, job)), 0)


def _table_bytes(g: Geometry) -> int:
    """Count the bytes of offset tables, at most; on outer axes they hold every tap of a position.

    Outer axes are those whose taps are summed directly.
    """
    outer = [o * k for o, k, s in zip(g.out, g.kernel, g.stride, strict=True) if s > 1 or k > 7]
    rest = [4 * o for o, k, s in zip(g.out, g.kernel, g.stride, strict=True) if s == 1 and k <= 7]
    arguments = rest[:-2] if len(rest) > 2 else []
    return 8 * (prod(outer) * prod(arguments) + sum(rest))


def _first_call_table_bytes(g: Geometry) -> int:
    """Count the bytes of offset tables and of the arrays they are made from, in a first call.

    A tile of m outputs reads m + k - 1 elements; with the least m, 2, that is (k + 1) / 2 per
    output. A table is made from at most four arrays of that many elements.
    """
    inner = [o * (2.1 * (k + 1) + 3) for o, k, s in zip(g.out, g.kernel, g.stride, strict=True)
             if s == 1 and k <= 7]  # fmt: skip
    return (
        4 * _table_bytes(g)
        if not inner
        else max(_table_bytes(g), int(8 * sum(inner))) + _table_bytes(g)
    )


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Predict by the rates of `cpu.winograd.choice`, without copies due to unsupported strides."""
    from einstride.cpu.winograd import calls, choice
    from einstride.cpu.winograd.tables import tile_counts

    if job.geometry.groups > 1:
        one, count = cost(each_group(job)[0].job, traits, rates), job.geometry.groups
        return replace(
            one, multiply_adds=count * one.multiply_adds, moved=count * one.moved,
            seconds=count * one.seconds,
        )  # fmt: skip
    axes, seconds = _choice(job, job.prepared)
    gradient = job.direction == "filter_grad"
    g = _real_geometry(job.geometry if gradient else _pass_geometry(job), job)
    dtype, given = complex_as_real.real(job.arithmetic.compute), (_threads(job), _kernel_limit(job))
    if gradient:
        workspace = calls.gradient_workspace(g, axes, dtype, *given)
    else:
        workspace = max(calls.forward_workspace(g, axes, dtype, *given, p) for p in (False, True))
        if not job.prepared:
            target = jit.host_target()
            transforms = calls.transforms(g, axes, dtype, *given, target)
            arguments = (ITEMSIZE[dtype], given[0], target, False, False, transforms)
            seconds = choice.seconds(g, axes, *arguments)
    inner, outer, taps = tile_counts(g, axes)
    products = axes.points * g.batch * outer * prod(inner) * taps * g.channels * g.filters
    if is_complex(job.arithmetic.compute):
        products //= 4  # each is four real ones
    arrays = prod(g.x_shape) + prod(g.f_shape) + prod(g.y_shape)
    workspace += _copies(job)
    # Filtering on one axis saves less than the model says: measured times are 1.2 to 1.5 as long.
    slower = rates["winograd_line"] if None in axes.inner else rates["winograd_plane"]
    return Cost(
        products,
        workspace + _first_call_table_bytes(g),
        arrays * ITEMSIZE[dtype],
        seconds * slower,
        _note(job),
    )


def _note(job: Job) -> str:
    """Format the tiles and their error, for a plan's table."""
    from einstride.cpu.winograd.choice import error

    axes, _ = _choice(job, job.prepared)
    gradient = job.direction == "filter_grad"
    found = error(
        _real_geometry(job.geometry if gradient else _pass_geometry(job), job), axes, gradient
    )
    return f"{axes}, error {found * UNIT_ROUNDOFF[job.arithmetic.compute]:.0e} normwise"


def describe(job: Job) -> Facts:
    """Describe the tile of each axis, the blocks of tiles, and the kernel that multiplies them."""
    from einstride.cpu.winograd import calls

    groups = job.geometry.groups
    if groups > 1:
        return describe(each_group(job)[0].job) | {"groups, one after another": groups}
    gradient = job.direction == "filter_grad"
    axes, _ = _choice(job, prepared=False)
    dtype, target, threads = (
        complex_as_real.real(job.arithmetic.compute),
        jit.host_target(),
        _threads(job),
    )
    g = _real_geometry(job.geometry if gradient else _pass_geometry(job), job)
    given = (g, axes, dtype, threads, _kernel_limit(job))
    pairs = zip(axes.inner, axes.outputs_and_taps, strict=True)
    facts_of_axes = {f"axis {a}": f"F({m}, {r})" for a, (m, r) in pairs if a is not None}
    facts_of_axes |= {f"axis {a}": "taps summed directly" for a in axes.outer}
    found: Facts = {
        "tile": str(axes),
        "axes": dict(sorted(facts_of_axes.items())),
        "compiled": True,
    }
    plan: ForwardPlan | GradientPlan
    if gradient:
        plan = calls.gradient_blocks(*given, target)
        found["kernel"] = "winograd_grad: transforms of x and gy, products by channels"
    else:
        plan, whole = calls.forward_blocks(*given, False, target)
        found["kernel"] = "winograd: transforms of x and y, products by channels"
        found["filter"] = "transformed once, first" if whole else "transformed in each block"
    form = plan.form
    return found | {
        "error": _note(job).partition("error ")[2],
        "register tile": {"lanes": form.lanes, "vectors": form.vectors, "rows": form.tile},
        "tiles": plan.tiles,
        "tiles in a block": plan.block,
        "threads": plan.threads,
        "target": str(target),
    }
