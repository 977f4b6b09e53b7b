"""Write the kernels of the filter gradient with few input channels, over contiguous spans of x.

The taps of the last axis with their channels are a contiguous span of x, which moves by the stride
from one output to the next. The outer product of a span and the output channels of gy is added to
a register tile, for one tap or several taps of the axis before the last:

    ``runs``         acc[r, v]    += x[span, element r] * gy[output, vector v]
    ``run_lanes``    acc[k, r, v] += gy[output, channel r] * x[span of tap k, vector v]

With few output channels the span fills the lanes better. Outputs are summed in regions that fit the
cache. Each partial sum covers consecutive regions and adds them in order, on whichever thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, ClassVar

import numpy as np

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.jit import Target, host_target
from einstride.codegen.vector_formats import Format, all_lanes
from einstride.cpu.conv.filter_gradient import Range, chunk_arguments
from einstride.cpu.conv.loop_nest import (
    axis_arguments,
    block,
    locate_line,
    look_up,
    lowest_of,
    split,
)
from einstride.cpu.conv.register_tile import RegisterTile, vector_masks
from einstride.cpu.conv.schedule import Schedule
from einstride.cpu.conv.small_channels.lines import FMA_LATENCY
from einstride.cpu.runtime.argument_block import Call, address, bind, dtype_name
from einstride.cpu.runtime.chunks import block_size, chunk_count
from einstride.cpu.runtime.offset_tables import offsets
from einstride.cpu.runtime.operands import element_strides, packed
from einstride.cpu.runtime.partial_sums import add_partial_sums
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

# Terms of the predicted time, in multiply-adds of vectors; the package says how they were fitted.
LOAD, OUTPUT = 1.15, 4.0
"""Time per operand, broadcast or vector, that a tile loads for an output; per output and tile."""

ADD = 4.0
"""Time per vector of a tile that is added to a partial sum in memory, once per region."""

LINE, LINE_OF_TAP = 20.0, 10.0
"""Time per line of outputs and tile, for its offsets and its borders; and for each tap of it."""

MAX_VECTORS, MAX_LANE_VECTORS, MAX_ROWS = 6, 4, 8
"""Vectors of a row at most, of output channels and of a span; output channels or taps of a tile
whose lanes hold the span."""

REGION_BYTES = 96 << 10
"""Bytes of x and gy in a region, about, so that they stay in a core's second cache."""

MIN_REGION_OUTPUTS = 224
"""Outputs per region, at least: fewer would add sums to memory too often."""

MAX_PARTIAL_SUM_BYTES = 5 << 19
"""Bytes that all partial sums together may take."""

MAX_PARTIAL_SUMS = 8
"""Partial sums of a filter gradient, at most."""

MIN_SPLIT = 1 << 22
"""Multiply-adds above which a filter gradient has more than one partial sum."""


@dataclass(frozen=True)
class SpanGradient(Schedule):
    """The schedule of a filter gradient whose rows are elements of a span.

    Attributes
    ----------
    taps : int
        Taps of the axis before the last in a register tile.
    rank, channels : int
        Number of spatial axes, and of input channels.
    masked : bool
        True if the last vectors of a row are not full.
    """

    taps: int
    rank: int
    channels: int
    masked: bool

    name: ClassVar[str] = "runs"
    span_in_lanes: ClassVar[bool] = False
    in_lanes = "output channels"
    in_rows = "(tap, channel) pairs"
    loops = "partial sum, region of outputs, panel, tap of the outer axes, tile, line, output"
    operands = "contiguous (tap, channel) pairs of x broadcast, vectors of gy"
    edges = "at the ends of a line, a table of offsets for each tap; zeros are left out"
    stores = "added to a partial sum after each region"

    def register_tile(self, code: Code) -> RegisterTile:
        """Write a register tile whose sums are zero, with `rows` rows for each tap."""
        return RegisterTile(code, self.compute, self.lanes, self.taps * self.rows, self.vectors)


@dataclass(frozen=True)
class SpanLaneGradient(SpanGradient):
    """The schedule of a filter gradient whose lanes are elements of a span."""

    name = "run_lanes"
    span_in_lanes = True
    in_lanes = "(tap, channel) pairs"
    in_rows = "output channels"
    operands = "vectors of contiguous (tap, channel) pairs of x, gy broadcast"
    edges = "at the ends of a line, masks leave out the lanes in zeros"

    @property
    def sides(self) -> dict[str, int]:
        """The lengths of the sides of the register tile, by name."""
        return super().sides | {"taps": self.taps}


@dataclass(frozen=True)
class Tile:
    """Hold a register tile: its sums, its first element of the span, its first output channel, its
    tap on each outer axis, the masks of a row. From `low` to `high`, spans of outputs lie inside x.
    """

    sums: RegisterTile
    span: Value
    channel: Value
    taps: list[Value]
    masks: list[Mask]
    low: Value
    high: Value


def kernel(schedule: SpanGradient, names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``runs`` or ``run_lanes``."""
    code = Code(schedule.name, names)
    with code.chunks(code["chunks"]) as chunk:
        slice_number, partial_sum = split(chunk, code["slices"])
        tiles = block(slice_number, code["slice"], code["tiles"])
        begin, end = ((partial_sum + i) * code["regions"] // code["partial_sums"] for i in range(2))
        sums = code.array("sums", schedule.compute).at(partial_sum * code["gf_elements"])
        with code.loop(begin, end) as region:
            part, group = split(region, code["line_parts"])
            lines = block(group, code["region_lines"], code["lines"])
            outputs = block(part, code["region_outputs"], code["line"])
            with code.loop(*tiles) as number:
                _compute_tile(code, schedule, number, lines, outputs, sums, region.equals(begin))
    return code.text()


def _compute_tile(
    code: Code, schedule: SpanGradient, number: Value, lines: Range,
    outputs: Range, sums: Pointer, is_first: Value,
) -> None:  # fmt: skip
    """Sum one tile over a region, and add it to the partial sum (tap, row, column)."""
    outer = schedule.rank - 1
    extents = [code[f"taps{a}"] for a in reversed(range(outer - 1))]
    extents = [code["tap_tiles"], *extents] if outer else []
    row_tile, *taps, column_tile = split(number, code["row_tiles"], *extents)
    row, skipped_rows = _first_of_tile(row_tile, schedule.rows, code["rows"])
    column = column_tile * schedule.width
    taps.reverse()
    skipped_taps = code.number(0)
    if taps:
        last_taps = code[f"taps{outer - 1}"]
        taps[-1], skipped_taps = _first_of_tile(taps[-1], schedule.taps, last_taps)
    tap = code.number(0)
    for a, tap_of_axis in enumerate(taps):
        tap = tap * code[f"taps{a}"] + tap_of_axis
    channel, span = (row, column) if schedule.span_in_lanes else (column, row)
    span_tile = column_tile if schedule.span_in_lanes else row_tile
    low = look_up(code, "inside_first", span_tile).maximum(outputs[0]).minimum(outputs[1])
    high = look_up(code, "inside_last", span_tile).minimum(outputs[1]).maximum(low)
    masks = vector_masks(code, code["columns"] - column, schedule.lanes, schedule.vectors)
    tile = Tile(schedule.register_tile(code), span, channel, taps, masks, low, high)
    with code.loop(*lines) as line:
        _sum_line(code, schedule, tile, line, outputs)
    sums_tile = sums.at((tap * code["rows"] + row) * code["columns"] + column)
    for k, r in product(range(schedule.taps), range(schedule.rows)):
        is_own = skipped_rows < r + 1
        if schedule.taps > 1:
            is_own = is_own & (skipped_taps < k + 1)
        with code.when(is_own):
            sums_row = sums_tile.at((code["rows"] * k + r) * code["columns"])
            tile.sums.add_to(k * schedule.rows + r, sums_row, masks, is_first)


def _first_of_tile(number: Value, size: int, count: Value) -> tuple[Value, Value]:
    """Return the first of `count` rows, or taps, of a tile; and how many of them are not stored.

    The last tile overlaps the tile before it, rather than ending behind the last row: rows that the
    tile before it has, too, are not stored.
    """
    own = number * size
    first = own.minimum(count - size)
    return first, own - first


def _sum_line(code: Code, schedule: SpanGradient, tile: Tile, line: Value, outputs: Range) -> None:
    """Add the products of a line of outputs: of all taps at once if none is in the border."""
    gy = code.array("gy", schedule.y.stored)
    tables, example, gy = locate_line(code, schedule.rank - 1, line, gy)
    gy = gy.at(example * code["gy_batch"] + tile.channel)
    x = code.array("x", schedule.x.stored).at(example * code["x_batch"])
    offsets = [code.number(0)]
    if tables:
        offsets = [tables[-1].at(tile.taps[-1] + k).load() for k in range(schedule.taps)]
    for table, tap in zip(tables[:-1], tile.taps[:-1], strict=True):
        outer_offset = table.at(tap).load()
        offsets = [offset + outer_offset for offset in offsets]

    def add_inside(offsets: list[Value], k: int) -> None:
        """Add the products of outputs whose spans lie inside x, for the taps from k on."""
        spans = [x.at(offset).at(tile.span - code["x_start"]) for offset in offsets]
        with code.loop(tile.low, tile.high) as o:
            starts = [span.at(o * code["x_last"]) for span in spans]
            if schedule.span_in_lanes:
                _add_lanes(schedule, tile, starts, k, gy.at(o * code["gy_last"]))
            else:
                elements = ((starts[0].at(r), None) for r in range(schedule.rows))
                _add_rows(schedule, tile, elements, gy.at(o * code["gy_last"]))

    def add_border(x: Pointer, k: int, o: Value) -> None:
        """Add the products of an output whose span may leave x, for tap k."""
        if schedule.span_in_lanes:
            first = o * code["x_last"] + tile.span - code["x_start"]
            inside = _lanes_inside(schedule, tile, first)
            _add_lanes(schedule, tile, [x.at(first)], k, gy.at(o * code["gy_last"]), inside)
        else:
            elements = _locate_elements(schedule, tile, x, o)
            _add_rows(schedule, tile, elements, gy.at(o * code["gy_last"]))

    lowest = lowest_of(offsets)
    if schedule.taps > 1:
        with code.when(lowest >= 0):
            add_inside(offsets, 0)
    for k, offset in enumerate(offsets):
        with code.when(offset >= 0):
            for ends in ((outputs[0], tile.low), (tile.high, outputs[1])):
                with code.loop(*ends) as o:
                    add_border(x.at(offset), k, o)
            if schedule.taps == 1:
                add_inside([offset], k)
            else:
                with code.when(lowest < 0):
                    add_inside([offset], k)


def _add_lanes(
    schedule: SpanGradient, tile: Tile, spans: list[Pointer], first: int, gy: Pointer,
    inside: Iterable[Mask] | None = None,
) -> None:  # fmt: skip
    """Add the products of an output, whose spans are in lanes, for the taps from `first` on.

    Sums outside of the masks `inside` are left alone, so that no NaN of gy is multiplied by zero.
    """
    code, lanes = tile.sums.code, schedule.lanes
    numbers = [
        code.splat(gy.at(r).load_as(schedule.y.stored, schedule.compute), lanes)
        for r in range(schedule.rows)
    ]
    for k, span in enumerate(spans, first):
        for v, mask in enumerate(inside or tile.masks):
            enabled = mask if schedule.masked or inside else None
            vector = span.at(v * lanes).load_as(schedule.x.stored, schedule.compute, lanes, enabled)
            for r, number in enumerate(numbers):
                sums = tile.sums.row(k * schedule.rows + r)[v]
                total = vector.multiply_add(number, sums.get())
                sums.set(mask.select(total, sums.get()) if inside else total)


def _lanes_inside(schedule: SpanGradient, tile: Tile, first: Value) -> Iterator[Mask]:
    """Make the masks of the lanes inside x, for a span that begins at element `first` of a line."""
    code, lanes = tile.sums.code, schedule.lanes
    for v, mask in enumerate(tile.masks):
        start = first + v * lanes
        lanes_before = code.first_lanes(code.number(0) - start, lanes)
        inside = code.first_lanes(code["x_line"] - start, lanes) & mask
        yield inside & (lanes_before ^ all_lanes(code, lanes))


def _add_rows(
    schedule: SpanGradient, tile: Tile, elements: Iterable[tuple[Pointer, Value | None]],
    gy: Pointer,
) -> None:  # fmt: skip
    """Add the products of an output, whose span is in rows: (address, condition) of each element.

    Where the condition is false, the address holds a zero, and gy is replaced by zeros.
    """
    code, lanes = tile.sums.code, schedule.lanes
    zero = code.zero(schedule.compute, lanes)
    vectors = [
        gy.at(v * lanes).load_as(
            schedule.y.stored, schedule.compute, lanes, mask if schedule.masked else None
        )
        for v, mask in enumerate(tile.masks)
    ]
    for r, (pointer, inside) in enumerate(elements):
        number = code.splat(pointer.load_as(schedule.x.stored, schedule.compute), lanes)
        row = [inside.select(v, zero) for v in vectors] if inside else vectors
        tile.sums.add_products(r, number, row)


def _locate_elements(
    schedule: SpanGradient, tile: Tile, x: Pointer, o: Value
) -> Iterator[tuple[Pointer, Value]]:
    """Locate each element of an output's span by the table of the last axis."""
    code = tile.sums.code
    table = code.array("edge", "int64").at(o * code["edge_taps"])
    zeros = code.array("zeros", schedule.x.stored)
    for r in range(schedule.rows):
        tap, channel = (tile.span + r) // schedule.channels, (tile.span + r) % schedule.channels
        offset = table.at(tap).load()
        inside = offset >= 0
        yield inside.select_pointer(x.at(offset + channel), zeros), inside


@dataclass(frozen=True)
class SpanTiling:
    """The register tile of a filter gradient, and the regions of outputs.

    Attributes
    ----------
    vectors, rows, taps : int
        Per tile: vectors of a row, rows of a tap, taps of the axis before the last.
    region_lines, region_outputs : int
        Outputs per region: on all axes but the last, and on the last.
    regions, partial_sums : int
        Regions, and partial sums.
    work : float
        Predicted time, in multiply-adds of vectors.
    """

    vectors: int
    rows: int
    taps: int
    region_lines: int
    region_outputs: int
    regions: int
    partial_sums: int
    work: float


@cached(1024)
def tiling(g: Geometry, compute: str, target: Target, span_in_lanes: bool) -> SpanTiling:
    """Choose the tiling with the least predicted time, which does not depend on threads."""
    item = ITEMSIZE[compute]
    lanes, outer_taps = target.lanes(item), g.kernel[-2] if g.rank > 1 else 1
    rows, columns, *limits = (
        (g.filters, g.kernel[-1] * g.channels, MAX_LANE_VECTORS, MAX_ROWS, MAX_ROWS)
        if span_in_lanes
        else (g.kernel[-1] * g.channels, g.filters, MAX_VECTORS, target.registers, 1)
    )
    sizes = -(-columns // lanes), rows, outer_taps
    tilings = []
    for most in product(*(range(1, min(n, m) + 1) for n, m in zip(sizes, limits, strict=True))):
        tiles = prod(-(-n // m) for n, m in zip(sizes, most, strict=True))
        v, r, k = map(block_size, sizes, most)
        kept_loads = r if span_in_lanes else v  # operands that stay in registers for an output
        if k * r * v + kept_loads + 1 <= target.registers or k == r == v == 1:
            products = max(k * r * v, LOAD * (k * v + r), FMA_LATENCY)
            work = tiles * (products + (0 if span_in_lanes else v) + OUTPUT)
            tilings.append((work, v, r, k, tiles))
    work, v, r, k, tiles = min(tilings)
    gy_channels = g.filters if span_in_lanes else v * lanes
    region = _choose_regions(g, (prod(g.stride) * g.channels + gy_channels) * item, item)
    lines, outer = g.batch * prod(g.out[:-1]), prod(g.kernel[:-2])
    work = outer * (work * lines * g.out[-1] + tiles * region[2] * r * v * k * ADD)
    work += outer * tiles * lines * (LINE + LINE_OF_TAP * k)
    return SpanTiling(v, r, k, *region, work)


def _choose_regions(g: Geometry, output_bytes: int, item: int) -> tuple[int, int, int, int]:
    """Choose the lines and outputs of a region that fits the cache, the regions and partial sums.

    `output_bytes` are those of an output in x and gy. Nothing depends on the threads.
    """
    lines, line = g.batch * prod(g.out[:-1]), g.out[-1]
    outputs = max(REGION_BYTES // output_bytes, MIN_REGION_OUTPUTS)
    region_outputs = block_size(line, outputs)
    region_lines = block_size(lines, max(outputs // line, 1)) if lines else 1
    regions = -(-lines // region_lines) * -(-line // region_outputs)
    partial_sums = MAX_PARTIAL_SUMS if g.multiply_adds > MIN_SPLIT else 1
    while partial_sums > 1 and (
        partial_sums > regions or partial_sums * prod(g.f_shape) * item > MAX_PARTIAL_SUM_BYTES
    ):
        partial_sums //= 2
    return region_lines, region_outputs, regions, partial_sums


def supports_lanes(g: Geometry) -> bool:
    """True if lanes may hold the span: their masks leave out padding of zeros only."""
    return g.padding_mode == "zeros"


def puts_span_in_lanes(g: Geometry, compute: str) -> bool:
    """True if the span fills the lanes of a filter gradient better than output channels do."""
    if not supports_lanes(g):
        return False
    target = host_target()
    return tiling(g, compute, target, True).work < tiling(g, compute, target, False).work


def gradient(
    x: Any, gy: Any, g: Geometry, compute: str, out: Any, launch: Any, threads: int
) -> None:
    """Compute out (*K, C, D) = the filter gradient, not flipped, of any dtype.

    x is contiguous in lines of the last axis with their channels, gy in its channels.
    """
    call = gradient_of(x, gy, g, compute, threads)
    count = call.argument("partial_sums")
    span_in_lanes = call.kernel.name == SpanLaneGradient.name
    if count == 1 and not span_in_lanes and dtype_name(out) == compute and packed(out):
        call(launch, x=address(x), gy=address(gy), sums=address(out))
        return
    *outer, last = g.kernel
    columns = (g.filters, last, g.channels) if span_in_lanes else (last, g.channels, g.filters)
    sums = np.empty((count, *outer, *columns), compute)
    call(launch, x=address(x), gy=address(gy), sums=address(sums))
    add_partial_sums(np.moveaxis(sums, -3, -1) if span_in_lanes else sums, out, launch)


def gradient_of(x: Any, gy: Any, g: Geometry, compute: str, threads: int) -> Call:
    """Make the call for these dtypes and strides; it needs the addresses x, gy and sums."""
    return _gradient_call(
        g, dtype_name(x), dtype_name(gy), compute, x.strides, gy.strides,
        puts_span_in_lanes(g, compute), threads, host_target(),
    )  # fmt: skip


@kept
def _gradient_call(
    g: Geometry, x_dtype: str, gy_dtype: str, compute: str, x_byte_strides: tuple[int, ...],
    gy_byte_strides: tuple[int, ...], span_in_lanes: bool, threads: int, target: Target,
) -> Call:  # fmt: skip
    lanes, chosen = target.lanes(ITEMSIZE[compute]), tiling(g, compute, target, span_in_lanes)
    x_strides = element_strides(x_byte_strides, ITEMSIZE[x_dtype])
    gy_strides = element_strides(gy_byte_strides, ITEMSIZE[gy_dtype])
    span, width = g.kernel[-1] * g.channels, chosen.vectors * lanes
    rows, columns = (g.filters, span) if span_in_lanes else (span, g.filters)
    schedule = (SpanLaneGradient if span_in_lanes else SpanGradient)(
        Format(x_dtype, compute), Format(gy_dtype, compute), lanes, chosen.rows, chosen.vectors,
        chosen.taps, g.rank, g.channels, columns % width != 0,
    )  # fmt: skip
    if span_in_lanes:
        first = np.arange(0, span, width)
        last = np.minimum(first + width, span) - 1
    else:
        first = np.minimum(np.arange(0, span, chosen.rows), span - chosen.rows)
        last = first + chosen.rows - 1
    low, stride = g.padding[-1][0], g.stride[-1]
    outer_taps = g.kernel[-2] if g.rank > 1 else 1
    row_tiles, tap_tiles = -(-rows // chosen.rows), -(-outer_taps // chosen.taps)
    tiles = -(-columns // width) * row_tiles * tap_tiles * prod(g.kernel[:-2])
    idle = chosen.partial_sums < threads
    slices = min(tiles, -(-chunk_count(threads) // chosen.partial_sums)) if idle else 1
    axes, base = axis_arguments(g, g.rank - 1, x_strides, gy_strides)
    arguments = {
        **chunk_arguments(1, tiles, -(-tiles // slices), chosen.partial_sums),
        "row_tiles": row_tiles, "tap_tiles": tap_tiles, "rows": rows,
        "columns": columns, "partial_sums": chosen.partial_sums,
        "regions": chosen.regions, "region_lines": chosen.region_lines,
        "region_outputs": chosen.region_outputs, "lines": g.batch * prod(g.out[:-1]),
        "line": g.out[-1], "line_parts": -(-g.out[-1] // chosen.region_outputs),
        "x": base * ITEMSIZE[x_dtype], "gy": 0, "sums": 0, "gf_elements": prod(g.f_shape),
        "x_batch": x_strides[0], "gy_batch": gy_strides[0], "x_last": stride * g.channels,
        "gy_last": gy_strides[-2], "x_start": low * g.channels, "x_line": g.size[-1] * g.channels,
        "inside_first": -((first // g.channels - low) // stride),
        "inside_last": (g.size[-1] - 1 + low - last // g.channels) // stride + 1, **axes,
    }  # fmt: skip
    if not span_in_lanes:
        edge, _ = offsets(g, g.rank - 1, g.channels)
        arguments |= {"edge": edge, "edge_taps": g.kernel[-1], "zeros": np.zeros(1, x_dtype)}
    return bind(schedule.name, kernel, schedule, arguments, threads, target)
