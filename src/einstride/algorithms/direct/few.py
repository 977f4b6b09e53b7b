"""Direct convolution for inputs with few channels per position: first layers, patches, signals.

Too few channels do not fill a vector. Forward: the taps of the last axis and the input channels
form one contiguous reduction axis (`line_calls`). Input gradient: a vector spans (position in
block, channel), with a filter rearranged accordingly (`cpu.small_channels.blocks`), which `prepare`
can keep. Filter gradient: a tile holds the taps of the last axis with their channels, which are
contiguous in x (`run_outer`); they fill the lanes where there are few output channels too
(`run_lanes`).

Zeros of the rearranged filter would spread a NaN or an infinity of gy over a block. Where a sum is
NaN, the engine of many channels does it again, which has no such zeros.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import TYPE_CHECKING, Any

from einstride import calibration
from einstride.algorithms.direct import channelwise, dense
from einstride.algorithms.direct.description import Work
from einstride.algorithms.direct.pieces import PIECE
from einstride.algorithms.direct.shapes import unconverted
from einstride.arrays.ops import flip, is_complex
from einstride.codegen import jit
from einstride.cpu.runtime.operands import lines, neighbours, operand, packed, target
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Cost, Job
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits

MANY = 16
"""Channels from which they fill a tile."""

LEAST = 1 << 15
"""Multiply-adds below which a call's own cost is all that counts."""

USUAL = 2
"""Threads for which engines are compared."""

TABLES = 1 << 19
"""Numbers that the table of columns may hold."""

JOINED = 1 / 8
"""Multiply-adds of vectors for each number of an input gradient's panels, transposed in squares.
See `algorithms.direct` for the origin of such figures."""

PACKED = 2.0
"""Multiply-adds of vectors for each number of the forward pass' panels, which NumPy writes."""


@cached(1)
def _kernel_rates() -> dict[str, float]:
    """The calibrated seconds of what kernels do, without what it costs to call one.

    Engines are compared by these for any dtype and number of threads, so that the bits of a result
    do not follow the calls around it.
    """
    known = calibration.rates("numpy", "float32")
    return {name: seconds if name in ("vector", "copy") else 0.0 for name, seconds in known.items()}


def fits(job: Job, first: Array, second: Array) -> bool:
    """True if kernels can read and write the arrays that they are given.

    Forward x and y, in an input gradient gy and gx, in a filter gradient x and gy: lines of x and
    of gx without gaps, channels of the other array that are neighbours in memory.
    """
    if job.direction == "input_grad":
        first, second = second, first
    return lines(first) and neighbours(second)


def forward(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, prepared: Any = None
) -> Array:
    """x, f -> y."""
    from einstride.cpu.small_channels import line_calls

    panels = prepare(f, job, b) if prepared is None else prepared
    compute = job.arithmetic.compute
    line_calls.correlate(x, panels, job.geometry, compute, bias, out, b.launch, _threads(job))
    return out


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, prepared: Any = None
) -> Array:
    """gy, f -> gx."""
    from einstride.cpu.small_channels import block_calls

    g, compute = job.geometry, job.arithmetic.compute
    if len(parts := _parts(g, compute)) > 1:
        done = _summed(gy, f, job, b, bias, out, parts, prepared)
    else:
        panels = prepare(f, job, b) if prepared is None else prepared
        done = block_calls.gradient(gy, panels, g, compute, bias, out, b.launch, _threads(job))
    return out if done else other(job, b.traits).input_grad(gy, f, job, b, bias, out)


def _count(g: Geometry, compute: str) -> int:
    """Parts of output channels whose joined filters are no larger than others' pieces."""
    from einstride.cpu.small_channels import block_calls

    return min(-(-block_calls.panel_bytes(g, compute) // PIECE), max(g.filters, 1))


def _parts(g: Geometry, compute: str) -> list[slice]:
    """The output channels of each part."""
    count = _count(g, compute)
    ends = [i * g.filters // count for i in range(count + 1)]
    return [slice(*pair) for pair in pairwise(ends)]


def _summed(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None, out: Any, parts: list[slice],
    prepared: Any,
) -> bool:  # fmt: skip
    """The sum of the input gradients of some output channels each; False where one found a NaN."""
    from einstride.cpu.small_channels import block_calls

    compute = job.arithmetic.compute
    whole, part = (b.empty(out.shape, compute, gy) for _ in range(2))
    for i, some in enumerate(parts):
        own = _part(job, some)
        g = own.geometry
        panels = _joined(f[..., some], own, b) if prepared is None else prepared[i]
        first = some is parts[0]
        given, into = (bias, whole) if first else (None, part)
        if not block_calls.gradient(
            gy[..., some], panels, g, compute, given, into, b.launch, _threads(job)
        ):
            return False
        if not first:
            whole += part
    out[...] = whole
    return True


def _part(job: Job, some: slice) -> Job:
    """The input gradient of these output channels."""
    return replace(job, geometry=replace(job.geometry, filters=some.stop - some.start))


def filter_grad(x: Array, gy: Array, job: Job, b: Backend, bias: None, out: Any) -> Array:
    """x, gy -> gf."""
    from einstride.cpu.small_channels import run_calls, run_lane_calls

    g, compute = job.geometry, job.arithmetic.compute
    place = flip(out, g.rank, b) if g.flip else out
    if _along(g, compute):
        run_lane_calls.gradient(x, gy, g, compute, place, b.launch, _threads(job))
        return out
    tables = run_calls.cut(g, compute).regions.tables
    if tables == 1:
        sums = target(place, b, compute, packed)
        run_calls.gradient(x, gy, g, compute, sums, b.launch, _threads(job))
        if sums is not place:
            place[...] = sums
        return out
    sums = b.empty((tables, *out.shape), compute, x)
    run_calls.gradient(x, gy, g, compute, sums, b.launch, _threads(job))
    for table in sums[1:]:
        sums[0] += table
    place[...] = sums[0]
    return out


def work(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Work:
    """The kernel that does most of the job for arrays that lie like these.

    Nothing is read, and what is allocated is only looked at: see `Algorithm.describe`.
    """
    from einstride.cpu.small_channels import block_calls, line_calls, run_calls, run_lane_calls

    g, compute, threads = job.geometry, job.arithmetic.compute, _threads(job)
    if job.direction == "forward":
        return Work(line_calls.correlation(first, g, compute, out, threads))
    if job.direction == "filter_grad":
        calls = run_lane_calls if _along(g, compute) else run_calls
        call = calls.gradient_of(first, second, g, compute, threads)
        return Work(call, sums=call.argument("tables"))
    parts = _parts(g, compute)
    if len(parts) > 1:
        first, g = first[..., parts[0]], _part(job, parts[0]).geometry
        out = b.empty(out.shape, compute, first)
    call, _ = block_calls.gradient_of(first, g, compute, out, threads)
    return Work(call, parts=len(parts))


def _along(g: Geometry, compute: str) -> bool:
    """Are lanes of a filter gradient better filled by the run than by output channels?"""
    from einstride.cpu.small_channels import run_calls, run_lane_calls

    if not run_lane_calls.supports(g):
        return False
    return run_lane_calls.cut(g, compute).work < run_calls.cut(g, compute).work


def prepare(f: Array, job: Job, b: Backend) -> Any:
    """The filter as panels, joined for an input gradient."""
    from einstride.cpu.small_channels import line_calls

    g, compute = job.geometry, job.arithmetic.compute
    if job.direction == "forward":
        return line_calls.pack(flip(f, g.rank, b) if g.flip else f, g, compute)
    if len(parts := _parts(g, compute)) > 1:
        return [_joined(f[..., some], _part(job, some), b) for some in parts]
    return _joined(f, job, b)


def _joined(f: Array, job: Job, b: Backend) -> Any:
    """The filter of an input gradient as panels."""
    from einstride.cpu.small_channels import block_calls

    g, compute = job.geometry, job.arithmetic.compute
    return block_calls.pack(operand(f, b, compute, packed), g, compute, b.launch, _threads(job))


def _threads(job: Job) -> int:
    return job.threads if job.geometry.multiply_adds > dense.SMALL else 1


def other(job: Job, traits: Traits) -> Any:
    """The engine that does what this one cannot: arrays that do not fit, sums that are NaN."""
    return dense if dense.supports(job, traits) is None else channelwise


def supports(job: Job, traits: Traits) -> str | None:
    """None if it can do the job, else why not."""
    g, a = job.geometry, job.arithmetic
    backwards = job.direction == "input_grad"
    if job.per_example:
        return "its filter gradient is summed over the batch"
    if g.channels > MANY and not (backwards and prod(g.stride) > 1):
        return "channels fill vectors without it"
    if g.groups > 1:
        return "groups have kernels of their own"
    if is_complex(a.compute):
        return "vectors hold no pairs"
    if reason := unconverted(job):
        return reason
    if g.rank > dense.MAX_RANK or 0 in g.size:
        return "x has no elements, or too many axes"
    if job.batch_invariant and job.direction != "forward":
        return "a NaN in one example changes the order of sums in others"
    if not backwards and g.dilation[-1] > 1 and g.kernel[-1] > 1:
        return "taps of the last axis are no run"
    if backwards and _entries(job) > TABLES:
        return "its table of columns would be too large"
    return other(job, traits).supports(job, traits)  # type: ignore[no-any-return]


def better(rival: Any, job: Job, traits: Traits) -> bool:
    """Is it expected to be faster than another engine?"""
    g = job.geometry
    # The bits follow the engine, and neither a filter that is kept nor the threads.
    job = replace(job, prepared=False, threads=USUAL)
    if g.multiply_adds < LEAST or supports(job, traits) is not None:
        return False
    if job.direction == "forward" and 2 * g.filters < jit.machine().lanes(job.itemsize):
        return False
    found, least = (e(job, traits, _kernel_rates()) for e in (cost, rival.cost))
    in_room = not job.hard or found.workspace <= job.ceiling
    return bool(in_room and found.seconds < least.seconds)


def _entries(job: Job) -> int:
    from einstride.cpu.small_channels.block_calls import cut

    found = cut(job.geometry, job.arithmetic.compute)
    return found.panels * found.taps * found.width


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Products of whole vectors, with those of the joined filter's zeros."""
    from einstride.cpu.runtime.aligned_memory import LINE
    from einstride.cpu.small_channels import block_calls, line_calls, run_calls, run_lane_calls

    g, compute = job.geometry, job.arithmetic.compute
    item = ITEMSIZE[compute]
    threads = _threads(job)
    moved = (prod(g.x_shape) + prod(g.y_shape) + prod(g.f_shape)) * job.itemsize
    if job.direction == "filter_grad":
        runs = (run_lane_calls if _along(g, compute) else run_calls).cut(g, compute)
        vectors, workspace = runs.work, (runs.regions.tables + 1) * prod(g.f_shape) * item
        workspace += 16 * g.out[-1] * g.kernel[-1]
    elif job.direction == "forward":
        lines = line_calls.cut(g, compute)
        packed = prod(g.kernel) * g.channels * lines.panels * lines.width
        vectors, workspace = lines.work + PACKED * packed * threads, 3 * packed * item + LINE
        workspace += sum(16 * o * k for o, k in zip(g.out, g.kernel, strict=True))
        if line_calls.streams(g, job.itemsize, lines):  # not read before they are written
            moved -= prod(g.y_shape) * job.itemsize // 2
    else:
        panels = block_calls.panel_bytes(g, compute)
        vectors = block_calls.cut(g, compute).work + panels / item * JOINED
        workspace = prod(g.f_shape) * item + 32 * _entries(job)
        count = _count(g, compute)
        workspace += panels if count == 1 else panels // count + 2 * prod(g.x_shape) * item
    # The other engine works where arrays lie badly, or a NaN is found.
    workspace += other(job, traits).cost(job, traits, rates).workspace
    seconds = (
        rates["kernel"] + vectors * rates["vector"] / threads + moved * rates["copy"] / threads
    )
    return Cost(g.multiply_adds, workspace, moved, seconds)
