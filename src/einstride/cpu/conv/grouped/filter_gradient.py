"""Write the filter-gradient kernel of many small groups: sums in registers, over positions.

A register tile is all taps k of the last axis and a block of input channels c, by a vector of
output channels:

    acc[k, c] += broadcast(x[position p under tap k, channel c of each lane's group]) * gy[p]

One broadcast serves all pairs (position, tap) that read the same element of x. Positions are summed
in regions. The x and gy of a panel and a region are packed first: in the arrays they lie so far
apart that they would share few sets of the cache. A region's sums are added to gf in the order of
the regions. A pair in the border has no product.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.jit import Target
from einstride.codegen.vector_formats import Format
from einstride.cpu.conv import filter_gradient as nest
from einstride.cpu.conv.grouped.layout import ChannelLayout, channel_layout
from einstride.cpu.conv.grouped.rows import GroupedSchedule, describe_rows
from einstride.cpu.conv.loop_nest import axis_arguments, look_up
from einstride.cpu.conv.register_tile import RegisterTile
from einstride.cpu.runtime import argument_block
from einstride.cpu.runtime.argument_block import Call, Layout, bind
from einstride.cpu.runtime.chunks import COARSE, chunk_count, chunk_size
from einstride.cpu.runtime.operands import element_strides
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Shape
from einstride.geometry.padding_modes import elements_seen
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

REGION_BYTES = 128 << 10
"""Bytes of packed x and gy of a region and a panel, about; chosen to stay in a core's second-level
cache. Changing it changes the order of sums, and so the bits."""

POSITIONS = 14
"""Positions in a tile, at most; chosen. The code of all positions is written out."""


@dataclass(frozen=True)
class GroupedGradient(GroupedSchedule):
    """The schedule of a filter gradient of many small groups."""

    in_rows = "(tap, input channel) pairs"
    loops = (
        "panel, slice of input channels, region of positions, tap of outer axes, block of input "
        "channels, position of outer axes, tile of positions"
    )
    operands = "x shuffled to the lanes of its groups, vectors of gy, both packed by regions"
    edges = "ranges of positions, and the kinds of tiles, leave out taps in zeros"
    stores = "added to gf after each region"

    @property
    def sides(self) -> dict[str, int]:
        """The lengths of the sides of the register tile, by name."""
        return {
            "lanes": self.lanes, "vectors": self.vectors, "input channels": self.layout.block,
            "taps": self.taps,
        }  # fmt: skip


def kernel(schedule: GroupedGradient, names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``grouped_gradient``."""
    code = Code("grouped_gradient", names)
    packed = code.pointer(code["packed"] + code.worker * code["packed_bytes"], schedule.compute)
    with code.chunks(code["chunks"]) as chunk:
        panel, blocks, examples, gf = nest.locate_part(code, chunk, schedule.compute)
        axes: list[tuple[Value | int, Value, Value]] = [(*examples, code["region_batch"])]
        if schedule.rank > 1:
            axes.append((0, code["out0"], code["region_rows"]))
        with nest.loop_over_regions(code, axes) as (region, is_first):
            _add_region(code, schedule, panel, blocks, region, is_first, gf, packed)
    return code.text()


def _add_region(
    code: Code, schedule: GroupedGradient, panel: Value, blocks: nest.Range,
    region: list[nest.Range], is_first: Value, gf: Pointer, packed: Pointer,
) -> None:  # fmt: skip
    """Add a region's products to gf, for blocks of input channels, all taps and one panel."""
    layout, lanes, axes = schedule.layout, schedule.lanes, schedule.rank - 1
    column = look_up(code, "panel_column", panel)
    gf, packed_x, packed_gy = gf.at(column), packed, packed.at(code["packed_gy"])
    columns = look_up(code, "panel_columns", panel)
    mask = None if schedule.full_y else code.first_lanes(columns, lanes)
    inputs = look_up(code, "panel_inputs", panel)

    rows = [region[0], *((code.number(0), code[f"size{a}"]) for a in range(axes))]
    if axes:
        number = region[1][0] // code["region_rows"]
        rows[1] = look_up(code, "low_rows", number), look_up(code, "high_rows", number)
    x = code.array("x", schedule.x.stored).at(look_up(code, "panel_x", panel))
    step = layout.block if layout.groups > 1 else lanes
    table = code.array("row_offsets", "int64")
    with (
        _loop_over_rows(code, "x", rows, x, packed_x) as (x_row, packed_row),
        code.loop(0, code["row_positions"]) as q,
        code.loop(0, layout.x_width // lanes) as v,
    ):
        vector = schedule.load_x(x_row, inputs, v * step, table.at(q).load())
        packed_row.at(q * layout.x_width + v * lanes).store(vector)
    gy = code.array("gy", schedule.y.stored).at(column)
    gy_rows = [*region, *((code.number(0), code[f"out{a}"]) for a in range(1, axes))]
    with (
        _loop_over_rows(code, "y", gy_rows, gy, packed_gy) as (gy_row, packed_row),
        code.loop(0, code[f"out{axes}"]) as o,
    ):
        vector = gy_row.at(o * code[f"source_y_stride{axes}"]).load_as(
            schedule.y.stored, schedule.compute, lanes, mask
        )
        packed_row.at(o * lanes).store(vector)

    packed_region = [(code.number(0), region[0][1] - region[0][0]), *region[1:]]
    if axes:  # offsets count from the first row of the arrays
        packed_x = packed_x.at(rows[1][0] * -1 * code["x_stride0"])
        packed_gy = packed_gy.at(region[1][0] * -1 * code["y_stride0"])
    with nest.loop_over_taps(code, axes) as (tap, taps), code.loop(*blocks) as number:
        x_block = packed_x.at(number * (lanes if layout.groups > 1 else layout.block))
        tile = schedule.register_tile(code)
        with nest.loop_over_outputs_inside(code, taps, packed_region) as (x_offset, y_offset):
            _add_row(code, schedule, x_block.at(x_offset), packed_gy.at(y_offset), tile)
        channel = number * layout.block
        for k in range(schedule.taps):
            gf_tap = gf.at(look_up(code, "tap_offsets", tap * schedule.taps + k))
            rows_of_tap = range(k * layout.block, (k + 1) * layout.block)
            gf_tile, channels = (
                gf_tap.at(channel * code["gf_channel"]),
                code.number(layout.inputs) - channel,
            )
            nest.add_rows(tile, rows_of_tap, gf_tile, channels, [mask], is_first)


@contextmanager
def _loop_over_rows(
    code: Code, operand: str, ranges: list[nest.Range], source: Pointer, packed: Pointer
) -> Iterator[tuple[Pointer, Pointer]]:
    """Loop over the rows of an operand in these ranges of the batch and all axes but the last.

    Yields the address of the row, and its address in packed memory.
    """
    axes = ("batch", *(f"stride{a}" for a in range(len(ranges) - 1)))
    with code.loops(*ranges) as indices:
        row = nest.at_index(source, indices, (code[f"source_{operand}_{a}"] for a in axes))
        offsets = (i - first for i, (first, _) in zip(indices, ranges, strict=True))
        yield row, nest.at_index(packed, offsets, (code[f"{operand}_{a}"] for a in axes))


def _add_row(
    code: Code, schedule: GroupedGradient, x: Pointer, gy: Pointer, tile: RegisterTile
) -> None:
    """Add the products of a row of packed x and gy."""
    layout, lanes = schedule.layout, schedule.lanes
    for i, kind in enumerate(schedule.tile_kinds):
        with code.loop(code[f"kind_start{i}"], code[f"kind_stop{i}"], len(kind)) as w:
            x_tile, gy_tile = x.at(w * (schedule.stride * layout.x_width)), gy.at(w * lanes)
            vectors: dict[int, Value] = {}
            for q, pairs in schedule.positions_read(kind).items():
                for p, _ in pairs:
                    if p not in vectors:
                        vectors[p] = gy_tile.at(p * lanes).load(lanes)
                for c in range(layout.block):
                    x_vector = schedule.broadcast(x_tile.at(q * layout.x_width), c)
                    for p, k in pairs:
                        tile.add_products(k * layout.block + c, x_vector, [vectors[p]])


def gradient_of(
    x: Any, gy: Any, g: Geometry, compute: str, out: Any, threads: int, per_example: bool,
    target: Target,
) -> Call:  # fmt: skip
    """Make the call for these strides; it needs the addresses x, gy, gf and packed.

    gf is (*K, C // G, D), or (B, ...) if per example, in `compute`; packed memory holds
    `packed_bytes` for each thread. The channels of all arrays are contiguous.
    """
    layouts = argument_block.layout(x), argument_block.layout(gy), argument_block.layout(out)
    return gradient_of_layouts(g, *layouts, compute, per_example, threads, target)


def gradient_layout(g: Geometry, compute: str, target: Target) -> ChannelLayout:
    """Choose the layout of one vector of outputs and channel blocks whose sums fit registers."""
    sums = 24 if target.registers >= 32 else 10
    return channel_layout(g, compute, target, max(sums // g.kernel[-1], 1))


def packed_bytes(g: Geometry, compute: str, per_example: bool, target: Target) -> int:
    """Count the bytes of a thread's packed x and gy."""
    layout, item = gradient_layout(g, compute, target), ITEMSIZE[compute]
    return sum(map(prod, _choose_region(g, layout, item, per_example))) * item


@cached(1024)
def _choose_region(
    g: Geometry, layout: ChannelLayout, item: int, per_example: bool
) -> tuple[Shape, Shape]:
    """Choose the most rows, or examples, within `REGION_BYTES`, whatever the threads.

    Returns the shapes of packed x and gy: examples, positions of each axis, elements of a position.
    """

    def shapes(batch: int, rows: int) -> tuple[Shape, Shape]:
        positions = (g.out[-1] - 1) * g.stride[-1] + g.extent[-1]  # of a padded row of x
        x_outer, gy_outer = (_span_length(g, rows), *g.size[1:-1]), (rows, *g.out[1:-1])
        x = batch, *x_outer[: g.rank - 1], positions, layout.x_width
        return x, (batch, *gy_outer[: g.rank - 1], g.out[-1], layout.lanes)

    def size(rows: int) -> int:
        return sum(map(prod, shapes(1, rows))) * item

    rows = all_rows = g.out[0] if g.rank > 1 else 1
    while rows > 1 and size(rows) > REGION_BYTES:
        rows = -(-rows // 2)
    batch = 1 if rows < all_rows or per_example else min(REGION_BYTES // size(rows), g.batch)
    return shapes(max(batch, 1), rows)


def _span_length(g: Geometry, rows: int) -> int:
    """Return the most elements of x's first axis that the windows of `rows` outputs span."""
    if g.padding_mode == "circular" and any(n > 0 for n in g.padding[0]):
        return g.size[0]  # a region at the border reads both ends
    return max(min((rows - 1) * g.stride[0] + g.extent[0], g.size[0]), 1)


def _input_ranges(g: Geometry, rows: int) -> list[Any]:
    """List, for each `rows` outputs, the first element of x's first axis that they read, and one
    past the last."""  # fmt: skip
    ranges = []
    for first in range(0, g.out[0], rows):
        last = min(first + rows, g.out[0]) - 1
        begin, end = (o * g.stride[0] - g.padding[0][0] for o in (first, last))
        ranges.append(elements_seen(begin, end + g.extent[0], g.size[0], g.padding_mode))
    return [np.array(ends, np.int64) for ends in zip(*ranges, strict=True)]


@kept
def gradient_of_layouts(
    g: Geometry, x_layout: Layout, gy_layout: Layout, gf_layout: Layout, compute: str,
    per_example: bool, threads: int, target: Target,
) -> Call:  # fmt: skip
    """Make the call for arrays in these layouts; see `gradient_of`."""
    (x_dtype, x_byte_strides), (gy_dtype, gy_byte_strides) = x_layout, gy_layout
    gf_byte_strides = gf_layout.strides
    channels, item = gradient_layout(g, compute, target), ITEMSIZE[compute]
    x_strides = element_strides(x_byte_strides, ITEMSIZE[x_dtype])
    gy_strides = element_strides(gy_byte_strides, ITEMSIZE[gy_dtype])
    gf_strides = element_strides(gf_byte_strides, item)
    x_format, gy_format = Format(x_dtype, compute), Format(gy_dtype, compute)
    fields, arguments = describe_rows(g, channels, x_format, x_strides, POSITIONS)
    schedule = GroupedGradient(
        x_format, gy_format, channels.lanes, channels.block * g.kernel[-1], channels.vectors,
        **fields,
    )  # fmt: skip
    shapes = _choose_region(g, channels, item, per_example)
    packed_x, packed_gy = ([prod(n[i:]) for i in range(1, g.rank + 1)] for n in shapes)
    region_batch, region_rows = shapes[1][0], shapes[1][1] if g.rank > 1 else 1
    examples = g.batch if per_example else 1
    panels = channels.panels(g.groups)
    part = chunk_size(
        channels.blocks, 1, lambda part: panels * examples * -(-channels.blocks // part),
        chunk_count(threads, COARSE),
    )  # fmt: skip
    axes, _ = axis_arguments(g, g.rank - 1, packed_x, packed_gy)
    arguments |= {
        **axes, **nest.tap_arguments(g, g.rank - 1),
        **nest.chunk_arguments(panels, channels.blocks, part, examples),
        **nest.result_arguments(g, gf_strides, examples, g.batch, g.batch // examples),
        "region_batch": region_batch, "region_rows": region_rows, "row_positions": shapes[0][-2],
        "packed": 0, "packed_gy": prod(shapes[0]), "packed_bytes": sum(map(prod, shapes)) * item,
        "gy": 0,
    }  # fmt: skip
    for operand, strides, packed in (("x", x_strides, packed_x), ("y", gy_strides, packed_gy)):
        names = ("batch", *(f"stride{a}" for a in range(g.rank)))
        arguments |= {f"source_{operand}_{n}": s for n, s in zip(names, strides, strict=False)}
        arguments |= {f"{operand}_{n}": s for n, s in zip(names, packed, strict=False)}
    arguments |= {f"size{a}": n for a, n in enumerate(g.size)}
    if g.rank > 1:
        arguments["low_rows"], arguments["high_rows"] = _input_ranges(g, region_rows)
    return bind("grouped_gradient", kernel, schedule, arguments, threads, target)
