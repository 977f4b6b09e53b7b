"""Winograd's minimal filtering of NumPy arrays by kernels of our own: see `cpu.winograd`.

The passes of a job as an algorithm has them; `winograd` runs them where `supports` says nothing.
Complex arrays are filtered as real ones of twice the channels (`complex_as_real`). The same bits
for any number of threads and any memory order of the operands.
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
    target,
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
    from einstride.cpu.winograd.tables import Split

DTYPES = ("float32", "float64", "complex64", "complex128")
LEAST = 16
"""Channels of a group from which it is filtered by itself."""

SMALL = 1 << 22
"""Multiply-adds below which a second thread comes too late to help."""

TABLES = 8 << 20
"""Bytes that tables of offsets may take."""


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
    split, _ = _choice(job, prepared=False)
    gf = b.empty(g.f_shape, job.arithmetic.result, x) if out is None else out
    place, x, gy = target(gf, b, *needs), operand(x, b, *needs), operand(gy, b, *needs)
    run, into = g, place
    if is_complex(compute):
        run, x, gy = (
            complex_as_real.doubled(g),
            complex_as_real.floats(x),
            complex_as_real.floats(gy),
        )
        into = b.empty(run.f_shape, complex_as_real.real(compute), x)
    calls.filter_grad(x, gy, run, split, into, b.launch, _threads(job), _room(job))
    if into is not place:
        complex_as_real.combine(into, place)
    if place is not gf:
        gf[...] = place
    return gf


def prepare(f: Array, job: Job, b: Backend) -> Any:
    """The transformed filter, for `prepared` of the forward pass and input gradient."""
    from einstride.cpu.winograd import calls

    if job.geometry.groups > 1:
        return [prepare(f[p.second], p.job, b) for p in each_group(job)]
    split, _ = _choice(job, prepared=True)
    return split, calls.prepare(
        _turned(f, job, b), _real(_run(job), job), split, b.launch, _threads(job)
    )


def _correlate(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Array | None, prepared: Any
) -> Array:
    """The forward pass, or the input gradient as one over gy."""
    from einstride.cpu.winograd import calls

    g, compute, needs = _run(job), job.arithmetic.compute, _needs(job)
    split, u = prepared or (_choice(job, prepared=False)[0], None)
    y = b.empty(g.y_shape, job.arithmetic.result, x) if out is None else out
    place = target(y, b, *needs)
    bias = None if bias is None else operand(bias, b, compute, packed)
    x, into = operand(x, b, *needs), place
    if is_complex(compute):
        x, into = complex_as_real.floats(x), complex_as_real.floats(place)
        bias = None if bias is None else complex_as_real.floats(bias)
    calls.forward(
        x, None if u else _turned(f, job, b), _real(g, job), split, bias, into,
        b.launch, _threads(job), _room(job), u,
    )  # fmt: skip
    if place is not y:
        y[...] = place
    return y


def _threads(job: Job) -> int:
    return job.threads if job.geometry.multiply_adds > SMALL else 1


def _needs(job: Job) -> tuple[str, Any]:
    """The dtype that the kernels read and write, and how its arrays must lie: see `operand`."""
    compute = job.arithmetic.compute
    return compute, viewable_as_pairs if is_complex(compute) else contiguous_channels


def _run(job: Job) -> Geometry:
    """The geometry of the forward pass that a job runs; a flipped filter is turned by `_turned`."""
    if job.direction == "forward":
        return replace(job.geometry, flip=False)
    (phase,) = input_gradient_phases.phases(job.geometry)  # only one: the stride is 1
    if phase.geometry is None:
        raise RuntimeError("an input gradient of stride 1 has a term for every element")
    return phase.geometry


def _real(g: Geometry, job: Job) -> Geometry:
    """The geometry that the kernels see."""
    return complex_as_real.doubled(g) if is_complex(job.arithmetic.compute) else g


def _turned(f: Array, job: Job, b: Backend) -> Array:
    """The filter of that pass for the kernels: a view, unless its dtype is another."""
    f = _oriented(f, job, b)
    return complex_as_real.filters(f) if is_complex(job.arithmetic.compute) else f


def _oriented(f: Array, job: Job, b: Backend) -> Array:
    g, f = job.geometry, operand(f, b, job.arithmetic.compute)
    if job.direction == "forward":
        return flip(f, g.rank, b) if g.flip else f
    return adjoint_filter(f, g.groups, not g.flip, b)


@cached(1024)
def _choice(job: Job, prepared: bool) -> tuple[Split, float]:
    from einstride.cpu.winograd.choice import choose

    gradient = job.direction == "filter_grad"
    g = _real(job.geometry if gradient else _run(job), job)
    if job.batch_invariant:
        g = replace(g, batch=1)
    item = ITEMSIZE[complex_as_real.real(job.arithmetic.compute)]
    found = choose(g, item, _threads(job), jit.machine(), gradient, prepared)
    if found is None:
        raise RuntimeError("compiled Winograd runs only what it supports")
    return found


@cached(1024)
def supports(job: Job, traits: Traits) -> str | None:
    """None if it can do the job, else why not."""
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
    run = g if job.direction == "filter_grad" else _run(job)
    if _tables(run) > TABLES:
        return f"the tables of offsets would take {_tables(run)} bytes"
    if not any(True for _ in candidates(run, job.direction == "filter_grad")):
        return "no axis of stride 1 has 2 to 7 taps"
    return None


def _copies(job: Job) -> int:
    """Bytes of filters in another dtype or as floats, and of copies of x and y.

    Those of another dtype than the products' are always converted. Copies of arrays that lie badly
    are counted where not a byte more is allowed.
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


def _room(job: Job) -> int:
    """What is left of the ceiling for the kernels."""
    run = job.geometry if job.direction == "filter_grad" else _run(job)
    return max(job.ceiling - _copies(job) - _making(_real(run, job)), 0)


def _tables(g: Geometry) -> int:
    """Bytes of the tables, at most: those of outer axes hold every tap of every position."""
    outer = [o * k for o, k, s in zip(g.out, g.kernel, g.stride, strict=True) if s > 1 or k > 7]
    rest = [4 * o for o, k, s in zip(g.out, g.kernel, g.stride, strict=True) if s == 1 and k <= 7]
    more = rest[:-2] if len(rest) > 2 else []
    return 8 * (prod(outer) * prod(more) + sum(rest))


def _making(g: Geometry) -> int:
    """Bytes of the tables and of what they are made from, in a first call.

    A tile of m outputs reads m + k - 1 elements; with the least m, 2, that is (k + 1) / 2 for each
    output. As many numbers are looked up, multiplied, shifted and chosen, in four arrays at most.
    """
    inner = [o * (2.1 * (k + 1) + 3) for o, k, s in zip(g.out, g.kernel, g.stride, strict=True)
             if s == 1 and k <= 7]  # fmt: skip
    return 4 * _tables(g) if not inner else max(_tables(g), int(8 * sum(inner))) + _tables(g)


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """By the rates of `cpu.winograd.choice`; copies of badly lying operands are not foreseen."""
    from einstride.cpu.winograd import calls, choice
    from einstride.cpu.winograd.tables import tile_counts

    if job.geometry.groups > 1:
        one, count = cost(each_group(job)[0].job, traits, rates), job.geometry.groups
        return replace(
            one, multiply_adds=count * one.multiply_adds, moved=count * one.moved,
            seconds=count * one.seconds,
        )  # fmt: skip
    split, seconds = _choice(job, job.prepared)
    gradient = job.direction == "filter_grad"
    g = _real(job.geometry if gradient else _run(job), job)
    dtype, given = complex_as_real.real(job.arithmetic.compute), (_threads(job), _room(job))
    if gradient:
        workspace = calls.gradient_workspace(g, split, dtype, *given)
    else:
        workspace = max(calls.forward_workspace(g, split, dtype, *given, p) for p in (False, True))
        if not job.prepared:
            on = jit.machine()
            again = calls.transforms(g, split, dtype, *given, on)
            more = (ITEMSIZE[dtype], given[0], on, False, False, again)
            seconds = choice.seconds(g, split, *more)
    inner, outer, taps = tile_counts(g, split)
    products = split.points * g.batch * outer * prod(inner) * taps * g.channels * g.filters
    if is_complex(job.arithmetic.compute):
        products //= 4  # each is four real ones
    arrays = prod(g.x_shape) + prod(g.f_shape) + prod(g.y_shape)
    workspace += _copies(job)
    # One axis saves less than its passes over tiles cost: measured 1.2 to 1.5 times the model.
    slower = rates["winograd_line"] if None in split.inner else rates["winograd_plane"]
    return Cost(
        products, workspace + _making(g), arrays * ITEMSIZE[dtype], seconds * slower, _note(job)
    )


def _note(job: Job) -> str:
    """The tiles and their error, for a plan's table."""
    from einstride.cpu.winograd.choice import error

    split, _ = _choice(job, job.prepared)
    gradient = job.direction == "filter_grad"
    found = error(_real(job.geometry if gradient else _run(job), job), split, gradient)
    return f"{split}, error {found * UNIT_ROUNDOFF[job.arithmetic.compute]:.0e} normwise"


def describe(job: Job) -> Facts:
    """The tile of each axis, the blocks of tiles, and the kernel that multiplies them."""
    from einstride.cpu.winograd import calls

    groups = job.geometry.groups
    if groups > 1:
        return describe(each_group(job)[0].job) | {"groups, one after another": groups}
    gradient = job.direction == "filter_grad"
    split, _ = _choice(job, prepared=False)
    dtype, on, threads = complex_as_real.real(job.arithmetic.compute), jit.machine(), _threads(job)
    g = _real(job.geometry if gradient else _run(job), job)
    given = (g, split, dtype, threads, _room(job))
    pairs = zip(split.inner, split.axes, strict=True)
    axes = {f"axis {a}": f"F({m}, {r})" for a, (m, r) in pairs if a is not None}
    axes |= {f"axis {a}": "taps summed directly" for a in split.outer}
    found: Facts = {"tile": str(split), "axes": dict(sorted(axes.items())), "compiled": True}
    plan: ForwardPlan | GradientPlan
    if gradient:
        plan = calls.gradient_blocks(*given, on)
        found["kernel"] = "winograd_grad: transforms of x and gy, products by channels"
    else:
        plan, whole = calls.forward_blocks(*given, False, on)
        found["kernel"] = "winograd: transforms of x and y, products by channels"
        found["filter"] = "transformed once, first" if whole else "transformed in each block"
    form = plan.form
    return found | {
        "error": _note(job).partition("error ")[2],
        "register tile": {"lanes": form.lanes, "vectors": form.vectors, "rows": form.tile},
        "tiles": plan.tiles,
        "tiles in a block": plan.block,
        "threads": plan.threads,
        "target": str(on),
    }
