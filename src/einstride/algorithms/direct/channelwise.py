"""The engine for few channels in a group: depthwise layers, small groups, images, stencils.

Kernels are compiled for this machine's vectors (`einstride.cpu.channelwise`, `cpu.depthwise`). An
input gradient is one forward pass for each stride phase, written straight to its positions. The
order of a sum depends on shapes alone, so that the batch and the threads leave the bits alone.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from einstride.algorithms.direct.description import Work, largest_phase
from einstride.algorithms.direct.shapes import met, unconverted
from einstride.arrays.ops import adjoint_filter, flip, is_complex
from einstride.codegen import jit
from einstride.cpu.runtime.aligned_memory import address
from einstride.cpu.runtime.operands import addressable, operand, packed, target
from einstride.geometry import input_gradient_phases
from einstride.geometry.arithmetic import COMPLEXES
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Shape
from einstride.geometry.problem import Cost, Job
from einstride.support.byte_cache import kept

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits

PLANES = 1 << 19
"""Bytes of gy that are brought into planes for a gradient of one channel: they stay in cache."""

MAX_RANK = 8
"""Spatial axes of a kernel; LLVM takes seconds over sixty nested loops."""

TABLES = 1 << 18
"""Numbers that tables of offsets may hold."""

# Of the cost, in times slower than the products: see `algorithms.direct` for unit and origin.
GATHERED = 4.0
"""Vectors of positions that are loaded anew for each tap, though they are full: from planes."""

SHUFFLED = 1.5
"""Groups of several channels side by side in a vector, whose lanes are put in order."""

LONG, SEVERAL, SINGLE = 4.0, 3.0, 2.0
"""Taps that are loaded for each product, being too many for registers: more than `MOST_HELD`; the
columns of groups with several channels; of groups with one input channel."""

MOST_HELD = 100
"""Taps up to which a filter's row stays near the processor."""

SKIPPING = 1.4
"""Depthwise forward passes and input gradients, for each product whose tap does not stand in the
border: each vector is loaded for many taps."""

SUMMED_NEAR, SUMMED = 1.2, 2.0
"""Depthwise filter gradients of one run of taps: up to `MOST_NEAR` of them, or more."""

SUMMED_PLANES = 2.2
"""The same with several rows of taps, more than `MOST_NEAR`, whose sums stay in registers."""

SUMMED_FAR, SUMMED_LONG, SUMMED_SHORT_ROWS = 3.5, 4.0, 12.0
"""The same with sums in memory: up to `MOST_HELD` taps; more; more, of rows of up to 8 outputs."""

MOST_NEAR = 9
"""Taps of a small filter."""


def forward(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, prepared: Any = None
) -> Array:
    """x, f -> y."""
    g = job.geometry
    _correlate(x, flip(f, g.rank, b) if g.flip else f, g, job, b, bias, out)
    return out


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, prepared: Any = None
) -> Array:
    """gy, f -> gx."""
    g, gy = job.geometry, operand(gy, b)
    call = _depthwise_call(gy, job, out)
    if call is not None:
        _depthwise(call, gy, f, job, b, bias, out)
        return out
    phases = input_gradient_phases.phases(g)
    f = adjoint_filter(f, g.groups, g.flip, b) if phases.read_filter else f
    if planar(job) and packed(gy):
        gy = _planes(gy, b)
    for phase in phases:
        steps = tuple(slice(r, None, s) for r, s in zip(phase.remainder, g.stride, strict=True))
        place = out[(slice(None), *steps, ...)]
        if phase.geometry is None:
            place[...] = 0 if bias is None else bias
        else:
            sub = flip(f[(*phase.taps, ...)], g.rank, b)
            _correlate(gy, sub, phase.geometry, job, b, bias, place)
    return out


def work(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Work | None:
    """The kernel that does most of the job for arrays that lie like these; None if there is none.

    Nothing is read, and what is allocated is only looked at: see `Algorithm.describe`.
    """
    g, compute = job.geometry, job.arithmetic.compute
    first = target(first, b)
    if job.direction == "filter_grad":
        cut, call = gradient_of(first, target(second, b), job)
        return Work(call, sums=cut.tables)
    if job.direction == "forward":
        return Work(correlation(first, g, compute, target(out, b), job.threads))
    call = _depthwise_call(first, job, out)
    if call is not None:
        return Work(call)
    phase = largest_phase(g, out)
    if phase is None:
        return None
    first = _empty_planes(first, b) if planar(job) and first.flags.c_contiguous else first
    h, part, passes = phase
    return Work(correlation(first, h, compute, target(part, b), job.threads), passes)


def planar(job: Job) -> bool:
    """Is an input gradient of one channel: with vectors along positions, better from planes?

    gy's channels lie between neighbouring positions, and a vector of positions is gathered number
    by number for every tap. Bringing them side by side once costs less than one tap.
    """
    g = job.geometry
    size = g.batch * prod(g.out) * g.filters * job.itemsize
    backwards = job.direction == "input_grad" and g.channels == 1 < g.filters
    return backwards and not job.hard and size <= PLANES and not is_complex(job.arithmetic.compute)


def _planes(gy: Array, b: Backend) -> Array:
    """A copy of gy (B, *O, D) that lies in memory as (B, D, *O)."""
    found = _empty_planes(gy, b)
    found[...] = gy
    return found


def _empty_planes(gy: Array, b: Backend) -> Array:
    """An uninitialised array like gy (B, *O, D) that lies in memory as (B, D, *O)."""
    batch, *out, channels = gy.shape
    return b.xp.moveaxis(b.empty((batch, channels, *out), b.dtype_name(gy), gy), 1, -1)


def filter_grad(x: Array, gy: Array, job: Job, b: Backend, bias: None, out: Any) -> Array:
    """x, gy -> gf."""
    g, compute = job.geometry, job.arithmetic.compute
    x, gy = operand(x, b), operand(gy, b)
    cut, call = gradient_of(x, gy, job)
    sums = b.zeros((cut.groups, cut.tables, *g.f_shape), compute, x)
    call(b.launch, x=address(x), y=address(gy), f=address(sums))
    for first, *rest in sums if cut.tables > 1 else ():  # in place: their sum is no array beside
        for table in rest:
            first += table
    total = sums[:, 0]
    place = flip(out, g.rank, b, int(job.per_example)) if g.flip else out
    place[...] = total if job.per_example else total[0]
    return out


def gradient_of(x: Array, gy: Array, job: Job) -> Any:
    """How a filter gradient of arrays that lie like these is cut; its kernel: wants x, y and f."""
    compute, on = job.arithmetic.compute, jit.machine()
    lie = (x.dtype, x.strides, gy.dtype, gy.strides)
    return _gradient(job.geometry, job.per_example, compute, *lie, job.threads, on)


def correlation(x: Array, g: Geometry, compute: str, out: Array, threads: int) -> Any:
    """The kernel for arrays that lie like these: wants the addresses x, f, y and bias."""
    lie = (x.dtype, x.strides, out.dtype, out.strides)
    return _forward(g, compute, *lie, threads, jit.machine())


def _correlate(
    x: Array, f: Array, g: Geometry, job: Job, b: Backend, bias: Array | None, out: Any
) -> None:
    """y = conv(x, f) + bias of a geometry that does not flip."""
    compute = job.arithmetic.compute
    x, f, place = operand(x, b), operand(f, b, compute, packed), target(out, b)
    added = 0
    if bias is not None:
        bias = operand(bias, b, compute, packed)
        added = address(bias)
    call = correlation(x, g, compute, place, job.threads)
    call(b.launch, x=address(x), y=address(place), f=address(f), bias=added)
    if place is not out:
        out[...] = place


@kept
def _forward(
    g: Geometry, compute: str, x: Any, x_strides: Shape, y: Any, y_strides: Shape, threads: int,
    on: jit.Machine,
) -> Any:  # fmt: skip
    """The kernel of a forward pass with its words, for arrays of these dtypes and strides."""
    from einstride.cpu.channelwise import forward_call as channelwise_forward
    from einstride.cpu.channelwise.form import Form, steps
    from einstride.cpu.depthwise import forward_call as depthwise_forward

    strides = steps(g.x_shape, x_strides, x), steps(g.y_shape, y_strides, y)
    form = Form(g, (x.name, y.name), compute, *strides, threads, on)
    if depthwise_forward.suits(form, False):
        return depthwise_forward.call(form, False)
    return channelwise_forward.call(form)


def _depthwise_call(gy: Array, job: Job, out: Any) -> Any:
    """One kernel for all stride phases of a depthwise input gradient; None where there is none."""
    g = job.geometry
    if not g.channels == g.filters == g.groups or not addressable(out):
        return None
    arrays = (gy.dtype, gy.strides, out.dtype, out.strides)
    return _backwards(g, job.arithmetic.compute, *arrays, job.threads, jit.machine())


def _depthwise(
    call: Any, gy: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any
) -> None:
    """Run that kernel."""
    g, compute = job.geometry, job.arithmetic.compute
    f = operand(flip(f, g.rank, b) if g.flip else f, b, compute, packed)
    added = 0
    if bias is not None:
        bias = operand(bias, b, compute, packed)
        added = address(bias)
    call(b.launch, x=address(gy), y=address(out), f=address(f), bias=added)


@kept
def _backwards(
    g: Geometry, compute: str, gy: Any, gy_strides: Shape, gx: Any, gx_strides: Shape,
    threads: int, on: jit.Machine,
) -> Any:  # fmt: skip
    """The kernel of a depthwise input gradient with its words; None if it has none of its own."""
    from einstride.cpu.channelwise.form import Form, steps
    from einstride.cpu.depthwise import forward_call as depthwise_forward

    strides = steps(g.y_shape, gy_strides, gy), steps(g.x_shape, gx_strides, gx)
    form = Form(g, (gy.name, gx.name), compute, *strides, threads, on)
    return depthwise_forward.call(form, True) if depthwise_forward.suits(form, True) else None


@kept
def _gradient(
    g: Geometry, per_example: bool, compute: str, x: Any, x_strides: Shape, y: Any,
    y_strides: Shape, threads: int, on: jit.Machine,
) -> Any:  # fmt: skip
    """How a filter gradient is cut, and its kernel."""
    from einstride.cpu.channelwise import filter_gradient_call
    from einstride.cpu.channelwise.form import Form, steps
    from einstride.cpu.depthwise import forward_call as depthwise_forward

    strides = steps(g.x_shape, x_strides, x), steps(g.y_shape, y_strides, y)
    form = Form(g, (x.name, y.name), compute, *strides, threads, on)
    cut = filter_gradient_call.cuts(g, per_example, compute)
    if depthwise_forward.suits_gradient(form, cut):
        return cut, depthwise_forward.call_gradient(form, cut)
    return cut, filter_gradient_call.call(form, cut)


def _gradient_slow(g: Geometry) -> float:
    """How many times slower than its products a depthwise filter gradient is."""
    taps = prod(g.kernel)
    if taps == max(g.kernel) <= MOST_HELD:  # one run of taps
        return SUMMED_NEAR if taps <= MOST_NEAR else SUMMED
    if taps + 6 <= jit.machine().registers:
        return SUMMED_NEAR if taps <= MOST_NEAR else SUMMED_PLANES
    if taps <= MOST_HELD:
        return SUMMED_FAR
    return SUMMED_LONG if g.out[-1] > 8 else SUMMED_SHORT_ROWS


def supports(job: Job, traits: Traits) -> str | None:
    """None if it can do the job, else why not."""
    from einstride.cpu.channelwise.form import entries

    g, a = job.geometry, job.arithmetic
    windowed = job.operands if job.direction == "filter_grad" else job.operands[:1]
    if a.compute in COMPLEXES and any(name not in COMPLEXES for name in windowed):
        return "an array of real numbers meets complex ones"
    if reason := unconverted(job):
        return reason
    if g.rank > MAX_RANK:
        return f"kernels have at most {MAX_RANK} spatial axes"
    if 0 in g.size:
        return "x has no elements"
    if job.direction == "filter_grad" and g.kernel[-1] > 256:
        return "a tile for each few taps of such a long filter would be slow"
    if job.direction == "input_grad" and (reason := input_gradient_phases.refused(g)):
        return reason
    parts = (
        [p.geometry for p in input_gradient_phases.phases(g)]
        if job.direction == "input_grad"
        else [g]
    )
    if max((entries(h) for h in parts if h is not None), default=0) > TABLES:
        return "its tables of offsets would be too large"
    if job.batch_invariant and job.direction == "filter_grad" and not job.per_example:
        return "a filter gradient sums over the batch"
    return None


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Products of whole vectors, or the arrays' way through memory, whichever is slower."""
    from einstride.cpu.channelwise.filter_gradient_call import cuts
    from einstride.cpu.channelwise.form import FEW, entries

    g, compute = job.geometry, job.arithmetic.compute
    item = job.itemsize
    parts = 4 if compute in COMPLEXES else 1
    threads = job.threads if g.multiply_adds * parts >= FEW else 1
    backwards = job.direction == "input_grad"
    inputs, outputs = g.channels // g.groups, g.filters // g.groups
    across = inputs if backwards else outputs
    lanes = max(jit.machine().vector_bytes // item, 1)
    merged = g.groups > 1 and lanes % across == 0
    filled = g.filters if merged else across
    if g.channels == g.filters == 1:
        filled = prod(g.out)
    waste = -(-filled // lanes) * lanes / filled
    if planar(job):
        waste = GATHERED
    spread = 1.0 if not merged or inputs * outputs == 1 else SHUFFLED
    slow = LONG if prod(g.kernel) > MOST_HELD else 1.0 if inputs * outputs == 1 else SEVERAL
    slow = min(slow, SINGLE) if inputs == 1 and not backwards else slow
    if job.direction == "filter_grad" and inputs == outputs == 1 and g.groups > 1:
        slow = _gradient_slow(g)
    vectors = g.multiply_adds * parts * waste * spread * slow / lanes
    if g.channels == g.filters == g.groups and job.direction != "filter_grad" and parts == 1:
        vectors = SKIPPING * g.multiply_adds * met(g) * waste / lanes
    arrays = (prod(g.x_shape) + prod(g.y_shape)) * item
    calls = len(input_gradient_phases.phases(g)) if backwards and g.channels != g.filters else 1
    workspace = 24 * entries(g) + 3 * prod(g.f_shape) * item
    if job.direction == "filter_grad":
        cut = cuts(g, job.per_example, compute)
        workspace = 24 * entries(g) + (cut.groups * cut.tables + 1) * prod(g.f_shape) * item
    if planar(job):
        workspace += prod(g.y_shape) * item
    seconds = calls * rates["kernel" if threads > 1 else "kernel_again"] + max(
        vectors * rates["vector"] / threads, arrays * rates["copy"]
    )
    return Cost(g.multiply_adds, workspace, arrays, seconds)
