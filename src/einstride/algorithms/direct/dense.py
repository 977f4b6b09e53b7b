"""The engine for dense products: many channels in, many out (`einstride.cpu.dense`).

Filters become panels, which `prepare` can keep. An input gradient is one pass for each stride
phase, written straight to its positions.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from einstride.algorithms.direct.description import Work, largest_phase
from einstride.algorithms.direct.pieces import largest, phases, pieces
from einstride.algorithms.direct.shapes import (
    copied_lines,
    gathered,
    joined,
    met,
    regrouped,
    tables,
    unconverted,
)
from einstride.arrays.ops import adjoint_filter, flip, is_complex
from einstride.codegen import jit
from einstride.cpu import complex_as_real
from einstride.cpu.complex_as_real import real
from einstride.cpu.runtime.operands import addressable, lines, neighbours, operand, packed, target
from einstride.geometry import input_gradient_phases
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Cost, Job

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits
    from einstride.cpu.runtime.argument_block import Call

SMALL = 1 << 22
"""Multiply-adds below which a second thread comes too late to help."""

MAX_RANK = 4
"""Spatial axes of a kernel: each is one more loop in its text."""

TABLES = 8 << 20
"""Bytes that tables of offsets may take."""

# Of the cost, in multiply-adds of vectors: see `algorithms.direct` for unit and origin.
TAP = 5.0
"""Per position of a tile and tap: to look up its offset, and to ask whether it is outside."""

TILE = 12.0
"""Per position of a tile: to find its coordinates and to write its sums."""

PACKED = 3.0
"""Per number of the filter's panels."""

PACKED_BY_NUMPY = 5.0
"""Per number of panels for 8-bit products, which NumPy writes."""

PAIR = 6.0
"""Per position and tap of a tile of a filter gradient: loads of gy, the table of offsets."""

PAIR_IN_ROWS = 1.5
"""The same where both operands are brought side by side first."""

MISSED = 0.25
"""Share of a tile's time that is spent also where its taps stand in a border of zeros."""

COMPLEX_SUMS = 1.35
"""Times slower: filter gradients of complex numbers, whose four parts are combined in the end."""


def forward(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, prepared: Any = None
) -> Array:
    """x, f -> y."""
    x = _operand(x, job, b)
    if prepared is None and (found := pieces(job)):
        for p in found:
            forward(*p.given(x, f), b, p.bias(bias), out[p.out])
        return out
    g = job.geometry
    f = flip(f, g.rank, b) if g.flip else f
    kept = prepared[0] if prepared else None
    run = _run(job)
    if run.channels != g.channels:
        x, f = operand(x, b, needs=lines), b.xp.reshape(f, run.f_shape)
    _correlate(x, f, run, job, b, bias, out, kept)
    return out


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, prepared: Any = None
) -> Array:
    """gy, f -> gx."""
    from einstride.cpu.runtime.clear import clear

    gy = _operand(gy, job, b)
    if prepared is None and (found := pieces(job)):
        for p in found:
            input_grad(*p.given(gy, f), b, p.bias(bias), out[p.out])
        return out
    g = job.geometry
    run = _run(job)
    if run.channels != g.channels:
        f = b.xp.reshape(f, run.f_shape)
        bias = bias if bias is None else b.xp.concat([bias] * g.stride[-1])
    whole = target(out, b, needs=lines if run.channels != g.channels else addressable)
    place = _place(whole, run, b)
    g, phases = run, input_gradient_phases.phases(run)
    if prepared is None and phases.read_filter:
        f = adjoint_filter(f, g.groups, g.flip, b)
    for i, phase in enumerate(phases):
        steps = tuple(slice(r, None, s) for r, s in zip(phase.remainder, g.stride, strict=True))
        part = place if all(s == 1 for s in g.stride) else place[(slice(None), *steps, ...)]
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


def _run(job: Job) -> Geometry:
    """The convolution that is done, with other axes than the job's where that is better."""
    return joined(job) if job.direction == "forward" else gathered(job)


def _place(gx: Array, run: Geometry, b: Backend) -> Array:
    """The gradient of x as the passes of `run` write it: a view."""
    return gx if gx.shape == run.x_shape else b.xp.reshape(gx, run.x_shape)


def filter_grad(x: Array, gy: Array, job: Job, b: Backend, bias: None, out: Any) -> Array:
    """x, gy -> gf."""
    from einstride.cpu.dense.filter_gradient_call import gradient

    g, compute = job.geometry, job.arithmetic.compute
    x, gy = _operand(x, job, b), _operand(gy, job, b, neighbours)
    place = flip(out, g.rank, b, int(job.per_example)) if g.flip else out
    found = _sums(place, job, b)
    gradient(
        x, gy, g, compute, found, b.launch, _threads(job), job.per_example, shares=_shares(job)
    )
    if is_complex(compute):
        complex_as_real.combine(found, place)
    elif found is not place:
        place[...] = found
    return out


def _sums(place: Array, job: Job, b: Backend) -> Array:
    """Where the kernel writes a filter gradient; of complex numbers all products of their parts."""
    compute = job.arithmetic.compute
    if not is_complex(compute):
        return target(place, b, compute, neighbours)
    *axes, c, d = place.shape
    return b.empty((*axes, 2 * c, 2 * d), real(compute), place)


def _shares(job: Job) -> int:
    """How many tables of partial sums a filter gradient has room for."""
    from einstride.cpu.dense.packed_filter_gradient_call import in_room

    return in_room(job, tables(job.geometry) + _copies(job) + job.copied)


def work(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Work | None:
    """The kernel that does most of the job for arrays that lie like these; None if there is none.

    Nothing is read, and what is allocated is only looked at: see `Algorithm.describe`.
    """
    from einstride.codegen.jit import machine
    from einstride.cpu.dense.filter_gradient_call import gradient_of

    g, compute = job.geometry, job.arithmetic.compute
    first = target(first, b, *_needs(first, job, addressable))
    if job.direction == "filter_grad":
        gy = target(second, b, *_needs(second, job, neighbours))
        found = _sums(flip(out, g.rank, b, int(job.per_example)) if g.flip else out, job, b)
        more = _threads(job), job.per_example, machine(), _shares(job)
        call, sums = gradient_of(first, gy, g, compute, found, *more)
        return Work(call, sums=sums)
    parts = pieces(job)
    if parts:
        first, _, job = parts[0].given(first, second)
        out, g = out[parts[0].out], job.geometry
    run, passes = _run(job), 1
    if job.direction == "forward":
        first = first if run == g else target(first, b, needs=lines)
    else:
        place = _place(target(out, b, needs=lines if run != g else addressable), run, b)
        phase = largest_phase(run, place)
        if phase is None:
            return None
        run, out, passes = phase
    return Work(_call(first, run, job, b, out), passes, max(len(parts), 1))


def _call(x: Array, g: Geometry, job: Job, b: Backend, out: Array) -> Call:
    """The kernel of `_correlate`, for arrays that lie like these."""
    from einstride.codegen.jit import machine
    from einstride.cpu.dense import vnni
    from einstride.cpu.dense.forward_call import correlation

    compute = job.arithmetic.compute
    four = vnni.fits(g, job)
    x = target(x, b, needs=neighbours) if four else target(x, b, *_needs(x, job, addressable))
    place = target(out, b, needs=neighbours if is_complex(compute) else addressable)
    compute = "int32" if four else compute
    return correlation(x, g, compute, place, _threads(job), machine(), four)


def prepare(f: Array, job: Job, b: Backend) -> Any:
    """Panels for `forward`, or for each phase of `input_grad`."""
    g = job.geometry
    if job.direction == "forward":
        run = _run(job)
        f = flip(f, g.rank, b) if g.flip else f
        return [_packed(b.xp.reshape(f, run.f_shape), run, job, b)]
    g = gathered(job)
    f = adjoint_filter(b.xp.reshape(f, g.f_shape), g.groups, g.flip, b)
    return [
        None
        if phase.geometry is None
        else _packed(flip(f[(*phase.taps, ...)], g.rank, b), phase.geometry, job, b)
        for phase in input_gradient_phases.phases(g)
    ]


def _packed(f: Array, g: Geometry, job: Job, b: Backend) -> Array:
    from einstride.cpu.dense import vnni
    from einstride.cpu.dense.pack_call import is_packed, pack

    compute = job.arithmetic.compute
    if vnni.fits(g, job):
        return vnni.pack(f, g, job.operands[0] == "int8")
    if is_packed(f, g, compute, jit.machine()):
        return f
    f = operand(f, b, compute if is_complex(compute) else None)
    return pack(f, g, compute, b.launch, job.threads)


def _correlate(
    x: Array, f: Array, g: Geometry, job: Job, b: Backend, bias: Array | None, out: Any, kept: Any
) -> None:
    from einstride.cpu.dense.forward_call import correlate

    compute = job.arithmetic.compute
    if kept is None:
        kept = _packed(f, g, job, b)
    four = isinstance(kept, tuple)  # of `einstride.cpu.dense.vnni`
    compute = "int32" if four else compute
    x = operand(x, b, needs=neighbours) if four else _operand(x, job, b)
    bias = None if bias is None else operand(bias, b, compute, packed)
    place = target(out, b, needs=neighbours if is_complex(compute) else addressable)
    panels, bias = kept if four else (kept, bias)
    correlate(x, panels, g, compute, bias, place, b.launch, _threads(job), quads=four)
    if place is not out:
        out[...] = place


def _threads(job: Job) -> int:
    return job.threads if job.geometry.multiply_adds > SMALL else 1


def _operand(a: Array, job: Job, b: Backend, needs: Any = addressable) -> Array:
    """x or gy as the kernels read it: complex where products are, its channels then neighbours."""
    return operand(a, b, *_needs(a, job, needs))


def _needs(a: Array, job: Job, needs: Any) -> tuple[str | None, Any]:
    """The dtype that x or gy is converted to, if it is, and how it must lie then."""
    compute = job.arithmetic.compute
    if not is_complex(compute):
        return None, needs
    return (None if is_complex(str(a.dtype)) else compute), neighbours


def supports(job: Job, traits: Traits) -> str | None:
    """None if it can do the job, else why not."""
    g = job.geometry
    if reason := unconverted(job):
        return reason
    if g.rank > MAX_RANK:
        return f"kernels have at most {MAX_RANK} spatial axes"
    if 0 in g.size:
        return "x has no elements"
    if job.direction == "input_grad" and (reason := input_gradient_phases.refused(gathered(job))):
        return reason
    if tables(g) > TABLES:
        return f"the tables of offsets would take {tables(g)} bytes"
    if job.batch_invariant and job.direction == "filter_grad" and not job.per_example:
        return "a filter gradient sums over the batch"
    return None


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Products of whole vectors, and a little for every tap of a tile."""
    from einstride.cpu.dense import packed_filter_gradient_call, vnni
    from einstride.cpu.dense.pack_call import panel_bytes, shape

    g, compute, on = joined(job), job.arithmetic.compute, jit.machine()
    four = 4 if vnni.fits(g, job) else 1
    compute = "int32" if four > 1 else compute
    item = ITEMSIZE[real(compute)]
    threads = _threads(job)
    workspace, vectors, moved = tables(g), 0.0, 0
    arrays = prod(g.x_shape) + prod(g.y_shape) + prod(g.f_shape)
    if job.direction == "filter_grad":
        s = shape(compute, g.filters // g.groups, on)
        inner = g.channels // g.groups * s.parts
        tiles = -(-inner // min(s.rows, inner)) * s.per_group * g.groups
        pairs = g.batch * prod(g.out) * prod(g.kernel)
        copied = packed_filter_gradient_call.inside(g)
        besides = PAIR_IN_ROWS if copied and inner >= s.rows else PAIR
        vectors = tiles * pairs * (min(s.rows, inner) * s.vectors + besides)
        vectors *= (MISSED + (1 - MISSED) * met(g)) * (COMPLEX_SUMS if s.parts == 2 else 1.0)
        if not copied:  # chunks of input channels are all that threads can share
            threads = min(threads, tiles * (g.batch if job.per_example else 1))
        again = -(-s.per_group // packed_filter_gradient_call.GROUP) if copied else s.per_group
        own = packed_filter_gradient_call.in_room(job, tables(g) + _copies(job) + job.copied)
        workspace += packed_filter_gradient_call.size(job) * (1 + own if own > 1 else 1)
        moved = pairs * inner * item // max(prod(g.kernel), 1) * again
    else:
        for h in phases(job):
            s = shape(compute, h.filters // h.groups, on)
            inner = h.channels // h.groups * s.parts
            tiles = -(-h.batch * prod(h.out) // s.rows) * s.per_group * h.groups
            products = inner * s.rows * s.vectors / four
            each = prod(h.kernel) * (products + TAP * s.rows) + TILE * s.rows
            each *= MISSED + (1 - MISSED) * met(h)
            packed = panel_bytes(h, compute, on)
            vectors += tiles * each
            if not job.prepared:
                vectors += packed / item * (PACKED if four == 1 else PACKED_BY_NUMPY)
        copies = 8 if is_complex(job.arithmetic.compute) else 3
        piece = largest(job)
        for h in phases(piece):
            packed = panel_bytes(h, compute, on)
            own = tables(h) + packed + prod(h.f_shape) * copies * item
            workspace = max(workspace, own + _beside(h, piece))
        if job.hard and regrouped(piece):
            workspace += copied_lines(piece)
    workspace += _copies(job)
    moved += arrays * job.itemsize
    call = rates["kernel" if threads > 1 else "kernel_again"]
    seconds = call + vectors * rates["vector"] / threads + moved * rates["copy"] / threads
    return Cost(g.multiply_adds, workspace, moved, seconds)


def _beside(phase: Geometry, job: Job) -> int:
    """Bytes of copies of the whole filter while one phase of an input gradient takes its taps."""
    if job.direction != "input_grad":
        return 0
    count = (job.geometry.groups > 1) + is_complex(job.arithmetic.compute)  # see `adjoint_filter`
    return count * max(prod(job.geometry.f_shape) - prod(phase.f_shape), 0) * job.itemsize


def _copies(job: Job) -> int:
    """Bytes of copies of x, y or their gradients.

    Real numbers beside complex ones are always converted. Other copies are of arrays whose channels
    are no neighbours; they are counted where not a byte more is allowed.
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
