"""Direct convolution on CuPy arrays: kernels read the windows in place, in any dtype and layout.

Two families of kernels, chosen by shapes alone and never by the batch:

- `small_channels` for groups of at most 8 channels on either side (depthwise above all): they are
  limited by memory, so a box of x with its halo is copied to shared memory once for all taps;
- `gathered_gemm` for all other shapes: a matrix product whose left factor is gathered from x.

Both address the array that is read by positions (p * move + start + k * reach) / den, so that
stride, dilation, padding (negative too), borders and flips are integers, not copies. An input
gradient with a stride is one launch for all its phases (several launches for long strides). A
filter gradient consists of partial sums; each is added in a fixed order, and so are the partial
sums: the same bits every time.

Integers are multiplied and added in the result's dtype, halves in float32.
Error, per element of the result: as `gemm`, n * u * sum |x| |f|; `accuracy="elementwise"` holds.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from einstride.arrays.ops import flip, is_complex
from einstride.cuda import (
    axis_map,
    gathered_gemm,
    output_phases,
    small_channels,
    small_channels_shape,
)
from einstride.cuda.axis_map import AxisMap
from einstride.cuda.partial_sums import sum_parts
from einstride.cuda.small_channels_shape import SmallChannels
from einstride.geometry import input_gradient_phases
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.problem import Cost, Facts, Job
from einstride.support.errors import bad_value

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits
    from einstride.geometry.convolution import Geometry

BLOCKS = 528
"""Blocks that a filter gradient is split into: four for each multiprocessor of an H100."""

MOST_PARTS = 2048
PARTS_BYTES = 32 << 20
"""Partial sums of a filter gradient, at most, and bytes of all partial sums, at most."""


def forward(
    x: Array, f: Array, job: Job, b: Backend, bias: Array | None = None, out: Array | None = None
) -> Array:
    """x (B, *S, C), f (*K, C // G, D) -> y (B, *O, D), plus the bias (D), in `out` if given."""
    g = job.geometry
    out = b.empty(g.y_shape, job.arithmetic.result, x) if out is None else out
    f = flip(f, g.rank, b) if g.flip else f
    width = g.filters // g.groups
    *taps, channel, filters = axis_map.strides(f)
    strides = (tuple(taps), channel, filters, width * filters)
    inner = (g.channels // g.groups, width)
    _correlate(x, f, out, _x_axes(g), inner, strides, job, b, bias, 0)
    return out


def input_grad(
    gy: Array, f: Array, job: Job, b: Backend, bias: Array | None = None, out: Array | None = None
) -> Array:
    """gy (B, *O, D), f (*K, C // G, D) -> gx (B, *S, C), plus the bias (C), in `out` if given."""
    g = job.geometry
    out = b.empty(g.x_shape, job.arithmetic.result, gy) if out is None else out
    f = f if g.flip else flip(f, g.rank, b)
    inner = (g.filters // g.groups, g.channels // g.groups)
    *taps, channel, filters = axis_map.strides(f)
    strides = (tuple(taps), filters, channel, inner[0] * filters)
    _correlate(gy, f, out, _gy_axes(g), inner, strides, job, b, bias, 1)
    return out


def filter_grad(
    x: Array, gy: Array, job: Job, b: Backend, bias: None = None, out: Array | None = None
) -> Array:
    """x (B, *S, C), gy (B, *O, D) -> gf (*K, C // G, D), in `out` if given."""
    g = job.geometry
    out = b.empty(g.f_shape, job.arithmetic.result, x) if out is None else out
    gf = flip(out, g.rank, b) if g.flip else out
    _check(x, gy, out)
    accumulator = _accumulator(job)
    inner = (g.channels // g.groups, g.filters // g.groups)
    size = prod(g.f_shape)
    most_parts = _most_parts(job)
    axes = _x_axes(g)
    problem = _small_channels_problem(x, gy, axes, inner, job, filter_pass=True)
    shape = None if problem is None else small_channels_shape.choose_shape(problem)
    if problem is not None and shape is not None and most_parts:
        slabs = -(-g.filters // shape.slab)
        boxes = g.batch * prod(shape.boxes(problem.axes))
        cheap = (x.nbytes + gy.nbytes) // (16 * size * ITEMSIZE[accumulator])  # parts cost little
        count = min(boxes, max(1, BLOCKS // slabs), max(1, cheap), most_parts)
        parts = b.empty((count, size), accumulator, x)
        small_channels.filter_parts(x, gy, parts, problem, shape, g.padding_mode, accumulator)
        sum_parts(parts, gf if problem.channels_inner else b.xp.moveaxis(gf, -1, 0))
        return out
    chunks = -(-g.batch * prod(g.out) // gathered_gemm.TABLE)
    blocks = -(-prod(g.f_shape[:-1]) // 64) * -(-inner[1] // 32) * g.groups
    count = max(1, min(-(-BLOCKS // blocks), -(-chunks // 4), most_parts))
    each = -(-chunks // count)
    count = -(-chunks // each)
    parts = b.empty((count, size), accumulator, x) if count > 1 else gf
    strides = axis_map.strides(gf)
    if count > 1:
        strides = [prod(g.f_shape[a + 1 :]) for a in range(g.rank + 2)]
    gf_strides = (tuple(strides[:-2]), strides[-2], strides[-1], inner[1] * strides[-1])
    conjugated = 2 if is_complex(accumulator) else 0
    gathered_gemm.product(
        x, gy, parts, axes, g.padding_mode, g.groups, inner, gf_strides, None, count, accumulator,
        conjugated,
    )  # fmt: skip
    if count > 1:
        sum_parts(parts, gf)
    return out


def _x_axes(g: Geometry) -> tuple[AxisMap, ...]:
    """Map outputs to positions of x, axis by axis."""
    each = zip(g.out, g.size, g.kernel, g.stride, g.padding, g.dilation, strict=True)
    return tuple(AxisMap(o, n, k, s, -low, d).normalized for o, n, k, s, (low, _), d in each)


def _gy_axes(g: Geometry) -> tuple[AxisMap, ...]:
    """Map elements of x to positions of gy, axis by axis, for taps in reverse order."""
    each = zip(g.size, g.out, g.kernel, g.stride, g.padding, g.dilation, strict=True)
    return tuple(
        AxisMap(n, o, k, 1, low - (k - 1) * d, d if k > 1 else 1, s)
        for n, o, k, s, (low, _), d in each
    )


def _accumulator(job: Job) -> str:
    return job.arithmetic.result if job.arithmetic.exact else job.sums


def _check(*arrays: Array) -> None:
    """Raise a ValueError if the elements of an array are not aligned: no kernel could read them."""
    for a in arrays:
        if not axis_map.readable(a):
            raise bad_value(
                "direct",
                "elements must be aligned and whole elements apart in memory",
                f"{a.dtype.name} at address {a.data.ptr}, byte strides {a.strides}",
                "copy the array from the host into one of its own",
            )


def _small_channels_problem(
    x: Array,
    y: Array,
    axes: tuple[AxisMap, ...],
    inner: tuple[int, int],
    job: Job,
    filter_pass: bool,
) -> SmallChannels | None:
    """Describe the pass to the kernels of `small_channels`; None if they have too few axes."""
    if len(axes) > 3:
        return None
    strides = axis_map.strides(x)
    channels_inner = abs(strides[-1]) < abs(strides[-2]) or axes[-1].size == 1
    item_sum = ITEMSIZE[_accumulator(job)]
    items = (x.dtype.itemsize, y.dtype.itemsize, item_sum)
    lines = small_channels_shape.three_axes(axes, channels_inner)
    groups = job.geometry.groups
    return SmallChannels(lines, groups, *inner, *items, channels_inner, filter_pass, x.shape[0])


def _correlate(
    x: Array,
    f: Array,
    out: Array,
    axes: tuple[AxisMap, ...],
    inner: tuple[int, int],
    strides: tuple[tuple[int, ...], int, int, int],
    job: Job,
    b: Backend,
    bias: Array | None,
    conjugated: int,
) -> None:
    """Compute `out` from x and f.

    `strides` are the strides of f in elements: of taps, input channels, output channels, groups.
    """
    g, accumulator = job.geometry, _accumulator(job)
    _check(x, f, out)
    conjugated = conjugated if is_complex(accumulator) else 0
    if bias is not None:
        bias = b.xp.ascontiguousarray(b.astype(bias, accumulator))
    problem = _small_channels_problem(x, out, axes, inner, job, filter_pass=False)
    shape = None if problem is None else small_channels_shape.choose_shape(problem)
    mode = g.padding_mode if job.direction == "forward" else "zeros"
    if problem is not None and shape is not None:
        small_channels.correlate(
            x, f, out, problem, shape, mode, strides, bias, accumulator, conjugated
        )
        return
    if not output_phases.covers(axes, gathered_gemm.most_phases(axes)):
        out[...] = 0 if bias is None else b.astype(bias, job.arithmetic.result)
    gathered_gemm.product(
        x, f, out, axes, mode, g.groups, inner, strides, bias, 0, accumulator, conjugated
    )  # fmt: skip


def supports(job: Job, traits: Traits) -> str | None:
    """Return None if these kernels can do the job, else why not."""
    if job.per_example:
        return "its filter gradient is summed over the batch"
    if job.batch_invariant and job.direction == "filter_grad":
        return "a filter gradient sums over the batch"
    if 0 in job.geometry.size:
        return "x has no elements"
    if job.direction == "input_grad" and (reason := input_gradient_phases.refused(job.geometry)):
        return reason
    return None


def describe(job: Job, b: Backend, first: Array, second: Array, out: Array) -> Facts:
    """Describe the kernel; for `small_channels` also the box of outputs of a block of threads."""
    g, gradient = job.geometry, job.direction == "filter_grad"
    axes, inner = _x_axes(g), (g.channels // g.groups, g.filters // g.groups)
    if job.direction == "input_grad":
        axes, inner = _gy_axes(g), inner[::-1]
    problem = _small_channels_problem(
        first, second if gradient else out, axes, inner, job, filter_pass=gradient
    )
    shape = None if problem is None else small_channels_shape.choose_shape(problem)
    if shape is None or (gradient and not _most_parts(job)):
        shares = output_phases.launches(axes, gathered_gemm.most_phases(axes))
        return {
            "engine": "gathered_gemm", "compiled": True,
            "kernel": "matrix product whose left factor is gathered from x, in CUDA",
            "launches": len(shares),
        }  # fmt: skip
    return {
        "engine": "small_channels", "compiled": True,
        "kernel": "boxes of x with their halo in shared memory, in CUDA",
        "box": " x ".join(map(str, shape.box)), "channels in a box": shape.slab,
    }  # fmt: skip


def _most_parts(job: Job) -> int:
    """Count the partial sums of a filter gradient that the workspace limit allows."""
    size = prod(job.geometry.f_shape) * ITEMSIZE[_accumulator(job)]
    return min(MOST_PARTS, _parts_bytes(job) // size)


def _parts_bytes(job: Job) -> int:
    return min(PARTS_BYTES, job.limit)


def cost(job: Job, traits: Traits, rates: dict[str, float]) -> Cost:
    """Predict the slower of two: each array read or written once, or the products."""
    g = job.geometry
    item_1, item_2 = (ITEMSIZE[name] for name in job.operands)
    arrays = {
        "forward": (g.x_shape, g.f_shape, g.y_shape),
        "input_grad": (g.y_shape, g.f_shape, g.x_shape),
        "filter_grad": (g.x_shape, g.y_shape, g.f_shape),
    }[job.direction]
    items = (item_1, item_2, ITEMSIZE[job.arithmetic.result])
    moved = sum(prod(shape) * item for shape, item in zip(arrays, items, strict=True))
    workspace = 0
    if job.direction == "filter_grad":
        of_one = prod(g.f_shape) * ITEMSIZE[_accumulator(job)]
        workspace = min(_parts_bytes(job) // of_one, MOST_PARTS) * of_one
    rate = rates["direct_integer"] if job.arithmetic.exact else rates["direct"]
    width = (g.channels if job.direction == "input_grad" else g.filters) // g.groups
    small = max(g.filters, g.channels) // g.groups <= small_channels_shape.MAX_GROUP_CHANNELS
    n = g.multiply_adds
    if small and max(g.kernel) > small_channels.COLUMNS[-1]:
        n *= 2  # each factor is read from shared memory again: a guess until it is measured
    if not small:  # columns of a tile beyond the channels of the group
        n *= max(1, 8 // max(width, 1))
    launches = 1
    if not small and job.direction == "input_grad":
        axes = _gy_axes(g)
        most_parts = gathered_gemm.most_phases(axes)
        launches = len(output_phases.launches(axes, most_parts)) + (
            not output_phases.covers(axes, most_parts)
        )
    seconds = rates["call"] + launches * rates["launch"] + max(n * rate, moved * rates["copy"])
    return Cost(g.multiply_adds, workspace, moved, seconds)
