"""Compile a small call of the engines `dense` and `channelwise` to a program of kernel calls.

A program runs its kernels one after another without returning to Python. `list_steps` gets arrays
with the strides of a caller's arrays, whose elements are never read. It returns None for calls that
need a copy of a whole array or have complex numbers. A program calls the engine's kernels with the
engine's arguments, so its result has the same bits.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from einstride.algorithms.direct import channelwise, dense
from einstride.algorithms.direct.pieces import filter_slices
from einstride.algorithms.direct.shapes import positions_as_channels, table_bytes, taps_as_channels
from einstride.arrays.ops import flip, is_complex, transpose_filter
from einstride.codegen import jit
from einstride.cpu.runtime.operands import (
    addressable,
    contiguous_channels,
    contiguous_lines,
    packed,
    usable,
)
from einstride.geometry import input_gradient_phases
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend
    from einstride.cpu.runtime.argument_block import Call
    from einstride.geometry.problem import Job

MAX_TAPS = 1 << 14
"""Elements of a filter that a program may copy to contiguous memory, one by one, at most."""


class Steps:
    """Hold the kernel calls of one program.

    Attributes
    ----------
    calls : list
        Kernels; for each address argument an array of the program and an offset in bytes.
    scratch_bytes : int
        Bytes of scratch memory that the kernels share, at the peak.
    scratch_is_zero : bool
        True if scratch memory must be zero before the first kernel.
    bytes_in_use : int
        Bytes of the scratch memory that later steps still read.
    """

    def __init__(self, job: Job, b: Backend, **arrays: Array) -> None:
        from einstride.cpu.runtime.argument_block import address

        self.job, self.b = job, b
        self._starts = {n: (n, 0, address(a)) for n, a in arrays.items() if a is not None}
        self.calls: list[tuple[Call, dict[str, tuple[str, int]]]] = []
        self.scratch_bytes, self.scratch_is_zero = 0, False
        self.bytes_in_use = 0

    def address_of(self, array: str, view: Array) -> tuple[str, int]:
        """Return the array of the program and the offset in bytes at which a view begins."""
        from einstride.cpu.runtime.argument_block import address

        name, offset, start = self._starts[array]
        return name, offset + address(view) - start

    def relocate(self, array: str, copy: Array, start: tuple[str, int]) -> None:
        """Replace one of the arrays by a copy in scratch memory, for the steps that follow."""
        from einstride.cpu.runtime.argument_block import address

        self._starts[array] = (*start, address(copy))

    def reserve(self, elements: int) -> tuple[str, int]:
        """Reserve scratch memory for elements of the products' dtype."""
        begin = self.bytes_in_use
        self.bytes_in_use += -(-elements * ITEMSIZE[self.job.arithmetic.compute] // 64) * 64
        self.scratch_bytes = max(self.scratch_bytes, self.bytes_in_use)
        return "scratch", begin

    def add(self, call: Call, **offsets: tuple[str, int]) -> bool:
        """Append a kernel call; return True if a program can hold it."""
        from einstride.cpu.runtime.call_program import fits

        self.calls.append((call, offsets))
        return fits(call)


def list_steps(
    is_dense: bool, first: Array, second: Array, bias: Array | None, out: Array, job: Job,
    b: Backend,
) -> Steps | None:  # fmt: skip
    """List the steps for canonical arrays with these strides; None if a program cannot hold them.

    `is_dense`: True for the engine `dense`, False for `channelwise`.
    """
    compute, g = job.arithmetic.compute, job.geometry
    arrays = [a for a in (first, second, bias, out) if a is not None]
    if is_complex(compute) or not all(addressable(a) for a in arrays):
        return None
    if bias is not None and not usable(bias, b, compute, packed):
        return None
    if is_dense and filter_slices(job):
        return None
    steps = Steps(job, b, first=first, second=second, bias=bias, result=out)
    if job.direction == "filter_grad":
        add_gradient = _add_dense_gradient if is_dense else _add_channelwise_gradient
        return steps if add_gradient(steps, first, second, out) else None
    add_pass = _add_dense if is_dense else _add_channelwise
    if job.direction == "forward":
        f = flip(second, g.rank, b) if g.flip else second
        return steps if add_pass(steps, first, f, g, bias, out) else None
    if not is_dense and (call := channelwise._depthwise_call(first, job, out)) is not None:
        f = flip(second, g.rank, b) if g.flip else second
        return steps if _add_channelwise_call(steps, call, first, f, g, bias, out) else None
    if g.groups > 1:  # exchanging the filter's channels needs a copy
        return None
    if is_dense and positions_as_channels(job) != g:  # one pass for the phases of the last axis
        return None
    f = transpose_filter(second, 1, b)
    f = flip(f, g.rank, b) if g.flip else f
    if not is_dense and channelwise.planar(job) and packed(first):
        first = _copy_to_planes(steps, first)
    bytes_in_use = steps.bytes_in_use
    for phase in input_gradient_phases.phases(g):
        if phase.geometry is None:
            return None
        steps.bytes_in_use = bytes_in_use  # phases run in turn and share scratch memory
        phase_filter = flip(f[(*phase.taps, ...)], g.rank, b)
        destination = out[(slice(None), *phase.positions(g.stride), ...)]
        if not add_pass(steps, first, phase_filter, phase.geometry, bias, destination):
            return None
    return steps


def _copy_to_planes(steps: Steps, gy: Array) -> Array:
    """Add a step that copies gy so that the positions of each channel are contiguous."""
    from einstride.cpu.runtime.small_problems import planes

    copy = channelwise._planes(gy, steps.b)
    scratch = steps.reserve(prod(gy.shape))
    steps.add(
        planes(gy, jit.host_target()), **{"from": steps.address_of("first", gy), "to": scratch}
    )
    steps.relocate("first", copy, scratch)
    return copy


def _add_dense(
    steps: Steps, x: Array, f: Array, g: Geometry, bias: Array | None, out: Array
) -> bool:
    """Add the steps of out = conv(x, f) + bias by the engine `dense`."""
    from einstride.cpu.dense.forward_call import correlation
    from einstride.cpu.dense.pack_call import is_packed, packing, panel_bytes
    from einstride.cpu.dense.vnni import fits

    job, compute, target = steps.job, steps.job.arithmetic.compute, jit.host_target()
    if job.direction == "forward" and (run := taps_as_channels(job)).channels != g.channels:
        if not (contiguous_lines(x) and packed(f)):
            return False
        f, g = steps.b.xp.reshape(f, run.f_shape), run
    threads = dense._threads(job)
    if fits(g, job):
        return False
    panels = steps.address_of("second", f)
    if not is_packed(f, g, compute, target):
        panels = steps.reserve(panel_bytes(g, compute, target) // ITEMSIZE[compute])
        if not steps.add(
            packing(f, g, compute, threads, target), f=steps.address_of("second", f), panels=panels
        ):
            return False
    offsets = {"x": steps.address_of("first", x), "f": panels, "y": steps.address_of("result", out)}
    if bias is not None:
        offsets["bias"] = steps.address_of("bias", bias)
    return steps.add(correlation(x, g, compute, out, threads, target), **offsets)


def _add_channelwise(
    steps: Steps, x: Array, f: Array, g: Geometry, bias: Array | None, out: Array
) -> bool:
    """Add the steps of out = conv(x, f) + bias by the engine `channelwise`."""
    compute = steps.job.arithmetic.compute
    call = channelwise.correlation(x, g, compute, out, steps.job.threads)
    return _add_channelwise_call(steps, call, x, f, g, bias, out)


def _add_channelwise_call(
    steps: Steps, call: Call, x: Array, f: Array, g: Geometry, bias: Array | None, out: Array
) -> bool:
    """Add a kernel of `channelwise`, and before it the copy of a filter that is not contiguous."""
    from einstride.cpu.runtime.small_problems import gather

    compute, target = steps.job.arithmetic.compute, jit.host_target()
    filter_start = steps.address_of("second", f)
    if not usable(f, steps.b, compute, packed):
        if prod(g.f_shape) > MAX_TAPS:
            return False
        ordered = steps.reserve(prod(g.f_shape))
        if not steps.add(gather(f, compute, target), **{"from": filter_start, "to": ordered}):
            return False
        filter_start = ordered
    offsets = {
        "x": steps.address_of("first", x),
        "f": filter_start,
        "y": steps.address_of("result", out),
    }
    if bias is not None:
        offsets["bias"] = steps.address_of("bias", bias)
    return steps.add(call, **offsets)


def _add_dense_gradient(steps: Steps, x: Array, gy: Array, out: Array) -> bool:
    """Add the step of a filter gradient by the engine `dense`."""
    from einstride.cpu.dense.filter_gradient_call import gradient_of
    from einstride.cpu.dense.packed_filter_gradient_call import allowed_partial_sums

    job, b = steps.job, steps.b
    g, compute = job.geometry, job.arithmetic.compute
    destination = flip(out, g.rank, b, int(job.per_example)) if g.flip else out
    if not (
        usable(destination, b, compute, contiguous_channels)
        and contiguous_channels(x)
        and contiguous_channels(gy)
    ):
        return False
    sum_count = allowed_partial_sums(job, table_bytes(g) + dense._copies(job) + job.copied)
    call, sums = gradient_of(
        x, gy, g, compute, destination, dense._threads(job), job.per_example, jit.host_target(),
        sum_count,
    )  # fmt: skip
    return sums == 1 and steps.add(
        call,
        x=steps.address_of("first", x),
        gy=steps.address_of("second", gy),
        gf=steps.address_of("result", destination),
    )


def _add_channelwise_gradient(steps: Steps, x: Array, gy: Array, out: Array) -> bool:
    """Add the steps of a filter gradient by `channelwise`: partial sums, then their sum."""
    from einstride.cpu.runtime.small_problems import reduce

    job, b = steps.job, steps.b
    g, compute = job.geometry, job.arithmetic.compute
    split, call = channelwise.gradient_of(x, gy, job)
    if prod(g.f_shape) > MAX_TAPS:
        return False
    sums = steps.reserve(split.results * split.per_result * prod(g.f_shape))
    steps.scratch_is_zero = True
    if not steps.add(
        call, x=steps.address_of("first", x), y=steps.address_of("second", gy), f=sums
    ):
        return False
    destination = flip(out, g.rank, b, int(job.per_example)) if g.flip else out
    destination = destination[0] if job.per_example and split.results == 1 else destination
    added = reduce(destination, split.results, split.per_result, compute, jit.host_target())
    return steps.add(added, **{"from": sums, "to": steps.address_of("result", destination)})
