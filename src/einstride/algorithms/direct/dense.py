"""Direct convolution with many input and output channels, by the kernels of `einstride.cpu.dense`.

Filters are packed into panels, which `prepare` can keep. An input gradient is one pass per stride
phase, written directly to the positions of the phase.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from einstride.algorithms.direct.description import Work, largest_phase
from einstride.algorithms.direct.pieces import filter_slices, largest_slice, phases
from einstride.algorithms.direct.shapes import (
    copy_bytes,
    fraction_inside,
    has_other_axes,
    positions_as_channels,
    table_bytes,
    taps_as_channels,
    unconverted,
)
from einstride.arrays.ops import adjoint_filter, flip, is_complex
from einstride.codegen import jit
from einstride.cpu import complex_as_real
from einstride.cpu.complex_as_real import real
from einstride.cpu.runtime.operands import (
    addressable,
    contiguous_channels,
    contiguous_lines,
    operand,
    packed,
    result_array,
)
from einstride.geometry import input_gradient_phases
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Cost, Job

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits
    from einstride.cpu.runtime.argument_block import Call

SINGLE_THREADED = 1 << 22
"""Multiply-adds up to which one thread computes: waking a second one takes longer than it saves."""

MAX_RANK = 4
"""Spatial axes of a kernel, at most: each axis is one more loop in the generated code."""

MAX_TABLE_BYTES = 8 << 20
"""Bytes of offset tables, at most; a job that needs more is left to other engines."""

# Constants of `cost`, in vector FMAs: see `algorithms.direct` for unit and origin.
TAP = 5.0
"""Per position of a tile and tap: to look up its offset and to test for the border."""

TILE = 12.0
"""Per position of a tile: to compute its coordinates and to write its sums."""

PACKED = 3.0
"""Per element of the filter's panels."""

PACKED_BY_NUMPY = 5.0
"""Per element of the panels of 8-bit products, which NumPy writes."""

PAIR = 6.0
"""Per position and tap of a filter gradient's tile: loads of gy and of the offset table."""

PAIR_IN_ROWS = 1.5
"""Like `PAIR`, where both operands are packed first."""

MISSED = 0.25
"""Fraction of a tile's time that is spent even where its taps read the border of zeros."""

COMPLEX_SUMS = 1.35
"""Slowdown factor of complex filter gradients, whose four real parts are combined at the end."""


def forward(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, prepared: Any = None
) -> Array:
    """Compute y from x and f."""
    x = _operand(x, job, b)
    if prepared is None and (slices := filter_slices(job)):
        for p in slices:
            forward(*p.arguments(x, f), b, p.bias(bias), out[p.out])
        return out
    g = job.geometry
    f = flip(f, g.rank, b) if g.flip else f
    panels_in = prepared[0] if prepared else None
    computed = _computed_geometry(job)
    if computed.channels != g.channels:
        x, f = operand(x, b, needs=contiguous_lines), b.xp.reshape(f, computed.f_shape)
    _correlate(x, f, computed, job, b, bias, out, panels_in)
    return out


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, prepared: Any = None
) -> Array:
    """Compute gx from gy and f."""
    from einstride.cpu.runtime.clear import clear

    gy = _operand(gy, job, b)
    if prepared is None and (slices := filter_slices(job)):
        for p in slices:
            input_grad(*p.arguments(gy, f), b, p.bias(bias), out[p.out])
        return out
    g = job.geometry
    computed = _computed_geometry(job)
    if computed.channels != g.channels:
        f = b.xp.reshape(f, computed.f_shape)
        bias = bias if bias is None else b.xp.concat([bias] * g.stride[-1])
    whole = result_array(
        out, b, needs=contiguous_lines if computed.channels != g.channels else addressable
    )
    destination = _view_as(whole, computed, b)
    g, phases = computed, input_gradient_phases.phases(computed)
    if prepared is None and phases.read_filter:
        f = adjoint_filter(f, g.groups, g.flip, b)
    for i, phase in enumerate(phases):
        part = destination
        if any(s > 1 for s in g.stride):
            part = destination[(slice(None), *phase.positions(g.stride), ...)]
        if phase.geometry is None:
            if bias is None:
                clear(part, b.launch, _threads(job))
            else:
                part[...] = bias
            continue
        sub = f
        if prepared is None and any(n > 1 for n in g.kernel):
            sub = flip(f[(*phase.taps, ...)], g.rank, b)
        _correlate(gy, sub, phase.geometry, job, b, bias, part, prepared[i] if prepared else None)
    if whole is not out:
        out[...] = whole
    return out


def _computed_geometry(job: Job) -> Geometry:
    """Return the geometry that is computed: see `shapes`."""
    return taps_as_channels(job) if job.direction == "forward" else positions_as_channels(job)


def _view_as(gx: Array, computed: Geometry, b: Backend) -> Array:
    """Return a view of gx with the axes of `computed`."""
    return gx if gx.shape == computed.x_shape else b.xp.reshape(gx, computed.x_shape)


def filter_grad(x: Array, gy: Array, job: Job, b: Backend, bias: None, out: Any) -> Array:
    """Compute gf from x and gy."""
    from einstride.cpu.dense.filter_gradient_call import gradient

    g, compute = job.geometry, job.arithmetic.compute
    x, gy = _operand(x, job, b), _operand(gy, job, b, contiguous_channels)
    destination = flip(out, g.rank, b, int(job.per_example)) if g.flip else out
    sums = _gradient_target(destination, job, b)
    gradient(
        x,
        gy,
        g,
        compute,
        sums,
        b.launch,
        _threads(job),
        job.per_example,
        max_partial_sums=_partial_sum_count(job),
    )
    if is_complex(compute):
        complex_as_real.combine(sums, destination)
    elif sums is not destination:
        destination[...] = sums
    return out


def _gradient_target(destination: Array, job: Job, b: Backend) -> Array:
    """Return the array that the kernel writes; for complex numbers, all products of real parts."""
    compute = job.arithmetic.compute
    if not is_complex(compute):
        return result_array(destination, b, compute, contiguous_channels)
    *axes, c, d = destination.shape
    return b.empty((*axes, 2 * c, 2 * d), real(compute), destination)


def _partial_sum_count(job: Job) -> int:
    """Count the partial sums of a filter gradient that the workspace limit allows."""
    from einstride.cpu.dense.packed_filter_gradient_call import allowed_partial_sums

    return allowed_partial_sums(job, table_bytes(job.geometry) + _copies(job) + job.copied)


def work(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Work | None:
    """Return the kernel that does most of the job for arrays with these strides, or None.

    The arrays are stand-ins, as in `Algorithm.describe`; nothing is read.
    """
    from einstride.codegen.jit import host_target
    from einstride.cpu.dense.filter_gradient_call import gradient_of

    g, compute = job.geometry, job.arithmetic.compute
    first = result_array(first, b, *_needs(first, job, addressable))
    if job.direction == "filter_grad":
        gy = result_array(second, b, *_needs(second, job, contiguous_channels))
        sums = _gradient_target(
            flip(out, g.rank, b, int(job.per_example)) if g.flip else out, job, b
        )
        settings = _threads(job), job.per_example, host_target(), _partial_sum_count(job)
        call, count = gradient_of(first, gy, g, compute, sums, *settings)
        return Work(call, sums=count)
    parts = filter_slices(job)
    if parts:
        first, _, job = parts[0].arguments(first, second)
        out, g = out[parts[0].out], job.geometry
    computed, passes = _computed_geometry(job), 1
    if job.direction == "forward":
        first = first if computed == g else result_array(first, b, needs=contiguous_lines)
    else:
        destination = _view_as(
            result_array(out, b, needs=contiguous_lines if computed != g else addressable),
            computed,
            b,
        )
        phase = largest_phase(computed, destination)
        if phase is None:
            return None
        computed, out, passes = phase
    return Work(_call(first, computed, job, b, out), passes, max(len(parts), 1))


def _call(x: Array, g: Geometry, job: Job, b: Backend, out: Array) -> Call:
    """Return the kernel of `_correlate` with its arguments, for arrays with these strides."""
    from einstride.codegen.jit import host_target
    from einstride.cpu.dense import vnni
    from einstride.cpu.dense.forward_call import correlation

    compute = job.arithmetic.compute
    use_vnni = vnni.fits(g, job)
    x = (
        result_array(x, b, needs=contiguous_channels)
        if use_vnni
        else result_array(x, b, *_needs(x, job, addressable))
    )
    destination = result_array(
        out, b, needs=contiguous_channels if is_complex(compute) else addressable
    )
    compute = "int32" if use_vnni else compute
    return correlation(x, g, compute, destination, _threads(job), host_target(), use_vnni)


def prepare(f: Array, job: Job, b: Backend) -> Any:
    """Pack the panels of `forward`, or of each phase of `input_grad`."""
    g = job.geometry
    if job.direction == "forward":
        computed = _computed_geometry(job)
        f = flip(f, g.rank, b) if g.flip else f
        return [_panels(b.xp.reshape(f, computed.f_shape), computed, job, b)]
    g = positions_as_channels(job)
    f = adjoint_filter(b.xp.reshape(f, g.f_shape), g.groups, g.flip, b)
    return [
        None
        if phase.geometry is None
        else _panels(flip(f[(*phase.taps, ...)], g.rank, b), phase.geometry, job, b)
        for phase in input_gradient_phases.phases(g)
    ]


def _panels(f: Array, g: Geometry, job: Job, b: Backend) -> Array:
    from einstride.cpu.dense import vnni
    from einstride.cpu.dense.pack_call import is_packed, pack

    compute = job.arithmetic.compute
    if vnni.fits(g, job):
        return vnni.pack(f, g, job.operands[0] == "int8")
    if is_packed(f, g, compute, jit.host_target()):
        return f
    f = operand(f, b, compute if is_complex(compute) else None)
    return pack(f, g, compute, b.launch, job.threads)


def _correlate(
    x: Array,
    f: Array,
    g: Geometry,
    job: Job,
    b: Backend,
    bias: Array | None,
    out: Any,
    panels_in: Any,
) -> None:
    from einstride.cpu.dense.forward_call import correlate

    compute = job.arithmetic.compute
    if panels_in is None:
        panels_in = _panels(f, g, job, b)
    use_vnni = isinstance(panels_in, tuple)  # of `einstride.cpu.dense.vnni`
    compute = "int32" if use_vnni else compute
    x = operand(x, b, needs=contiguous_channels) if use_vnni else _operand(x, job, b)
    bias = None if bias is None else operand(bias, b, compute, packed)
    destination = result_array(
        out, b, needs=contiguous_channels if is_complex(compute) else addressable
    )
    panels, bias = panels_in if use_vnni else (panels_in, bias)
    correlate(x, panels, g, compute, bias, destination, b.launch, _threads(job), vnni=use_vnni)
    if destination is not out:
        out[...] = destination


def _threads(job: Job) -> int:
    return job.threads if job.geometry.multiply_adds > SINGLE_THREADED else 1


def _operand(a: Array, job: Job, b: Backend, needs: Any = addressable) -> Array:
    """Return x or gy as the kernels can read it; for complex products complex and contiguous."""
    return operand(a, b, *_needs(a, job, needs))


def _needs(a: Array, job: Job, needs: Any) -> tuple[str | None, Any]:
    """Return the dtype to convert x or gy to, or None, and the predicate on its strides."""
    compute = job.arithmetic.compute
    if not is_complex(compute):
        return None, needs
    return (None if is_complex(str(a.dtype)) else compute), contiguous_channels


def supports(job: Job, traits: Traits) -> str | None:
    """Return None if this engine can do the job, else why not."""
    g = job.geometry
    if reason := unconverted(job):
        return reason
    if g.rank > MAX_RANK:
        return f"kernels have at most {MAX_RANK} spatial axes"
    if 0 in g.size:
        return "x has no elements"
    if job.direction == "input_grad" and (
        reason := input_gradient_phases.refused(positions_as_channels(job))
    ):
        return reason
    if table_bytes(g) > MAX_TABLE_BYTES:
        return f"the tables of offsets would take {table_bytes(g)} bytes"
    if job.batch_invariant and job.direction == "filter_grad" and not job.per_example:
        return "a filter gradient sums over the batch"
    return None


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Predict products of whole vectors, and the overhead of every tap of a tile."""
    from einstride.cpu.dense import packed_filter_gradient_call, vnni
    from einstride.cpu.dense.pack_call import panel_bytes, panel_layout

    g, compute, target = taps_as_channels(job), job.arithmetic.compute, jit.host_target()
    per_product = 4 if vnni.fits(g, job) else 1  # multiply-adds of a lane
    compute = "int32" if per_product > 1 else compute
    item = ITEMSIZE[real(compute)]
    threads = _threads(job)
    workspace, vectors, moved = table_bytes(g), 0.0, 0
    arrays = prod(g.x_shape) + prod(g.y_shape) + prod(g.f_shape)
    if job.direction == "filter_grad":
        s = panel_layout(compute, g.filters // g.groups, target)
        inner = g.channels // g.groups * s.parts
        tiles = -(-inner // min(s.rows, inner)) * s.per_group * g.groups
        pairs = g.batch * prod(g.out) * prod(g.kernel)
        copied = packed_filter_gradient_call.inside(g)
        per_pair = PAIR_IN_ROWS if copied and inner >= s.rows else PAIR
        vectors = tiles * pairs * (min(s.rows, inner) * s.vectors + per_pair)
        vectors *= (MISSED + (1 - MISSED) * fraction_inside(g)) * (
            COMPLEX_SUMS if s.parts == 2 else 1.0
        )
        if not copied:  # threads can share nothing but chunks of input channels
            threads = min(threads, tiles * (g.batch if job.per_example else 1))
        reads = -(-s.per_group // packed_filter_gradient_call.MAX_PANELS) if copied else s.per_group
        count = packed_filter_gradient_call.allowed_partial_sums(
            job, table_bytes(g) + _copies(job) + job.copied
        )
        workspace += packed_filter_gradient_call.gradient_bytes(job) * (
            1 + count if count > 1 else 1
        )
        moved = pairs * inner * item // max(prod(g.kernel), 1) * reads
    else:
        for h in phases(job):
            s = panel_layout(compute, h.filters // h.groups, target)
            inner = h.channels // h.groups * s.parts
            tiles = -(-h.batch * prod(h.out) // s.rows) * s.per_group * h.groups
            products = inner * s.rows * s.vectors / per_product
            per_tile = prod(h.kernel) * (products + TAP * s.rows) + TILE * s.rows
            per_tile *= MISSED + (1 - MISSED) * fraction_inside(h)
            packed = panel_bytes(h, compute, target)
            vectors += tiles * per_tile
            if not job.prepared:
                vectors += packed / item * (PACKED if per_product == 1 else PACKED_BY_NUMPY)
        copies = 8 if is_complex(job.arithmetic.compute) else 3
        part = largest_slice(job)
        for h in phases(part):
            packed = panel_bytes(h, compute, target)
            needed = table_bytes(h) + packed + prod(h.f_shape) * copies * item
            workspace = max(workspace, needed + _whole_filter_bytes(h, part))
        if job.hard and has_other_axes(part):
            workspace += copy_bytes(part)
    workspace += _copies(job)
    moved += arrays * job.itemsize
    call = rates["kernel" if threads > 1 else "kernel_again"]
    seconds = call + vectors * rates["vector"] / threads + moved * rates["copy"] / threads
    return Cost(g.multiply_adds, workspace, moved, seconds)


def _whole_filter_bytes(phase: Geometry, job: Job) -> int:
    """Count the bytes of the whole filter's copies while one phase of an input gradient runs."""
    if job.direction != "input_grad":
        return 0
    count = (job.geometry.groups > 1) + is_complex(job.arithmetic.compute)  # see `adjoint_filter`
    return count * max(prod(job.geometry.f_shape) - prod(phase.f_shape), 0) * job.itemsize


def _copies(job: Job) -> int:
    """Count the bytes of copies of x, y or their gradients.

    A real operand of a complex one is always converted. Arrays whose channels are not contiguous
    are copied, too; these copies are counted where the limit is hard.
    """
    g, compute = job.geometry, job.arithmetic.compute
    windowed = job.operands if job.direction == "filter_grad" else job.operands[:1]
    if job.hard and (job.direction == "filter_grad" or is_complex(compute)):
        return (prod(g.x_shape) + prod(g.y_shape)) * job.itemsize
    if not is_complex(compute):
        return 0
    shapes = (g.y_shape,) if job.direction == "input_grad" else (g.x_shape, g.y_shape)
    return sum(
        prod(shape) * job.itemsize
        for name, shape in zip(windowed, shapes, strict=False)
        if not is_complex(name)
    )
