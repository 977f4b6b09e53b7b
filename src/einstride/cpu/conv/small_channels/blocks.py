"""Write the kernel of the input gradient with few input channels, in blocks of positions.

With vectors along the C channels of a position an input gradient would fill C lanes, often three of
sixteen. Here a column is (position in a block, channel), for blocks of some strides on each axis:

    acc[block p, column] += gy[output of block p under the tap, d] * f[tap, d, column]

The filter is packed in panels of such columns, (tap, d, V vectors), with zeros where a tap does not
meet a position of the block. A tile is several blocks of the last axis. Columns are stored in
contiguous spans of gx, cut off where they leave it. Every element is summed in the same order
wherever it lies. Zero taps would spread a NaN or an infinity over a block: where a sum is NaN,
`flag` is set, and the caller must compute the result otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from llvmlite import ir

from einstride.codegen.float_ops import is_nan
from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.ir_types import is_float
from einstride.codegen.jit import Target, host_target
from einstride.codegen.vector_formats import Format, all_lanes
from einstride.codegen.vector_ops import transpose
from einstride.cpu.conv.blocked_sums import BlockedSums, block_arguments, block_unit
from einstride.cpu.conv.dense.pack import SLICE_BYTES
from einstride.cpu.conv.loop_nest import block, locate_line, look_up, split
from einstride.cpu.conv.register_tile import RegisterTile
from einstride.cpu.conv.schedule import Schedule
from einstride.cpu.conv.small_channels.block_plan import columns, tiling, tiling_like
from einstride.cpu.conv.small_channels.lines import (
    UNROLLED,
    add_taps,
    chunk_arguments,
    split_chunk,
)
from einstride.cpu.runtime.aligned_memory import CACHE_LINE, aligned_empty
from einstride.cpu.runtime.argument_block import Call, Layout, address, bind, layout
from einstride.cpu.runtime.offset_tables import lowest_offset, to_offsets
from einstride.cpu.runtime.operands import element_strides
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept

TILES = 12
"""Tiles per chunk, at most, if channels are summed in several slices: the sums of all tiles wait in
a staging buffer on the stack from one slice to the next."""


@dataclass(frozen=True)
class BlockGradient(Schedule):
    """The schedule of an input gradient with few input channels.

    Attributes
    ----------
    rank : int
        Number of spatial axes.
    span, spans : int
        Elements of gx in a contiguous span, and spans of a panel.
    block_unit : str
        Where blocks of sums may begin: see `blocked_sums`.
    """

    rank: int
    span: int
    spans: int
    block_unit: str

    in_lanes = "(position in a block, input channel)"
    in_rows = "blocks of positions"
    loops = "segment of a line of blocks and panel, slice of output channels, tile, tap, channel"
    operands = "gy broadcast, vectors of (position in a block, input channel)"
    edges = "a tap is skipped where all blocks of a tile lie in zeros, else zeros are read"
    stores = "in contiguous spans under masks, rounded to the dtype of the result"


@dataclass(frozen=True)
class Span:
    """Locate a span of a panel in a line of blocks: its length, 0 outside of gx; its first element
    within a block on the last axis; its address for the first block."""

    count: Value
    first: Value
    gx: Pointer


def kernel(schedule: BlockGradient, names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``blocks``."""
    code = Code("blocks", names)
    last_axis, width = schedule.rank - 1, schedule.width
    no_masks = [None] * schedule.vectors
    with code.chunks(code["chunks"]) as chunk:
        panel, segment, line = split_chunk(code, chunk)
        first, last = block(segment, code["segment"], code[f"out{last_axis}"])
        gx = code.array("y", schedule.y.stored)
        tables, example, gx = locate_line(code, last_axis, line, gx)
        gy = code.array("x", schedule.x.stored).at(example * code["x_batch"])
        spans = _locate_spans(code, schedule, panel, line, gx.at(example * code["y_batch"]))
        f = code.array("f", schedule.compute).at(panel * code["f_panel"])
        bias = code.array("bias", schedule.compute).at(panel * width)
        staging = code.scratch(schedule.compute, TILES * schedule.rows * width)
        with code.loop(0, code["channels"], code["slice"]) as d0:
            depth = (code["channels"] - d0).minimum(code["slice"])
            is_last_slice = (d0 + depth).equals(code["channels"])
            with code.loop(first, last, schedule.rows) as start:
                blocks = [(start + p).minimum(last - 1) for p in range(schedule.rows)]
                tile = schedule.register_tile(code)
                staged = [staging.at((start - first + p) * width) for p in range(schedule.rows)]
                with code.when(d0.equals(0) & (code["bias"].equals(0) ^ 1)):
                    tile.set_rows(lambda v: bias.at(v * schedule.lanes).load(schedule.lanes))
                tree = BlockedSums(code, tile.accumulators, schedule.lanes, schedule.block_unit)
                gy_slice, f_slice = gy.at(d0), f.at(d0 * width)
                add_taps(schedule, tile, tree, tables, gy_slice, f_slice, blocks, depth)
                tree.finish()
                with code.when(code.number(0) < d0):
                    for p, earlier in enumerate(staged):
                        tile.add(p, earlier, no_masks)
                with code.when(is_last_slice ^ 1):
                    for p, pointer in enumerate(staged):
                        tile.store(p, pointer, no_masks, schedule.compute)
                with code.when(is_last_slice):
                    _check_nan(tile)
                    _store_spans(schedule, tile, spans, start, last)
    return code.text()


def _locate_spans(
    code: Code, schedule: BlockGradient, panel: Value, line: Value, gx: Pointer
) -> list[Span]:
    """Locate the spans of a panel in a line of blocks."""
    outer = range(schedule.rank - 1)
    extents = [code[f"out{a}"] for a in reversed(outer)]
    indices = split(line, *extents)[: len(extents)][::-1]
    spans = []
    for e in range(schedule.spans):
        number = panel * schedule.spans + e
        count = look_up(code, "span_count", number)
        for a in outer:
            position = indices[a] * code[f"block{a}"] + look_up(code, f"span_position{a}", number)
            inside = (position >= 0) & (position < code[f"size{a}"])
            count = inside.select(count, code.number(0))
        first, offset = (look_up(code, f"span_{name}", number) for name in ("first", "offset"))
        spans.append(Span(count, first, gx.at(offset)))
    return spans


def _check_nan(tile: RegisterTile) -> None:
    """Write code that sets `flag` if a sum is NaN."""
    code, sums = tile.code, [accumulator.get() for accumulator in tile.accumulators]
    if not is_float(sums[0].ir.type):
        return
    is_any_nan = is_nan(sums[0])
    for value in sums[1:]:
        is_any_nan = is_any_nan | is_nan(value)
    name = f"llvm.vector.reduce.or.v{tile.lanes}i1"
    with code.when(code.intrinsic(name, ir.IntType(1), [is_any_nan])):
        code.array("flag", "int64").store(code.number(1))


def _store_spans(
    schedule: BlockGradient, tile: RegisterTile, spans: list[Span], start: Value, last: Value
) -> None:
    """Store the spans of each block of a tile, as far as they lie in the line of gx."""
    code, lanes = tile.code, schedule.lanes
    rows = [[sums.get() for sums in tile.row(p)] for p in range(schedule.rows)]
    for e, span in enumerate(spans):
        with code.when(code.number(0) < span.count):
            for p, sums in enumerate(rows):
                with code.when(start + p < last):
                    offset = (start + p) * code["step"]
                    begin = offset - code["before"] + span.first
                    low = (code.number(0) - begin).maximum(code.number(0))
                    high = (code["line"] - begin).minimum(span.count)
                    for i in range(0, schedule.span, lanes):
                        mask = code.first_lanes(high - i, lanes)
                        lanes_before = code.first_lanes(low - i, lanes)
                        mask = mask & (lanes_before ^ all_lanes(code, lanes))
                        vector = _select_columns(sums, e * schedule.span + i, lanes)
                        result = code.convert(vector, schedule.compute, schedule.y.stored)
                        span.gx.at(offset).at(i).store(result, mask)


def _select_columns(sums: list[Value], first: int, lanes: int) -> Value:
    """Return the vector of columns from `first` on, from two neighbouring vectors."""
    v, shift = divmod(first, lanes)
    if shift == 0:
        return sums[v]
    low, high = sums[v], sums[min(v + 1, len(sums) - 1)]
    order = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [shift + i for i in range(lanes)])
    return Value(low.code, low.code.builder.shuffle_vector(low.ir, high.ir, order))


def panel_bytes(g: Geometry, compute: str) -> int:
    """Count the bytes of a packed filter."""
    chosen = tiling(g, compute, host_target())
    return chosen.panels * chosen.taps * g.filters * chosen.width * ITEMSIZE[compute] + CACHE_LINE


def pack(f: Any, g: Geometry, compute: str, launch: Any, threads: int) -> Any:
    """Pack a filter (*K, C, D) of dtype compute, with contiguous output channels, into panels."""
    chosen = tiling(g, compute, host_target())
    panels = aligned_empty((chosen.panels, chosen.taps, g.filters, chosen.width), compute)
    call = _packing_call(g, compute, f.strides, threads, host_target())
    call(launch, f=address(f), panels=address(panels))
    return panels


@kept
def _packing_call(
    g: Geometry, compute: str, f_byte_strides: tuple[int, ...], threads: int, target: Target
) -> Call:
    chosen = tiling(g, compute, target)
    offsets = columns(g, chosen, element_strides(f_byte_strides, ITEMSIZE[compute])).offsets
    arguments = {
        "chunks": chosen.panels * chosen.taps, "channels": g.filters, "f": 0, "panels": 0,
        "columns": offsets, "zeros": np.zeros(chosen.lanes, compute),
    }  # fmt: skip
    parameters = compute, chosen.lanes, chosen.vectors
    threads = threads if offsets.size * g.filters > 1 << 17 else 1
    return bind("block_panels", packing_kernel, parameters, arguments, threads, target)


def packing_kernel(parameters: tuple[str, int, int], names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``block_panels`` for (dtype, lanes, vectors).

    A column is contiguous along the output channels in the filter, and across them in a panel:
    squares of as many columns as a vector has lanes are transposed in registers.
    """
    dtype, lanes, vectors = parameters
    code = Code("block_panels", names)
    width = lanes * vectors
    with code.chunks(code["chunks"]) as chunk:
        channels = code["channels"]
        f, zeros = code.array("f", dtype), code.array("zeros", dtype)
        panel = code.array("panels", dtype).at(chunk * channels * width)
        with code.loop(0, width, lanes) as column:
            offsets = [look_up(code, "columns", chunk * width + column + i) for i in range(lanes)]
            with code.loop(0, channels, lanes) as d:
                mask = code.first_lanes(channels - d, lanes)
                square = transpose(
                    [(o >= 0).select_pointer(f.at(o + d), zeros).load(lanes, mask) for o in offsets]
                )
                for i, vector in enumerate(square):
                    with code.when(d + i < channels):
                        panel.at((d + i) * width + column).store(vector)
    return code.text()


def gradient(
    gy: Any, packed: Any, g: Geometry, compute: str, bias: Any, out: Any, launch: Any, threads: int,
    blocked: bool,
) -> bool:  # fmt: skip
    """Compute out (B, *S, C) = input gradient + bias; return False if it may have too many NaNs.

    gy is contiguous in its channels, out in lines of the last axis with their channels.
    """
    call, _ = gradient_of(gy, g, compute, out, threads, blocked)
    flag = np.zeros(1, np.int64)
    addresses = {}
    if bias is not None:
        bias = bias_of_columns(bias, g, compute)
        addresses["bias"] = address(bias)
    addresses |= {"x": address(gy), "y": address(out), "f": address(packed)}
    call(launch, flag=address(flag), **addresses)
    return not flag[0]


def bias_of_columns(bias: Any, g: Geometry, compute: str) -> Any:
    """Return the bias of each column of the panels."""
    chosen = tiling(g, compute, host_target())
    return np.asarray(bias, compute)[columns(g, chosen, (0,) * (g.rank + 1)).channels]


def gradient_of(
    gy: Any, g: Geometry, compute: str, out: Any, threads: int, blocked: bool
) -> tuple[Call, Any]:
    """Make the call for these dtypes and strides, and list the channel of each column.

    The call needs the addresses x (of gy), y (of gx), f, flag and bias.
    """
    layouts, target = (layout(gy), layout(out)), host_target()
    return gradient_of_layouts(g, g, *layouts, compute, threads, target, blocked)


@kept
def gradient_of_layouts(
    whole: Geometry, g: Geometry, gy: Layout, gx: Layout, compute: str, threads: int,
    target: Target, blocked: bool,
) -> tuple[Call, Any]:  # fmt: skip
    """Make the call of `gradient_of` for `g`, a part of the rows of `whole`: panels are shared."""
    (operand, gy_byte_strides), (result, gx_byte_strides) = gy, gx
    chosen = tiling_like(whole, g, compute, target)
    gy_strides = element_strides(gy_byte_strides, ITEMSIZE[operand])
    gx_strides = element_strides(gx_byte_strides, ITEMSIZE[result])
    taps = [axis.taps for axis in chosen.axes]
    schedule = BlockGradient(
        Format(operand, compute), Format(result, compute), chosen.lanes, chosen.rows,
        chosen.vectors, g.rank, chosen.span, chosen.spans,
        block_unit(compute if blocked else "", chosen.lanes, taps, g.filters),
    )  # fmt: skip
    *outer, last = chosen.axes
    tap_bytes = chosen.taps * chosen.width * ITEMSIZE[compute]
    depth = max(SLICE_BYTES // tap_bytes // UNROLLED, 8) * UNROLLED
    max_tiles = TILES if depth < g.filters else None
    spans = columns(g, chosen, (0,) * (g.rank + 1))
    gx_first, span_offset, gy_first = last.low * g.channels, spans.first, 0
    arguments = {
        **chunk_arguments(
            chosen, g.batch * prod(axis.count for axis in outer), last.count,
            chosen.taps * g.filters * chosen.width, compute, threads, max_tiles,
        ),
        "f": 0, "bias": 0, "flag": 0, "zeros": np.zeros(max(g.filters, 1), operand),
        "channels": g.filters, "slice": depth, "x_batch": gy_strides[0], "y_batch": gx_strides[0],
        "span_first": spans.first, "span_count": spans.count, "line": g.size[-1] * g.channels,
        "before": last.low * g.channels, "step": last.block * g.channels,
    }  # fmt: skip
    for a, axis in enumerate(chosen.axes):
        lowest = lowest_offset(g.out[a], gy_strides[a + 1])
        gy_first += lowest
        table = to_offsets(axis.outputs(g.out[a]), gy_strides[a + 1], lowest)
        arguments |= {f"table{a}": table, f"taps{a}": axis.taps, f"out{a}": axis.count}
    for a, (axis, positions) in enumerate(zip(outer, spans.positions, strict=True)):
        gx_first += axis.low * gx_strides[a + 1]
        span_offset = span_offset + positions * gx_strides[a + 1]
        arguments |= {
            f"span_position{a}": positions - axis.low, f"size{a}": g.size[a],
            f"block{a}": axis.block, f"y_stride{a}": axis.block * gx_strides[a + 1],
        }  # fmt: skip
    arguments |= {
        "x": gy_first * ITEMSIZE[operand], "y": -gx_first * ITEMSIZE[result],
        "span_offset": span_offset,
    }  # fmt: skip
    arguments |= block_arguments(schedule.block_unit, chosen.lanes, taps, min(depth, g.filters))
    return bind("blocks", kernel, schedule, arguments, threads, target), spans.channels
