"""Write the kernel of a convolution with few input channels, without flip, along lines of outputs.

The taps of the last axis with their channels are a contiguous span of x, so they form one sum. A
register tile is P outputs of a line by V vectors of output channels:

    acc[p, v] += x[span of output p, element i] * f[span element i, vector v]

Near the ends of a line, where spans leave x, each tap is located by the offset table of the axis.
The loops over segments of lines, taps and channels are those of `small_channels.blocks`, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.jit import Target, host_target
from einstride.codegen.vector_formats import Format
from einstride.cpu.conv.blocked_sums import BlockedSums, block_arguments, block_unit
from einstride.cpu.conv.dense.pack import SLICE_BYTES
from einstride.cpu.conv.loop_nest import (
    any_inside,
    axis_arguments,
    block,
    locate_line,
    loop_over_taps_inside,
    split,
)
from einstride.cpu.conv.register_tile import RegisterTile, vector_masks
from einstride.cpu.conv.schedule import Schedule
from einstride.cpu.runtime.aligned_memory import aligned_empty
from einstride.cpu.runtime.argument_block import Call, Layout, address, bind, layout
from einstride.cpu.runtime.chunks import chunk_count, chunk_size
from einstride.cpu.runtime.operands import element_strides
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

FMA_LATENCY = 8
"""Multiply-adds of vectors in the least time of one step of a register tile, the latency of a
multiply-add: about four cycles at two per cycle."""

# Terms of the predicted time, in multiply-adds of vectors; the package says how they were fitted.
LOOK_UP, TAP = 4.0, 10.0
"""Time per tap of the outer axes and tile: to look up each position's offset, and for the tap."""

STORE, TILE, LINE = 3.0, 40.0, 60.0
"""Time per vector of results that is stored; per tile; per line of outputs and panel."""

EDGE = 10.0
"""Time per tap and position of the tiles at both ends of a line, whose taps are looked up."""

STREAMED = 16 << 20
"""Bytes of results from which they are stored past the caches, which could not hold them."""

UNROLLED = 4
"""Elements of a sum by which the innermost loop is unrolled."""


@dataclass(frozen=True)
class LineForward(Schedule):
    """The schedule of a convolution with few input channels.

    Attributes
    ----------
    rank : int
        Number of spatial axes.
    stream : bool
        True if results are stored past the caches (non-temporal stores).
    block_unit : str
        Where blocks of sums may begin: see `blocked_sums`.
    """

    rank: int
    stream: bool
    block_unit: str

    in_lanes = "output channels"
    in_rows = "output positions"
    loops = "segment of a line and panel, tile, tap of the outer axes, (tap, channel) pair"
    operands = (
        "contiguous (tap, channel) pairs of x broadcast, f in packed panels of output channels"
    )
    edges = "at the ends of a line, tables of offsets for each tap; zeros are read in the border"


def split_chunk(code: Code, chunk: Value) -> tuple[Value, Value, Value]:
    """Split the number of a chunk into the numbers of a panel, of a segment and of its line.

    Consecutive chunks are the panels of a segment, or the segments of a panel.
    """
    panels_inner = code["panels_inner"].equals(1)
    inner, outer = split(chunk, panels_inner.select(code["panels"], code["segments"]))
    panel = panels_inner.select(inner, outer)
    segment, line = split(panels_inner.select(outer, inner), code["line_segments"])
    return panel, segment, line


def tile_rows(vectors: int, line: int, registers: int) -> int:
    """Choose the rows of a register tile, so that tiles divide a line evenly."""
    rows = 6 if vectors == 4 else min((registers - 1 - vectors) // vectors, 14)
    return max(-(-line // -(-line // min(rows, max(line, 1)))), 1)


def kernel(schedule: LineForward, names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``lines``."""
    code = Code("lines", names)
    last_axis, width = schedule.rank - 1, schedule.width
    with code.chunks(code["chunks"]) as chunk:
        panel, segment, line = split_chunk(code, chunk)
        first, last = block(segment, code["segment"], code[f"out{last_axis}"])
        y = code.array("y", schedule.y.stored).at(panel * width)
        tables, example, y = locate_line(code, last_axis, line, y)
        x = code.array("x", schedule.x.stored).at(example * code["x_batch"])
        y = y.at(example * code["y_batch"])
        f = code.array("f", schedule.compute).at(panel * code["f_panel"])
        bias = code.array("bias", schedule.compute).at(panel * width)
        taps = code[f"taps{last_axis}"]
        with code.loop(first, last, schedule.rows) as start:
            outputs = [(start + p).minimum(last - 1) for p in range(schedule.rows)]
            tile = schedule.register_tile(code)
            with code.when(code["bias"].equals(0) ^ 1):
                tile.set_rows(lambda v: bias.at(v * schedule.lanes).load(schedule.lanes))
            tree = BlockedSums(code, tile.accumulators, schedule.lanes, schedule.block_unit)
            inside = start >= code["inside_first"]
            inside = inside & (code["inside_last"] >= (start + schedule.rows).minimum(last))
            with code.when(inside):
                spans = [o * code["x_last"] - code["x_start"] for o in outputs]

                def add_spans(x: Pointer, tap: Value, tree: BlockedSums = tree) -> None:
                    f_row = f.at(tap * taps * code["channels"] * width)
                    with tree.loop_over_row(tap, taps) as (begin, end):
                        first, count = (n * code["channels"] for n in (begin, end - begin))
                        x_spans = [x.at(s).at(first) for s in spans]
                        add_products(schedule, tile, x_spans, f_row.at(first * width), count)

                loop_over_taps_inside(code, tables, x, add_spans)
            with code.when(inside ^ 1):
                add_taps(schedule, tile, tree, tables, x, f, outputs, code["channels"])
            tree.finish()
            columns = code["filters"] - panel * width
            masks = vector_masks(code, columns, schedule.lanes, schedule.vectors)
            for p in range(schedule.rows):
                with code.when(start + p < last):
                    y_output = y.at((start + p) * code[f"y_stride{last_axis}"])
                    if not schedule.stream:
                        tile.store(p, y_output, masks, schedule.y.stored)
                        continue
                    for v, sums in enumerate(tile.row(p)):
                        result = code.convert(sums.get(), schedule.compute, schedule.y.stored)
                        y_output.at(v * schedule.lanes).stream(result)
    if schedule.stream:
        code.builder.fence("seq_cst")
    return code.text()


def add_taps(
    schedule: Schedule, tile: RegisterTile, tree: BlockedSums, tables: Sequence[Pointer],
    x: Pointer, f: Pointer, indices: Sequence[Value], depth: Value,
) -> None:  # fmt: skip
    """Add the products of `depth` channels of every tap; read zeros for taps in the border.

    `tables` hold the entries of the line in the offset tables of the outer axes, `indices` those of
    the tile's rows on the last axis.
    """
    code, last_axis = tile.code, len(tables)
    taps = code[f"taps{last_axis}"]
    rows = [code.array(f"table{last_axis}", "int64").at(i * taps) for i in indices]
    zeros = code.array("zeros", schedule.x.stored)

    def add_line(x: Pointer, outer_tap: Value) -> None:
        tree.begin_row(outer_tap)
        with code.loop(0, taps) as k:
            row_offsets = [row.at(k).load() for row in rows]
            with code.when(any_inside(row_offsets)):
                pointers = [(o >= 0).select_pointer(x.at(o), zeros) for o in row_offsets]
                tap = outer_tap * taps + k
                f_tap = f.at(tap * (code["channels"] * schedule.width))
                with tree.loop_over_channels(tap, depth) as (first, stop):
                    x_rows = [pointer.at(first) for pointer in pointers]
                    f_rows = f_tap.at(first * schedule.width)
                    add_products(schedule, tile, x_rows, f_rows, stop - first)

    loop_over_taps_inside(code, tables, x, add_line)


def add_products(
    schedule: Schedule, tile: RegisterTile, x: Sequence[Pointer], f: Pointer, depth: Value
) -> None:
    """Add x[p][i] * f[i, v] to acc[p, v] for every i below `depth`."""
    code, lanes = tile.code, schedule.lanes

    def add(i: Value, more: int) -> None:
        row = f.at(i * schedule.width).at(more * schedule.width)
        vectors = [row.at(v * lanes).load(lanes) for v in range(schedule.vectors)]
        for p, pointer in enumerate(x):
            number = pointer.at(i).at(more).load_as(schedule.x.stored, schedule.compute)
            tile.add_products(p, code.splat(number, lanes), vectors)

    unrolled_end = depth // UNROLLED * UNROLLED
    with code.loop(0, unrolled_end, UNROLLED) as i:
        for more in range(UNROLLED):
            add(i, more)
    with code.loop(unrolled_end, depth) as i:
        add(i, 0)


@dataclass(frozen=True)
class Tiling:
    """The register tile and the panels of columns of a kernel, and its predicted time.

    Attributes
    ----------
    lanes, vectors, rows : int
        Lanes of a vector, vectors of a panel, rows of the register tile.
    panels : int
        Number of panels.
    work : float
        Predicted time, in multiply-adds of vectors.
    """

    lanes: int
    vectors: int
    rows: int
    panels: int
    work: float

    @property
    def width(self) -> int:
        """Columns per panel."""
        return self.lanes * self.vectors


@cached(1024)
def tiling(g: Geometry, compute: str, target: Target) -> Tiling:
    """Choose the tiling of a convolution with the least predicted time."""
    lanes = target.lanes(ITEMSIZE[compute])
    line, total = g.out[-1], -(-g.filters // lanes)
    lines, outer = g.batch * prod(g.out[:-1]), prod(g.kernel[:-1])
    span = g.kernel[-1] * g.channels
    border = sum(max(pad, 0) for pad in g.padding[-1]) > 0
    tilings = []
    for vectors in range(1, min(4 if target.registers >= 32 else 2, total) + 1):
        panels = -(-total // vectors)
        rows = tile_rows(vectors, line, target.registers)
        products = max(vectors * rows, vectors + rows, FMA_LATENCY)
        tile = outer * (span * products + LOOK_UP * rows + TAP)
        tile += STORE * rows * vectors + TILE
        edges = 2 * outer * g.kernel[-1] * EDGE * rows if border else 0.0
        work = panels * lines * (-(-line // rows) * tile + edges + LINE)
        tilings.append(Tiling(lanes, vectors, rows, panels, work))
    return min(tilings, key=lambda tiling: tiling.work)


def chunk_arguments(
    chosen: Tiling, lines: int, line: int, panel: int, compute: str, threads: int,
    max_tiles: int | None = None,
) -> dict[str, Any]:  # fmt: skip
    """List the arguments that `split_chunk` reads, and the number of elements of a panel."""
    tiles = -(-line // chosen.rows)
    tiles = tiles if max_tiles is None else min(tiles, max_tiles)
    segment = chunk_size(
        tiles * chosen.rows, chosen.rows, lambda n: lines * chosen.panels * -(-line // n),
        chunk_count(threads),
    )  # fmt: skip
    segments = -(-line // segment)
    return {
        "chunks": lines * segments * chosen.panels, "segments": lines * segments,
        "segment": segment, "line_segments": segments, "panels": chosen.panels, "f_panel": panel,
        "panels_inner": int(chosen.panels * panel * ITEMSIZE[compute] <= SLICE_BYTES),
    }  # fmt: skip


def streams(g: Geometry, item: int, chosen: Tiling) -> bool:
    """True if results of `item` bytes each are stored past the caches."""
    return prod(g.y_shape) * item >= STREAMED and g.filters % chosen.width == 0


def pack(f: Any, g: Geometry, compute: str) -> Any:
    """Pack the filter (*K, C, D) as panels (panel, *K, C, V vectors), filled up with zeros."""
    chosen = tiling(g, compute, host_target())
    panels = aligned_empty((chosen.panels, *g.kernel, g.channels, chosen.width), compute)
    for first, panel in zip(range(0, g.filters, chosen.width), panels, strict=True):
        part = f[..., first : first + chosen.width]
        panel[..., : part.shape[-1]] = part
        panel[..., part.shape[-1] :] = 0
    return panels


def correlate(
    call: Call, x: Any, packed: Any, g: Geometry, compute: str, bias: Any, out: Any, launch: Any
) -> None:
    """Compute out (B, *O, D) = conv(x, f) + bias from the panels of f, by its call.

    x is contiguous in lines of the last axis with their channels, out in its channels.
    """
    addresses = {}
    if bias is not None:
        bias = padded_bias(bias, g, compute)
        addresses["bias"] = address(bias)
    call(launch, x=address(x), y=address(out), f=address(packed), **addresses)


def padded_bias(bias: Any, g: Geometry, compute: str) -> Any:
    """Return the bias of all columns of the panels, zeros in those that are filled up."""
    chosen = tiling(g, compute, host_target())
    padded = np.zeros(chosen.panels * chosen.width, compute)
    padded[: g.filters] = bias
    return padded


def correlation(x: Any, g: Geometry, compute: str, out: Any, threads: int, blocked: bool) -> Call:
    """Make the call for these dtypes and strides; it needs the addresses x, y, f and bias."""
    target = host_target()
    even = address(out) % 16 == 0 and not any(t % 16 for t in out.strides[:-1])
    stream = even and streams(g, out.itemsize, tiling(g, compute, target))
    layouts = layout(x), layout(out)
    return correlation_of_layouts(g, g, *layouts, stream, compute, threads, target, blocked)


@kept
def correlation_of_layouts(
    whole: Geometry, g: Geometry, x: Layout, y: Layout, stream: bool, compute: str, threads: int,
    target: Target, blocked: bool,
) -> Call:  # fmt: skip
    """Make the call of `correlation` for `g`, a part of the rows of `whole`: panels are shared."""
    (operand, x_byte_strides), (result, y_byte_strides) = x, y
    chosen = tiling(whole, compute, target)
    x_strides = element_strides(x_byte_strides, ITEMSIZE[operand])
    y_strides = element_strides(y_byte_strides, ITEMSIZE[result])
    unit = block_unit(compute if blocked else "", chosen.lanes, g.kernel, g.channels)
    schedule = LineForward(
        Format(operand, compute), Format(result, compute), chosen.lanes, chosen.rows,
        chosen.vectors, g.rank, stream, unit,
    )  # fmt: skip
    low, stride = g.padding[-1][0], g.stride[-1]
    panel = prod(g.kernel) * g.channels * chosen.width
    axes, base = axis_arguments(g, g.rank, (*x_strides[:-2], g.channels), y_strides)
    arguments = {
        **chunk_arguments(chosen, g.batch * prod(g.out[:-1]), g.out[-1], panel, compute, threads),
        "x": base * ITEMSIZE[operand], "y": 0, "f": 0, "bias": 0,
        "zeros": np.zeros(max(g.channels, 1), operand), "channels": g.channels,
        "filters": g.filters, "x_batch": x_strides[0], "y_batch": y_strides[0],
        "x_last": stride * g.channels, "x_start": low * g.channels,
        "inside_first": max(-(-low // stride), 0),
        "inside_last": (g.size[-1] + low - g.kernel[-1]) // stride + 1, **axes,
    }  # fmt: skip
    arguments |= block_arguments(unit, chosen.lanes, g.kernel, g.channels)
    return bind("lines", kernel, schedule, arguments, threads, target)
