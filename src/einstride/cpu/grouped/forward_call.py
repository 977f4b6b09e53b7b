"""Call the forward kernel of small groups with NumPy arrays of contiguous channels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import KernelSpec, Target
from einstride.cpu.grouped import forward
from einstride.cpu.grouped.rows import MAX_TILE_KINDS, Spec, divide_row
from einstride.cpu.grouped.shape import ChannelLayout, channel_layout, panel_tables
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.cpu.runtime.chunks import FINE, chunk_count, chunk_size
from einstride.cpu.runtime.offset_tables import lowest_offset, offsets, padded_elements, to_offsets
from einstride.cpu.runtime.operands import element_strides
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept

PANELS_BYTES = 192 << 10
"""Bytes of all panels up to which they stay in a core's second-level cache for all rows; chosen."""

ROWS_BYTES = 384 << 10
"""Bytes of x that a chunk reads, at most; chosen. Fewer if the threads need more chunks."""

FAR_BYTES = 16 << 20
"""Bytes of x and y from which they leave the caches, so that rows are prefetched; chosen."""


def correlate(
    x: Any, packed: Any, g: Geometry, compute: str, bias: Any, out: Any, launch: Any, threads: int,
    target: Target,
) -> None:  # fmt: skip
    """Compute out (B, *O, D) = conv(x, panels) + bias."""
    call = correlation(x, g, compute, out, threads, target)
    addresses = {"x": address(x), "f": address(packed), "y": address(out)}
    if bias is not None:
        addresses["bias"] = address(bias)
    call(launch, **addresses)


def correlation(x: Any, g: Geometry, compute: str, out: Any, threads: int, target: Target) -> Call:
    """Make the call for these strides; it needs the addresses x, f (panels), y and bias."""
    return _correlation_call(
        g, dtype_name(x), compute, dtype_name(out), x.strides, out.strides, threads, target
    )


def max_positions(layout: ChannelLayout, target: Target) -> int:
    """Return the most positions of a tile whose sums, filter row and broadcast fit registers."""
    registers = 24 if target.registers >= 32 else 10
    return max(min(registers // layout.vectors, 14), 2)


@kept
def _correlation_call(
    g: Geometry, operand: str, compute: str, result: str, x_byte_strides: tuple[int, ...],
    y_byte_strides: tuple[int, ...], threads: int, target: Target,
) -> Call:  # fmt: skip
    layout = channel_layout(g, compute, target)
    x_strides = element_strides(x_byte_strides, ITEMSIZE[operand])
    y_strides = element_strides(y_byte_strides, ITEMSIZE[result])
    spec, values, tables = spec_and_arguments(
        g, layout, (operand, result, compute), x_strides, y_strides, max_positions(layout, target)
    )
    stride = x_strides[-2]
    values |= {"x_stride": stride, "window_stride": g.stride[-1] * stride}
    values["x_first"] = -g.padding[-1][0] * stride - lowest_offset(g.size[-1], stride)
    for a in range(g.rank - 1):
        table, lowest = offsets(g, a, x_strides[a + 1])
        tables.append(table)
        values[f"table{a}"] = address(table)
        values["x"] += lowest * ITEMSIZE[operand]
    rows, panels = g.batch * prod(g.out[:-1]), layout.panels(g.groups)
    panel_size = prod(g.kernel) * layout.blocks * layout.block * layout.width
    row_bytes = g.size[-1] * g.channels * ITEMSIZE[operand]
    block = max(min(ROWS_BYTES // max(row_bytes, 1), rows), 1)
    part = 1
    if panels * panel_size * ITEMSIZE[compute] <= PANELS_BYTES:  # of all panels
        block = max(min(block, rows // chunk_count(threads, FINE)), 1)
        blocks = -(-rows // block)
        part = chunk_size(panels, 1, lambda part: blocks * -(-panels // part), chunk_count(threads))
    else:
        block = max(min(block, rows * panels // chunk_count(threads, FINE)), 1)
    values |= {
        "chunks": -(-rows // block) * -(-panels // part), "blocks": -(-rows // block),
        "block": block, "rows": rows, "panels": panels, "parts": -(-panels // part),
        "part": part, "f_panel": panel_size,
    }  # fmt: skip
    kernel = KernelSpec("grouped", forward.kernel, (spec,), target)
    return Call(kernel, forward.arguments(g.rank), values, threads, tables)


def spec_and_arguments(
    g: Geometry, layout: ChannelLayout, dtypes: tuple[str, str, str], x_strides: Sequence[int],
    y_strides: Sequence[int], max_tile: int,
) -> tuple[Spec, dict[str, int], list[Any]]:  # fmt: skip
    """Return the specification, the common arguments and the tables of both kernels."""
    tile_kinds, ranges, all_inside = divide_row(g, max_tile)
    groups, first, counts, inputs = panel_tables(g, layout)
    items = [ITEMSIZE[d] for d in dtypes]
    prefetch = prod(g.x_shape) * items[0] + prod(g.y_shape) * items[1] > FAR_BYTES
    x_channels = layout.groups * layout.block  # in a vector of x
    full_x = layout.x_width == layout.inputs
    if layout.groups > 1:
        full_x = x_channels == layout.lanes and not (inputs % x_channels).any()
    spec = Spec(
        *dtypes, layout, g.rank, g.stride[-1], g.dilation[-1], tile_kinds, bool(full_x),
        bool((counts == layout.width).all()), prefetch, all_inside,
    )  # fmt: skip
    starts = groups * layout.inputs
    zeros = np.zeros(layout.lanes, dtypes[0])
    lowest = lowest_offset(g.size[-1], x_strides[-2])
    row_offsets = to_offsets(padded_elements(g, g.rank - 1), x_strides[-2], lowest)
    tables: list[Any] = [first, counts, inputs, starts, zeros, row_offsets]
    values = {
        "x": lowest * items[0], "zeros": address(zeros), "row_offsets": address(row_offsets),
        "x_batch": x_strides[0], "y_batch": y_strides[0], "channel_blocks": layout.blocks,
        "panel_x": address(starts), "panel_column": address(first),
        "panel_columns": address(counts), "panel_inputs": address(inputs),
    }  # fmt: skip
    for a in range(g.rank):
        values |= {f"taps{a}": g.kernel[a], f"out{a}": g.out[a], f"y_stride{a}": y_strides[a + 1]}
    for i in range(MAX_TILE_KINDS):
        start, stop = ranges[i] if i < len(ranges) else (0, 0)
        values |= {f"kind_start{i}": start, f"kind_stop{i}": stop}
    return spec, values, tables
