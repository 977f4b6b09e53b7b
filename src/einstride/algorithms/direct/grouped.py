"""The engine for many small groups: groups side by side in vectors, rows of positions in tiles.

Its kernels (`einstride.cpu.grouped`) want channels that are neighbours in
memory; `fits` says so of an array, and other arrays are the other engines' work. Filters become
panels, which `prepare` can keep. An input gradient is one pass for each stride phase.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from einstride.algorithms.direct.description import Work, largest_phase
from einstride.algorithms.direct.shapes import unconverted
from einstride.arrays.ops import flip, is_complex
from einstride.codegen import jit
from einstride.cpu.runtime.operands import neighbours, operand, packed, target
from einstride.geometry import input_gradient_phases
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Cost, Job

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits

SMALL = 1 << 21
"""Multiply-adds below which a second thread comes too late to help."""

TABLES = 8 << 20
"""Bytes that tables of offsets may take."""

DENSE = 64
"""Channels, in and out, from which a group is as good as a dense convolution."""

ROOM = 2 << 20
"""Bytes that a thread may copy a region of a filter gradient to."""

ROW = 4
"""Positions of a row from which tiles keep the vector units busy."""

# Of the cost, in multiply-adds of vectors: see `algorithms.direct` for unit and origin.
SHUFFLE = 0.5
"""Per place of x and channel: to bring it to the lanes of its group's outputs, groups joined."""

BROADCAST = 0.1
"""The same where a vector lies in one group."""

STAGED = 3.0
"""Per place of x and load: to look it up, load it, and store it on the stage."""

BLOCK = 10.0
"""Per block of channels of a row: to begin and end its loops."""

PACKED = 0.5
"""Per number of the filter's panels."""

PACKED_TURNED = 2.0
"""The same where channels exchange their roles on the way."""

MOVED = 2
"""Times the calibrated seconds of a byte: rows of x are read once for each panel."""


def fits(*arrays: Array) -> bool:
    """True if kernels can read them: addressable, with channels that are neighbours in memory."""
    return all(neighbours(a) for a in arrays)


def forward(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, prepared: Any = None
) -> Array:
    """x, f -> y."""
    from einstride.cpu.grouped.forward_call import correlate

    g, compute = job.geometry, job.arithmetic.compute
    panels = (prepared or prepare(f, job, b))[0]
    correlate(
        x, panels, g, compute, _bias(bias, compute, b), out, b.launch, _threads(job), jit.machine()
    )
    return out


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, prepared: Any = None
) -> Array:
    """gy, f -> gx."""
    from einstride.cpu.grouped.forward_call import correlate

    g, compute, on = job.geometry, job.arithmetic.compute, jit.machine()
    added = _bias(bias, compute, b)
    for i, phase in enumerate(input_gradient_phases.phases(g)):
        steps = tuple(slice(r, None, s) for r, s in zip(phase.remainder, g.stride, strict=True))
        part = out[(slice(None), *steps, ...)]
        h = phase.geometry
        if h is None:
            part[...] = 0 if bias is None else bias
            continue
        panels = prepared[i] if prepared else _turned(f, phase, h, job, b)
        correlate(gy, panels, h, compute, added, part, b.launch, _threads(job), on)
    return out


def filter_grad(x: Array, gy: Array, job: Job, b: Backend, bias: None, out: Any) -> Array:
    """x, gy -> gf."""
    from einstride.cpu.grouped.filter_gradient_call import gradient

    g, compute, each = job.geometry, job.arithmetic.compute, job.per_example
    place = flip(out, g.rank, b, int(each)) if g.flip else out
    found = target(place, b, compute, neighbours)
    gradient(x, gy, g, compute, found, b.launch, _threads(job), each, jit.machine())
    if found is not place:
        place[...] = found
    return out


def work(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Work | None:
    """The kernel that does most of the job for arrays that lie like these; None if there is none.

    Nothing is read, and what is allocated is only looked at: see `Algorithm.describe`.
    """
    from einstride.codegen.jit import machine
    from einstride.cpu.grouped.filter_gradient_call import gradient_of
    from einstride.cpu.grouped.forward_call import correlation

    g, compute, on, passes = job.geometry, job.arithmetic.compute, machine(), 1
    if job.direction == "filter_grad":
        each = job.per_example
        place = flip(out, g.rank, b, int(each)) if g.flip else out
        found = target(place, b, compute, neighbours)
        return Work(gradient_of(first, second, g, compute, found, _threads(job), each, on))
    if job.direction == "input_grad":
        phase = largest_phase(g, out)
        if phase is None:
            return None
        g, out, passes = phase
    return Work(correlation(first, g, compute, out, _threads(job), on), passes)


def prepare(f: Array, job: Job, b: Backend) -> Any:
    """Panels for `forward`, or for each phase of `input_grad`."""
    g = job.geometry
    if job.direction == "forward":
        return [_packed(flip(f, g.rank, b) if g.flip else f, g, job, b)]
    return [
        None if phase.geometry is None else _turned(f, phase, phase.geometry, job, b)
        for phase in input_gradient_phases.phases(g)
    ]


def _turned(
    f: Array, phase: input_gradient_phases.Phase, h: Geometry, job: Job, b: Backend
) -> Array:
    """The panels of a phase: its taps in the other order, the channels' roles exchanged."""
    rank = job.geometry.rank
    f = flip(f, rank, b) if job.geometry.flip else f
    return _packed(flip(f[(*phase.taps, ...)], rank, b), h, job, b, turned=True)


def _packed(f: Array, g: Geometry, job: Job, b: Backend, turned: bool = False) -> Array:
    from einstride.cpu.grouped.shape import pack

    compute = job.arithmetic.compute
    return pack(operand(f, b), g, compute, b.launch, _threads(job), jit.machine(), turned)


def _bias(bias: Array | None, compute: str, b: Backend) -> Array | None:
    return None if bias is None else operand(bias, b, compute, packed)


def _threads(job: Job) -> int:
    return job.threads if job.geometry.multiply_adds > SMALL else 1


def supports(job: Job, traits: Traits) -> str | None:
    """None if it can do the job, else why not."""
    from einstride.cpu.grouped.shape import MOST_TAPS

    g, a = job.geometry, job.arithmetic
    fewest, most = sorted((g.channels // g.groups, g.filters // g.groups))
    if fewest < 2 or most < 3 or fewest >= DENSE or g.groups < 2:
        return f"needs several groups of several channels, of fewer than {DENSE}"
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
    if max(h.kernel[-1] for h in _passes(job)) > MOST_TAPS:
        return f"at most {MOST_TAPS} taps of the last axis are written out"
    if min(h.out[-1] for h in _passes(job)) < ROW:
        return f"rows have fewer than {ROW} positions"
    if max(_tables(h) for h in _passes(job)) > TABLES:
        return "the tables of offsets would take too many bytes"
    if job.direction == "filter_grad":
        if prod(g.kernel) == 1:
            return "sums of a single tap leave registers empty"
        if _room(job) > ROOM:
            return "a region of a panel is too large"
    if job.hard and _workspace(job) > job.ceiling:
        return f"needs {_workspace(job)} bytes of workspace"
    return None


def _passes(job: Job) -> list[Geometry]:
    """The convolutions that are run, as forward passes; the job itself for a filter gradient."""
    if job.direction != "input_grad":
        return [job.geometry]
    found = [
        p.geometry for p in input_gradient_phases.phases(job.geometry) if p.geometry is not None
    ]
    return found or [job.geometry]


def _tables(g: Geometry) -> int:
    """Bytes of the tables of offsets, and of what they are made from."""
    axes = zip(g.out, g.kernel, g.padding, g.size, strict=True)
    return 40 * sum(o * k + n + abs(low) + abs(high) for o, k, (low, high), n in axes)


def _room(job: Job) -> int:
    from einstride.cpu.grouped.filter_gradient_call import room

    return room(job.geometry, job.arithmetic.compute, job.per_example, jit.machine())


def _workspace(job: Job) -> int:
    """Bytes of tables, panels, copies of regions, and sums that are not the result yet."""
    from einstride.cpu.grouped.shape import panel_bytes

    compute = job.arithmetic.compute
    tables = max(_tables(h) for h in _passes(job))
    if job.direction == "filter_grad":
        return tables + prod(job.shape) * ITEMSIZE[compute] + _threads(job) * _room(job) + 64
    # A filter that is not addressable is copied first; see `_packed`.
    copied = prod(job.geometry.f_shape) * ITEMSIZE[job.operands[1]] if job.hard else 0
    return tables + copied + max(panel_bytes(h, compute, jit.machine()) for h in _passes(job))


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Products of whole vectors, the places of x brought onto the stage, their shuffles."""
    from einstride.cpu.grouped.filter_gradient_call import POSITIONS, gradient_lanes
    from einstride.cpu.grouped.forward_call import positions
    from einstride.cpu.grouped.shape import lanes_of, panel_bytes

    g, compute, on = job.geometry, job.arithmetic.compute, jit.machine()
    backwards = job.direction == "filter_grad"
    vectors, calls = 0.0, 0
    for h in _passes(job):
        s = gradient_lanes(h, compute, on) if backwards else lanes_of(h, compute, on)
        most = POSITIONS if backwards else positions(s, on)
        rows = h.batch * prod(h.out[:-1]) * s.panels(h.groups) * prod(h.kernel[:-1])
        places = -(-h.out[-1] // most) * (h.kernel[-1] - 1) + h.out[-1]
        products = h.out[-1] * h.kernel[-1] * s.block * s.vectors
        shuffles = places * s.block * (SHUFFLE if s.joined > 1 else BROADCAST)
        staged = places * (STAGED if s.run else STAGED * s.joined)
        vectors += rows * s.blocks * (products + shuffles + staged + BLOCK)
        packed = 0 if backwards else panel_bytes(h, compute, on)
        turned = PACKED_TURNED if job.direction == "input_grad" else PACKED
        vectors += packed / ITEMSIZE[compute] * turned
        calls += 1
    moved = (prod(g.x_shape) + prod(g.y_shape) + prod(g.f_shape)) * job.itemsize
    threads = _threads(job)
    seconds = (
        calls * rates["kernel"]
        + vectors * rates["vector"] / threads
        + moved * rates["copy"] * MOVED / threads
    )
    return Cost(g.multiply_adds, _workspace(job), moved, seconds)
