"""Call the kernel `einstride.cpu.dense.packed_filter_gradient` with strides and tables."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from einstride.codegen.jit import KernelSpec, Machine
from einstride.cpu.complex_as_real import PARTS, real
from einstride.cpu.dense import packed_filter_gradient
from einstride.cpu.dense.pack_call import Shape, columns
from einstride.cpu.runtime.argument_block import Call, address
from einstride.cpu.runtime.chunks import COARSE, chunk_count
from einstride.cpu.runtime.offset_tables import grid
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Job
from einstride.support.caches import cached

GROUP = 4
"""Panels that are computed with the same packed x, at most; chosen. More panels pack x less often,
and need more of the first-level cache for gy."""

SHARES = 8
"""Partial sums, at most; chosen. Changing it changes the order of sums, and so the bits."""

SMALL = 16
"""Elements of x and gy for each element of all partial sums, at least; chosen, so that adding them
costs little against reading x and gy."""

FEW = 16
"""Positions of all examples below which packing takes longer than it saves; chosen."""


def inside(g: Geometry) -> bool:
    """True if every tap of every position lies in x."""
    return all(
        low <= 0 and (out - 1) * stride + (taps - 1) * dilation - low < size
        for out, stride, taps, dilation, (low, _), size in zip(
            g.out, g.stride, g.kernel, g.dilation, g.padding, g.size, strict=True
        )
    )


def fits(g: Geometry, x_channel: int, parts: int) -> bool:
    """True if the kernel applies: no tap leaves x, and the channels of x are contiguous."""
    return inside(g) and x_channel == parts and g.batch * prod(g.out) >= FEW


def shares(g: Geometry, parts: int, each: bool) -> int:
    """The number of partial sums that the positions are divided into, a power of two."""
    if each or not inside(g):
        return 1
    filters = prod(g.f_shape) * parts**2
    operands = (prod(g.x_shape) + prod(g.y_shape)) * parts
    regions = g.batch * prod(g.out) // (4 * packed_filter_gradient.REGION)
    most = min(SHARES, operands // (SMALL * filters), regions)
    return 1 << (most.bit_length() - 1) if most > 1 else 1


def size(job: Job) -> int:
    """The bytes of the filter gradient; for complex numbers, of the products of all parts."""
    compute = job.arithmetic.compute
    return prod(job.shape) * ITEMSIZE[real(compute)] * (4 if compute in PARTS else 1)


@cached(1024)
def in_room(job: Job, besides: int) -> int:
    """The `shares` of a job, or 1 if they and `besides` bytes exceed the workspace limit."""
    wanted = shares(job.geometry, 2 if job.arithmetic.compute in PARTS else 1, job.per_example)
    return wanted if besides + (1 + wanted) * size(job) <= job.limit else 1


def call(
    g: Geometry, s: Shape, dtypes: tuple[str, str, str], x_steps: Sequence[int],
    gy_steps: Sequence[int], gf_steps: Sequence[int], wanted: int, each: bool, threads: int,
    on: Machine,
) -> tuple[Call, int]:  # fmt: skip
    """The call for these strides, in elements, and the number of partial sums that it stores.

    With `each`, the strides of gf begin with that of the examples. Several partial sums are stored
    contiguously, each a row-major gf.
    """
    inner = g.channels // g.groups * s.parts
    x_columns, y_columns, column, counts = columns(g, s, x_steps[-1], s.parts)
    axes = _axes(g, x_steps, gy_steps, each)
    split, whole = len(axes) - 1, 1
    while split and whole * axes[split][0] * 2 <= packed_filter_gradient.REGION:
        whole *= axes[split][0]
        split -= 1
    share = -(-axes[0][0] // wanted)
    unit = max(packed_filter_gradient.REGION // whole, 1)
    lines = share if split == 0 else axes[split][0]
    unit = -(-lines // -(-lines // unit))  # regions of equal size
    share = -(-share // unit) * unit if split == 0 else share
    count = -(-axes[0][0] // share)
    shape = (count, *g.kernel, inner, g.filters * s.parts)
    if count > 1:
        gf_steps = [0, *(prod(shape[i:]) for i in range(2, len(shape))), 1]
    gf_example, *gf_taps = gf_steps if each or count > 1 else (0, *gf_steps)
    rows = min(s.rows, inner)
    rows = -(-inner // -(-inner // rows))  # tiles of equal height
    group = min(GROUP, s.per_group) if g.groups == 1 else 1
    groups = -(-len(column) // group)
    group = -(-len(column) // groups)
    tiles = -(-inner // rows)
    examples = g.batch if each else 1
    slices = min(max(-(-chunk_count(threads, COARSE) // (groups * examples * count)), 1), tiles)
    part = -(-tiles // slices) * rows
    slices = -(-inner // part)
    tile = packed_filter_gradient.BlockedTile(
        *dtypes, s.lanes, rows, s.vectors, len(axes), split, group, count >= SHARES
    )  # fmt: skip
    tap_x = grid(g.kernel, [d * t for d, t in zip(g.dilation, x_steps[1:-1], strict=True)])
    tap_gf = grid(g.kernel, gf_taps[: g.rank])
    base = sum(-low * t for (low, _), t in zip(g.padding, x_steps[1:-1], strict=True))
    values = {
        "chunks": groups * slices * examples * count, "panels": len(column), "groups": groups,
        "slices": slices, "slice": part, "channels": inner, "taps": len(tap_x),
        "x_example": x_steps[0] if each else 0, "gy_example": gy_steps[0] if each else 0,
        "gf_example": gf_example, "gf_channel": gf_taps[-2], "tap_x": address(tap_x),
        "tap_gf": address(tap_gf), "region": unit, "shares": count, "share": share,
        "gf_share": prod(shape[1:]),
        "panel_x": address(x_columns), "panel_y": address(y_columns),
        "panel_column": address(column), "panel_columns": address(counts),
        "x": base * np.dtype(dtypes[0]).itemsize,
    }  # fmt: skip
    for a, (length, x_step, gy_step) in enumerate(axes):
        values |= {f"out{a}": length, f"x_step{a}": x_step, f"gy_step{a}": gy_step}
    keep = (tap_x, tap_gf, x_columns, y_columns, column, counts)
    kernel = KernelSpec("blocked", packed_filter_gradient.kernel, (tile,), on)
    return Call(kernel, packed_filter_gradient.arguments(len(axes)), values, threads, keep), count


def _axes(
    g: Geometry, x_steps: Sequence[int], gy_steps: Sequence[int], each: bool
) -> list[tuple[int, int, int]]:
    """(positions, stride in x, stride in gy) of the batch and the axes.

    Neighbouring axes become one if their strides allow.
    """
    every = [(g.batch, x_steps[0], gy_steps[0])] if not each else []
    every += [(g.out[a], x_steps[a + 1] * g.stride[a], gy_steps[a + 1]) for a in range(g.rank)]
    axes = [every[0]]
    for count, x_step, gy_step in every[1:]:
        before = axes[-1]
        if before[0] == 1 or before[1:] == (x_step * count, gy_step * count):
            axes[-1] = (before[0] * count, x_step, gy_step)
        elif count > 1:
            axes.append((count, x_step, gy_step))
    return axes
