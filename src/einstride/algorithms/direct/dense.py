"""Direct convolution with many channels, by the kernels of `einstride.cpu.conv.dense`.

Filters are packed into panels, which `prepare` can keep. An input gradient is one pass per stride
phase, written directly to the positions of the phase.
"""

from __future__ import annotations

from dataclasses import replace
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
from einstride.algorithms.direct.staged import phase_layouts
from einstride.arrays.ops import adjoint_filter, flip, is_complex
from einstride.codegen import jit
from einstride.cpu import complex_as_real
from einstride.cpu.complex_as_real import real
from einstride.cpu.runtime.aligned_memory import allocate
from einstride.cpu.runtime.argument_block import Layout, layout
from einstride.cpu.runtime.operands import (
    addressable,
    contiguous_channels,
    contiguous_lines,
    operand,
    packed,
    result_array,
)
from einstride.cpu.runtime.partial_sums import add_partial_sums
from einstride.cpu.runtime.recording import assign
from einstride.geometry import input_gradient_phases
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Cost, Job

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits
    from einstride.cpu.conv.staged.kernel import Step
    from einstride.cpu.runtime.argument_block import Call

SINGLE_THREADED = 1 << 22
"""Multiply-adds up to which one thread computes: waking a second one takes longer than it saves."""

STAGES_FILTERS = False
"""True if blocks copy the filter, too: see `staged`."""

STAGES_GRADIENTS = False
"""True if filter gradients have calls for blocks: see `staged`."""

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
    panels = prepared[0] if prepared else None
    computed = _computed_geometry(job)
    if computed.channels != g.channels:
        x = operand(x, b, needs=contiguous_lines)
        f = b.xp.reshape(operand(f, b, needs=packed), computed.f_shape)  # a view, in a program, too
    _correlate(x, f, computed, job, b, bias, out, panels)
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
        f = b.xp.reshape(operand(f, b, needs=packed), computed.f_shape)
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
                assign(part, bias, b.launch)
            continue
        sub = f
        if prepared is None and any(n > 1 for n in g.kernel):
            sub = flip(f[(*phase.taps, ...)], g.rank, b)
        _correlate(gy, sub, phase.geometry, job, b, bias, part, prepared[i] if prepared else None)
    if whole is not out:
        assign(out, whole, b.launch)
    return out


def _computed_geometry(job: Job) -> Geometry:
    """Return the geometry that is computed: see `shapes`."""
    return taps_as_channels(job) if job.direction == "forward" else positions_as_channels(job)


def _view_as(gx: Array, computed: Geometry, b: Backend) -> Array:
    """Return a view of gx with the axes of `computed`."""
    return gx if gx.shape == computed.x_shape else b.xp.reshape(gx, computed.x_shape)


def filter_grad(x: Array, gy: Array, job: Job, b: Backend, bias: None, out: Any) -> Array:
    """Compute gf from x and gy."""
    g = job.geometry
    x, gy = _operand(x, job, b), _operand(gy, job, b, contiguous_channels)
    destination = flip(out, g.rank, b, int(job.per_example)) if g.flip else out
    gf = _gradient_target(destination, job, b)
    call, count = _gradient_call(x, gy, gf, job)
    sums = gf if count == 1 else allocate(b.launch, (count, *gf.shape), b.dtype_name(gf))
    call(b.launch, x=x, gy=gy, gf=sums)
    if count > 1:
        add_partial_sums(sums, gf, b.launch)
    if is_complex(job.arithmetic.compute):
        complex_as_real.combine(gf, destination)
    elif gf is not destination:
        assign(destination, gf, b.launch)
    return out


def _gradient_call(x: Array, gy: Array, gf: Array, job: Job) -> tuple[Call, int]:
    """Return the kernel of a filter gradient, and the number of its partial sums."""
    from einstride.cpu.conv.dense.filter_gradient import gradient
    from einstride.cpu.conv.dense.packed_filter_gradient import allowed_partial_sums

    limit = allowed_partial_sums(job, table_bytes(job.geometry) + _copies(job) + job.copied)
    layouts = layout(x), layout(gy), layout(gf)
    compute, each = job.arithmetic.compute, job.per_example
    return gradient(job.geometry, *layouts, compute, each, _threads(job), jit.host_target(), limit)


def _gradient_target(destination: Array, job: Job, b: Backend) -> Array:
    """Return the array that the kernel writes; for complex numbers, all products of real parts."""
    compute = job.arithmetic.compute
    if not is_complex(compute):
        return result_array(destination, b, compute, contiguous_channels)
    *axes, c, d = destination.shape
    return b.empty((*axes, 2 * c, 2 * d), real(compute), destination)


def staged_unit(job: Job) -> int | None:
    """Return the number of groups: blocks are divided by rows alone; see `staged`."""
    products = dot_products(_computed_geometry(job), job)
    return None if products or filter_slices(job) else job.geometry.groups


def staged_steps(job: Job, kind: Geometry, x: Layout, y: Layout) -> list[Step] | None:
    """Return the kernel calls for a block of rows: one, or one for each phase."""
    from einstride.cpu.conv.dense.forward import correlation
    from einstride.cpu.conv.staged.kernel import Step

    g, compute, target = job.geometry, job.arithmetic.compute, jit.host_target()
    computed = _computed_geometry(replace(job, geometry=kind))
    if (computed == kind) != (_computed_geometry(job) == g):
        return None
    if computed != kind and job.direction == "input_grad":
        if (joined := _joined(y, kind, g.stride[-1])) is None:
            return None
        y = joined
    elif computed != kind and x.strides[-2] != kind.channels * x.strides[-1]:
        return None
    found = phase_layouts(replace(job, geometry=_computed_geometry(job)), computed, y)
    if found is None:
        return None
    return [
        Step(correlation(h, x, part, compute, 1, target, job.blocked), number, y_offset=offset)
        for number, h, part, offset in found
    ]


def _joined(y: Layout, kind: Geometry, step: int) -> Layout | None:
    """Return the layout of gx with `step` positions as channels; None if they have gaps."""
    *strides, last, channel = y.strides
    if last != kind.channels * channel:
        return None
    return Layout(y.dtype, (*strides, last * step, channel))


def staged_filters(f: Array, job: Job, b: Backend, prepared: Any) -> Any:
    """Return the panels of each phase."""
    return prepared or prepare(f, job, b)


def staged_bias(bias: Array, job: Job, b: Backend) -> Array:
    """Return the bias in the dtype of the sums, repeated where positions are channels."""
    bias = operand(bias, b, job.arithmetic.compute, packed)
    computed = _computed_geometry(job)
    if job.direction == "forward" or computed.channels == job.geometry.channels:
        return bias
    return b.xp.concat([bias] * job.geometry.stride[-1])


def work(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Work | None:
    """Return the kernel that does most of the job for arrays with these strides, or None.

    The arrays are stand-ins, as in `Algorithm.describe`; nothing is read.
    """
    g = job.geometry
    first = result_array(first, b, *_needs(first, job, addressable))
    if job.direction == "filter_grad":
        gy = result_array(second, b, *_needs(second, job, contiguous_channels))
        flipped = flip(out, g.rank, b, int(job.per_example)) if g.flip else out
        call, count = _gradient_call(first, gy, _gradient_target(flipped, job, b), job)
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
    first = result_array(first, b, *_needs(first, job, addressable, dot_products(computed, job)))
    call = _forward_call(first, computed, job, _forward_target(out, computed, job, b))
    return Work(call, passes, max(len(parts), 1))


def dot_products(g: Geometry, job: Job) -> str | None:
    """Return how several channels are multiplied at once in this geometry: "matrix", "vnni".

    None if there is one channel in a product.
    """
    from einstride.cpu.conv.dense import matrix_tiles, vnni

    if matrix_tiles.fits(g, job):
        return "matrix"
    return "vnni" if vnni.fits(g, job) else None


def _forward_call(x: Array, g: Geometry, job: Job, y: Array) -> Call:
    """Return the kernel of a forward convolution, for arrays with these strides."""
    from einstride.cpu.conv.dense import forward, matrix_tiles

    dots, threads, target = dot_products(g, job), _threads(job), jit.host_target()
    x_layout = layout(x)
    if x.shape[-1] != g.channels:  # taps of the last axis are channels, next to each other
        x_layout = Layout(x_layout.dtype, (*x.strides[:-1], x.itemsize))
    if dots == "matrix":
        return matrix_tiles.correlation(g, job.operands, x_layout, layout(y), threads, target)
    compute = _sum_dtype(job, dots)
    layouts, vnni = (x_layout, layout(y)), dots == "vnni"
    return forward.correlation(g, *layouts, compute, threads, target, job.blocked, vnni)


def _sum_dtype(job: Job, dots: str | None) -> str:
    """Return the dtype of sums, and of the bias that is added to them."""
    if dots and job.operands[1] == "int8":
        return "int32"
    return job.arithmetic.compute


def _forward_target(out: Array, g: Geometry, job: Job, b: Backend) -> Array:
    """Return the array that the kernel writes."""
    pairs = is_complex(job.arithmetic.compute) or dot_products(g, job) == "matrix"
    return result_array(out, b, needs=contiguous_channels if pairs else addressable)


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
    from einstride.cpu.conv.dense import matrix_filter, vnni
    from einstride.cpu.conv.dense.pack import is_packed, pack

    compute, dots = job.arithmetic.compute, dot_products(g, job)
    if dots == "matrix":
        f = operand(f, b, needs=matrix_filter.contiguous_side)
        return matrix_filter.pack(f, g, b.launch, job.threads)
    if dots == "vnni":
        return vnni.pack(f, g, job.operands[0] == "int8")
    if is_packed(f, g, compute, jit.host_target()):
        return f
    f = operand(f, b, compute if is_complex(compute) else None)
    return pack(f, g, compute, b.launch, job.threads)


def _correlate(
    x: Array, f: Array, g: Geometry, job: Job, b: Backend, bias: Array | None, out: Any,
    panels: Any,
) -> None:  # fmt: skip
    """Compute y = conv(x, f) + bias of a geometry that does not flip; `panels`: f, prepared."""
    panels = _panels(f, g, job, b) if panels is None else panels
    dots = dot_products(g, job)
    x = operand(x, b, *_needs(x, job, addressable, dots))
    if bias is not None:
        bias = operand(bias, b, _sum_dtype(job, dots), packed)
    panels, bias = panels if dots == "vnni" else (panels, bias)
    y = _forward_target(out, g, job, b)
    _forward_call(x, g, job, y)(b.launch, x=x, f=panels, y=y, bias=bias)
    if y is not out:
        assign(out, y, b.launch)


def _threads(job: Job) -> int:
    return job.threads if job.geometry.multiply_adds > SINGLE_THREADED else 1


def _operand(a: Array, job: Job, b: Backend, needs: Any = addressable) -> Array:
    """Return x or gy as the kernels can read it; for complex products complex and contiguous."""
    return operand(a, b, *_needs(a, job, needs))


def _needs(a: Array, job: Job, needs: Any, dots: str | None = None) -> tuple[str | None, Any]:
    """Return the dtype to convert x or gy to, or None, and the predicate on its strides."""
    compute = job.arithmetic.compute
    if dots:
        return None, contiguous_channels
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
    from einstride.cpu.conv.dense import matrix_filter, matrix_tiles, packed_filter_gradient, vnni
    from einstride.cpu.conv.dense.pack import panel_bytes, panel_layout

    g, compute, target = taps_as_channels(job), job.arithmetic.compute, jit.host_target()
    per_product = 4 if vnni.fits(g, job) else 1  # multiply-adds of a lane
    compute = _sum_dtype(job, dot_products(g, job))
    item = ITEMSIZE[real(compute)]
    threads = _threads(job)
    workspace, vectors, moved = table_bytes(g), 0.0, 0
    arrays = prod(g.x_shape) + prod(g.y_shape) + prod(g.f_shape)
    if job.direction == "filter_grad":
        s = panel_layout(compute, g.filters // g.groups, target)
        inner = g.channels // g.groups * s.parts
        tiles = -(-inner // min(s.rows, inner)) * s.per_group * g.groups
        pairs = g.batch * prod(g.out) * prod(g.kernel)
        copied = packed_filter_gradient.inside(g)
        per_pair = PAIR_IN_ROWS if copied and inner >= s.rows else PAIR
        vectors = tiles * pairs * (min(s.rows, inner) * s.vectors + per_pair)
        vectors *= (MISSED + (1 - MISSED) * fraction_inside(g)) * (
            COMPLEX_SUMS if s.parts == 2 else 1.0
        )
        if not copied:  # threads can share nothing but chunks of input channels
            threads = min(threads, tiles * (g.batch if job.per_example else 1))
        reads = -(-s.per_group // packed_filter_gradient.MAX_PANELS) if copied else s.per_group
        count = packed_filter_gradient.allowed_partial_sums(
            job, table_bytes(g) + _copies(job) + job.copied
        )
        workspace += packed_filter_gradient.gradient_bytes(job) * (1 + count if count > 1 else 1)
        moved = pairs * inner * item // max(prod(g.kernel), 1) * reads
    else:
        for h in phases(job):
            if dot_products(h, job) == "matrix":
                vectors += matrix_tiles.work(h, job.operand_itemsize)
                if not job.prepared:
                    vectors += prod(h.f_shape) * PACKED
                continue
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
            if dot_products(h, part) == "matrix":
                packed = matrix_filter.panel_bytes(h, job.operand_itemsize)
            needed = table_bytes(h) + packed + prod(h.f_shape) * copies * item
            workspace = max(workspace, needed + _whole_filter_bytes(h, part))
        if job.hard and has_other_axes(part):
            workspace += copy_bytes(part)
    workspace += _copies(job)
    moved += arrays * job.itemsize
    call = rates["kernel" if threads > 1 else "kernel_again"]
    seconds = call + vectors * rates["vector"] / threads + moved * rates["copy"] / threads
    return Cost(g.multiply_adds, workspace, moved, seconds)


def _copies_for_dot_products(job: Job) -> int:
    """Count the bytes of copies with contiguous channels, for products of several channels."""
    kinds = {dot_products(h, job) for h in phases(job)} - {None}
    shapes = job.geometry.x_shape, job.geometry.y_shape
    first, result = shapes[::-1] if job.direction == "input_grad" else shapes
    read = prod(first) * job.operand_itemsize if kinds else 0
    written = prod(result) * ITEMSIZE[job.arithmetic.result] if "matrix" in kinds else 0
    return read + written


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
        return _copies_for_dot_products(job) if job.hard else 0
    shapes = (g.y_shape,) if job.direction == "input_grad" else (g.x_shape, g.y_shape)
    return sum(
        prod(shape) * job.itemsize
        for name, shape in zip(windowed, shapes, strict=False)
        if not is_complex(name)
    )
