"""Call the dense forward kernel with NumPy arrays; the filter is not flipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.jit import KernelSpec, Machine, machine
from einstride.cpu.complex_as_real import real
from einstride.cpu.dense import forward
from einstride.cpu.dense.pack_call import SLICE_BYTES, Shape, columns, shape
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
    on: Machine | None = None, quads: bool = False,
) -> None:  # fmt: skip
    """out (B, *O, D) = conv(x, panels) + bias, for addressable arrays.

    With `quads`, the panels are those of `einstride.cpu.dense.vnni`, and the channels of x are
    contiguous.
    """
    call = correlation(x, g, compute, out, threads, on or machine(), quads)
    addresses = {"x": address(x), "f": address(packed), "y": address(out)}
    if bias is not None:
        addresses["bias"] = address(bias)
    call(launch, **addresses)


def correlation(
    x: Any, g: Geometry, compute: str, out: Any, threads: int, on: Machine, quads: bool = False
) -> Call:
    """The call for arrays with these strides; it needs the addresses x, f (panels), y and bias."""
    strides = x.strides if x.shape[-1] == g.channels else (*x.strides[:-1], x.itemsize)
    return _correlation(
        g, dtype_name(x), compute, dtype_name(out), strides, out.strides, threads, on, quads
    )


@kept
def _correlation(
    g: Geometry, operand: str, compute: str, result: str, x_strides: tuple[int, ...],
    y_strides: tuple[int, ...], threads: int, on: Machine, quads: bool = False,
) -> Call:  # fmt: skip
    s = shape(compute, g.filters // g.groups, on)
    items = ITEMSIZE[real(operand)], ITEMSIZE[real(result)]
    x_steps = element_strides(x_strides, items[0])
    y_steps = element_strides(y_strides, items[1])
    x_channel, y_channel = x_steps[-1], y_steps[-1]
    x_columns, y_columns, column, counts = columns(g, s, x_channel, y_channel)
    inner = g.channels // g.groups * s.parts
    axes, base = _axes(g, x_steps, y_steps)
    positions_in_tile = _rows(s, g.batch * prod(g.out))
    ahead = positions_in_tile * x_steps[-2] * g.stride[-1]
    if s.vectors == 4 and g.batch % 4 == 0 and _borders(g) > 0.04:
        # A tile is one position of four examples: a tap in the border is skipped for all four.
        axes.append(axes.pop(0))
        positions_in_tile, ahead = 4, x_steps[-2] * g.stride[-1]
    dense_x = g.channels // g.groups == 1 or x_channel == s.parts
    dense_y = g.filters // g.groups == 1 or y_channel == s.parts
    tile = forward.Tile(
        real(operand), real(compute), real(result), s.lanes, positions_in_tile, s.vectors,
        tuple(axis.table is not None for axis in axes), dense_x, dense_y, quads,
    )  # fmt: skip
    item = ITEMSIZE[real(compute)]
    depth = max(SLICE_BYTES // (prod(g.kernel) * s.width * item), 32)
    if result != compute or not dense_y or depth >= inner:
        depth = inner
    if quads:
        inner = depth = inner // 4
    positions = g.batch * prod(g.out)
    rows = _block(positions, len(column), threads, positions_in_tile)
    zeros = np.zeros(inner * (4 if quads else 1) if dense_x else 1, real(operand))
    keep: list[Any] = [x_columns, y_columns, column, counts, zeros]
    inside = len(column) * prod(g.kernel) * inner * s.width * item <= SLICE_BYTES
    values = {
        "chunks": -(-positions // rows) * len(column), "blocks": -(-positions // rows),
        "block": rows, "positions": positions, "panels": len(column), "panels_inside": int(inside),
        "x": base * items[0], "zeros": address(zeros), "x_channel": 1 if dense_x else x_channel,
        "y_channel": y_channel // s.parts, "x_ahead": ahead,
        "f_panel": prod(g.kernel) * inner * s.width,
        "channels": inner, "slice": depth, "panel_x": address(x_columns),
        "panel_y": address(y_columns), "panel_column": address(column),
        "panel_columns": address(counts),
    }  # fmt: skip
    for a, axis in enumerate(axes):
        table = axis.table
        keep.append(table)
        values |= {
            f"table{a}": 0 if table is None else address(table),
            f"taps{a}": 1 if table is None else table.shape[1],
            f"x_first{a}": axis.first, f"x_step{a}": axis.step,
            f"out{a}": axis.out, f"y_step{a}": axis.y_step,
        }  # fmt: skip
    kernel = KernelSpec("dense", forward.kernel, (tile,), on)
    return Call(kernel, forward.arguments(len(axes)), values, threads, keep)


def _rows(s: Shape, positions: int) -> int:
    """The positions in a register tile: the number with the least cycles for all positions.

    A channel takes a cycle for every two vector products, and at least four cycles, the latency of
    an FMA. Above 16 full tiles the rounding does not matter, and the largest tile is taken.
    """
    if positions > 16 * s.rows:
        return s.rows
    each = {r: max(4.0, r * s.vectors / 2 + 0.5) for r in range(s.rows, 0, -1)}
    return min(each, key=lambda r: -(-positions // r) * each[r])


def _block(positions: int, panels: int, threads: int, tile: int) -> int:
    """The positions in a chunk: at most `BLOCK`, fewer if threads would be idle."""
    share = positions * panels // chunk_count(threads) if threads > 1 else positions
    rows = max(min(share, BLOCK), tile)
    even = -(-positions // -(-positions // rows))
    return -(-even // tile) * tile


def _borders(g: Geometry) -> float:
    """The fraction of products with a zero of the border."""
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
    y_step: int
    table: Any = None
    first: int = 0
    step: int = 0


def _axes(g: Geometry, x_steps: Sequence[int], y_steps: Sequence[int]) -> tuple[list[Axis], int]:
    """The batch and each spatial axis, and the offset to add to the address of x.

    Neighbouring axes without tables become one if their strides allow: a 1x1 convolution then has
    one axis, and its kernel computes no coordinates.
    """
    axes, base = [_even(g.batch, y_steps[0], x_steps[0])], lowest_offset(g.batch, x_steps[0])
    for a in range(g.rank):
        step, low = x_steps[a + 1], g.padding[a][0]
        reach = (g.out[a] - 1) * g.stride[a] - low
        if g.kernel[a] == 1 and low <= 0 and reach < g.size[a]:
            axis = _even(g.out[a], y_steps[a + 1], step * g.stride[a])
            base += -low * step - axis.first
            before = axes[-1]
            if before.table is None and (
                before.out == 1
                or (before.y_step, before.step) == (axis.y_step * axis.out, axis.step * axis.out)
            ):
                count = before.out * axis.out
                axes[-1] = Axis(count, axis.y_step, None, before.first + axis.first, axis.step)
                continue
        else:
            table, back = offsets(g, a, step)
            base += back
            axis = Axis(g.out[a], y_steps[a + 1], table)
        axes.append(axis)
    return axes, base


def _even(count: int, y_step: int, step: int) -> Axis:
    return Axis(count, y_step, None, -lowest_offset(count, step), step)
