"""Direct convolution with few channels per group: depthwise layers, small groups, images, stencils.

The kernels are those of `einstride.cpu.conv.channelwise` and `cpu.conv.depthwise`. An input
gradient is one forward pass per stride phase, written directly to the positions of the phase. The
order of a sum depends on shapes alone, so the bits depend neither on the batch nor on the threads.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from einstride.algorithms.direct.description import Work, largest_phase
from einstride.algorithms.direct.shapes import fraction_inside, unconverted
from einstride.arrays.ops import adjoint_filter, flip, is_complex
from einstride.codegen import jit
from einstride.cpu.runtime.aligned_memory import address
from einstride.cpu.runtime.operands import addressable, operand, packed, result_array
from einstride.cpu.runtime.partial_sums import add_partial_sums
from einstride.cpu.runtime.recording import assign
from einstride.geometry import input_gradient_phases
from einstride.geometry.arithmetic import COMPLEXES
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Shape
from einstride.geometry.problem import Cost, Job
from einstride.support.byte_cache import kept

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits
    from einstride.cpu.conv.channelwise.partial_sums import PartialSums
    from einstride.cpu.conv.staged.kernel import Step
    from einstride.cpu.runtime.argument_block import Call, Layout

PLANES = 1 << 19
"""Bytes of gy, at most, that are copied into planes for an input gradient of one channel.

A copy of this size stays in cache; see `planar`.
"""

STAGES_FILTERS = True
"""True if blocks copy the filter, too: see `staged`."""

STAGES_GRADIENTS = True
"""True if filter gradients have calls for blocks: see `staged`."""

MAX_RANK = 8
"""Spatial axes of a kernel, at most: LLVM takes seconds to compile sixty nested loops."""

TABLES = 1 << 18
"""Elements of offset tables, at most; a job that needs more is left to other engines."""

# Constants of `cost`, slowdown factors of the products: see `algorithms.direct` for the origin.
GATHERED = 4.0
"""Vectors of positions of a plane, which are loaded again for each tap."""

SHUFFLED = 1.5
"""Vectors of several groups with several channels each, whose lanes are shuffled."""

RELOADED_LONG, RELOADED_GROUPS, RELOADED_SINGLE = 4.0, 3.0, 2.0
"""Filter elements that are loaded for each product, because registers cannot hold them: filters of
more than `MOST_HELD` taps; groups with several channels; groups with one input channel."""

MOST_HELD = 100
"""Taps up to which a filter's row stays in cache."""

SKIPPING = 1.4
"""Depthwise forward passes and input gradients, per product whose tap does not read the border."""

SUMMED_NEAR, SUMMED = 1.2, 2.0
"""Depthwise filter gradients with one row of taps: up to `MOST_NEAR` taps, or more."""

SUMMED_PLANES = 2.2
"""Depthwise filter gradients with several rows of taps, more than `MOST_NEAR`, whose sums stay in
registers."""

SUMMED_FAR, SUMMED_LONG, SUMMED_SHORT_ROWS = 3.5, 4.0, 12.0
"""Depthwise filter gradients with sums in memory: up to `MOST_HELD` taps; more taps; more taps and
rows of at most 8 outputs."""

MOST_NEAR = 9
"""Taps of a small filter, at most."""


def forward(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, prepared: Any = None
) -> Array:
    """Compute y from x and f."""
    g = job.geometry
    _correlate(x, flip(f, g.rank, b) if g.flip else f, g, job, b, bias, out)
    return out


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, prepared: Any = None
) -> Array:
    """Compute gx from gy and f."""
    g, gy = job.geometry, operand(gy, b)
    call = _depthwise_call(gy, job, out)
    if call is not None:
        _run(call, gy, flip(f, g.rank, b) if g.flip else f, job, b, bias, out)
        return out
    phases = input_gradient_phases.phases(g)
    f = adjoint_filter(f, g.groups, g.flip, b) if phases.read_filter else f
    if planar(job) and packed(gy):
        gy = _planes(gy, b)
    for phase in phases:
        destination = out[(slice(None), *phase.positions(g.stride), ...)]
        if phase.geometry is None:
            assign(destination, 0 if bias is None else bias, b.launch)
        else:
            sub = flip(f[(*phase.taps, ...)], g.rank, b)
            _correlate(gy, sub, phase.geometry, job, b, bias, destination)
    return out


def staged_unit(job: Job) -> int | None:
    """Return the channels of a vector for depthwise layers, None for others: see `staged`."""
    g = job.geometry
    if not g.channels == g.filters == g.groups:
        return None
    return min(jit.host_target().lanes(job.itemsize), g.groups)


def staged_steps(job: Job, kind: Geometry, x: Layout, y: Layout) -> list[Step] | None:
    """Return the depthwise kernel for a block of rows and channels."""
    from einstride.cpu.conv.channelwise.signature import signature
    from einstride.cpu.conv.depthwise.forward import call
    from einstride.cpu.conv.depthwise.rows import suits
    from einstride.cpu.conv.staged.kernel import Step

    backwards, compute = job.direction == "input_grad", job.arithmetic.compute
    form = signature(kind, compute, x, y, 1, jit.host_target(), backwards, job.blocked)
    if not suits(form, backwards):
        return None
    return [Step(call(form, backwards))]


def staged_gradient_steps(job: Job, kind: Geometry, x: Layout, gy: Layout) -> list[Step] | None:
    """Return the kernel that adds the filter gradient of a block to one that was cleared."""
    from einstride.cpu.conv.channelwise import channels_gradient
    from einstride.cpu.conv.channelwise.partial_sums import PartialSums
    from einstride.cpu.conv.channelwise.signature import signature
    from einstride.cpu.conv.depthwise import filter_gradient as depthwise
    from einstride.cpu.conv.staged.kernel import Step

    form = signature(kind, job.arithmetic.compute, x, gy, 1, jit.host_target())
    one = PartialSums(1, 1, prod(kind.out[:-1]), 1)
    if form.along_positions:
        return None
    family = depthwise if depthwise.suits_gradient(form, one) else channels_gradient
    return [Step(family.call(form, one))]


def staged_filters(f: Array, job: Job, b: Backend, prepared: Any) -> list[Array]:
    """Return the filter, whose taps are copied with each block of channels."""
    f = flip(f, job.geometry.rank, b) if job.geometry.flip else f
    return [operand(f, b, job.arithmetic.compute)]


def staged_bias(bias: Array, job: Job, b: Backend) -> Array:
    """Return the bias in the dtype of the sums."""
    return operand(bias, b, job.arithmetic.compute, packed)


def work(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Work | None:
    """Return the kernel that does most of the job for arrays with these strides, or None.

    The arrays are stand-ins, as in `Algorithm.describe`; nothing is read.
    """
    g = job.geometry
    first = result_array(first, b)
    if job.direction == "filter_grad":
        split, call = gradient_of(first, result_array(second, b), job)
        return Work(call, sums=split.per_result)
    if job.direction == "forward":
        return Work(correlation(first, g, job, result_array(out, b)))
    if (backwards := _depthwise_call(first, job, out)) is not None:
        return Work(backwards)
    phase = largest_phase(g, out)
    if phase is None:
        return None
    first = _empty_planes(first, b) if planar(job) and first.flags.c_contiguous else first
    h, part, passes = phase
    return Work(correlation(first, h, job, result_array(part, b)), passes)


def planar(job: Job) -> bool:
    """True if an input gradient of one channel should read gy as planes, one per channel.

    Its vectors span positions. In channels-last gy, neighbouring positions are not contiguous, so
    a vector would be gathered element by element for every tap. One copy costs less than one tap.
    """
    g = job.geometry
    size = g.batch * prod(g.out) * g.filters * job.itemsize
    backwards = job.direction == "input_grad" and g.channels == 1 < g.filters
    return backwards and not job.hard and size <= PLANES and not is_complex(job.arithmetic.compute)


def _planes(gy: Array, b: Backend) -> Array:
    """Copy gy (B, *O, D) to the memory order (B, D, *O)."""
    found = _empty_planes(gy, b)
    assign(found, gy, b.launch)
    return found


def _empty_planes(gy: Array, b: Backend) -> Array:
    """Allocate an array like gy (B, *O, D) in the memory order (B, D, *O)."""
    batch, *out, channels = gy.shape
    return b.xp.moveaxis(b.empty((batch, channels, *out), b.dtype_name(gy), gy), 1, -1)


def filter_grad(x: Array, gy: Array, job: Job, b: Backend, bias: None, out: Any) -> Array:
    """Compute gf from x and gy."""
    g, compute = job.geometry, job.arithmetic.compute
    x, gy = operand(x, b), operand(gy, b)
    split, call = gradient_of(x, gy, job)
    sums = b.zeros((split.results, split.per_result, *g.f_shape), compute, x)
    call(b.launch, x=address(x), y=address(gy), f=address(sums))
    destination = flip(out, g.rank, b, int(job.per_example)) if g.flip else out
    sums = b.xp.moveaxis(sums, 1, 0) if job.per_example else sums[0]
    add_partial_sums(sums, destination, b.launch)
    return out


def gradient_of(x: Array, gy: Array, job: Job) -> tuple[PartialSums, Call]:
    """Return the split of a filter gradient of arrays with these strides, and its kernel.

    The kernel takes the addresses x, y and f.
    """
    compute, target = job.arithmetic.compute, jit.host_target()
    layouts = (x.dtype, x.strides, gy.dtype, gy.strides)
    return _gradient_kernel(job.geometry, job.per_example, compute, *layouts, job.threads, target)


def correlation(x: Array, g: Geometry, job: Job, out: Array) -> Any:
    """Return the kernel for arrays with these strides; it takes the addresses x, f, y and bias."""
    layouts, compute = (x.dtype, x.strides, out.dtype, out.strides), job.arithmetic.compute
    return _kernel(g, compute, *layouts, job.threads, jit.host_target(), job.blocked)


def _correlate(
    x: Array, f: Array, g: Geometry, job: Job, b: Backend, bias: Array | None, out: Any
) -> None:
    """Compute y = conv(x, f) + bias of a geometry that does not flip."""
    x, destination = operand(x, b), result_array(out, b)
    call = correlation(x, g, job, destination)
    _run(call, x, f, job, b, bias, destination)
    if destination is not out:
        assign(out, destination, b.launch)


def _run(
    call: Call, x: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Array
) -> None:
    """Run a kernel that reads x (or gy), f and a bias, and writes `out`."""
    f = operand(f, b, job.arithmetic.compute, packed)
    addresses = {"x": address(x), "y": address(out), "f": address(f)}
    if bias is not None:
        bias = operand(bias, b, job.arithmetic.compute, packed)
        addresses["bias"] = address(bias)
    call(b.launch, **addresses)


def _depthwise_call(gy: Array, job: Job, out: Any) -> Call | None:
    """Return the kernel for all stride phases of a depthwise input gradient, or None."""
    g = job.geometry
    if not g.channels == g.filters == g.groups or not addressable(out):
        return None
    layouts = (gy.dtype, gy.strides, out.dtype, out.strides)
    target = jit.host_target()
    return _kernel(g, job.arithmetic.compute, *layouts, job.threads, target, job.blocked, True)


@kept
def _kernel(
    g: Geometry, compute: str, x: Any, x_strides: Shape, y: Any, y_strides: Shape, threads: int,
    target: jit.Target, blocked: bool, backwards: bool = False,
) -> Call | None:  # fmt: skip
    """Make the kernel of a forward pass for these dtypes and strides.

    With `backwards`, make that of an input gradient from gy (x) to gx (y); None if none suits.
    """
    from einstride.cpu.conv.channelwise import channels, positions
    from einstride.cpu.conv.channelwise.signature import signature
    from einstride.cpu.conv.depthwise import forward as depthwise
    from einstride.cpu.conv.depthwise.rows import suits

    form = signature(
        g, compute, (x.name, x_strides), (y.name, y_strides), threads, target, backwards, blocked
    )
    if suits(form, backwards):
        return depthwise.call(form, backwards)
    if backwards:
        return None
    return positions.call(form) if form.along_positions else channels.call(form)


@kept
def _gradient_kernel(
    g: Geometry, per_example: bool, compute: str, x: Any, x_strides: Shape, y: Any,
    y_strides: Shape, threads: int, target: jit.Target,
) -> tuple[PartialSums, Call]:  # fmt: skip
    """Return the split of a filter gradient, and its kernel with arguments."""
    from einstride.cpu.conv.channelwise import channels_gradient, positions_gradient
    from einstride.cpu.conv.channelwise.partial_sums import partial_sums
    from einstride.cpu.conv.channelwise.signature import signature
    from einstride.cpu.conv.depthwise import filter_gradient as depthwise

    form = signature(g, compute, (x.name, x_strides), (y.name, y_strides), threads, target)
    split = partial_sums(g, per_example, compute)
    if depthwise.suits_gradient(form, split):
        return split, depthwise.call(form, split)
    along = positions_gradient if form.along_positions else channels_gradient
    return split, along.call(form, split)


def _gradient_slowdown(g: Geometry) -> float:
    """Return the slowdown factor of a depthwise filter gradient, relative to its products."""
    taps = prod(g.kernel)
    if taps == max(g.kernel) <= MOST_HELD:  # one run of taps
        return SUMMED_NEAR if taps <= MOST_NEAR else SUMMED
    if taps + 6 <= jit.host_target().registers:
        return SUMMED_NEAR if taps <= MOST_NEAR else SUMMED_PLANES
    if taps <= MOST_HELD:
        return SUMMED_FAR
    return SUMMED_LONG if g.out[-1] > 8 else SUMMED_SHORT_ROWS


def supports(job: Job, traits: Traits) -> str | None:
    """Return None if this engine can do the job, else why not."""
    from einstride.cpu.conv.channelwise.signature import entries

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
    """Predict the slower of two: products of whole vectors, or reading and writing the arrays."""
    from einstride.cpu.conv.channelwise.partial_sums import partial_sums
    from einstride.cpu.conv.channelwise.signature import MIN_THREADED, entries

    g, compute = job.geometry, job.arithmetic.compute
    item = job.itemsize
    parts = 4 if compute in COMPLEXES else 1
    threads = job.threads if g.multiply_adds * parts >= MIN_THREADED else 1
    backwards = job.direction == "input_grad"
    inputs, outputs = g.channels // g.groups, g.filters // g.groups
    across = inputs if backwards else outputs
    lanes = max(jit.host_target().vector_bytes // item, 1)
    merged = g.groups > 1 and lanes % across == 0
    filled = g.filters if merged else across
    if g.channels == g.filters == 1:
        filled = prod(g.out)
    unused_lanes = -(-filled // lanes) * lanes / filled
    if planar(job):
        unused_lanes = GATHERED
    shuffled = 1.0 if not merged or inputs * outputs == 1 else SHUFFLED
    slowdown = (
        RELOADED_LONG
        if prod(g.kernel) > MOST_HELD
        else 1.0
        if inputs * outputs == 1
        else RELOADED_GROUPS
    )
    slowdown = min(slowdown, RELOADED_SINGLE) if inputs == 1 and not backwards else slowdown
    if job.direction == "filter_grad" and inputs == outputs == 1 and g.groups > 1:
        slowdown = _gradient_slowdown(g)
    vectors = g.multiply_adds * parts * unused_lanes * shuffled * slowdown / lanes
    if g.channels == g.filters == g.groups and job.direction != "filter_grad" and parts == 1:
        vectors = SKIPPING * g.multiply_adds * fraction_inside(g) * unused_lanes / lanes
    arrays = (prod(g.x_shape) + prod(g.y_shape)) * item
    calls = len(input_gradient_phases.phases(g)) if backwards and g.channels != g.filters else 1
    workspace = 24 * entries(g, backwards) + 3 * prod(g.f_shape) * item
    if job.direction == "filter_grad":
        split = partial_sums(g, job.per_example, compute)
        workspace = (
            24 * entries(g) + (split.results * split.per_result + 1) * prod(g.f_shape) * item
        )
    if planar(job):
        workspace += prod(g.y_shape) * item
    seconds = calls * rates["kernel" if threads > 1 else "kernel_again"] + max(
        vectors * rates["vector"] / threads, arrays * rates["copy"]
    )
    return Cost(g.multiply_adds, workspace, arrays, seconds)
