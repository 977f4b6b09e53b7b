"""Forward kernel for few channels per group, with vectors along channels; no window is copied.

The register tile is P neighbouring positions of a row by V vectors of output channels. For each tap
and each channel c of a group,

    acc[p, v] += lanes_of(x[position p under the tap, c]) * f[tap, c, vector v]

`cpu.conv.channelwise.panels` explains `lanes_of`. Of complex numbers, a register tile holds the
sums of x * Re f, and another those of x * Im f.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.vector_formats import combine_parts, shuffle, store
from einstride.cpu.conv.channelwise.panels import ChannelSchedule, Panel, loop_over_panels
from einstride.cpu.conv.channelwise.rows import (
    chunk_arguments,
    locate_rows,
    ranges_of_strip,
    row_arguments,
    visit_row,
)
from einstride.cpu.conv.channelwise.signature import Signature, interior
from einstride.cpu.conv.loop_nest import locate_line, loop_over_taps_inside
from einstride.cpu.conv.register_tile import RegisterTile
from einstride.cpu.runtime.argument_block import Call, bind
from einstride.cpu.runtime.offset_tables import lowest_offset, sources

MAX_UNROLLED_ROW = 56
"""Positions of a row whose tiles are unrolled, at most, so that border taps cost no look-up."""

MAX_UNROLLED_TAPS = 200
"""Taps of all positions of an unrolled row, at most: it bounds the kernel's code."""

FILTER_CACHE_BYTES = 1 << 14
"""Bytes of the taps that V vectors of output channels read per tile, at most, for V above 1: about
half of a first cache, so that they stay in it from tile to tile."""


@dataclass(frozen=True)
class Channels(ChannelSchedule):
    """The schedule of the forward kernel.

    Attributes
    ----------
    row : tuple of tuple of int
        For a row whose tiles are unrolled: the element of x under each tap of each position, -1 in
        padding of zeros. Empty for longer rows.
    """

    row: tuple[tuple[int, ...], ...] = ()

    in_rows = "output positions"
    loops = "rows of positions and strip, tile, panel of output channels, tap, input channel"


def kernel(schedule: Channels, names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``channelwise_channels``."""
    code = Code("channelwise_channels", names)
    with code.chunks(code["chunks"]) as chunk:
        strip, first, last, x, y = locate_rows(code, schedule, chunk)
        with code.loop(first, last) as row:
            _compute_row(code, schedule, x, y, row, strip)
    return code.text()


def _compute_row(
    code: Code, schedule: Channels, x: Pointer, y: Pointer, row: Value, strip: Value
) -> None:
    """Compute one strip of a row of positions."""
    axis = schedule.rank - 1
    tables, _, y = locate_line(code, axis, row, y)
    y_stride = code[f"y_stride{axis}"]
    if schedule.row:
        for o in range(0, len(schedule.row), schedule.rows):
            taps = schedule.row[o : o + schedule.rows]
            tile = replace(schedule, row=taps, rows=len(taps))
            _compute_tile(code, tile, x.at(code["x_back"]), y.at(y_stride * o), tables)
        return
    vectors = min(schedule.rows * schedule.vectors, 4)
    border_tile = replace(
        schedule, rows=1, vectors=vectors if schedule.spans_groups else schedule.vectors
    )

    def compute_border(w: Value, _: Value, column: Value) -> None:
        table = code.array(f"table{axis}", "int64").at(column * code[f"taps{axis}"])
        _compute_tile(code, border_tile, x, y.at(w * y_stride), [*tables, table])

    def compute_interior(start: Value, stop: Value) -> None:
        with code.loop(start, stop, schedule.rows) as w0:
            w = w0.minimum(stop - schedule.rows)  # the last tile overlaps the one before
            pointer = x.at(code["x_first"] + w * code["window_stride"])
            _compute_tile(code, schedule, pointer, y.at(w * y_stride), tables)

    ranges = ranges_of_strip(code, strip, code[f"out{axis}"])
    visit_row(code, ranges, 1, compute_border, compute_interior)


def _compute_tile(
    code: Code, schedule: Channels, x: Pointer, y: Pointer, tables: list[Pointer]
) -> None:
    """Compute all output channels of a tile; at the border, `tables` has one for the last axis."""

    def compute_panel(panel: Panel, group: Value) -> None:
        start = x if schedule.spans_groups else x.at(group * code["channels"] * code["x_channel"])
        _compute_panel(code, schedule, panel, start, y, tables)

    lanes = code["filters"] * schedule.parts
    count = lanes if schedule.spans_groups else code["groups"]
    loop_over_panels(code, schedule, code.number(0), count, compute_panel)


def _compute_panel(
    code: Code, schedule: Channels, panel: Panel, x: Pointer, y: Pointer, tables: list[Pointer]
) -> None:
    """Compute a panel of output channels of a tile."""
    lanes, axis = schedule.lanes, schedule.rank - 1
    tiles = panel.tiles(schedule.rows)
    bias = code.array("bias", schedule.compute).at(panel.lane)
    with code.when(code["bias"].equals(0) ^ 1):
        tiles[0].set_rows(lambda v: bias.at(v * lanes).load(lanes, panel.masks[v]))

    def neighbours(x: Pointer) -> Iterator[tuple[int, Pointer]]:
        for p in range(schedule.rows):
            yield p, x.at(code["window_stride"] * p) if p else x

    def add_taps(x: Pointer, tap: Value) -> None:
        taps = code[f"taps{axis}"]
        if len(tables) > axis:
            _add_tap(code, schedule, panel, tiles, neighbours(x), tap)
        elif not schedule.row:
            with code.loop(0, taps) as k:
                positions = neighbours(x.at(k * code["x_tap"]))
                _add_tap(code, schedule, panel, tiles, positions, tap * taps + k)
        else:
            for t, elements in enumerate(zip(*schedule.row, strict=True)):
                positions = ((p, x.at(code["x_stride"] * i)) for p, i in enumerate(elements)
                             if i >= 0)  # fmt: skip
                _add_tap(code, schedule, panel, tiles, positions, tap * taps + t)

    loop_over_taps_inside(code, tables, x, add_taps)
    stride = None if schedule.y_contiguous else code["y_channel"]
    for p in range(schedule.rows):
        position = y.at(code[f"y_stride{axis}"] * p) if p else y
        for v, mask in enumerate(panel.masks):
            sums = [tile.row(p)[v].get() for tile in tiles]
            value = combine_parts(*sums) if schedule.x.pairs else sums[0]
            store(panel.address(position, v, stride), value, schedule.y, mask, stride)


def _add_tap(
    code: Code, schedule: Channels, panel: Panel, tiles: list[RegisterTile],
    positions: Iterable[tuple[int, Pointer]], tap: Value,
) -> None:  # fmt: skip
    """Add the products of one tap for each row of a tile and its address in x."""
    lanes, parts = schedule.lanes, schedule.parts
    f = code.array("f", schedule.compute).at(panel.lane)

    def load_taps(number: Value) -> list[Value]:
        row = f.at(number * (code["filters"] * parts))
        return [row.at(v * lanes).load(lanes, mask) for v, mask in enumerate(panel.masks)]

    if schedule.spans_groups:
        taps = [load_taps(tap * schedule.inputs + c) for c in range(schedule.inputs)]

        def factor(c: int, part: int, v: int) -> Value:
            order = [i // 2 * 2 + part for i in range(lanes)]
            return shuffle(taps[c][v], order) if schedule.x.pairs else taps[c][v]

        for p, x in positions:
            panel.add_products(tiles, [p] * schedule.inputs, x, factor)
        return
    numbered = list(positions)
    with code.loop(0, code["channels"]) as c:
        row = load_taps(tap * code["channels"] + c)
        offset = c * parts if schedule.x_contiguous else c * code["x_channel"]
        for p, x in numbered:
            panel.add_products(tiles, [p], x.at(offset), lambda _c, _part, v: row[v])


def call(sig: Signature) -> Call:
    """Make the call that computes y = conv(x, f) + bias from the addresses x, y, f, bias (or 0)."""
    g = sig.geometry
    inside, outside = interior(g)
    row = unrolled_row(sig)
    positions, vectors = blocking(sig, len(row) or outside - inside)
    schedule = Channels(
        sig.x, sig.y, sig.lanes, positions, vectors, g.rank, *sig.contiguous_channels,
        g.channels // g.groups if sig.spans_groups else 1,
        g.filters // g.groups if sig.spans_groups else 0, row,
    )  # fmt: skip
    x_stride = sig.x_strides[-2]
    arguments = {
        **chunk_arguments(sig, 0 if row else outside - inside, positions),
        **row_arguments(sig, inside, outside), "bias": 0, "x_stride": x_stride,
        "x_back": -lowest_offset(g.size[-1], x_stride),
    }  # fmt: skip
    threads = min(sig.useful_threads, arguments["chunks"])
    return bind("channelwise_channels", kernel, schedule, arguments, threads, sig.target)


def unrolled_row(sig: Signature) -> tuple[tuple[int, ...], ...]:
    """Return the elements of x under each tap of each position of an unrolled row; else empty."""
    g = sig.geometry
    if not 1 < g.out[-1] <= MAX_UNROLLED_ROW or g.out[-1] * g.kernel[-1] > MAX_UNROLLED_TAPS:
        return ()
    if sig.spans_groups and g.channels > g.groups:
        return ()
    return tuple(map(tuple, sources(g, g.rank - 1).tolist()))


def blocking(sig: Signature, width: int) -> tuple[int, int]:
    """Choose P and V, the positions and vectors of a register tile.

    They take as many accumulators as the registers have, for at most `width` positions.
    """
    g = sig.geometry
    filters = g.filters if sig.spans_groups else g.filters // g.groups
    count = -(-filters * sig.parts // sig.lanes)
    max_tile, vectors = min(sig.accumulators, 8), 1
    if not sig.spans_groups or g.channels == g.groups:
        divisors = [v for v in (4, 3, 2) if v * 2 <= sig.accumulators and count % v == 0]
        vectors = divisors[0] if divisors else max(min(count, 4, sig.accumulators // 2), 1)
        if prod(g.kernel) * vectors * sig.target.vector_bytes > FILTER_CACHE_BYTES:
            vectors = 1
        max_tile = max(sig.accumulators // vectors, 1)
    if unrolled_row(sig):
        max_tile = min(sig.accumulators, 14)
        tile = -(-g.out[-1] // -(-g.out[-1] // max_tile))
        return tile, max(min(sig.accumulators // tile, vectors), 1)
    return max(-(-width // max(-(-width // max_tile), 1)), 1), vectors
