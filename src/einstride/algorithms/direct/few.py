"""Direct convolution for inputs with at most 16 channels per position, too few to fill a vector.

Forward: the taps of the last axis and the input channels form one contiguous reduction axis
(`small_channels.lines`). Input gradient: a vector spans (position in block, channel), with a filter
rearranged accordingly (`small_channels.blocks`), which `prepare` can keep. Filter gradient: the
rows of a register tile are the taps of the last axis with their channels, which are contiguous in
x; they fill the lanes if there are few output channels, too (`small_channels.spans`).

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
)
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Cost, Job
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits
    from einstride.cpu.conv.staged.kernel import Step
    from einstride.cpu.runtime.argument_block import Layout

STAGES_FILTERS = False
"""True if blocks copy the filter, too: see `staged`."""

STAGES_GRADIENTS = False
"""True if filter gradients have calls for blocks: see `staged`."""

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
    from einstride.cpu.conv.small_channels import lines

    panels = prepare(f, job, b) if prepared is None else prepared
    compute = job.arithmetic.compute
    call = lines.correlation(x, job.geometry, compute, out, _threads(job), job.blocked)
    lines.correlate(call, x, panels, job.geometry, compute, bias, out, b.launch)
    return out


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, prepared: Any = None
) -> Array:
    """Compute gx from gy and f, as the sum over all parts of output channels."""
    from einstride.cpu.conv.small_channels import blocks

    compute, parts = job.arithmetic.compute, _parts(job)
    total = term = out
    if len(parts) > 1:
        total, term = (b.empty(out.shape, compute, gy) for _ in range(2))
    for i, (filters, part) in enumerate(parts):
        panels = _block_panels(f[..., filters], part, b) if prepared is None else prepared[i]
        finite = blocks.gradient(
            gy[..., filters], panels, part.geometry, compute, None if i else bias,
            term if i else total, b.launch, _threads(job), job.blocked,
        )  # fmt: skip
        if not finite:
            return fallback_engine(job, b.traits).input_grad(gy, f, job, b, bias, out)
        if i:
            total += term
    if total is not out:
        out[...] = total
    return out


def _part_count(g: Geometry, compute: str) -> int:
    """Count the parts of output channels: a part's filter takes `SLICE_BYTES` rearranged."""
    from einstride.cpu.conv.small_channels.blocks import panel_bytes

    return min(-(-panel_bytes(g, compute) // SLICE_BYTES), max(g.filters, 1))


def _parts(job: Job) -> list[tuple[slice, Job]]:
    """Split the output channels into parts, each with a job of its own."""
    g = job.geometry
    count = _part_count(g, job.arithmetic.compute)
    if count == 1:
        return [(slice(None), job)]
    ends = [i * g.filters // count for i in range(count + 1)]
    return [
        (slice(first, last), replace(job, geometry=replace(g, filters=last - first)))
        for first, last in pairwise(ends)
    ]


def filter_grad(x: Array, gy: Array, job: Job, b: Backend, bias: None, out: Any) -> Array:
    """Compute gf from x and gy."""
    from einstride.cpu.conv.small_channels import spans

    g = job.geometry
    destination = flip(out, g.rank, b) if g.flip else out
    spans.gradient(x, gy, g, job.arithmetic.compute, destination, b.launch, _threads(job))
    return out


def work(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Work:
    """Return the kernel that does most of the job for arrays with these strides.

    The arrays are stand-ins, as in `Algorithm.describe`; nothing is read.
    """
    from einstride.cpu.conv.small_channels import blocks, lines, spans

    g, compute, threads = job.geometry, job.arithmetic.compute, _threads(job)
    if job.direction == "forward":
        return Work(lines.correlation(first, g, compute, out, threads, job.blocked))
    if job.direction == "filter_grad":
        call = spans.gradient_of(first, second, g, compute, threads)
        return Work(call, sums=call.argument("partial_sums"))
    parts = _parts(job)
    filters, part = parts[0]
    if len(parts) > 1:
        out = b.empty(out.shape, compute, first)
    gy = first[..., filters]
    call, _ = blocks.gradient_of(gy, part.geometry, compute, out, threads, job.blocked)
    return Work(call, parts=len(parts))


def staged_unit(job: Job) -> int | None:
    """Return 1, the only group; None if the filter is split into parts: see `staged`."""
    return 1 if job.direction == "forward" or len(_parts(job)) == 1 else None


def staged_steps(job: Job, kind: Geometry, x: Layout, y: Layout) -> list[Step] | None:
    """Return the kernel call for a block of rows."""
    from einstride.cpu.conv.small_channels import blocks, lines
    from einstride.cpu.conv.staged.kernel import Step

    g, compute, target = job.geometry, job.arithmetic.compute, jit.host_target()
    more = compute, 1, target, job.blocked
    windowed, shape = (x, kind.x_shape) if job.direction == "forward" else (y, kind.x_shape)
    if shape[-2] > 1 and windowed.strides[-2] != shape[-1] * ITEMSIZE[windowed.dtype]:
        return None
    if job.direction == "forward":
        return [Step(lines.correlation_of_layouts(g, kind, x, y, False, *more))]
    return [Step(blocks.gradient_of_layouts(g, kind, x, y, *more)[0])]


def staged_filters(f: Array, job: Job, b: Backend, prepared: Any) -> list[Any]:
    """Return the panels, which all blocks share."""
    panels = prepare(f, job, b) if prepared is None else prepared
    return [panels] if job.direction == "forward" else panels


def staged_bias(bias: Array, job: Job, b: Backend) -> Array:
    """Return the bias of each column of the panels."""
    from einstride.cpu.conv.small_channels import blocks, lines

    g, compute = job.geometry, job.arithmetic.compute
    if job.direction == "forward":
        return lines.padded_bias(bias, g, compute)
    return blocks.bias_of_columns(bias, g, compute)


def prepare(f: Array, job: Job, b: Backend) -> Any:
    """Pack the filter into panels; for an input gradient, the filter of each part."""
    from einstride.cpu.conv.small_channels import lines

    g, compute = job.geometry, job.arithmetic.compute
    if job.direction == "forward":
        return lines.pack(flip(f, g.rank, b) if g.flip else f, g, compute)
    return [_block_panels(f[..., filters], part, b) for filters, part in _parts(job)]


def _block_panels(f: Array, job: Job, b: Backend) -> Any:
    """Pack the filter into panels for the blocks of an input gradient."""
    from einstride.cpu.conv.small_channels.blocks import pack

    g, compute = job.geometry, job.arithmetic.compute
    return pack(operand(f, b, compute, packed), g, compute, b.launch, _threads(job))


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
    from einstride.cpu.conv.small_channels.block_plan import tiling

    chosen = tiling(job.geometry, job.arithmetic.compute, jit.host_target())
    return chosen.panels * chosen.taps * chosen.width


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Predict products of whole vectors, including the zeros of the rearranged filter."""
    from einstride.cpu.conv.small_channels import block_plan, blocks, lines, spans
    from einstride.cpu.runtime.aligned_memory import CACHE_LINE

    g, compute = job.geometry, job.arithmetic.compute
    item, target = ITEMSIZE[compute], jit.host_target()
    threads = _threads(job)
    moved = (prod(g.x_shape) + prod(g.y_shape) + prod(g.f_shape)) * job.itemsize
    if job.direction == "filter_grad":
        chosen = spans.tiling(g, compute, target, spans.puts_span_in_lanes(g, compute))
        vectors, workspace = chosen.work, (chosen.partial_sums + 1) * prod(g.f_shape) * item
        workspace += 16 * g.out[-1] * g.kernel[-1]
    elif job.direction == "forward":
        line_tiling = lines.tiling(g, compute, target)
        elements = prod(g.kernel) * g.channels * line_tiling.panels * line_tiling.width
        vectors = line_tiling.work + PACKED * elements * threads
        workspace = 3 * elements * item + CACHE_LINE
        workspace += sum(16 * o * k for o, k in zip(g.out, g.kernel, strict=True))
        if lines.streams(g, job.itemsize, line_tiling):  # stores do not read the result first
            moved -= prod(g.y_shape) * job.itemsize // 2
    else:
        panels = blocks.panel_bytes(g, compute)
        vectors = block_plan.tiling(g, compute, target).work + panels / item * PACKED_BLOCKS
        workspace = prod(g.f_shape) * item + 32 * _column_table_size(job)
        count = _part_count(g, compute)
        workspace += panels if count == 1 else panels // count + 2 * prod(g.x_shape) * item
    # The other engine runs for unsupported strides, and where a sum is NaN.
    workspace += fallback_engine(job, traits).cost(job, traits, rates).workspace
    seconds = (
        rates["kernel"] + vectors * rates["vector"] / threads + moved * rates["copy"] / threads
    )
    return Cost(g.multiply_adds, workspace, moved, seconds)
