"""Call the filter-gradient kernel of small groups with NumPy arrays of contiguous channels."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import KernelSpec, Target
from einstride.cpu.grouped import filter_gradient
from einstride.cpu.grouped.forward_call import spec_and_arguments
from einstride.cpu.grouped.shape import ChannelLayout, channel_layout
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.cpu.runtime.chunks import COARSE, chunk_count, chunk_size
from einstride.cpu.runtime.offset_tables import grid, output_ranges, sources, to_offsets
from einstride.cpu.runtime.operands import element_strides
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.padding_modes import elements_seen
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

REGION_BYTES = 128 << 10
"""Bytes of packed x and gy of a region and a panel, about; chosen to stay in a core's second-level
cache. Changing it changes the order of sums, and so the bits."""

POSITIONS = 14
"""Positions in a tile, at most; chosen. The code of all positions is written out."""


def gradient(
    x: Any, gy: Any, g: Geometry, compute: str, out: Any, launch: Any, threads: int,
    per_example: bool, target: Target,
) -> None:  # fmt: skip
    """Compute out (*K, C // G, D) = the filter gradient, (B, ...) if per example, in `compute`."""
    call = gradient_of(x, gy, g, compute, out, threads, per_example, target)
    packed = np.empty(threads * packed_bytes(g, compute, per_example, target) + 64, np.uint8)
    start = -(-address(packed) // 64) * 64
    call(launch, x=address(x), y=address(gy), gf=address(out), packed=start)


def gradient_of(
    x: Any,
    gy: Any,
    g: Geometry,
    compute: str,
    out: Any,
    threads: int,
    per_example: bool,
    target: Target,
) -> Call:
    """Make the call for these strides; it needs the addresses x, y (of gy), gf and packed."""
    return _gradient_call(
        g, dtype_name(x), dtype_name(gy), compute, x.strides, gy.strides, out.strides, per_example,
        threads, target,
    )  # fmt: skip


def packed_bytes(g: Geometry, compute: str, per_example: bool, target: Target) -> int:
    """Count the bytes of a thread's packed x and gy."""
    return _choose_region(
        g, gradient_layout(g, compute, target), ITEMSIZE[compute], per_example
    ).bytes


def gradient_layout(g: Geometry, compute: str, target: Target) -> ChannelLayout:
    """Choose the layout of one vector of outputs and channel blocks whose sums fit registers."""
    return channel_layout(
        g, compute, target, max((24 if target.registers >= 32 else 10) // g.kernel[-1], 1)
    )


@dataclass(frozen=True)
class Region:
    """The size of a region, and the layout of its packed x and gy.

    Attributes
    ----------
    batch, rows : int
        Examples, and outputs of the first axis, in a region.
    row_positions : int
        Positions of a padded row of x.
    x, y : tuple of int
        Strides of packed x and gy, for the batch and each axis but the last, in elements.
    gy, bytes : int
        Offset of packed gy in elements, and the bytes of both.
    """

    batch: int
    rows: int
    row_positions: int
    x: tuple[int, ...]
    y: tuple[int, ...]
    gy: int
    bytes: int


@cached(1024)
def _choose_region(g: Geometry, layout: ChannelLayout, item: int, per_example: bool) -> Region:
    """Choose the most rows, or examples, within `REGION_BYTES`, whatever the threads."""
    row_positions = (g.out[-1] - 1) * g.stride[-1] + g.extent[-1]
    # Packed x and gy of one element of the first axis; of the whole row if it is the only axis.
    x_row = row_positions * layout.x_width * prod(g.size[1:-1])
    y_row = g.out[-1] * layout.lanes * prod(g.out[1:-1])
    all_rows = g.out[0] if g.rank > 1 else 1
    rows, batch = all_rows, g.batch
    span = _span_length(g, rows)
    while rows > 1 and (span * x_row + rows * y_row) * item > REGION_BYTES:
        rows = -(-rows // 2)
        span = _span_length(g, rows)
    size = (span * x_row + rows * y_row) * item
    batch = 1 if rows < all_rows or per_example else min(max(REGION_BYTES // size, 1), g.batch)
    x_strides, y_strides = [row_positions * layout.x_width], [g.out[-1] * layout.lanes]
    for a in range(g.rank - 2, 0, -1):
        x_strides.insert(0, x_strides[0] * g.size[a])
        y_strides.insert(0, y_strides[0] * g.out[a])
    if g.rank > 1:
        x_strides.insert(0, x_strides[0] * span)
        y_strides.insert(0, y_strides[0] * rows)
    return Region(
        batch, rows, row_positions, tuple(x_strides), tuple(y_strides), batch * x_strides[0],
        batch * (x_strides[0] + y_strides[0]) * item,
    )  # fmt: skip


def _span_length(g: Geometry, rows: int) -> int:
    """Return the most elements of x's first axis that the windows of `rows` outputs span."""
    if g.rank == 1:
        return 1
    if g.padding_mode == "circular" and any(n > 0 for n in g.padding[0]):
        return g.size[0]  # a region at the border reads both ends
    return max(min((rows - 1) * g.stride[0] + g.extent[0], g.size[0]), 1)


def _input_ranges(g: Geometry, rows: int) -> tuple[Any, Any]:
    """List, for each `rows` outputs, the first element of x's first axis that they read, and one
    past the last."""  # fmt: skip
    if g.rank == 1:
        return np.zeros(1, np.int64), np.ones(1, np.int64)
    step, low = g.stride[0], g.padding[0][0]
    ranges = []
    for first in range(0, g.out[0], rows):
        last = min(first + rows, g.out[0]) - 1
        ends = first * step - low, last * step - low + g.extent[0]
        ranges.append(elements_seen(*ends, g.size[0], g.padding_mode))
    lows, highs = np.array(ranges, np.int64).reshape(-1, 2).T
    return np.ascontiguousarray(lows), np.ascontiguousarray(highs)


@kept
def _gradient_call(
    g: Geometry, x_dtype: str, gy_dtype: str, compute: str, x_byte_strides: tuple[int, ...],
    y_byte_strides: tuple[int, ...], gf_byte_strides: tuple[int, ...], per_example: bool,
    threads: int, target: Target,
) -> Call:  # fmt: skip
    layout, item = gradient_layout(g, compute, target), ITEMSIZE[compute]
    x_strides = element_strides(x_byte_strides, ITEMSIZE[x_dtype])
    y_strides = element_strides(y_byte_strides, ITEMSIZE[gy_dtype])
    gf_strides = list(element_strides(gf_byte_strides, item))
    gf_batch = gf_strides.pop(0) if per_example else 0
    spec, values, tables = spec_and_arguments(
        g, layout, (x_dtype, gy_dtype, compute), x_strides, y_strides, POSITIONS
    )
    region = _choose_region(g, layout, item, per_example)
    taps = grid(g.kernel, gf_strides[: g.rank])
    lows, highs = _input_ranges(g, region.rows)
    tables += [taps, lows, highs]
    panels, examples = layout.panels(g.groups), g.batch if per_example else 1
    min_chunks = chunk_count(threads, COARSE)
    part = chunk_size(
        layout.blocks, 1, lambda part: panels * -(-layout.blocks // part) * examples, min_chunks
    )
    parts = -(-layout.blocks // part)
    values |= {
        "chunks": panels * parts * examples, "panels": panels, "parts": parts, "part": part,
        "examples": examples, "batch": g.batch, "region_batch": region.batch,
        "region_rows": region.rows, "low_rows": address(lows),
        "high_rows": address(highs), "packed_bytes": region.bytes, "packed_gy": region.gy,
        "packed_x_batch": region.x[0], "packed_y_batch": region.y[0],
        "row_positions": region.row_positions, "gf_batch": gf_batch,
        "gf_channel": gf_strides[-2], "tap_offsets": address(taps),
    }  # fmt: skip
    for a in range(g.rank - 1):
        table = to_offsets(sources(g, a), region.x[a + 1], 0)
        output_range = output_ranges(g, a)
        tables += [table, *output_range]
        values |= {
            f"table{a}": address(table), f"first{a}": address(output_range[0]),
            f"last{a}": address(output_range[1]), f"size{a}": g.size[a],
            f"x_stride{a}": x_strides[a + 1], f"packed_x{a}": region.x[a + 1],
            f"packed_y{a}": region.y[a + 1],
        }  # fmt: skip
    kernel = KernelSpec("grouped_gradient", filter_gradient.kernel, (spec,), target)
    return Call(kernel, filter_gradient.arguments(g.rank), values, threads, tables)
