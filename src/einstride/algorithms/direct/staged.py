"""Compute by blocks in staging buffers where the channels of an array are not contiguous.

The engines `dense`, `channelwise`, `grouped` and `few` read and write contiguous channels fastest,
or can do nothing else. In channels_first memory the positions are contiguous instead. Then blocks
of x are copied to channels_last staging buffers that stay in cache, the engine's own kernels run on
them, and the results are copied to y: see `einstride.cpu.conv.staged`. An engine takes part by

- `staged_unit(job)`, the groups that a block of channels has a multiple of; None if the engine
  takes arrays in any memory order itself;
- `staged_steps(job, kind, x, y)`, its kernel calls for a block; None if it has none for this kind;
- `staged_filters(f, job, b, prepared)`, the packed filters that the calls read, or the filter of a
  depthwise layer, which is copied by blocks like x;
- `staged_gradient_steps(job, kind, x, gy)`, the calls for the filter gradient of a block, which add
  to one that was cleared, if `STAGES_GRADIENTS`;
- `staged_bias(bias, job, b)`, the bias as they read it.

Bits do not depend on the blocks' number of channels, the only part of a plan that threads change.
"""

from __future__ import annotations

from collections import defaultdict
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from einstride.arrays.ops import flip, is_complex
from einstride.codegen import jit
from einstride.cpu.runtime.argument_block import Layout, dtype_name, layout
from einstride.cpu.runtime.operands import addressable, contiguous_channels
from einstride.cpu.runtime.partial_sums import add_partial_sums
from einstride.geometry import input_gradient_phases
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Job
from einstride.support.byte_cache import kept

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits
    from einstride.cpu.conv.staged.kernel import StagedCall, Step

MIN_PRODUCTS = 1 << 14
"""Multiply-adds from which blocks are staged: a smaller call takes less time than its start."""

SINGLE_THREADED = 1 << 20
"""Multiply-adds up to which one thread computes: waking a second one takes longer than it saves."""


def call_for(
    engine: Any, job: Job, traits: Traits, x: Array, y: Array, f: Array | None
) -> StagedCall | None:
    """Return the call that computes y from x by blocks, None if the engine takes them as they are.

    x is what the pass reads, y what it writes: gy and gx in an input gradient. f is the filter,
    None if it is described only.
    """
    if contiguous_channels(x) and contiguous_channels(y):
        return None
    if not (addressable(x) and addressable(y)):
        return None
    filter_layout = None
    if engine.STAGES_FILTERS:
        compute, g = job.arithmetic.compute, job.geometry
        strides = tuple(prod(g.f_shape[a + 1 :]) * ITEMSIZE[compute] for a in range(g.rank + 2))
        if f is not None and dtype_name(f) == compute and addressable(f):
            *taps, channel, column = f.strides
            strides = (*(-t if g.flip else t for t in taps), channel, column)
        filter_layout = Layout(compute, strides)
    layouts = layout(x), layout(y), filter_layout
    return _call(engine, job, traits, *layouts, jit.host_target())


@kept
def _call(
    engine: Any, job: Job, traits: Traits, x: Layout, y: Layout, f: Layout | None,
    target: jit.Target,
) -> StagedCall | None:  # fmt: skip
    from einstride.cpu.conv.staged.block_plan import block_plan
    from einstride.cpu.conv.staged.kernel import staged_call

    g, backwards = job.geometry, job.direction == "input_grad"
    if g.multiply_adds < MIN_PRODUCTS or 0 in (*g.size, *g.out):
        return None
    if is_complex(job.arithmetic.compute) or (unit := engine.staged_unit(job)) is None:
        return None
    items = ITEMSIZE[x.dtype], ITEMSIZE[y.dtype]
    threads = job.threads if g.multiply_adds > SINGLE_THREADED else 1
    plan = block_plan(g, job.direction, unit, items[::-1] if backwards else items, threads)
    found: list[list[Step] | None] = []

    def steps_of(kind: Geometry, x: Layout, y: Layout) -> list[Step]:
        found.append(engine.staged_steps(job, kind, x, y))
        return found[-1] or []

    columns = unit * (g.channels if backwards else g.filters) // g.groups
    bias_unit = columns * ITEMSIZE[job.arithmetic.compute]
    call = staged_call(plan, g, backwards, x, y, f, bias_unit, steps_of, threads, target)
    if not all(found):
        return None
    if job.hard:
        engine_workspace = engine.cost(job, traits, defaultdict(float)).workspace + job.copied
        if engine_workspace + call.staging_bytes + call.nbytes > job.limit:
            return None
    return call


def gradient_for(
    engine: Any, job: Job, x: Array, gy: Array, out: Array
) -> tuple[StagedCall, int] | None:
    """Return the call that computes a filter gradient by blocks, and its bands; None if none does.

    A band is a part of the positions whose gradient is summed apart.
    """
    if contiguous_channels(x) and contiguous_channels(gy):
        return None
    if not (engine.STAGES_GRADIENTS and addressable(x) and addressable(gy)) or job.per_example:
        return None
    layouts = layout(x), layout(gy)
    return _gradient(engine, job, *layouts, _memory_order(out), jit.host_target())


def _memory_order(out: Array) -> tuple[int, ...]:
    """Return the axes of an array from the outermost in memory to the innermost."""
    return tuple(sorted(range(out.ndim), key=lambda axis: -abs(out.strides[axis])))


def filter_gradient(engine: Any, job: Job, b: Backend, x: Array, gy: Array, out: Array) -> bool:
    """Compute the filter gradient `out` by blocks; return False if not for these arrays.

    Each band of each example has a gradient of its own; they are added in order.
    """
    found = gradient_for(engine, job, x, gy, out)
    if found is None:
        return False
    call, bands = found
    g, order = job.geometry, _memory_order(out)
    shape = tuple(out.shape[axis] for axis in order)
    sums = b.empty((g.batch * bands, *shape), job.arithmetic.compute, x)
    call(b.launch, [gy], x=x, y=sums)
    destination = flip(out, g.rank, b) if g.flip else out
    add_partial_sums(sums, b.xp.permute_dims(destination, order), b.launch)
    return True


@kept
def _gradient(
    engine: Any, job: Job, x: Layout, gy: Layout, order: tuple[int, ...], target: jit.Target
) -> tuple[StagedCall, int] | None:
    from einstride.cpu.conv.staged.block_plan import block_plan
    from einstride.cpu.conv.staged.kernel import staged_gradient

    g, compute = job.geometry, job.arithmetic.compute
    unit = engine.staged_unit(job)
    if unit is None or is_complex(compute) or job.hard or job.batch_invariant:
        return None
    if g.multiply_adds < MIN_PRODUCTS or 0 in (*g.size, *g.out):
        return None
    threads = job.threads if g.multiply_adds > SINGLE_THREADED else 1
    items = ITEMSIZE[x.dtype], ITEMSIZE[gy.dtype]
    plan = block_plan(g, job.direction, unit, items, threads)
    sums = g.batch * plan.bands
    if sums > 1 and sums * prod(g.f_shape) > (prod(g.x_shape) + prod(g.y_shape)) // 2:
        return None  # the gradients of the bands would take half of the memory of the arrays
    found: list[list[Step] | None] = []

    def steps_of(kind: Geometry, x: Layout, gy: Layout) -> list[Step]:
        found.append(engine.staged_gradient_steps(job, kind, x, gy))
        return found[-1] or []

    strides = [0] * len(order)
    size = ITEMSIZE[compute]
    for axis in reversed(order):
        strides[axis] = size
        size *= g.f_shape[axis]
    gf = Layout(compute, (plan.bands * size, size, *strides))
    call = staged_gradient(plan, g, x, gy, gf, steps_of, threads, target)
    return (call, plan.bands) if all(found) else None


def phase_layouts(
    job: Job, kind: Geometry, y: Layout
) -> list[tuple[int, Geometry, Layout, int]] | None:
    """List the forward convolutions of a block: number, geometry, layout of y, its offset in bytes.

    A forward pass is one. An input gradient has one for each stride phase, which writes some rows
    of y (gx), with the number that the phase has in the whole job. None if a phase has no taps.
    """
    if job.direction == "forward":
        return [(0, kind, y, 0)]
    whole = input_gradient_phases.phases(job.geometry)
    numbers = {phase.remainder: i for i, phase in enumerate(whole)}
    batch, *strides, channel = y.strides
    found = []
    for phase in input_gradient_phases.phases(kind):
        if phase.geometry is None:
            return None
        steps = [t * s for t, s in zip(strides, kind.stride, strict=True)]
        offset = sum(r * t for r, t in zip(phase.remainder, strides, strict=True))
        part = Layout(y.dtype, (batch, *steps, channel))
        found.append((numbers[phase.remainder], phase.geometry, part, offset))
    return found


def run(
    engine: Any, call: StagedCall, x: Array, f: Array, job: Job, b: Backend, bias: Array | None,
    out: Array, prepared: Any = None,
) -> bool:  # fmt: skip
    """Compute `out` from x and f; return False if sums may have too many NaNs (see `few`)."""
    filters = engine.staged_filters(f, job, b, prepared)
    addresses = {"x": x, "y": out}
    if bias is not None:
        addresses["bias"] = engine.staged_bias(bias, job, b)
    if not call.checks_nan:
        call(b.launch, filters, **addresses)
        return True
    flag = np.zeros(1, np.int64)
    call(b.launch, filters, flag=flag, **addresses)
    return not flag[0]
