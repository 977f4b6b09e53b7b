"""Call the dense forward kernel with NumPy arrays; the filter is not flipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import KernelSpec, Target, host_target
from einstride.cpu.complex_as_real import real
from einstride.cpu.dense import forward
from einstride.cpu.dense.pack_call import SLICE_BYTES, PanelLayout, panel_layout, panel_tables
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.cpu.runtime.chunks import chunk_count
from einstride.cpu.runtime.offset_tables import lowest_offset, offsets
from einstride.cpu.runtime.operands import element_strides
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.padding_modes import pairs_met
from einstride.support.byte_cache import kept

BLOCK = 768
"""Positions in a chunk, at most; chosen so that the x and y of a chunk stay in the second-level
cache."""


def correlate(
    x: Any, packed: Any, g: Geometry, compute: str, bias: Any, out: Any, launch: Any, threads: int,
    target: Target | None = None, vnni: bool = False,
) -> None:  # fmt: skip
    """Compute out (B, *O, D) = conv(x, panels) + bias, for addressable arrays.

    With `vnni`, the panels are those of `einstride.cpu.dense.vnni`, and the channels of x are
    contiguous.
    """
    call = correlation(x, g, compute, out, threads, target or host_target(), vnni)
    addresses = {"x": address(x), "f": address(packed), "y": address(out)}
    if bias is not None:
        addresses["bias"] = address(bias)
    call(launch, **addresses)


def correlation(
    x: Any, g: Geometry, compute: str, out: Any, threads: int, target: Target, vnni: bool = False
) -> Call:
    """Make the call for these strides; it needs the addresses x, f (panels), y and bias."""
    strides = x.strides if x.shape[-1] == g.channels else (*x.strides[:-1], x.itemsize)
    return _correlation_call(
        g, dtype_name(x), compute, dtype_name(out), strides, out.strides, threads, target, vnni
    )


@kept
def _correlation_call(
    g: Geometry, operand: str, compute: str, result: str, x_byte_strides: tuple[int, ...],
    y_byte_strides: tuple[int, ...], threads: int, target: Target, vnni: bool = False,
) -> Call:  # fmt: skip
    layout = panel_layout(compute, g.filters // g.groups, target)
    items = ITEMSIZE[real(operand)], ITEMSIZE[real(result)]
    x_strides = element_strides(x_byte_strides, items[0])
    y_strides = element_strides(y_byte_strides, items[1])
    x_channel, y_channel = x_strides[-1], y_strides[-1]
    x_columns, y_columns, column, counts = panel_tables(g, layout, x_channel, y_channel)
    inner = g.channels // g.groups * layout.parts
    axes, base = _describe_axes(g, x_strides, y_strides)
    positions_in_tile = _tile_positions(layout, g.batch * prod(g.out))
    prefetch_distance = positions_in_tile * x_strides[-2] * g.stride[-1]
    if layout.vectors == 4 and g.batch % 4 == 0 and _border_fraction(g) > 0.04:
        # A tile is one position of four examples: a tap in the border is skipped for all four.
        axes.append(axes.pop(0))
        positions_in_tile, prefetch_distance = 4, x_strides[-2] * g.stride[-1]
    contiguous_x = g.channels // g.groups == 1 or x_channel == layout.parts
    contiguous_y = g.filters // g.groups == 1 or y_channel == layout.parts
    tile = forward.Tile(
        real(operand), real(compute), real(result), layout.lanes, positions_in_tile, layout.vectors,
        tuple(axis.table is not None for axis in axes), contiguous_x, contiguous_y, vnni,
    )  # fmt: skip
    item = ITEMSIZE[real(compute)]
    depth = max(SLICE_BYTES // (prod(g.kernel) * layout.width * item), 32)
    if result != compute or not contiguous_y or depth >= inner:
        depth = inner
    if vnni:
        inner = depth = inner // 4
    positions = g.batch * prod(g.out)
    rows = _chunk_positions(positions, len(column), threads, positions_in_tile)
    zeros = np.zeros(inner * (4 if vnni else 1) if contiguous_x else 1, real(operand))
    tables: list[Any] = [x_columns, y_columns, column, counts, zeros]
    panels_inner = len(column) * prod(g.kernel) * inner * layout.width * item <= SLICE_BYTES
    values = {
        "chunks": -(-positions // rows) * len(column), "blocks": -(-positions // rows),
        "block": rows, "positions": positions, "panels": len(column),
        "panels_inner": int(panels_inner), "x": base * items[0], "zeros": address(zeros),
        "x_channel": 1 if contiguous_x else x_channel, "y_channel": y_channel // layout.parts,
        "x_prefetch": prefetch_distance, "f_panel": prod(g.kernel) * inner * layout.width,
        "channels": inner, "slice": depth, "panel_x": address(x_columns),
        "panel_y": address(y_columns), "panel_column": address(column),
        "panel_columns": address(counts),
    }  # fmt: skip
    for a, axis in enumerate(axes):
        table = axis.table
        tables.append(table)
        values |= {
            f"table{a}": 0 if table is None else address(table),
            f"taps{a}": 1 if table is None else table.shape[1],
            f"x_first{a}": axis.first, f"x_stride{a}": axis.x_stride,
            f"out{a}": axis.out, f"y_stride{a}": axis.y_stride,
        }  # fmt: skip
    kernel = KernelSpec("dense", forward.kernel, (tile,), target)
    return Call(kernel, forward.arguments(len(axes)), values, threads, tables)


def _tile_positions(layout: PanelLayout, positions: int) -> int:
    """Choose the positions in a register tile: the number with the least cycles for all positions.

    A channel takes a cycle for every two vector products, and at least four cycles, the latency of
    an FMA. Above 16 full tiles the rounding does not matter, and the largest tile is taken.
    """
    if positions > 16 * layout.rows:
        return layout.rows
    cycles = {r: max(4.0, r * layout.vectors / 2 + 0.5) for r in range(layout.rows, 0, -1)}
    return min(cycles, key=lambda r: -(-positions // r) * cycles[r])


def _chunk_positions(positions: int, panels: int, threads: int, tile: int) -> int:
    """Choose the positions in a chunk: at most `BLOCK`, fewer if threads would be idle."""
    per_chunk = positions * panels // chunk_count(threads) if threads > 1 else positions
    rows = max(min(per_chunk, BLOCK), tile)
    equal_chunk = -(-positions // -(-positions // rows))
    return -(-equal_chunk // tile) * tile


def _border_fraction(g: Geometry) -> float:
    """Return the fraction of products with a zero of the border."""
    inside = 1.0
    for out, s, taps, d, (low, _), size in zip(
        g.out, g.stride, g.kernel, g.dilation, g.padding, g.size, strict=True
    ):
        inside *= pairs_met(out, s, taps, d, low, size, g.padding_mode) / (out * taps)
    return 1.0 - inside


@dataclass
class Axis:
    """The outputs of an axis: their stride in y, and their offset table or stride in x."""

    out: int
    y_stride: int
    table: Any = None
    first: int = 0
    x_stride: int = 0


def _describe_axes(
    g: Geometry, x_strides: Sequence[int], y_strides: Sequence[int]
) -> tuple[list[Axis], int]:
    """Describe the batch and each spatial axis, and return the offset to add to the address of x.

    Neighbouring axes without tables become one if their strides allow: a 1x1 convolution then has
    one axis, and its kernel computes no coordinates.
    """
    axes = [_strided_axis(g.batch, y_strides[0], x_strides[0])]
    base = lowest_offset(g.batch, x_strides[0])
    for a in range(g.rank):
        x_stride, low = x_strides[a + 1], g.padding[a][0]
        last_input = (g.out[a] - 1) * g.stride[a] - low
        if g.kernel[a] == 1 and low <= 0 and last_input < g.size[a]:
            axis = _strided_axis(g.out[a], y_strides[a + 1], x_stride * g.stride[a])
            base += -low * x_stride - axis.first
            last = axes[-1]
            if last.table is None and (
                last.out == 1
                or (last.y_stride, last.x_stride)
                == (axis.y_stride * axis.out, axis.x_stride * axis.out)
            ):
                count = last.out * axis.out
                axes[-1] = Axis(count, axis.y_stride, None, last.first + axis.first, axis.x_stride)
                continue
        else:
            table, lowest = offsets(g, a, x_stride)
            base += lowest
            axis = Axis(g.out[a], y_strides[a + 1], table)
        axes.append(axis)
    return axes, base


def _strided_axis(count: int, y_stride: int, x_stride: int) -> Axis:
    return Axis(count, y_stride, None, -lowest_offset(count, x_stride), x_stride)
