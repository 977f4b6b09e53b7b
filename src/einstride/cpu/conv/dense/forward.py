"""Write the kernel of a dense convolution: sums of outer products in registers, without im2col.

A register tile is P output positions by V vectors of output channels. It stays in registers during
the loops over taps and channels:

    acc[p, v] += x[position p under the tap, channel c] * f[tap, c, vector v]

An element of x is broadcast to a vector; a vector of f is read from a panel, (tap, channel, V
vectors). The offset of a tap is the sum of one table entry for each axis; a negative offset lies in
the border, and zeros are read instead. So stride, dilation and padding cost nothing in the inner
loop, and a tap for which all positions of a tile lie in the border is skipped. The batch is one
more axis, with one tap. Every output is summed in the same order, at any position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.ir_types import ELEMENTS, bytes_of
from einstride.codegen.jit import Target
from einstride.codegen.vector_formats import Format
from einstride.codegen.vector_ops import prefetch
from einstride.cpu.complex_as_real import real
from einstride.cpu.conv.blocked_sums import BlockedSums, block_arguments, block_unit
from einstride.cpu.conv.dense import vnni
from einstride.cpu.conv.dense.pack import SLICE_BYTES, PanelLayout, panel_layout, panel_tables
from einstride.cpu.conv.loop_nest import block, look_up, split
from einstride.cpu.conv.register_tile import RegisterTile, vector_masks
from einstride.cpu.conv.schedule import Schedule
from einstride.cpu.runtime.argument_block import Call, Layout, bind
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


@dataclass(frozen=True)
class DenseForward(Schedule):
    """The schedule of a dense convolution.

    Attributes
    ----------
    tables : tuple of bool
        For the batch and each spatial axis: True if the axis has an offset table. An axis on which
        the filter has one tap that never leaves x has a constant stride and needs no table.
    contiguous_x, contiguous_y : bool
        True if the channels of x, or of y, are contiguous.
    vnni : bool
        True for VNNI dot products of four 8-bit channels (`einstride.cpu.conv.dense.vnni`).
    block_unit : str
        Where blocks of sums may begin: see `blocked_sums`.
    """

    tables: tuple[bool, ...]
    contiguous_x: bool = True
    contiguous_y: bool = True
    vnni: bool = False
    block_unit: str = ""

    in_lanes = "output channels"
    in_rows = "output positions"
    loops = "block of positions and panel, slice of input channels, tile, tap, input channel"
    operands = "x broadcast, f in packed panels of output channels"
    edges = "a tap is skipped where all positions of a tile lie in zeros, else zeros are read"

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes that have offset tables."""
        return tuple(a for a, table in enumerate(self.tables) if table)

    def describe(self) -> dict[str, str]:
        """Describe the schedule in words, for plans."""
        products = ", dot products of four 8-bit integers" if self.vnni else ""
        words = super().describe()
        return words | {"operands": words["operands"] + products}


def kernel(spec: DenseForward, names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``dense``."""
    code = Code("dense", names)
    with code.chunks(code["chunks"]) as chunk:
        panels_inner = code["panels_inner"]  # 1: panels are the inner loop of chunks; 0: blocks are
        count = panels_inner.equals(1).select(code["panels"], code["blocks"])
        inner_index, outer_index = split(chunk, count)
        _compute_block(
            code,
            spec,
            panels_inner.equals(1).select(outer_index, inner_index),
            panels_inner.equals(1).select(inner_index, outer_index),
        )
    return code.text()


def _compute_block(code: Code, spec: DenseForward, number: Value, panel: Value) -> None:
    """Compute one block of positions for one panel of output channels."""
    x = code.array("x", spec.x.stored).at(look_up(code, "panel_x", panel))
    y = code.array("y", spec.y.stored).at(look_up(code, "panel_y", panel))
    bias = code.array("bias", spec.compute).at(look_up(code, "panel_column", panel))
    columns = look_up(code, "panel_columns", panel)
    f = code.array("f", spec.compute).at(panel * code["f_panel"])
    masks = vector_masks(code, columns, spec.lanes, spec.vectors)
    first, last = block(number, code["block"], code["positions"])
    with code.loop(0, code["channels"], code["slice"]) as c0:
        depth = (code["channels"] - c0).minimum(code["slice"])
        x_slice, f_slice = x.at(c0 * code["x_channel"]), f.at(c0 * spec.width)
        with code.loop(first, last, spec.rows) as start:
            coordinates = [_locate_position(code, spec, start + p, last) for p in range(spec.rows)]
            outs = [out for _, _, out in coordinates]
            sums = spec.register_tile(code)
            with code.when(c0.equals(0) & (code["bias"].equals(0) ^ 1)):
                sums.set_rows(lambda v: bias.at(v * spec.lanes).load(spec.lanes, masks[v]))
            blocks = BlockedSums(code, sums.accumulators, spec.lanes, spec.block_unit)
            positions_in_x = [place[:2] for place in coordinates]
            _loop_over_taps(code, spec, x_slice, f_slice, depth, positions_in_x, sums, blocks)
            blocks.finish()
            _add_earlier_sums(code, spec, sums, c0, y, outs, masks)
            for p, out in enumerate(outs):
                with code.when(start + p < last):
                    _store_sums(code, spec, y.at(out), sums, p, masks, columns)


Position = tuple[Value, dict[int, Pointer]]
"""The constant part of a position's offset in x, and its row of each axis' offset table."""


def _locate_position(
    code: Code, spec: DenseForward, position: Value, last: Value
) -> tuple[Value, dict[int, Pointer], Value]:
    """Return the constant part of a position's offset in x, its table rows, and its offset in y."""
    remaining = position.minimum(last - 1)
    rows: dict[int, Pointer] = {}
    offset, out = code.number(0), code.number(0)
    for a in reversed(range(len(spec.tables))):
        index = remaining % code[f"out{a}"] if a else remaining
        remaining = remaining // code[f"out{a}"] if a else remaining
        if spec.tables[a]:
            rows[a] = code.array(f"table{a}", "int64").at(index * code[f"taps{a}"])
        else:
            offset = offset + code[f"x_first{a}"] + index * code[f"x_stride{a}"]
        out = out + index * code[f"y_stride{a}"]
    return offset, rows, out


def _add_earlier_sums(
    code: Code, spec: DenseForward, sums: RegisterTile, c0: Value, y: Pointer,
    outs: list[Value], masks: list[Mask],
) -> None:  # fmt: skip
    """Add the sums over earlier slices of channels, which y holds."""
    if spec.y.stored == spec.compute and spec.contiguous_y:
        with code.when(code.number(0) < c0):
            for p, out in enumerate(outs):
                sums.add(p, y.at(out), masks)


def _loop_over_taps(
    code: Code, spec: DenseForward, x: Pointer, f: Pointer, depth: Value, positions: list[Position],
    sums: RegisterTile, blocks: BlockedSums,
) -> None:  # fmt: skip
    """Write the loops over taps, which add each tap's products to the sums."""
    tap_size = code["channels"] * spec.width

    def loop_taps(axes: tuple[int, ...], offsets: list[Value], tap: Value) -> None:
        if not axes:
            f_tap = f.at(tap * tap_size)
            _add_products(code, spec, x, offsets, f_tap, depth, sums, blocks, tap)
            return
        a, *inner_axes = axes
        with code.loop(0, code[f"taps{a}"]) as k:
            inner_offsets = [
                o + rows[a].at(k).load() for o, (_, rows) in zip(offsets, positions, strict=True)
            ]
            common = inner_offsets[0]
            for inner_offset in inner_offsets[1:]:
                common = common & inner_offset  # negative only if all are
            if spec.vnni:
                common = code.number(0)  # the correction counts every tap
            with code.when(common >= 0):
                loop_taps(tuple(inner_axes), inner_offsets, tap * code[f"taps{a}"] + k)

    loop_taps(spec.axes, [offset for offset, _ in positions], code.number(0))


def _add_products(
    code: Code, spec: DenseForward, x: Pointer, offsets: list[Value], f: Pointer, depth: Value,
    sums: RegisterTile, blocks: BlockedSums, tap: Value,
) -> None:  # fmt: skip
    """Add x[p, c] * f[c, v] to acc[p, v] for every channel c; zero for a negative offset."""
    zeros = code.array("zeros", spec.x.stored) if spec.contiguous_x else x
    inside = [o >= 0 for o in offsets]
    pointers = [x.at(o) for o in offsets]
    if spec.axes:
        pointers = [i.select_pointer(p, zeros) for i, p in zip(inside, pointers, strict=True)]
    zero = code.zero(spec.compute, 1)

    def add_channel(c: Value) -> None:
        row = f.at(c * spec.width)
        f_row = [row.at(v * spec.lanes).load(spec.lanes) for v in range(spec.vectors)]
        offset = c if spec.contiguous_x else c * code["x_channel"]
        for p, pointer in enumerate(pointers):
            if spec.vnni:
                x_bytes = vnni.broadcast_bytes(pointer.at(c * 4), spec.x.stored, spec.lanes)
                for accumulator, vector in zip(sums.row(p), f_row, strict=True):
                    accumulator.set(vnni.products(accumulator.get(), x_bytes, vector))
                continue
            number = pointer.at(offset).load_as(spec.x.stored, spec.compute)
            if spec.axes and not spec.contiguous_x:
                number = inside[p].select(number, zero)
            sums.add_products(p, code.splat(number, spec.lanes), f_row)

    channels = 4 if spec.vnni else 1  # of x in a product
    line = 64 // bytes_of(ELEMENTS[spec.x.stored]) // channels
    with blocks.loop_over_channels(tap, depth) as (first, stop):
        if not spec.contiguous_x:
            with code.loop(first, stop) as c:
                add_channel(c)
        else:
            with code.loop(first, stop, line) as c0:
                for pointer in pointers:  # x of the next tile, which the CPU's prefetchers miss
                    prefetch(pointer.at(c0 * channels + code["x_prefetch"]))
                with code.loop(c0, (c0 + line).minimum(stop)) as c:
                    add_channel(c)


def _store_sums(
    code: Code, spec: DenseForward, y: Pointer, sums: RegisterTile, p: int, masks: list[Mask],
    columns: Value,
) -> None:  # fmt: skip
    """Store the sums of one position, rounded to the dtype of the result."""
    if spec.contiguous_y:
        sums.store(p, y, masks, spec.y.stored)
        return
    scratch = code.scratch(spec.y.stored, spec.width)
    sums.store(p, scratch, [None] * spec.vectors, spec.y.stored)
    with code.loop(0, columns) as d:
        y.at(d * code["y_channel"]).store(scratch.at(d).load())


@kept
def correlation(
    g: Geometry,
    x: Layout,
    y: Layout,
    compute: str,
    threads: int,
    target: Target,
    blocked: bool,
    vnni: bool = False,
) -> Call:
    """Make the call that computes y (B, *O, D) = conv(x, f) + bias of a geometry without flip.

    It needs the arrays x, f (panels), y and bias (or None), all addressable. With `vnni`, the
    panels are those of `einstride.cpu.conv.dense.vnni`, and the channels of x are contiguous.
    """
    panel = panel_layout(compute, g.filters // g.groups, target)
    items = ITEMSIZE[real(x.dtype)], ITEMSIZE[real(y.dtype)]
    x_strides = element_strides(x.strides, items[0])
    y_strides = element_strides(y.strides, items[1])
    x_channel, y_channel = x_strides[-1], y_strides[-1]
    x_columns, y_columns, column, counts = panel_tables(g, panel, x_channel, y_channel)
    inner = g.channels // g.groups * panel.parts
    axes, base = describe_axes(g, x_strides, y_strides)
    positions_in_tile = _tile_positions(panel, g.batch * prod(g.out))
    prefetch_distance = positions_in_tile * x_strides[-2] * g.stride[-1]
    if panel.vectors == 4 and g.batch % 4 == 0 and _border_fraction(g) > 0.04:
        # A tile is one position of four examples: a tap in the border is skipped for all four.
        axes.append(axes.pop(0))
        positions_in_tile, prefetch_distance = 4, x_strides[-2] * g.stride[-1]
    contiguous_x = g.channels // g.groups == 1 or x_channel == panel.parts
    contiguous_y = g.filters // g.groups == 1 or y_channel == panel.parts
    dtype = real(compute) if blocked else ""
    unit = block_unit(dtype, panel.lanes, g.kernel, inner, rows=False)
    schedule = DenseForward(
        Format(real(x.dtype), real(compute)), Format(real(y.dtype), real(compute)), panel.lanes,
        positions_in_tile, panel.vectors, tuple(axis.table is not None for axis in axes),
        contiguous_x, contiguous_y, vnni, unit,
    )  # fmt: skip
    item = ITEMSIZE[real(compute)]
    depth = max(SLICE_BYTES // (prod(g.kernel) * panel.width * item), 32)
    if y.dtype != compute or not contiguous_y or depth >= inner:
        depth = inner
    if vnni:
        inner = depth = inner // 4
    positions = g.batch * prod(g.out)
    rows = _chunk_positions(positions, len(column), threads, positions_in_tile)
    zeros = np.zeros(inner * (4 if vnni else 1) if contiguous_x else 1, real(x.dtype))
    blocks, panel_size = -(-positions // rows), prod(g.kernel) * inner * panel.width
    arguments = {
        "chunks": blocks * len(column), "blocks": blocks, "block": rows, "positions": positions,
        "panels": len(column), "panels_inner": int(len(column) * panel_size * item <= SLICE_BYTES),
        "x": base * items[0], "y": 0, "f": 0, "bias": 0, "zeros": zeros,
        "x_channel": 1 if contiguous_x else x_channel, "y_channel": y_channel // panel.parts,
        "x_prefetch": prefetch_distance, "f_panel": panel_size, "channels": inner, "slice": depth,
        "panel_x": x_columns, "panel_y": y_columns, "panel_column": column,
        "panel_columns": counts,
    }  # fmt: skip
    arguments |= arguments_of(axes)
    arguments |= block_arguments(unit, panel.lanes, g.kernel, depth)
    return bind("dense", kernel, schedule, arguments, threads, target)


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


def arguments_of(axes: Sequence[Axis]) -> dict[str, Any]:
    """List the kernel arguments of all axes."""
    arguments: dict[str, Any] = {}
    for a, axis in enumerate(axes):
        arguments |= {
            f"table{a}": 0 if axis.table is None else axis.table,
            f"taps{a}": 1 if axis.table is None else axis.table.shape[1],
            f"x_first{a}": axis.first, f"x_stride{a}": axis.x_stride,
            f"out{a}": axis.out, f"y_stride{a}": axis.y_stride,
        }  # fmt: skip
    return arguments


def describe_axes(
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
