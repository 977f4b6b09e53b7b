"""Write the forward kernel of many small groups: a tile is positions of a row by a panel's lanes.

In the loops over outer taps, input channels c and taps k of the last axis,

    acc[p] += broadcast(x[position p under tap k, channel c of each lane's group]) * f[c, k]

One broadcast, a shuffle, serves all positions that read the same element of x. Tiles are parts of a
row, so no tile computes coordinates. Outer taps in the border are skipped, and so are the products
of the last axis that are known to lie there. Every output is summed in the same order.

The x of a tile is copied to a staging buffer on the stack first: one vector for each position that
the tile reads, the channels of all groups of the panel, and zeros in the border. Products then read
x at constant offsets, for any strides and padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.ir_types import INT64
from einstride.codegen.jit import Target
from einstride.codegen.vector_formats import Format
from einstride.cpu.conv.blocked_sums import ROW, BlockedSums, block_arguments, block_unit
from einstride.cpu.conv.grouped.layout import ChannelLayout, channel_layout
from einstride.cpu.conv.grouped.rows import GroupedSchedule, TileKind, describe_rows
from einstride.cpu.conv.loop_nest import (
    block,
    locate_line,
    look_up,
    loop_over_taps_inside,
    split,
)
from einstride.cpu.conv.register_tile import RegisterTile, vector_masks
from einstride.cpu.runtime import argument_block
from einstride.cpu.runtime.argument_block import Call, Layout, bind
from einstride.cpu.runtime.chunks import FINE, chunk_count, chunk_size
from einstride.cpu.runtime.offset_tables import lowest_offset, offsets
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


@dataclass(frozen=True)
class GroupedForward(GroupedSchedule):
    """The schedule of a convolution with many small groups.

    Attributes
    ----------
    prefetch : bool
        True if the next row is prefetched.
    block_unit : str
        Where blocks of sums may begin: see `blocked_sums`.
    """

    prefetch: bool
    block_unit: str

    in_rows = "output positions"
    loops = "rows and panels, tile, tap of outer axes, block of input channels, channel, tap"
    operands = "x shuffled to the lanes of its groups, f in packed panels"
    edges = "outer taps and products of the last axis in zeros are left out"


def kernel(schedule: GroupedForward, names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``grouped``."""
    code = Code("grouped", names)
    most = max(len(schedule.positions_read(kind)) for kind in schedule.tile_kinds)
    staging = _allocate_aligned(code, schedule.compute, most * schedule.lanes)
    with code.chunks(code["chunks"]) as chunk:
        single_panel = code["part"].equals(1)  # 1: blocks are the inner loop of chunks, else parts
        inner, outer = split(chunk, single_panel.select(code["blocks"], code["parts"]))
        part, number = single_panel.select(outer, inner), single_panel.select(inner, outer)
        # A row stays in the cache for all panels of a part; or one large panel, for all rows.
        with (
            code.loop(*block(number, code["block"], code["rows"])) as row,
            code.loop(*block(part, code["part"], code["panels"])) as panel,
        ):
            _compute_row(code, schedule, panel, row, staging)
    return code.text()


def _allocate_aligned(code: Code, element: str, count: int) -> Pointer:
    """Allocate `count` elements on the stack, aligned to cache lines."""
    unaligned = code.scratch(element, count + 64)
    start = Value(code, code.builder.ptrtoint(unaligned.ir, INT64))
    return code.pointer((start + 63) & -64, element)


def _compute_row(
    code: Code, schedule: GroupedForward, panel: Value, row: Value, staging: Pointer
) -> None:
    """Compute a row of positions for one panel."""
    layout, last, lanes = schedule.layout, schedule.rank - 1, schedule.lanes
    column = look_up(code, "panel_column", panel)
    masks = vector_masks(code, look_up(code, "panel_columns", panel), lanes, schedule.vectors)
    x = code.array("x", schedule.x.stored).at(look_up(code, "panel_x", panel))
    f = code.array("f", schedule.compute).at(panel * code["f_panel"])
    bias = code.array("bias", schedule.compute).at(column)
    y = code.array("y", schedule.y.stored).at(column)
    tables, example, y = locate_line(code, last, row, y)
    x, y = x.at(example * code["x_batch"]), y.at(example * code["y_batch"])
    if last and schedule.prefetch:
        _prefetch_next_row(code, schedule, x, y, row, tables[-1])
    inputs = look_up(code, "panel_inputs", panel)
    channel_size = schedule.taps * schedule.width
    for i, kind in enumerate(schedule.tile_kinds):
        with code.loop(code[f"kind_start{i}"], code[f"kind_stop{i}"], len(kind)) as w:
            sums = RegisterTile(code, schedule.compute, lanes, len(kind), schedule.vectors)
            with code.when(code["bias"].equals(0) ^ 1):
                sums.set_rows(lambda v: bias.at(v * lanes).load(lanes, masks[v]))

            tree = BlockedSums(code, sums.accumulators, lanes, schedule.block_unit)

            def add_tap(x: Pointer, tap: Value, w: Value = w, kind: TileKind = kind,
                        sums: RegisterTile = sums, tree: BlockedSums = tree) -> None:  # fmt: skip
                f_tap = f.at(tap * (layout.panel_inputs * channel_size))
                with code.loop(0, code["channel_blocks"]) as number:
                    tree.begin_row(tap * code["channel_blocks"] + number)
                    c0 = number * layout.block
                    _fill_staging(code, schedule, x, inputs, c0, w, kind, staging)
                    _add_products(code, schedule, kind, staging, f_tap.at(c0 * channel_size), sums)

            loop_over_taps_inside(code, tables, x, add_tap)
            tree.finish()
            y_tile, stride = y.at(w * code[f"y_stride{last}"]), code[f"y_stride{last}"]
            stored = [None] * schedule.vectors if schedule.full_y else masks
            for p in range(len(kind)):
                sums.store(p, y_tile.at(stride * p), stored, schedule.y.stored)


def _prefetch_next_row(
    code: Code, schedule: GroupedForward, x: Pointer, y: Pointer, row: Value, table: Pointer
) -> None:
    """Prefetch the cache lines that the row behind `row` is the first to access.

    `table`: the entries of the row in the offset table of the last axis but one.
    """
    a = schedule.rank - 2
    offset = table.at(code[f"taps{a}"] + code[f"taps{a}"] - 1).load()
    with (
        code.when(row % code[f"out{a}"] + 1 < code[f"out{a}"]),
        code.loop(0, code[f"out{a + 1}"]) as w,
    ):
        y.at(code[f"y_stride{a}"] + w * code[f"y_stride{a + 1}"]).prefetch(write=True)
        for i in range(schedule.stride):
            x.at(offset + (w * schedule.stride + i) * code["x_stride"]).prefetch()


def _fill_staging(
    code: Code, schedule: GroupedForward, x: Pointer, inputs: Value, c0: Value, w: Value,
    kind: TileKind, staging: Pointer,
) -> None:  # fmt: skip
    """Copy a block of channels, at each position that a tile reads, to the staging buffer."""
    computed, last = code["x_first"] + w * code["window_stride"], 0
    table = code.array("row_offsets", "int64").at(w * schedule.stride)
    for i, q in enumerate(schedule.positions_read(kind)):
        for _ in range(last, q):
            computed = computed + code["x_stride"]
        last = q
        offset = computed if schedule.all_inside else table.at(q).load()
        vector = schedule.load_x(x, inputs, c0, offset, schedule.all_inside)
        staging.at(i * schedule.lanes).store(vector)


def _add_products(
    code: Code, schedule: GroupedForward, kind: TileKind, staging: Pointer, f: Pointer,
    sums: RegisterTile,
) -> None:  # fmt: skip
    """Add the products of a block of channels; each broadcast serves all positions that read it."""
    layout, lanes, width = schedule.layout, schedule.lanes, schedule.width
    reads = schedule.positions_read(kind)
    vectors = {q: staging.at(i * lanes) for i, q in enumerate(reads)}

    def load_row(c: Value | int, k: int) -> list[Value]:
        row = f.at(c * (schedule.taps * width)).at(k * width)
        return [row.at(v * lanes).load(lanes) for v in range(schedule.vectors)]

    def add_channel(c: Value | int) -> None:
        if schedule.vectors == 1:
            f_rows = [load_row(c, k) for k in range(schedule.taps)]
            for q, pairs in reads.items():
                x_vector = schedule.broadcast(vectors[q], c)
                for p, k in pairs:
                    sums.add_products(p, x_vector, f_rows[k])
            return
        for k in range(schedule.taps):  # sums and a row of f fill the registers
            f_row = load_row(c, k)
            for p, taps in enumerate(kind):
                if taps[k]:
                    position = vectors[p * schedule.stride + k * schedule.dilation]
                    sums.add_products(p, schedule.broadcast(position, c), f_row)

    if layout.groups > 1:
        for number in range(layout.block):
            add_channel(number)
        return
    with code.loop(0, layout.block) as c:
        add_channel(c)


def correlation(
    x: Any, g: Geometry, compute: str, out: Any, threads: int, target: Target, blocked: bool
) -> Call:
    """Make the call for these strides; it needs the addresses x, f (panels), y and bias."""
    layouts = argument_block.layout(x), argument_block.layout(out)
    return correlation_of_layouts(g, *layouts, compute, threads, target, blocked)


def max_positions(layout: ChannelLayout, target: Target) -> int:
    """Return the most positions of a tile whose sums, filter row and broadcast fit registers."""
    registers = 24 if target.registers >= 32 else 10
    return max(min(registers // layout.vectors, 14), 2)


@kept
def correlation_of_layouts(
    g: Geometry, x_layout: Layout, y_layout: Layout, compute: str, threads: int, target: Target,
    blocked: bool,
) -> Call:  # fmt: skip
    """Make the call for arrays in these layouts; see `correlation`."""
    (operand, x_byte_strides), (result, y_byte_strides) = x_layout, y_layout
    layout, items = channel_layout(g, compute, target), (ITEMSIZE[operand], ITEMSIZE[result])
    x_strides = element_strides(x_byte_strides, items[0])
    y_strides = element_strides(y_byte_strides, items[1])
    x, max_tile = Format(operand, compute), max_positions(layout, target)
    fields, arguments = describe_rows(g, layout, x, x_strides, max_tile)
    is_far = prod(g.x_shape) * items[0] + prod(g.y_shape) * items[1] > FAR_BYTES
    dtype = compute if blocked else ""
    schedule = GroupedForward(
        x, Format(result, compute), layout.lanes, max(map(len, fields["tile_kinds"])),
        layout.vectors, prefetch=is_far, **fields,
        block_unit=ROW if block_unit(dtype, layout.lanes, g.kernel, layout.inputs) else "",
    )  # fmt: skip
    rows, panels = g.batch * prod(g.out[:-1]), layout.panels(g.groups)
    panel_size = prod(g.kernel) * layout.panel_inputs * layout.width
    row_bytes = g.size[-1] * g.channels * items[0]
    near = panels * panel_size * ITEMSIZE[compute] <= PANELS_BYTES  # all panels
    per_chunk = rows * (1 if near else panels) // chunk_count(threads, FINE)
    size = max(min(ROWS_BYTES // max(row_bytes, 1), rows, per_chunk), 1)
    blocks, part, step = -(-rows // size), 1, x_strides[-2]
    if near:
        part = chunk_size(panels, 1, lambda part: blocks * -(-panels // part), chunk_count(threads))
    parts = -(-panels // part)
    arguments |= {
        "chunks": blocks * parts, "blocks": blocks, "block": size, "rows": rows, "parts": parts,
        "part": part, "y": 0, "f": 0, "bias": 0, "f_panel": panel_size, "x_batch": x_strides[0],
        "y_batch": y_strides[0], "x_stride": step, "window_stride": g.stride[-1] * step,
        "x_first": -g.padding[-1][0] * step - lowest_offset(g.size[-1], step),
    }  # fmt: skip
    units = *g.kernel[:-1], layout.blocks, g.kernel[-1]  # of taps, of a block of channels each
    arguments |= block_arguments(schedule.block_unit, layout.lanes, units, layout.block)
    for a in range(g.rank):
        arguments[f"y_stride{a}"] = y_strides[a + 1]
    for a in range(g.rank - 1):
        arguments[f"table{a}"], lowest = offsets(g, a, x_strides[a + 1])
        arguments["x"] += lowest * items[0]
    return bind("grouped", kernel, schedule, arguments, threads, target)
