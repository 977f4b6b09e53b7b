"""The small calls of both engines as steps of a program, which is run without Python in between.

The arrays here are stand-ins: they lie in memory as a caller's arrays do, and are never read. What
one thread would not do alone, what needs a copy of a whole array, and complex numbers are left to
the engines' own functions: `steps` is None then. A program calls the kernels that these would call,
with the same words, so its result has the same bits.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from einstride.algorithms.direct import channelwise, dense
from einstride.algorithms.direct.shapes import gathered, joined, tables
from einstride.arrays.ops import flip, is_complex, transpose_filter
from einstride.codegen import jit
from einstride.cpu.runtime.operands import addressable, lines, neighbours, packed, usable
from einstride.geometry import input_gradient_phases
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend
    from einstride.cpu.runtime.argument_block import Call
    from einstride.geometry.problem import Job

MOST_TAPS = 1 << 14
"""Numbers of a filter that are brought into order one by one."""


class Steps:
    """The steps of one call.

    Attributes
    ----------
    calls : list
        Kernels, each with the places of its addresses: an array of the program and an offset.
    scratch : int
        Bytes of memory that they share, at the peak.
    zeroed : bool
        Must it hold zeros at first?
    """

    def __init__(self, job: Job, b: Backend, **arrays: Array) -> None:
        from einstride.cpu.runtime.argument_block import address

        self.job, self.b = job, b
        self._starts = {n: (n, 0, address(a)) for n, a in arrays.items() if a is not None}
        self.calls: list[tuple[Call, dict[str, tuple[str, int]]]] = []
        self.scratch, self.zeroed = 0, False
        self.taken = 0  # bytes of the scratch memory that later steps still read

    def place(self, array: str, view: Array) -> tuple[str, int]:
        """Where a view of one of the arrays begins."""
        from einstride.cpu.runtime.argument_block import address

        name, offset, start = self._starts[array]
        return name, offset + address(view) - start

    def moved(self, array: str, copy: Array, place: tuple[str, int]) -> None:
        """From now on one of the arrays lies like this copy, at a place in the scratch memory."""
        from einstride.cpu.runtime.argument_block import address

        self._starts[array] = (*place, address(copy))

    def room(self, numbers: int) -> tuple[str, int]:
        """A part of the scratch memory, for so many numbers of the products' dtype."""
        begin = self.taken
        self.taken += -(-numbers * ITEMSIZE[self.job.arithmetic.compute] // 64) * 64
        self.scratch = max(self.scratch, self.taken)
        return "scratch", begin

    def add(self, call: Call, **places: tuple[str, int]) -> bool:
        """A step, if it may be one."""
        from einstride.cpu.runtime.call_program import fits

        self.calls.append((call, places))
        return fits(call)


def steps(
    outer: bool, first: Array, second: Array, bias: Array | None, out: Array, job: Job, b: Backend
) -> Steps | None:
    """The steps for canonical arrays that lie like these; None if there are none.

    `outer`: by outer products, else channel by channel.
    """
    compute, g = job.arithmetic.compute, job.geometry
    arrays = [a for a in (first, second, bias, out) if a is not None]
    if is_complex(compute) or not all(addressable(a) for a in arrays):
        return None
    if bias is not None and not usable(bias, b, compute, packed):
        return None
    found = Steps(job, b, first=first, second=second, bias=bias, result=out)
    if job.direction == "filter_grad":
        make = _dense_gradient if outer else _channelwise_gradient
        return found if make(found, first, second, out) else None
    one = _dense if outer else _channelwise
    if job.direction == "forward":
        f = flip(second, g.rank, b) if g.flip else second
        return found if one(found, first, f, g, bias, out) else None
    if g.groups > 1:  # the filter with its channels exchanged would be a copy
        return None
    if outer and gathered(job) != g:  # one pass for the phases of the last axis
        return None
    f = transpose_filter(second, 1, b)
    f = flip(f, g.rank, b) if g.flip else f
    if not outer and channelwise.planar(job) and packed(first):
        first = _planes(found, first)
    kept = found.taken
    for phase in input_gradient_phases.phases(g):
        if phase.geometry is None:
            return None
        found.taken = kept  # steps run one after another: each phase's filter in the same place
        each = tuple(slice(r, None, s) for r, s in zip(phase.remainder, g.stride, strict=True))
        sub = flip(f[(*phase.taps, ...)], g.rank, b)
        if not one(found, first, sub, phase.geometry, bias, out[(slice(None), *each, ...)]):
            return None
    return found


def _planes(to: Steps, gy: Array) -> Array:
    """gy with each channel's positions side by side."""
    from einstride.cpu.runtime.small_problems import planes

    copy = channelwise._planes(gy, to.b)
    place = to.room(prod(gy.shape))
    to.add(planes(gy, jit.machine()), **{"from": to.place("first", gy), "to": place})
    to.moved("first", copy, place)
    return copy


def _dense(to: Steps, x: Array, f: Array, g: Geometry, bias: Array | None, out: Array) -> bool:
    """out = conv(x, f) + bias by outer products."""
    from einstride.cpu.dense.forward_call import correlation
    from einstride.cpu.dense.pack_call import is_packed, packing, panel_bytes
    from einstride.cpu.dense.vnni import fits

    job, compute, on = to.job, to.job.arithmetic.compute, jit.machine()
    if job.direction == "forward" and (run := joined(job)).channels != g.channels:
        if not (lines(x) and packed(f)):
            return False
        f, g = to.b.xp.reshape(f, run.f_shape), run
    if dense._threads(job) > 1 or fits(g, job):
        return False
    panels = to.place("second", f)
    if not is_packed(f, g, compute, on):
        panels = to.room(panel_bytes(g, compute, on) // ITEMSIZE[compute])
        if not to.add(packing(f, g, compute, 1, on), f=to.place("second", f), panels=panels):
            return False
    places = {"x": to.place("first", x), "f": panels, "y": to.place("result", out)}
    if bias is not None:
        places["bias"] = to.place("bias", bias)
    return to.add(correlation(x, g, compute, out, 1, on), **places)


def _channelwise(
    to: Steps, x: Array, f: Array, g: Geometry, bias: Array | None, out: Array
) -> bool:
    """out = conv(x, f) + bias, channel by channel."""
    from einstride.cpu.runtime.small_problems import gather

    compute, on = to.job.arithmetic.compute, jit.machine()
    lies = to.place("second", f)
    if not usable(f, to.b, compute, packed):
        if prod(g.f_shape) > MOST_TAPS:
            return False
        ordered = to.room(prod(g.f_shape))
        if not to.add(gather(f, compute, on), **{"from": lies, "to": ordered}):
            return False
        lies = ordered
    call = channelwise.correlation(x, g, compute, out, to.job.threads)
    places = {"x": to.place("first", x), "f": lies, "y": to.place("result", out)}
    if bias is not None:
        places["bias"] = to.place("bias", bias)
    return to.add(call, **places)


def _dense_gradient(to: Steps, x: Array, gy: Array, out: Array) -> bool:
    """out = the filter gradient by outer products."""
    from einstride.cpu.dense.filter_gradient_call import gradient_of
    from einstride.cpu.dense.packed_filter_gradient_call import in_room

    job, b = to.job, to.b
    g, compute = job.geometry, job.arithmetic.compute
    place = flip(out, g.rank, b, int(job.per_example)) if g.flip else out
    if not (usable(place, b, compute, neighbours) and neighbours(x) and neighbours(gy)):
        return False
    if dense._threads(job) > 1:
        return False
    shares = in_room(job, tables(g) + dense._copies(job) + job.copied)
    call, sums = gradient_of(x, gy, g, compute, place, 1, job.per_example, jit.machine(), shares)
    return sums == 1 and to.add(
        call, x=to.place("first", x), gy=to.place("second", gy), gf=to.place("result", place)
    )


def _channelwise_gradient(to: Steps, x: Array, gy: Array, out: Array) -> bool:
    """out = the filter gradient, channel by channel: tables of sums, then their sum."""
    from einstride.cpu.runtime.small_problems import fold

    job, b = to.job, to.b
    g, compute = job.geometry, job.arithmetic.compute
    cut, call = channelwise.gradient_of(x, gy, job)
    if prod(g.f_shape) > MOST_TAPS:
        return False
    sums = to.room(cut.groups * cut.tables * prod(g.f_shape))
    to.zeroed = True
    if not to.add(call, x=to.place("first", x), y=to.place("second", gy), f=sums):
        return False
    place = flip(out, g.rank, b, int(job.per_example)) if g.flip else out
    place = place[0] if job.per_example and cut.groups == 1 else place
    added = fold(place, cut.groups, cut.tables, compute, jit.machine())
    return to.add(added, **{"from": sums, "to": to.place("result", place)})
