"""Forward kernel with vectors along a row of positions: one channel, or channels_first arrays.

The register tile is R output channels of one group by V vectors of neighbouring positions. For each
tap and each channel c of the group,

    acc[r, v] += broadcast(f[tap, c, output channel r]) * x[vector v under the tap, c]

Where the padding is zeros, no wider than a vector, and the row is contiguous in memory, a row is
whole tiles. Only the first vector of the first tile and the last of the last one meet the border,
and are loaded with a mask; the last tile overlaps the one before it. Otherwise the interior of a
row is the whole vectors whose taps all meet x, and the vectors at the border are loaded one by one,
with a mask or, where the border is not zeros, by an offset table.

Of complex numbers, a register tile holds the sums of x * Re f, and another those of x * Im f.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from llvmlite import ir

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.vector_formats import (
    all_lanes,
    broadcast_parts,
    combine_parts,
    gather,
    load,
    shuffle,
    store,
)
from einstride.cpu.conv.blocked_sums import CHANNEL, BlockedSums, block_arguments, block_unit
from einstride.cpu.conv.channelwise.rows import (
    Ranges,
    RowSchedule,
    chunk_arguments,
    locate_rows,
    ranges_of_strip,
    row_arguments,
    visit_row,
)
from einstride.cpu.conv.channelwise.signature import Signature, interior
from einstride.cpu.conv.loop_nest import locate_line, loop_over_taps_inside
from einstride.cpu.runtime.argument_block import Call, bind


@dataclass(frozen=True)
class PositionSchedule(RowSchedule):
    """What the schedules with vectors along positions have.

    Attributes
    ----------
    masked : bool
        True if vectors at the border are loaded with a mask, False if they are gathered.
    """

    masked: bool

    in_lanes = "positions of the last axis"
    operands = "vectors of positions of the last axis"

    @property
    def vector_positions(self) -> int:
        """Positions of a vector."""
        return self.lanes // self.parts


@dataclass(frozen=True)
class Positions(PositionSchedule):
    """The schedule of the forward kernel.

    Attributes
    ----------
    block_unit : str
        Where blocks of sums may begin: see `blocked_sums`.
    whole_tiles, left, right : bool
        True if a row is whole tiles; and if its first tile, and its last, meet the border.
    """

    block_unit: str
    whole_tiles: bool
    left: bool
    right: bool

    in_rows = "output channels"
    loops = "rows of positions and strip, output channels, row, tile, tap, input channel"


@dataclass(frozen=True)
class Border:
    """A vector at the border, of which some positions exist.

    Attributes
    ----------
    count : Value
        The positions that exist.
    column : Value
        The number of the first of them in the offset table of the last axis.
    """

    count: Value
    column: Value


@dataclass(frozen=True)
class Edge:
    """The vector of a tile that meets a border: the first vector, or the last.

    Attributes
    ----------
    vector : int
        The number of the vector.
    is_left : bool
        True if the border lies before x, False if it lies behind.
    """

    vector: int
    is_left: bool


def load_edge(
    code: Code, schedule: PositionSchedule, x: Pointer, k: Value, w: Value, edge: Edge
) -> Value:
    """Load the vector of a tile from position w on that meets a border, under tap k."""
    lanes, parts = schedule.lanes, schedule.parts
    position = w + edge.vector * schedule.vector_positions
    before = code["low"] - k * code["dilation"] - position  # lanes before x
    if edge.is_left:
        mask = code.first_lanes(before * parts, lanes) ^ all_lanes(code, lanes)
    else:
        mask = code.first_lanes((before + code["size"]) * parts, lanes)
    pointer = x.at(k * code["x_tap"]).at(edge.vector * lanes)
    return load(pointer, schedule.x, lanes, mask, None)


def row_of_x(
    code: Code, schedule: PositionSchedule, x: Pointer, w: Value, border: Border | None
) -> Pointer:
    """Return the address that the offsets of the taps of position w are added to."""
    if border is not None and not schedule.masked:
        return x
    return x.at(code["x_first"] + w * code["window_stride"])


def load_x(
    code: Code, schedule: PositionSchedule, x: Pointer, k: Value, w: Value, border: Border | None,
    v: int = 0,
) -> Value:  # fmt: skip
    """Load vector v from position w on under tap k; zeros in padding and where none exist."""
    lanes, parts = schedule.lanes, schedule.parts
    if border is None:
        x = x.at(k * code["x_tap"])
        if schedule.x_contiguous:
            return load(x.at(v * lanes), schedule.x, lanes, None, None)
        stride = code["window_stride"]
        return load(x.at(stride * (v * lanes // parts)), schedule.x, lanes, None, stride)
    if schedule.masked:
        first = code["low"] - k * code["dilation"] - w  # the lane that meets x[0]
        stop = (first + code["size"]).minimum(border.count)
        mask = code.first_lanes(stop * parts, lanes) & (
            code.first_lanes(first * parts, lanes) ^ all_lanes(code, lanes)
        )
        return load(x.at(k * code["x_tap"]), schedule.x, lanes, mask, None)
    table = code.array(f"table{schedule.rank - 1}", "int64").at(k * code["border"] + border.column)
    positions = schedule.vector_positions
    exist = code.first_lanes(border.count, positions) if positions > 1 else None
    offsets = table.load(positions, exist)
    if parts == 2 and positions > 1:
        offsets = shuffle(offsets, [i // 2 for i in range(lanes)])
    elif parts == 2:
        offsets = code.splat(offsets, 2)
    inside = offsets >= Value(code, ir.Constant(offsets.ir.type, None))
    if parts == 2:
        odd = ir.Constant(offsets.ir.type, [i % 2 for i in range(lanes)])
        offsets = offsets + Value(code, odd)
    return gather(x, schedule.x, offsets, inside & code.first_lanes(border.count * parts, lanes))


def kernel(schedule: Positions, names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``channelwise_positions``."""
    code = Code("channelwise_positions", names)
    with code.chunks(code["chunks"]) as chunk:
        strip, first, last, x, y = locate_rows(code, schedule, chunk)
        group_filters = code["filters"] // code["groups"]
        with (
            code.loop(0, code["filters"], schedule.rows) as d,
            code.loop(first, last) as row,
        ):
            channel = d // group_filters * code["channels"]
            start = x.at(channel * code["x_channel"])
            _compute_row(code, schedule, start, y.at(d * code["y_channel"]), d, row, strip)
    return code.text()


def _compute_row(
    code: Code, schedule: Positions, x: Pointer, y: Pointer, d: Value, row: Value, strip: Value
) -> None:
    """Compute one strip of a row."""
    axis, size = schedule.rank - 1, schedule.vector_positions
    tables, _, y = locate_line(code, axis, row, y)
    ranges = ranges_of_strip(code, strip, code[f"out{axis}"])
    if schedule.whole_tiles:
        _compute_whole_tiles(code, schedule, x, y, d, tables, strip, ranges)
        return
    single = replace(schedule, vectors=1)

    def compute_border(w: Value, count: Value, column: Value) -> None:
        _compute_tile(code, single, x, y, d, tables, w, Border(count, column))

    def compute_interior(start: Value, stop: Value) -> None:
        full = stop - (stop - start) % (size * schedule.vectors)
        with code.loop(start, full, size * schedule.vectors) as w:
            _compute_tile(code, schedule, x, y, d, tables, w, None)
        if schedule.vectors > 1:
            with code.loop(full, stop, size) as w:
                _compute_tile(code, single, x, y, d, tables, w, None)

    visit_row(code, ranges, size, compute_border, compute_interior)


def _compute_whole_tiles(
    code: Code, schedule: Positions, x: Pointer, y: Pointer, d: Value, tables: list[Pointer],
    strip: Value, ranges: Ranges,
) -> None:  # fmt: skip
    """Compute one strip of a row in whole tiles; the strip has as many positions as a tile.

    The first tile begins where the row does, and the last ends where the row does. A tile between
    them begins early rather than reach beyond the interior of the strip.
    """
    tile = schedule.vector_positions * schedule.vectors
    zero, (start, stop), end = code.number(0), ranges[1], ranges[2][1]
    first, last = start, stop  # of the positions that no tile at a border computes
    if schedule.left:
        is_first = strip.equals(0)
        with code.when(is_first):
            _compute_tile(code, schedule, x, y, d, tables, zero, None, Edge(0, True))
        first = is_first.select(code.number(tile), first)
    if schedule.right:
        is_last = strip.equals(code["strips"] - 1)
        last = is_last.select(end - tile, last)
    with code.loop(first, last, tile) as w0:
        w = w0.minimum(stop - tile)
        _compute_tile(code, schedule, x, y, d, tables, w, None)
    if schedule.right:
        with code.when(is_last):
            edge = Edge(schedule.vectors - 1, False)
            _compute_tile(code, schedule, x, y, d, tables, end - tile, None, edge)


def _compute_tile(
    code: Code, schedule: Positions, x: Pointer, y: Pointer, d: Value, tables: list[Pointer],
    w: Value, border: Border | None, edge: Edge | None = None,
) -> None:  # fmt: skip
    """Compute V vectors of positions from w on: all of them at a border, or one at its edge."""
    lanes, parts, axis, dtype = schedule.lanes, schedule.parts, schedule.rank - 1, schedule.compute
    tiles = schedule.tiles(code)
    bias = code.array("bias", dtype)
    with code.when(code["bias"].equals(0) ^ 1):
        for r in range(schedule.rows):
            pair = [bias.at((d + r) * parts + part).load() for part in range(parts)]
            initial = broadcast_parts(code, pair, lanes)
            for accumulator in tiles[0].row(r):
                accumulator.set(initial)
    f = code.array("f", dtype).at(d * parts)
    accumulators = [sums for tile in tiles for sums in tile.accumulators]
    tree = BlockedSums(code, accumulators, lanes, schedule.block_unit)

    def add_taps(x: Pointer, tap: Value) -> None:
        taps = code[f"taps{axis}"]
        first = tap * taps

        def load_vector(channel: Pointer, k: Value, v: int) -> Value:
            if edge is not None and edge.vector == v:
                return load_edge(code, schedule, channel, k, w, edge)
            return load_x(code, schedule, channel, k, w, border, v)

        def add_channels(k: Value, begin: Value, end: Value) -> None:
            with code.loop(begin, end) as c:
                channel = x.at(c * code["x_channel"])
                x_vectors = [load_vector(channel, k, v) for v in range(schedule.vectors)]
                numbers = f.at(((first + k) * code["channels"] + c) * (code["filters"] * parts))
                for r in range(schedule.rows):
                    for part, tile in enumerate(tiles):
                        factor = code.splat(numbers.at(r * parts + part).load(), lanes)
                        tile.add_products(r, factor, x_vectors)

        with tree.loop_over_row(tap, taps) as ends, code.loop(*ends) as k:
            if schedule.block_unit == CHANNEL:
                with tree.loop_over_channels(first + k, code["channels"]) as ends:
                    add_channels(k, *ends)
            else:
                add_channels(k, code.number(0), code["channels"])

    loop_over_taps_inside(code, tables, row_of_x(code, schedule, x, w, border), add_taps)
    tree.finish()
    y_stride = code[f"y_stride{axis}"]
    mask = None if border is None else code.first_lanes(border.count * parts, lanes)
    y = y.at(w * y_stride)
    for r in range(schedule.rows):
        for v in range(schedule.vectors):
            sums = [tile.row(r)[v].get() for tile in tiles]
            value = combine_parts(*sums) if schedule.x.pairs else sums[0]
            pointer = y.at(code["y_channel"] * r + y_stride * (v * schedule.vector_positions))
            store(pointer, value, schedule.y, mask, None if schedule.y_contiguous else y_stride)


def contiguous_and_masked(sig: Signature) -> tuple[bool, bool, bool]:
    """Return the fields `x_contiguous`, `y_contiguous` and `masked` of a schedule."""
    g = sig.geometry
    contiguous = g.stride[-1] * sig.x_strides[-2] == sig.parts
    masked = contiguous and g.padding_mode == "zeros"
    return contiguous, sig.y_strides[-2] == sig.parts, masked


def position_arguments(
    sig: Signature, masked: bool, ends: tuple[int, int] | None = None
) -> dict[str, Any]:
    """List the kernel arguments of both kernels; the table of the border is (tap, position).

    `ends` are those of the interior of a row, by default in whole vectors.
    """
    g, (inside, outside) = sig.geometry, ends or sig.vector_interior
    arguments = row_arguments(sig, inside, outside)
    table = f"table{g.rank - 1}"
    return arguments | {
        table: 0 if masked else np.ascontiguousarray(arguments[table].T),
        "size": g.size[-1], "low": g.padding[-1][0], "dilation": g.dilation[-1],
        "border": g.out[-1] - outside + inside,
    }  # fmt: skip


def call(sig: Signature) -> Call:
    """Make the call that computes y = conv(x, f) + bias from the addresses x, y, f, bias (or 0)."""
    g, outputs = sig.geometry, sig.geometry.filters // sig.geometry.groups
    rows = max(i for i in range(1, min(outputs, 4) + 1) if outputs % i == 0)
    most, size = min(sig.accumulators // rows, 6), sig.vector_positions
    x_contiguous, y_contiguous, masked = contiguous_and_masked(sig)
    ends, out = interior(g), g.out[-1]
    border = max(ends[0], out - ends[1])
    vectors = min(most, (out - border) // size)
    whole_tiles = masked and vectors > 1 and border <= size
    if not whole_tiles:
        ends = sig.vector_interior
        vectors = max(min(most, (ends[1] - ends[0]) // size), 1)
    channels = g.channels // g.groups
    unit = block_unit(sig.x.computed if sig.blocked else "", sig.lanes, g.kernel, channels)
    schedule = Positions(
        sig.x, sig.y, sig.lanes, rows, vectors, g.rank, x_contiguous, y_contiguous, masked,
        unit, whole_tiles, whole_tiles and ends[0] > 0, whole_tiles and ends[1] < out,
    )  # fmt: skip
    arguments = {
        **chunk_arguments(sig, ends[1] - ends[0], vectors * size),
        **position_arguments(sig, masked, ends), "bias": 0,
    }  # fmt: skip
    arguments |= block_arguments(unit, sig.lanes, g.kernel, channels)
    threads = min(sig.useful_threads, arguments["chunks"])
    return bind("channelwise_positions", kernel, schedule, arguments, threads, sig.target)
