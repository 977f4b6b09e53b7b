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

import numpy as np

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.vector_formats import combine_parts, shuffle, store
from einstride.cpu.conv.blocked_sums import ROW, BlockedSums, block_arguments, block_unit
from einstride.cpu.conv.channelwise.panels import ChannelSchedule, Panel, loop_over_panels
from einstride.cpu.conv.channelwise.rows import (
    Ranges,
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

MAX_UNROLLED_TAPS = 500
"""Taps of all positions whose tiles are unrolled, at most: it bounds the kernel's code."""

LONG_ROW = 4
"""Tiles of the largest size from which a row is long: its tiles are of that size. Shorter rows have
tiles that overlap less."""

FILTER_CACHE_BYTES = 1 << 14
"""Bytes of the taps that V vectors of output channels read per tile, at most, for V above 1: about
half of a first cache, so that they stay in it from tile to tile."""

Positions = tuple[tuple[int | None, ...], ...]
"""The elements of x under each tap of neighbouring positions: their numbers in the row, or from -1
down as Python counts from its end; None in padding of zeros."""


@dataclass(frozen=True)
class Channels(ChannelSchedule):
    """The schedule of the forward kernel.

    The tiles of a row may be unrolled: they have no loop over the taps of the last axis, and no
    look-up of taps at the border. Tiles may overlap, so nothing of them depends on the length of
    the row, if it is longer than its borders and a tile.

    Attributes
    ----------
    first, last : Positions
        The unrolled positions at both ends of a row, in whole tiles. A row of few positions is all
        in `first`.
    inside : Positions
        The positions of an unrolled tile between them; elements are counted from the first of them.
        All three are empty if tiles are not unrolled.
    block_unit : str
        Where blocks of sums may begin: see `blocked_sums`.
    """

    first: Positions = ()
    inside: Positions = ()
    last: Positions = ()
    block_unit: str = ""

    in_rows = "output positions"
    loops = "rows of positions and strip, tile, panel of output channels, tap, input channel"

    @property
    def unrolled(self) -> bool:
        """True if the taps of all tiles are known."""
        return bool(self.first or self.inside)


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
    ranges = ranges_of_strip(code, strip, code[f"out{axis}"])
    if schedule.unrolled:
        _compute_unrolled(code, schedule, x, y, ranges, tables)
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

    visit_row(code, ranges, 1, compute_border, compute_interior)


def _compute_unrolled(
    code: Code, schedule: Channels, x: Pointer, y: Pointer, ranges: Ranges, tables: list[Pointer]
) -> None:
    """Compute one strip of a row by unrolled tiles."""
    y_stride, out = code[f"y_stride{schedule.rank - 1}"], code[f"out{schedule.rank - 1}"]

    def compute(positions: Positions, x: Pointer, y: Pointer) -> None:
        for o in range(0, len(positions), schedule.rows):
            some = positions[o : o + schedule.rows]
            tile = replace(schedule, rows=len(some))
            _compute_tile(code, tile, x, y.at(y_stride * o), tables, some)

    (_, inside), (start, stop), (outside, end) = ranges
    row = x.at(code["x_back"])
    with code.when(inside >= 1):
        compute(schedule.first, row, y)
    if schedule.inside:
        with code.loop(start, stop, schedule.rows) as w0:
            w = w0.minimum(code["last_tile"])
            pointer = x.at(code["x_first"] + w * code["window_stride"])
            compute(schedule.inside, pointer, y.at(w * y_stride))
    if schedule.last:
        with code.when(outside < end):
            compute(schedule.last, row, y.at((out - len(schedule.last)) * y_stride))


def _compute_tile(
    code: Code, schedule: Channels, x: Pointer, y: Pointer, tables: list[Pointer],
    positions: Positions = (),
) -> None:  # fmt: skip
    """Compute all output channels of a tile; at the border, `tables` has one for the last axis."""

    def compute_panel(panel: Panel, group: Value) -> None:
        start = x if schedule.spans_groups else x.at(group * code["channels"] * code["x_channel"])
        _compute_panel(code, schedule, panel, start, y, tables, positions)

    lanes = code["filters"] * schedule.parts
    count = lanes if schedule.spans_groups else code["groups"]
    loop_over_panels(code, schedule, code.number(0), count, compute_panel)


def _compute_panel(
    code: Code, schedule: Channels, panel: Panel, x: Pointer, y: Pointer, tables: list[Pointer],
    positions: Positions,
) -> None:  # fmt: skip
    """Compute a panel of output channels of a tile."""
    lanes, axis = schedule.lanes, schedule.rank - 1
    tiles = panel.tiles(schedule.rows)
    bias = code.array("bias", schedule.compute).at(panel.lane)
    with code.when(code["bias"].equals(0) ^ 1):
        tiles[0].set_rows(lambda v: bias.at(v * lanes).load(lanes, panel.masks[v]))

    accumulators = [sums for tile in tiles for sums in tile.accumulators]
    tree = BlockedSums(code, accumulators, lanes, schedule.block_unit)

    def neighbours(x: Pointer) -> Iterator[tuple[int, Pointer]]:
        for p in range(schedule.rows):
            yield p, x.at(code["window_stride"] * p) if p else x

    def add_taps(x: Pointer, tap: Value) -> None:
        taps = code[f"taps{axis}"]
        if len(tables) > axis:
            _add_tap(code, schedule, panel, tiles, tree, neighbours(x), tap)
        elif not positions:
            with code.loop(0, taps) as k:
                windows = neighbours(x.at(k * code["x_tap"]))
                _add_tap(code, schedule, panel, tiles, tree, windows, tap * taps + k)
        else:
            tree.begin_row(tap)
            for t, elements in enumerate(zip(*positions, strict=True)):
                known = ((p, element(x, e)) for p, e in enumerate(elements) if e is not None)
                _add_tap(code, schedule, panel, tiles, tree, known, tap * taps + t)

    def element(x: Pointer, number: int) -> Pointer:
        start = x if number >= 0 else x.at(code["x_length"])
        return start.at(code["x_stride"] * number)

    loop_over_taps_inside(code, tables, x, add_taps)
    tree.finish()
    stride = None if schedule.y_contiguous else code["y_channel"]
    for p in range(schedule.rows):
        position = y.at(code[f"y_stride{axis}"] * p) if p else y
        for v, mask in enumerate(panel.masks):
            sums = [tile.row(p)[v].get() for tile in tiles]
            value = combine_parts(*sums) if schedule.x.pairs else sums[0]
            store(panel.address(position, v, stride), value, schedule.y, mask, stride)


def _add_tap(
    code: Code, schedule: Channels, panel: Panel, tiles: list[RegisterTile],
    tree: BlockedSums, positions: Iterable[tuple[int, Pointer]], tap: Value,
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

        with tree.loop_over_channels(tap, code.number(schedule.inputs)):
            for p, x in positions:
                panel.add_products(tiles, [p] * schedule.inputs, x, factor)
        return
    numbered = list(positions)

    with tree.loop_over_channels(tap, code["channels"]) as ends, code.loop(*ends) as c:
        row = load_taps(tap * code["channels"] + c)
        offset = c * parts if schedule.x_contiguous else c * code["x_channel"]
        for p, x in numbered:
            panel.add_products(tiles, [p], x.at(offset), lambda _c, _part, v: row[v])


def call(sig: Signature) -> Call:
    """Make the call that computes y = conv(x, f) + bias from the addresses x, y, f, bias (or 0)."""
    g, channels = sig.geometry, sig.geometry.channels // sig.geometry.groups
    inside, outside = interior(g)
    tile, vectors = unrolled_blocking(sig)
    first, between, last = unrolled(sig, tile)
    x_stride = sig.x_strides[-2]
    if first or between:
        ends = len(first), max(g.out[-1] - len(last), len(first))
        arguments = row_arguments(sig, 0, g.out[-1]) | dict(
            zip(("inside", "outside"), ends, strict=True)
        )
    else:
        tile, vectors = blocking(sig, outside - inside)
        ends = inside, outside
        arguments = row_arguments(sig, inside, outside)
    unit = block_unit(
        sig.x.computed if sig.blocked else "", sig.lanes, g.kernel, channels, rows=False
    )
    if unit and (first or between):
        # Blocks that begin between the taps of unrolled tiles cost 5 to 15%.
        unit = ROW if prod(g.kernel[:-1]) > 1 else ""
    schedule = Channels(
        sig.x, sig.y, sig.lanes, tile, vectors, g.rank, *sig.contiguous_channels,
        channels if sig.spans_groups else 1,
        g.filters // g.groups if sig.spans_groups else 0, first, between, last,
        unit,
    )  # fmt: skip
    arguments |= {
        **chunk_arguments(sig, ends[1] - ends[0], tile), "bias": 0, "x_stride": x_stride,
        "x_length": g.size[-1] * x_stride, "x_back": -lowest_offset(g.size[-1], x_stride),
        "last_tile": outside - tile,
        **block_arguments(schedule.block_unit, sig.lanes, g.kernel, channels),
    }  # fmt: skip
    threads = min(sig.useful_threads, arguments["chunks"])
    return bind("channelwise_channels", kernel, schedule, arguments, threads, sig.target)


def unrolled(sig: Signature, tile: int) -> tuple[Positions, Positions, Positions]:
    """Return `first`, `inside` and `last` of a schedule whose tiles have `tile` positions."""
    g = sig.geometry
    s, extent, kernel, size, out = (
        axes[-1] for axes in (g.stride, g.extent, g.kernel, g.size, g.out)
    )
    if out == 1 or (sig.spans_groups and g.channels > g.groups):
        return (), (), ()
    inside, outside = interior(g)
    left, right = (-(-count // tile) * tile for count in (inside, out - outside))
    is_long = tile <= outside - inside and left <= outside and inside <= out - right
    if is_long and (left + tile + right) * kernel <= MAX_UNROLLED_TAPS:

        def numbers(start: int, stop: int, near_end: bool) -> Positions:
            reach = (stop - start) * s + extent
            found = sources(g, g.rank - 1, np.arange(start, stop))
            first_behind = size - reach if near_end else reach
            behind = np.where(found >= first_behind, found - size, found)
            return tuple(
                tuple(None if e < 0 else n for e, n in zip(*position, strict=True))
                for position in zip(found.tolist(), behind.tolist(), strict=True)
            )

        taps = range(0, extent, g.dilation[-1])
        between = tuple(tuple(p * s + t for t in taps) for p in range(tile))
        return numbers(0, left, False), between, numbers(out - right, out, True)
    if out * kernel > MAX_UNROLLED_TAPS:
        return (), (), ()
    row = sources(g, g.rank - 1).tolist()
    return tuple(tuple(None if e < 0 else e for e in position) for position in row), (), ()


def unrolled_blocking(sig: Signature) -> tuple[int, int]:
    """Choose P and V of a row whose tiles are unrolled."""
    out = sig.geometry.out[-1]
    _, vectors = blocking(sig, out)
    tile = min(sig.accumulators, 14)
    if out < LONG_ROW * tile:
        tile = -(-out // -(-out // tile))
    return tile, max(min(sig.accumulators // tile, vectors), 1)


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
    return max(-(-width // max(-(-width // max_tile), 1)), 1), vectors
