"""Direct convolution for inputs with at most 16 channels per position, too few to fill a vector.

Forward: the taps of the last axis and the input channels form one contiguous reduction axis
(`line_calls`). Input gradient: a vector spans (position in block, channel), with a filter
rearranged accordingly (`cpu.small_channels.blocks`), which `prepare` can keep. Filter gradient: a
register tile holds the taps of the last axis with their channels, which are contiguous in x
(`run_outer`); they fill the lanes if there are few output channels, too (`run_lanes`).

The rearranged filter contains zeros, which would spread a NaN or an infinity of gy over a block. If
a sum is NaN, another engine without such zeros computes the input gradient again.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

from einstride import calibration
from einstride.algorithms.direct import channelwise, dense
from einstride.algorithms.direct.description import Work
from einstride.algorithms.direct.pieces import SLICE_BYTES
from einstride.algorithms.direct.shapes import unconverted
from einstride.arrays.ops import flip, is_complex
from einstride.codegen import jit
from einstride.cpu.runtime.operands import (
    contiguous_channels,
    contiguous_lines,
    operand,
    packed,
    result_array,
)
from einstride.cpu.runtime.partial_sums import add_partial_sums
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Cost, Job
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits

MOST_CHANNELS = 16
"""Input channels, at most: more fill a register tile of the other engines."""

FEWEST_PRODUCTS = 1 << 15
"""Multiply-adds from which this engine is compared: below, the overhead of a call dominates."""

COMPARED_THREADS = 2
"""Threads for which engines are compared, so that the choice does not depend on the threads."""

TABLES = 1 << 19
"""Elements of the table of an input gradient's panel columns, at most."""

PACKED_BLOCKS = 1 / 8
"""Vector FMAs per element of an input gradient's panels, which are transposed in squares.

See `algorithms.direct` for unit and origin.
"""

PACKED = 2.0
"""Vector FMAs per element of a forward pass' panels, which NumPy writes."""


@cached(1)
def _kernel_rates() -> dict[str, float]:
    """Return the calibrated rates of kernels, without the cost of a call.

    Engines are compared by these rates for any dtype and number of threads, so that the engine, and
    with it the bits of a result, depends on the shapes alone.
    """
    known = calibration.rates("numpy", "float32")
    return {name: seconds if name in ("vector", "copy") else 0.0 for name, seconds in known.items()}


def fits(job: Job, first: Array, second: Array) -> bool:
    """True if the kernels can address the arrays.

    The arrays are x and y of a forward pass, gy and gx of an input gradient, x and gy of a filter
    gradient. Lines of x or gx must be contiguous, and channels of the other array.
    """
    if job.direction == "input_grad":
        first, second = second, first
    return contiguous_lines(first) and contiguous_channels(second)


def forward(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, prepared: Any = None
) -> Array:
    """Compute y from x and f."""
    from einstride.cpu.small_channels import line_calls

    panels = prepare(f, job, b) if prepared is None else prepared
    compute = job.arithmetic.compute
    line_calls.correlate(x, panels, job.geometry, compute, bias, out, b.launch, _threads(job))
    return out


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, prepared: Any = None
) -> Array:
    """Compute gx from gy and f."""
    from einstride.cpu.small_channels import block_calls

    g, compute = job.geometry, job.arithmetic.compute
    if len(parts := _parts(g, compute)) > 1:
        finite = _add_parts(gy, f, job, b, bias, out, parts, prepared)
    else:
        panels = prepare(f, job, b) if prepared is None else prepared
        finite = block_calls.gradient(gy, panels, g, compute, bias, out, b.launch, _threads(job))
    return out if finite else fallback_engine(job, b.traits).input_grad(gy, f, job, b, bias, out)


def _part_count(g: Geometry, compute: str) -> int:
    """Count the parts of output channels: a part's filter takes `SLICE_BYTES` rearranged."""
    from einstride.cpu.small_channels import block_calls

    return min(-(-block_calls.panel_bytes(g, compute) // SLICE_BYTES), max(g.filters, 1))


def _parts(g: Geometry, compute: str) -> list[slice]:
    """Split the output channels into parts."""
    count = _part_count(g, compute)
    ends = [i * g.filters // count for i in range(count + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


def _add_parts(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, parts: list[slice],
    prepared: Any,
) -> bool:  # fmt: skip
    """Add the input gradients of all parts of output channels; return False if one has a NaN."""
    from einstride.cpu.small_channels import block_calls

    compute = job.arithmetic.compute
    total, term = (b.empty(out.shape, compute, gy) for _ in range(2))
    for i, filters in enumerate(parts):
        part_job = _part(job, filters)
        g = part_job.geometry
        panels = _block_panels(f[..., filters], part_job, b) if prepared is None else prepared[i]
        first = filters is parts[0]
        bias_in, written = (bias, total) if first else (None, term)
        if not block_calls.gradient(
            gy[..., filters], panels, g, compute, bias_in, written, b.launch, _threads(job)
        ):
            return False
        if not first:
            total += term
    out[...] = total
    return True


def _part(job: Job, filters: slice) -> Job:
    """Return the job with some of its output channels."""
    return replace(job, geometry=replace(job.geometry, filters=filters.stop - filters.start))


def filter_grad(x: Array, gy: Array, job: Job, b: Backend, bias: None, out: Any) -> Array:
    """Compute gf from x and gy."""
    from einstride.cpu.small_channels import run_calls, run_lane_calls

    g, compute = job.geometry, job.arithmetic.compute
    destination = flip(out, g.rank, b) if g.flip else out
    if _along_span(g, compute):
        run_lane_calls.gradient(x, gy, g, compute, destination, b.launch, _threads(job))
        return out
    tables = run_calls.tiling(g, compute).regions.partial_sums
    if tables == 1:
        sums = result_array(destination, b, compute, packed)
        run_calls.gradient(x, gy, g, compute, sums, b.launch, _threads(job))
        if sums is not destination:
            destination[...] = sums
        return out
    sums = b.empty((tables, *out.shape), compute, x)
    run_calls.gradient(x, gy, g, compute, sums, b.launch, _threads(job))
    add_partial_sums(sums, destination)
    return out


def work(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Work:
    """Return the kernel that does most of the job for arrays with these strides.

    The arrays are stand-ins, as in `Algorithm.describe`; nothing is read.
    """
    from einstride.cpu.small_channels import block_calls, line_calls, run_calls, run_lane_calls

    g, compute, threads = job.geometry, job.arithmetic.compute, _threads(job)
    if job.direction == "forward":
        return Work(line_calls.correlation(first, g, compute, out, threads))
    if job.direction == "filter_grad":
        calls = run_lane_calls if _along_span(g, compute) else run_calls
        call = calls.gradient_of(first, second, g, compute, threads)
        return Work(call, sums=call.argument("partial_sums"))
    parts = _parts(g, compute)
    if len(parts) > 1:
        first, g = first[..., parts[0]], _part(job, parts[0]).geometry
        out = b.empty(out.shape, compute, first)
    call, _ = block_calls.gradient_of(first, g, compute, out, threads)
    return Work(call, parts=len(parts))


def _along_span(g: Geometry, compute: str) -> bool:
    """True if the span of taps and channels fills the lanes of a filter gradient better.

    The alternative is to fill them with output channels.
    """
    from einstride.cpu.small_channels import run_calls, run_lane_calls

    if not run_lane_calls.supports(g):
        return False
    return run_lane_calls.tiling(g, compute).work < run_calls.tiling(g, compute).work


def prepare(f: Array, job: Job, b: Backend) -> Any:
    """Pack the filter into panels, rearranged for the blocks of an input gradient."""
    from einstride.cpu.small_channels import line_calls

    g, compute = job.geometry, job.arithmetic.compute
    if job.direction == "forward":
        return line_calls.pack(flip(f, g.rank, b) if g.flip else f, g, compute)
    if len(parts := _parts(g, compute)) > 1:
        return [_block_panels(f[..., filters], _part(job, filters), b) for filters in parts]
    return _block_panels(f, job, b)


def _block_panels(f: Array, job: Job, b: Backend) -> Any:
    """Pack the filter into panels for the blocks of an input gradient."""
    from einstride.cpu.small_channels import block_calls

    g, compute = job.geometry, job.arithmetic.compute
    return block_calls.pack(operand(f, b, compute, packed), g, compute, b.launch, _threads(job))


def _threads(job: Job) -> int:
    return job.threads if job.geometry.multiply_adds > dense.SINGLE_THREADED else 1


def fallback_engine(job: Job, traits: Traits) -> Any:
    """Return the engine for arrays that this one cannot address, and for sums that are NaN."""
    return dense if dense.supports(job, traits) is None else channelwise


def supports(job: Job, traits: Traits) -> str | None:
    """Return None if this engine can do the job, else why not."""
    g, a = job.geometry, job.arithmetic
    backwards = job.direction == "input_grad"
    if job.per_example:
        return "its filter gradient is summed over the batch"
    if g.channels > MOST_CHANNELS and not (backwards and prod(g.stride) > 1):
        return "there are channels enough for the dense kernels"
    if g.groups > 1:
        return "groups have kernels of their own"
    if is_complex(a.compute):
        return "it has no complex kernels"
    if reason := unconverted(job):
        return reason
    if g.rank > dense.MAX_RANK or 0 in g.size:
        return "x has no elements, or too many axes"
    if job.batch_invariant and job.direction != "forward":
        return "a NaN in one example changes the order of sums in others"
    if not backwards and g.dilation[-1] > 1 and g.kernel[-1] > 1:
        return "dilated taps of the last axis are not contiguous"
    if backwards and _column_table_size(job) > TABLES:
        return "its table of columns would be too large"
    return fallback_engine(job, traits).supports(job, traits)  # type: ignore[no-any-return]


def is_faster(alternative: Any, job: Job, traits: Traits) -> bool:
    """True if this engine is predicted to be faster than a rival."""
    g = job.geometry
    # The bits depend on the engine, so the choice may depend neither on `prepared` nor on threads.
    job = replace(job, prepared=False, threads=COMPARED_THREADS)
    if g.multiply_adds < FEWEST_PRODUCTS or supports(job, traits) is not None:
        return False
    if job.direction == "forward" and 2 * g.filters < jit.host_target().lanes(job.itemsize):
        return False
    own, alternative_cost = (e(job, traits, _kernel_rates()) for e in (cost, alternative.cost))
    fits_limit = not job.hard or own.workspace <= job.limit
    return bool(fits_limit and own.seconds < alternative_cost.seconds)


def _column_table_size(job: Job) -> int:
    from einstride.cpu.small_channels.block_calls import tiling

    plan = tiling(job.geometry, job.arithmetic.compute)
    return plan.panels * plan.taps * plan.width


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Predict products of whole vectors, including the zeros of the rearranged filter."""
    from einstride.cpu.runtime.aligned_memory import CACHE_LINE
    from einstride.cpu.small_channels import block_calls, line_calls, run_calls, run_lane_calls

    g, compute = job.geometry, job.arithmetic.compute
    item = ITEMSIZE[compute]
    threads = _threads(job)
    moved = (prod(g.x_shape) + prod(g.y_shape) + prod(g.f_shape)) * job.itemsize
    if job.direction == "filter_grad":
        spans = (run_lane_calls if _along_span(g, compute) else run_calls).tiling(g, compute)
        vectors, workspace = spans.work, (spans.regions.partial_sums + 1) * prod(g.f_shape) * item
        workspace += 16 * g.out[-1] * g.kernel[-1]
    elif job.direction == "forward":
        lines = line_calls.tiling(g, compute)
        packed = prod(g.kernel) * g.channels * lines.panels * lines.width
        vectors, workspace = lines.work + PACKED * packed * threads, 3 * packed * item + CACHE_LINE
        workspace += sum(16 * o * k for o, k in zip(g.out, g.kernel, strict=True))
        if line_calls.streams(g, job.itemsize, lines):  # stores do not read the result first
            moved -= prod(g.y_shape) * job.itemsize // 2
    else:
        panels = block_calls.panel_bytes(g, compute)
        vectors = block_calls.tiling(g, compute).work + panels / item * PACKED_BLOCKS
        workspace = prod(g.f_shape) * item + 32 * _column_table_size(job)
        count = _part_count(g, compute)
        workspace += panels if count == 1 else panels // count + 2 * prod(g.x_shape) * item
    # The other engine runs for unsupported strides, and where a sum is NaN.
    workspace += fallback_engine(job, traits).cost(job, traits, rates).workspace
    seconds = (
        rates["kernel"] + vectors * rates["vector"] / threads + moved * rates["copy"] / threads
    )
    return Cost(g.multiply_adds, workspace, moved, seconds)
