"""Direct convolution with many small groups: a vector holds the channels of several groups.

The kernels (`cpu.conv.grouped`) need contiguous channels (`fits`); arrays with other strides take
another engine. Filters are packed into panels, which `prepare` can keep. An input gradient is one
pass per stride phase.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from einstride.algorithms.direct.description import Work, largest_phase
from einstride.algorithms.direct.pieces import phases
from einstride.algorithms.direct.shapes import unconverted
from einstride.algorithms.direct.staged import phase_layouts
from einstride.arrays.ops import flip, is_complex
from einstride.codegen import jit
from einstride.cpu.runtime.argument_block import Layout
from einstride.cpu.runtime.operands import contiguous_channels, operand, packed, result_array
from einstride.geometry import input_gradient_phases
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Cost, Job

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits
    from einstride.cpu.conv.staged.kernel import Step
    from einstride.cpu.runtime.argument_block import Call

STAGES_FILTERS = False
"""True if blocks copy the filter, too: see `staged`."""

STAGES_GRADIENTS = True
"""True if filter gradients have calls for blocks: see `staged`."""

SINGLE_THREADED = 1 << 21
"""Multiply-adds up to which one thread computes: waking a second one takes longer than it saves."""

MAX_TABLE_BYTES = 8 << 20
"""Bytes of offset tables, at most; a job that needs more is left to other engines."""

DENSE_CHANNELS = 64
"""Channels, in and out, from which each group is computed as a dense convolution."""

MAX_REGION_BYTES = 2 << 20
"""Bytes of a thread's copy of a region of a filter gradient, at most."""

MIN_ROW_POSITIONS = 4
"""Positions of a row, at least: tiles of fewer do not occupy the vector units."""

# Constants of `cost`, in vector FMAs: see `algorithms.direct` for unit and origin.
SHUFFLE = 0.5
"""Per element of x: to shuffle it to the lanes of its group's outputs, several groups a vector."""

BROADCAST = 0.1
"""Like `SHUFFLE`, where a vector belongs to one group."""

STAGING = 3.0
"""Per position of x and load: to look it up, load it and store it to the staging buffer."""

BLOCK = 10.0
"""Per block of channels of a row: to start and end its loops."""

PACKED = 0.5
"""Per element of the filter's panels."""

PACKED_TRANSPOSED = 2.0
"""Like `PACKED`, where input and output channels are exchanged."""

TIMES_MOVED = 2
"""Factor on the calibrated seconds per byte: rows of x are read once for each panel."""


def fits(*arrays: Array) -> bool:
    """True if the kernels can address the arrays: their channels are contiguous."""
    return all(contiguous_channels(a) for a in arrays)


def forward(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, prepared: Any = None
) -> Array:
    """Compute y from x and f."""
    panels = (prepared or prepare(f, job, b))[0]
    _correlate(x, panels, job.geometry, job, b, bias, out)
    return out


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, prepared: Any = None
) -> Array:
    """Compute gx from gy and f."""
    g = job.geometry
    f = f if prepared else _adjoint_filter(f, job, b)
    for i, phase in enumerate(input_gradient_phases.phases(g)):
        part = out[(slice(None), *phase.positions(g.stride), ...)]
        if phase.geometry is None:
            part[...] = 0 if bias is None else bias
        else:
            panels = prepared[i] if prepared else _phase_panels(f, phase, job, b)
            _correlate(gy, panels, phase.geometry, job, b, bias, part)
    return out


def _correlate(
    x: Array, panels: Array, g: Geometry, job: Job, b: Backend, bias: Array | None, out: Any
) -> None:
    from einstride.cpu.conv.grouped.forward import correlation
    from einstride.cpu.runtime.argument_block import address

    compute = job.arithmetic.compute
    call = correlation(x, g, compute, out, _threads(job), jit.host_target(), job.blocked)
    bias = None if bias is None else operand(bias, b, compute, packed)
    bias_at = 0 if bias is None else address(bias)
    call(b.launch, x=address(x), f=address(panels), y=address(out), bias=bias_at)


def staged_unit(job: Job) -> int | None:
    """Return the groups of a panel: see `staged`."""
    from einstride.cpu.conv.grouped.layout import channel_layout

    units = {
        channel_layout(h, job.arithmetic.compute, jit.host_target()).groups for h in _passes(job)
    }
    return units.pop() if len(units) == 1 else None


def staged_steps(job: Job, kind: Geometry, x: Layout, y: Layout) -> list[Step] | None:
    """Return the kernel calls for a block of rows and groups: one, or one for each phase."""
    from einstride.cpu.conv.grouped.forward import correlation_of_layouts
    from einstride.cpu.conv.grouped.layout import channel_layout
    from einstride.cpu.conv.grouped.rows import MAX_TAPS
    from einstride.cpu.conv.staged.kernel import Step

    compute, target = job.arithmetic.compute, jit.host_target()
    found = phase_layouts(job, kind, y)
    if found is None or any(h.out[-1] < 1 or h.kernel[-1] > MAX_TAPS for _, h, _, _ in found):
        return None
    steps = []
    for number, h, part, offset in found:
        layout = channel_layout(h, compute, target)
        call = correlation_of_layouts(h, x, part, compute, 1, target, job.blocked)
        panel = prod(h.kernel) * layout.panel_inputs * layout.width * ITEMSIZE[compute]
        steps.append(Step(call, number, panel * layout.per_group, offset))
    return steps


def staged_gradient_steps(job: Job, kind: Geometry, x: Layout, gy: Layout) -> list[Step] | None:
    """Return the kernel that computes the filter gradient of a block of rows and groups."""
    from einstride.cpu.conv.grouped.filter_gradient import gradient_of_layouts, packed_bytes
    from einstride.cpu.conv.staged.kernel import Step

    compute, target = job.arithmetic.compute, jit.host_target()
    strides = tuple(prod(kind.f_shape[a + 1 :]) * ITEMSIZE[compute] for a in range(kind.rank + 2))
    gf = Layout(compute, strides)
    call = gradient_of_layouts(kind, x, gy, gf, compute, False, 1, target)
    return [Step(call, packed_bytes=packed_bytes(kind, compute, False, target))]


def staged_filters(f: Array, job: Job, b: Backend, prepared: Any) -> Any:
    """Return the panels of each phase."""
    return prepared or prepare(f, job, b)


def staged_bias(bias: Array, job: Job, b: Backend) -> Array:
    """Return the bias in the dtype of the sums."""
    return operand(bias, b, job.arithmetic.compute, packed)


def prepare(f: Array, job: Job, b: Backend) -> Any:
    """Pack the panels of `forward`, or of each phase of `input_grad`."""
    if job.direction == "forward":
        return [_panels(_by_group(f, job, b), job.geometry, job, b)]
    f, g = _adjoint_filter(f, job, b), job.geometry
    return [_phase_panels(f, phase, job, b) for phase in input_gradient_phases.phases(g)]


def _by_group(f: Array, job: Job, b: Backend) -> Array:
    """Return the filter (*K, C // G, G, D // G), its taps reversed if the convolution flips."""
    g = job.geometry
    f = operand(flip(f, g.rank, b) if g.flip else f, b)
    return f.reshape(*f.shape[:-1], g.groups, -1)


def _adjoint_filter(f: Array, job: Job, b: Backend) -> Array:
    """Return the filter (*K, D // G, G, C // G), a view in which the channels are exchanged."""
    return _by_group(f, job, b).swapaxes(-3, -1)


def _phase_panels(f: Array, phase: input_gradient_phases.Phase, job: Job, b: Backend) -> Any:
    """Pack the taps of a phase of `_adjoint_filter`; None if there are none."""
    if phase.geometry is None:
        return None
    return _panels(flip(f[(*phase.taps, ...)], job.geometry.rank, b), phase.geometry, job, b)


def _panels(f: Array, g: Geometry, job: Job, b: Backend) -> Array:
    from einstride.cpu.conv.grouped.layout import pack

    return pack(f, g, job.arithmetic.compute, b.launch, _threads(job), jit.host_target())


def filter_grad(x: Array, gy: Array, job: Job, b: Backend, bias: None, out: Any) -> Array:
    """Compute gf from x and gy."""
    from einstride.cpu.runtime.aligned_memory import aligned_empty
    from einstride.cpu.runtime.argument_block import address

    call, sums, destination = _gradient(x, gy, job, b, out)
    memory = aligned_empty((_threads(job) * _region_bytes(job),), "uint8")
    addresses = {"gy": address(gy), "gf": address(sums), "packed": address(memory)}
    call(b.launch, x=address(x), **addresses)
    if sums is not destination:
        destination[...] = sums
    return out


def _gradient(x: Array, gy: Array, job: Job, b: Backend, out: Array) -> tuple[Call, Array, Array]:
    """Return the kernel of a filter gradient, the array it writes, and the view of `out` for it."""
    from einstride.cpu.conv.grouped.filter_gradient import gradient_of

    g, compute, per_example = job.geometry, job.arithmetic.compute, job.per_example
    destination = flip(out, g.rank, b, int(per_example)) if g.flip else out
    sums = result_array(destination, b, compute, contiguous_channels)
    call = gradient_of(x, gy, g, compute, sums, _threads(job), per_example, jit.host_target())
    return call, sums, destination


def work(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Work | None:
    """Return the kernel that does most of the job for arrays with these strides, or None.

    The arrays are stand-ins, as in `Algorithm.describe`; nothing is read.
    """
    from einstride.cpu.conv.grouped.forward import correlation

    g, passes = job.geometry, 1
    if job.direction == "filter_grad":
        return Work(_gradient(first, second, job, b, out)[0])
    if job.direction == "input_grad":
        phase = largest_phase(g, out)
        if phase is None:
            return None
        g, out, passes = phase
    compute = job.arithmetic.compute
    call = correlation(first, g, compute, out, _threads(job), jit.host_target(), job.blocked)
    return Work(call, passes)


def _threads(job: Job) -> int:
    return job.threads if job.geometry.multiply_adds > SINGLE_THREADED else 1


def supports(job: Job, traits: Traits) -> str | None:
    """Return None if this engine can do the job, else why not."""
    from einstride.cpu.conv.grouped.rows import MAX_TAPS

    g, a = job.geometry, job.arithmetic
    fewest, most = sorted((g.channels // g.groups, g.filters // g.groups))
    if fewest < 2 or most < 3 or fewest >= DENSE_CHANNELS or g.groups < 2:
        return f"needs several groups of several channels, of fewer than {DENSE_CHANNELS}"
    if is_complex(a.compute):
        return "vectors hold no complex numbers"
    if reason := unconverted(job):
        return reason
    if 0 in (g.batch, *g.size, *g.out):
        return "there are no elements"
    if job.batch_invariant and job.direction == "filter_grad" and not job.per_example:
        return "a filter gradient sums over the batch"
    if job.direction == "input_grad" and (reason := input_gradient_phases.refused(g)):
        return reason
    if max(h.kernel[-1] for h in _passes(job)) > MAX_TAPS:
        return f"at most {MAX_TAPS} taps of the last axis are written out"
    if min(h.out[-1] for h in _passes(job)) < MIN_ROW_POSITIONS:
        return f"rows have fewer than {MIN_ROW_POSITIONS} positions"
    if max(_tables(h) for h in _passes(job)) > MAX_TABLE_BYTES:
        return "the tables of offsets would take too many bytes"
    if job.direction == "filter_grad":
        if prod(g.kernel) == 1:
            return "sums of a single tap leave registers empty"
        if _region_bytes(job) > MAX_REGION_BYTES:
            return "a region of a panel is too large"
    if job.hard and _workspace(job) > job.limit:
        return f"needs {_workspace(job)} bytes of workspace"
    return None


def _passes(job: Job) -> list[Geometry]:
    """List the forward convolutions of a job; for a filter gradient, its own geometry."""
    return (job.direction != "filter_grad" and phases(job)) or [job.geometry]


def _tables(g: Geometry) -> int:
    """Count the bytes of the offset tables, and of the arrays they are made from."""
    axes = zip(g.out, g.kernel, g.padding, g.size, strict=True)
    return 40 * sum(o * k + n + abs(low) + abs(high) for o, k, (low, high), n in axes)


def _region_bytes(job: Job) -> int:
    from einstride.cpu.conv.grouped.filter_gradient import packed_bytes

    return packed_bytes(job.geometry, job.arithmetic.compute, job.per_example, jit.host_target())


def _workspace(job: Job) -> int:
    """Count the bytes of tables, panels, copies of regions, and sums beside the result."""
    from einstride.cpu.conv.grouped.layout import panel_bytes

    compute = job.arithmetic.compute
    tables = max(_tables(h) for h in _passes(job))
    if job.direction == "filter_grad":
        return (
            tables + prod(job.shape) * ITEMSIZE[compute] + _threads(job) * _region_bytes(job) + 64
        )
    # A filter that is not addressable is copied first; see `_panels`.
    copied = prod(job.geometry.f_shape) * ITEMSIZE[job.operands[1]] if job.hard else 0
    return tables + copied + max(panel_bytes(h, compute, jit.host_target()) for h in _passes(job))


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Predict products of whole vectors, elements of x copied to staging buffers, and shuffles."""
    from einstride.cpu.conv.grouped.filter_gradient import POSITIONS, gradient_layout
    from einstride.cpu.conv.grouped.forward import max_positions
    from einstride.cpu.conv.grouped.layout import channel_layout, panel_bytes

    g, compute, target = job.geometry, job.arithmetic.compute, jit.host_target()
    backwards = job.direction == "filter_grad"
    vectors, calls = 0.0, 0
    for h in _passes(job):
        s = gradient_layout(h, compute, target) if backwards else channel_layout(h, compute, target)
        most = POSITIONS if backwards else max_positions(s, target)
        rows = h.batch * prod(h.out[:-1]) * s.panels(h.groups) * prod(h.kernel[:-1])
        elements = -(-h.out[-1] // most) * (h.kernel[-1] - 1) + h.out[-1]
        products = h.out[-1] * h.kernel[-1] * s.block * s.vectors
        shuffles = elements * s.block * (SHUFFLE if s.groups > 1 else BROADCAST)
        staged = elements * (STAGING if s.contiguous else STAGING * s.groups)
        vectors += rows * s.blocks * (products + shuffles + staged + BLOCK)
        packed = 0 if backwards else panel_bytes(h, compute, target)
        per_element = PACKED_TRANSPOSED if job.direction == "input_grad" else PACKED
        vectors += packed / ITEMSIZE[compute] * per_element
        calls += 1
    moved = (prod(g.x_shape) + prod(g.y_shape) + prod(g.f_shape)) * job.itemsize
    threads = _threads(job)
    seconds = (
        calls * rates["kernel"]
        + vectors * rates["vector"] / threads
        + moved * rates["copy"] * TIMES_MOVED / threads
    )
    return Cost(g.multiply_adds, _workspace(job), moved, seconds)
