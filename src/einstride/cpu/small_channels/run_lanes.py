"""Filter gradient kernel for few input and output channels: lanes hold (tap, input channel) pairs.

The taps of the last axis with their channels are a contiguous span of x, which moves by the stride
from one output to the next. Rows of a tile are output channels, for several taps of the axis before
the last at once:

    acc[tap, r, v] += x[span of the output at this tap, vector v] * gy[output, channel r]

Outputs are summed in regions that fit the cache, as in `run_outer`. A mask leaves out lanes that
would read padding of zeros, so that a NaN of gy is not multiplied by zero.
"""

from __future__ import annotations

from dataclasses import dataclass

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable
from einstride.codegen.vector_formats import all_lanes


@dataclass(frozen=True)
class LaneTile:
    """What the kernel is compiled for.

    Attributes
    ----------
    x_dtype, gy_dtype, compute : str
        The dtypes of x, of gy, and of the sums.
    lanes, vectors : int
        Lanes of a vector, vectors of a span per tile.
    rows, taps : int
        Output channels, and taps of the axis before the last, per tile.
    rank : int
        Spatial axes.
    masked : bool
        True if the last vectors of a span are not full.
    """

    x_dtype: str
    gy_dtype: str
    compute: str
    lanes: int
    vectors: int
    rows: int
    taps: int
    rank: int
    masked: bool


def arguments(rank: int) -> tuple[str, ...]:
    """List the names of the kernel arguments."""
    outer = (
        f"{name}{a}" for a in range(rank - 1) for name in ("table", "taps", "out", "gy_stride")
    )
    return (
        "counter", "chunks", "slices", "slice", "items", "row_tiles", "span_tiles", "tap_tiles",
        "partial_sums", "x", "gy", "sums", "x_batch", "gy_batch", "gy_last", "x_last",
        "sums_partial", "filters", "span", "lines", "line", "lines_at_once", "line_at_once",
        "regions", "line_parts",
        "inside_first", "inside_last", "x_start", "x_line",
        *outer,
    )  # fmt: skip


def kernel(spec: LaneTile) -> str:
    """Write the LLVM IR of the kernel ``run_lanes``."""
    code = Code("run_lanes", arguments(spec.rank))
    with code.chunks(code["chunks"]) as chunk:
        part, partial = chunk % code["slices"], chunk // code["slices"]
        items = part * code["slice"], (part * code["slice"] + code["slice"]).minimum(code["items"])
        begin = partial * code["regions"] // code["partial_sums"]
        end = (partial + 1) * code["regions"] // code["partial_sums"]
        sums = code.array("sums", spec.compute).at(partial * code["sums_partial"])
        with code.loop(begin, end) as region_number:
            line, line_part = (
                region_number // code["line_parts"],
                region_number % code["line_parts"],
            )
            first, left = line * code["lines_at_once"], line_part * code["line_at_once"]
            last = (first + code["lines_at_once"]).minimum(code["lines"])
            right = (left + code["line_at_once"]).minimum(code["line"])
            region = _Region(first, last, left, right)
            with code.loop(*items) as item:
                _compute_tile(code, spec, region, item, sums, region_number.equals(begin))
    return code.text()


@dataclass(frozen=True)
class _Region:
    """A region of outputs: lines from first to last, outputs from begin to end of each."""

    first: Value
    last: Value
    begin: Value
    end: Value


@dataclass(frozen=True)
class _Tile:
    """A tile: its first row and span element, its tap on each outer axis, its interior, its sums.

    From `low` to `high` the spans of outputs lie inside x.
    """

    row: Value
    span: Value
    taps: list[Value]
    low: Value
    high: Value
    masks: list[Mask]
    sums: dict[tuple[int, int, int], Variable]


def _compute_tile(
    code: Code, spec: LaneTile, region: _Region, item: Value, sums: Pointer, is_first: Value
) -> None:
    """Sum one tile over a region and add it to the partial sum."""
    row_tile, remaining = item % code["row_tiles"], item // code["row_tiles"]
    span_tile, remaining = remaining % code["span_tiles"], remaining // code["span_tiles"]
    row = (row_tile * spec.rows).minimum(code["filters"] - spec.rows)
    own_row, own_tap, taps = (
        row_tile * spec.rows,
        code.number(0),
        [code.number(0)] * (spec.rank - 1),
    )
    tap = code.number(0)  # among the taps of all axes but the last
    if spec.rank > 1:
        own_tap, remaining = (
            (remaining % code["tap_tiles"]) * spec.taps,
            remaining // code["tap_tiles"],
        )
        taps[-1] = own_tap.minimum(code[f"taps{spec.rank - 2}"] - spec.taps)
        tap = remaining * code[f"taps{spec.rank - 2}"] + taps[-1]
    for a in reversed(range(spec.rank - 2)):
        taps[a], remaining = remaining % code[f"taps{a}"], remaining // code[f"taps{a}"]
    span = span_tile * (spec.lanes * spec.vectors)
    left = code["span"] - span
    low = code.array("inside_first", "int64").at(span_tile).load()
    high = code.array("inside_last", "int64").at(span_tile).load()
    low, high = low.maximum(region.begin).minimum(region.end), high.minimum(region.end)
    high = high.maximum(low)
    masks = [code.first_lanes(left - v * spec.lanes, spec.lanes) for v in range(spec.vectors)]
    totals = {
        (k, r, v): code.variable(code.zero(spec.compute, spec.lanes))
        for k in range(spec.taps) for r in range(spec.rows) for v in range(spec.vectors)
    }  # fmt: skip
    tile = _Tile(row, span, taps, low, high, masks, totals)
    _sum_region(code, spec, region, tile)
    for k in range(spec.taps):
        for r in range(spec.rows):
            is_own = (
                (taps[-1] + k >= own_tap) & (row + r >= own_row)
                if spec.rank > 1
                else (row + r >= own_row)
            )
            with code.when(is_own):
                sums_row = sums.at(((tap + k) * code["filters"] + row + r) * code["span"] + span)
                for v, mask in enumerate(masks):
                    pointer, total = sums_row.at(v * spec.lanes), totals[k, r, v]
                    with code.when(is_first ^ 1):
                        total.set(total.get() + pointer.load(spec.lanes, mask))
                    pointer.store(total.get(), mask)


def _sum_region(code: Code, spec: LaneTile, region: _Region, tile: _Tile) -> None:
    """Add the products of the region's lines: all taps of a tile at once if none is in padding."""
    with code.loop(region.first, region.last) as line:
        remaining, offset, gy_offset = line, code.number(0), code.number(0)
        offsets = [code.number(0)] * spec.taps
        for a in reversed(range(spec.rank - 1)):
            o, remaining = remaining % code[f"out{a}"], remaining // code[f"out{a}"]
            table = code.array(f"table{a}", "int64").at(o * code[f"taps{a}"] + tile.taps[a])
            if a == spec.rank - 2:
                offsets = [table.at(k).load() for k in range(spec.taps)]
            else:
                offset = offset + table.load()
            gy_offset = gy_offset + o * code[f"gy_stride{a}"]
        offsets = [tap_offset + offset for tap_offset in offsets]
        x = code.array("x", spec.x_dtype).at(remaining * code["x_batch"])
        gy = code.array("gy", spec.gy_dtype).at(remaining * code["gy_batch"] + gy_offset + tile.row)
        lowest = offsets[0]
        for tap_offset in offsets[1:]:
            lowest = lowest.minimum(tap_offset)
        several_taps = spec.taps > 1
        if several_taps:
            with code.when(lowest >= 0):
                _add_inside(code, spec, tile, [x.at(tap_offset) for tap_offset in offsets], 0, gy)
        for k, tap_offset in enumerate(offsets):
            with code.when(tap_offset >= 0):
                for ends in ((region.begin, tile.low), (tile.high, region.end)):
                    _add_edge(code, spec, tile, x.at(tap_offset), k, gy, ends)
                if not several_taps:
                    _add_inside(code, spec, tile, [x.at(tap_offset)], k, gy)
                    continue
                with code.when(lowest < 0):
                    _add_inside(code, spec, tile, [x.at(tap_offset)], k, gy)


def _broadcast_channels(code: Code, spec: LaneTile, gy: Pointer) -> list[Value]:
    """Load the output channels of one output and broadcast each."""
    return [
        code.splat(gy.at(r).load_as(spec.gy_dtype, spec.compute), spec.lanes)
        for r in range(spec.rows)
    ]


def _add_inside(
    code: Code, spec: LaneTile, tile: _Tile, lines: list[Pointer], k: int, gy: Pointer
) -> None:
    """Add the products of outputs whose spans lie inside x.

    `lines` are the lines of x of the taps from `k` on.
    """
    lines = [line.at(tile.span - code["x_start"]) for line in lines]
    with code.loop(tile.low, tile.high) as o:
        rows = _broadcast_channels(code, spec, gy.at(o * code["gy_last"]))
        for tap, line in enumerate(lines, k):
            span = line.at(o * code["x_last"])
            for v, mask in enumerate(tile.masks):
                numbers = span.at(v * spec.lanes).load_as(
                    spec.x_dtype, spec.compute, spec.lanes, mask if spec.masked else None
                )
                for r, number in enumerate(rows):
                    sums = tile.sums[tap, r, v]
                    sums.set(numbers.multiply_add(number, sums.get()))


def _add_edge(
    code: Code,
    spec: LaneTile,
    tile: _Tile,
    x: Pointer,
    k: int,
    gy: Pointer,
    ends: tuple[Value, Value],
) -> None:
    """Add the products of outputs whose spans leave x at an end, in the lanes inside only."""
    with code.loop(*ends) as o:
        rows = _broadcast_channels(code, spec, gy.at(o * code["gy_last"]))
        start = o * code["x_last"] + tile.span - code["x_start"]
        for v, mask in enumerate(tile.masks):
            first = start + v * spec.lanes
            lanes_before = code.first_lanes(code.number(0) - first, spec.lanes)
            inside = code.first_lanes(code["x_line"] - first, spec.lanes) & mask
            inside = inside & (lanes_before ^ all_lanes(code, spec.lanes))
            numbers = x.at(first).load_as(spec.x_dtype, spec.compute, spec.lanes, inside)
            for r, number in enumerate(rows):
                sums = tile.sums[k, r, v]
                products = numbers.multiply_add(number, sums.get())
                sums.set(inside.select(products, sums.get()))
