"""Call the kernel `einstride.cpu.dense.packed_filter_gradient` with strides and tables."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from einstride.codegen.jit import KernelSpec, Target
from einstride.cpu.complex_as_real import PARTS, real
from einstride.cpu.dense import packed_filter_gradient
from einstride.cpu.dense.pack_call import PanelLayout, panel_tables
from einstride.cpu.runtime.argument_block import Call, address
from einstride.cpu.runtime.chunks import COARSE, chunk_count
from einstride.cpu.runtime.offset_tables import grid
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Job
from einstride.support.caches import cached

MAX_PANELS = 4
"""Panels that are computed with the same packed x, at most; chosen. More panels pack x less often,
and need more of the first-level cache for gy."""

MAX_PARTIAL_SUMS = 8
"""Partial sums, at most; chosen. Changing it changes the order of sums, and so the bits."""

ELEMENTS_PER_SUM = 16
"""Elements of x and gy for each element of all partial sums, at least; chosen, so that adding them
costs little against reading x and gy."""

MIN_POSITIONS = 16
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
    return inside(g) and x_channel == parts and g.batch * prod(g.out) >= MIN_POSITIONS


def partial_sum_count(g: Geometry, parts: int, per_example: bool) -> int:
    """Return the number of partial sums that the positions are divided into, a power of two."""
    if per_example or not inside(g):
        return 1
    filters = prod(g.f_shape) * parts**2
    operands = (prod(g.x_shape) + prod(g.y_shape)) * parts
    regions = g.batch * prod(g.out) // (4 * packed_filter_gradient.REGION)
    max_sums = min(MAX_PARTIAL_SUMS, operands // (ELEMENTS_PER_SUM * filters), regions)
    return 1 << (max_sums.bit_length() - 1) if max_sums > 1 else 1


def gradient_bytes(job: Job) -> int:
    """Count the bytes of the filter gradient; for complex numbers, of the products of all parts."""
    compute = job.arithmetic.compute
    return prod(job.shape) * ITEMSIZE[real(compute)] * (4 if compute in PARTS else 1)


@cached(1024)
def allowed_partial_sums(job: Job, besides: int) -> int:
    """Return the `partial_sum_count` of a job, or 1 if it and `besides` bytes exceed the limit."""
    parts = 2 if job.arithmetic.compute in PARTS else 1
    count = partial_sum_count(job.geometry, parts, job.per_example)
    return count if besides + (1 + count) * gradient_bytes(job) <= job.limit else 1


def call(
    g: Geometry, layout: PanelLayout, dtypes: tuple[str, str, str], x_strides: Sequence[int],
    gy_strides: Sequence[int], gf_strides: Sequence[int], max_partial_sums: int,
    per_example: bool, threads: int, target: Target,
) -> tuple[Call, int]:  # fmt: skip
    """Make the call for these strides, in elements, and the number of partial sums that it stores.

    With `per_example`, the strides of gf begin with the stride of the examples. Several partial
    sums are stored contiguously, each a row-major gf.
    """
    inner = g.channels // g.groups * layout.parts
    x_columns, y_columns, column, counts = panel_tables(g, layout, x_strides[-1], layout.parts)
    axes = _merge_axes(g, x_strides, gy_strides, per_example)
    split, inner_positions = (
        len(axes) - 1,
        1,
    )  # positions behind `split`
    while split and inner_positions * axes[split][0] * 2 <= packed_filter_gradient.REGION:
        inner_positions *= axes[split][0]
        split -= 1
    sum_length = -(-axes[0][0] // max_partial_sums)
    region = max(packed_filter_gradient.REGION // inner_positions, 1)
    lines = sum_length if split == 0 else axes[split][0]
    region = -(-lines // -(-lines // region))  # regions of equal size
    sum_length = -(-sum_length // region) * region if split == 0 else sum_length
    count = -(-axes[0][0] // sum_length)
    shape = (count, *g.kernel, inner, g.filters * layout.parts)
    if count > 1:
        gf_strides = [0, *(prod(shape[i:]) for i in range(2, len(shape))), 1]
    gf_example, *gf_taps = gf_strides if per_example or count > 1 else (0, *gf_strides)
    rows = min(layout.rows, inner)
    rows = -(-inner // -(-inner // rows))  # tiles of equal height
    chunk_panels = min(MAX_PANELS, layout.per_group) if g.groups == 1 else 1
    panel_groups = -(-len(column) // chunk_panels)
    chunk_panels = -(-len(column) // panel_groups)
    tiles = -(-inner // rows)
    examples = g.batch if per_example else 1
    unsliced = panel_groups * examples * count  # chunks
    slices = min(max(-(-chunk_count(threads, COARSE) // unsliced), 1), tiles)
    slice_channels = -(-tiles // slices) * rows
    slices = -(-inner // slice_channels)
    tile = packed_filter_gradient.BlockedTile(
        *dtypes, layout.lanes, rows, layout.vectors, len(axes), split, chunk_panels,
        count >= MAX_PARTIAL_SUMS,
    )  # fmt: skip
    tap_x = grid(g.kernel, [d * t for d, t in zip(g.dilation, x_strides[1:-1], strict=True)])
    tap_gf = grid(g.kernel, gf_taps[: g.rank])
    base = sum(-low * t for (low, _), t in zip(g.padding, x_strides[1:-1], strict=True))
    values = {
        "chunks": unsliced * slices, "panels": len(column), "panel_groups": panel_groups,
        "slices": slices, "slice": slice_channels, "channels": inner, "taps": len(tap_x),
        "x_example": x_strides[0] if per_example else 0,
        "gy_example": gy_strides[0] if per_example else 0, "gf_example": gf_example,
        "gf_channel": gf_taps[-2], "tap_x": address(tap_x), "tap_gf": address(tap_gf),
        "region": region, "partial_sums": count, "sum_length": sum_length,
        "gf_sum": prod(shape[1:]), "panel_x": address(x_columns), "panel_y": address(y_columns),
        "panel_column": address(column), "panel_columns": address(counts),
        "x": base * np.dtype(dtypes[0]).itemsize,
    }  # fmt: skip
    for a, (length, x_stride, gy_stride) in enumerate(axes):
        values |= {f"out{a}": length, f"x_stride{a}": x_stride, f"gy_stride{a}": gy_stride}
    tables = (tap_x, tap_gf, x_columns, y_columns, column, counts)
    kernel = KernelSpec("blocked", packed_filter_gradient.kernel, (tile,), target)
    return Call(kernel, packed_filter_gradient.arguments(len(axes)), values, threads, tables), count


def _merge_axes(
    g: Geometry, x_strides: Sequence[int], gy_strides: Sequence[int], per_example: bool
) -> list[tuple[int, int, int]]:
    """Return (positions, stride in x, stride in gy) of the batch and the axes.

    Neighbouring axes become one if their strides allow.
    """
    separate_axes = [(g.batch, x_strides[0], gy_strides[0])] if not per_example else []
    separate_axes += [
        (g.out[a], x_strides[a + 1] * g.stride[a], gy_strides[a + 1]) for a in range(g.rank)
    ]
    axes = [separate_axes[0]]
    for count, x_stride, gy_stride in separate_axes[1:]:
        last_axis = axes[-1]
        if last_axis[0] == 1 or last_axis[1:] == (x_stride * count, gy_stride * count):
            axes[-1] = (last_axis[0] * count, x_stride, gy_stride)
        elif count > 1:
            axes.append((count, x_stride, gy_stride))
    return axes
