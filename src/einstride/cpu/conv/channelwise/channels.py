"""Forward kernel for few channels per group, with vectors along channels; no window is copied.

The register tile is P neighbouring positions of a row by V vectors of output channels. For each tap
and each channel c of a group,

    acc[p, v] += lanes_of(x[position p under the tap, c]) * f[tap, c, vector v]

`lanes_of` depends on the groups. If vectors span groups, a vector of x is loaded and shuffled into
the order of the output's lanes; a depthwise layer needs no shuffle. Otherwise a vector lies within
one group, and one number of x is broadcast to all lanes.

Of complex numbers, a register tile holds the sums of x * Re f, and another those of x * Im f.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.vector_formats import combine_parts, load, shuffle, store
from einstride.cpu.conv.channelwise.rows import (
    RowSchedule,
    chunk_arguments,
    locate_rows,
    ranges_of_strip,
    row_arguments,
    visit_row,
)
from einstride.cpu.conv.channelwise.signature import Signature, interior
from einstride.cpu.conv.loop_nest import locate_line, loop_over_taps_inside
from einstride.cpu.conv.register_tile import RegisterTile, multiply_add
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
class ChannelSchedule(RowSchedule):
    """What the schedules with vectors along channels have.

    Attributes
    ----------
    inputs, outputs : int
        Input and output channels per group if vectors span groups; else the input channels of a
        tile, and 0.
    """

    inputs: int
    outputs: int

    in_lanes = "output channels"
    operands = "vectors of output channels"

    @property
    def spans_groups(self) -> bool:
        """True if a vector holds whole groups."""
        return self.outputs > 0


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


Panel = Callable[[Any, Value, Value, "Value | None"], None]
"""Write a panel of output channels from its schedule, its group (0 if vectors span groups), its
first lane of all groups, and the number of lanes from there on; None if all lanes exist."""


def loop_over_panels(
    code: Code, schedule: ChannelSchedule, first: Value, last: Value, write_panel: Panel
) -> None:
    """Loop over panels of V vectors, of lanes `first` to `last` or of groups `first` to `last`."""
    width, parts = schedule.width, schedule.parts
    if schedule.spans_groups:
        full = last - (last - first) % width
        with code.loop(first, full, width) as d:
            write_panel(schedule, code.number(0), d, None)
        with code.loop(full, last, schedule.lanes) as d:
            write_panel(replace(schedule, vectors=1), code.number(0), d, last - d)
        return
    lanes = code["filters"] // code["groups"] * parts
    with code.loop(first, last) as group, code.loop(0, lanes, width) as d:
        write_panel(schedule, group, group * lanes + d, lanes - d)


def lane_masks(
    code: Code, schedule: ChannelSchedule, lanes_left: Value | None
) -> list[Mask | None]:
    """Make the masks of a panel's vectors; None where all lanes exist."""
    lanes = schedule.lanes
    return [
        None if lanes_left is None else code.first_lanes(lanes_left - v * lanes, lanes)
        for v in range(schedule.vectors)
    ]


def locate_lane(pointer: Pointer, lane: Value, stride: Value | None, parts: int) -> Pointer:
    """Return the address of a lane of all channels, whose stride is None if they are contiguous."""
    return pointer.at(lane if stride is None else lane // parts * stride)


def load_across_groups(
    code: Code, schedule: ChannelSchedule, x: Pointer, lane: Value, mask: Mask | None,
    lanes_left: Value | None,
) -> Iterator[Value]:  # fmt: skip
    """Load x for whole groups, from the output `lane` on; yield a vector for each input channel."""
    lanes, parts = schedule.lanes, schedule.parts
    inputs, outputs = schedule.inputs, schedule.outputs
    window = lanes * inputs // outputs
    if lanes_left is not None and inputs != outputs:
        mask = code.first_lanes(lanes_left * inputs // outputs, window)
    stride = None if schedule.x_contiguous else code["x_channel"]
    pointer = locate_lane(x, lane * inputs // outputs, stride, parts)
    vector = load(pointer, schedule.x, window, mask, stride)
    for c in range(inputs):
        order = [(i // parts // outputs * inputs + c) * parts + i % parts for i in range(lanes)]
        yield shuffle(vector, order)


def broadcast_within_group(code: Code, schedule: ChannelSchedule, x: Pointer) -> list[Value]:
    """Load an element of x; return a vector for each of its parts."""
    return [
        code.splat(x.at(part).load_as(schedule.x.stored, schedule.compute), schedule.lanes)
        for part in range(schedule.parts)
    ]


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

    def compute_panel(schedule: Channels, group: Value, d: Value, lanes_left: Value | None) -> None:
        start = x if schedule.spans_groups else x.at(group * code["channels"] * code["x_channel"])
        _compute_panel(code, schedule, start, y, tables, d, lanes_left)

    lanes = code["filters"] * schedule.parts
    count = lanes if schedule.spans_groups else code["groups"]
    loop_over_panels(code, schedule, code.number(0), count, compute_panel)


def _compute_panel(
    code: Code, schedule: Channels, x: Pointer, y: Pointer, tables: list[Pointer], d: Value,
    lanes_left: Value | None,
) -> None:  # fmt: skip
    """Compute some vectors of output channels of a tile, from lane d on."""
    lanes, parts, axis = schedule.lanes, schedule.parts, schedule.rank - 1
    masks = lane_masks(code, schedule, lanes_left)
    tiles = schedule.tiles(code)
    bias = code.array("bias", schedule.compute).at(d)
    with code.when(code["bias"].equals(0) ^ 1):
        tiles[0].set_rows(lambda v: bias.at(v * lanes).load(lanes, masks[v]))
    f = code.array("f", schedule.compute).at(d)
    add_products = _add_across_groups if schedule.spans_groups else _add_within_group

    def add_tap(positions: Iterable[tuple[int, Pointer]], tap: Value) -> None:
        add_products(code, schedule, list(positions), f, tap, d, tiles, masks, lanes_left)

    def neighbours(x: Pointer) -> Iterator[tuple[int, Pointer]]:
        for p in range(schedule.rows):
            yield p, x.at(code["window_stride"] * p) if p else x

    def add_taps(x: Pointer, tap: Value) -> None:
        taps = code[f"taps{axis}"]
        if len(tables) > axis:
            add_tap(neighbours(x), tap)
        elif not schedule.row:
            with code.loop(0, taps) as k:
                add_tap(neighbours(x.at(k * code["x_tap"])), tap * taps + k)
        else:
            for t, elements in enumerate(zip(*schedule.row, strict=True)):
                positions = ((p, x.at(code["x_stride"] * i)) for p, i in enumerate(elements)
                             if i >= 0)  # fmt: skip
                add_tap(positions, tap * taps + t)

    loop_over_taps_inside(code, tables, x, add_taps)
    stride = None if schedule.y_contiguous else code["y_channel"]
    for p in range(schedule.rows):
        position = y.at(code[f"y_stride{axis}"] * p) if p else y
        for v, mask in enumerate(masks):
            sums = [tile.row(p)[v].get() for tile in tiles]
            value = combine_parts(*sums) if schedule.x.pairs else sums[0]
            pointer = locate_lane(position, d + v * lanes, stride, parts)
            store(pointer, value, schedule.y, mask, stride)


def _add_across_groups(
    code: Code, schedule: Channels, positions: list[tuple[int, Pointer]], f: Pointer, tap: Value,
    d: Value, tiles: list[RegisterTile], masks: list[Mask | None], lanes_left: Value | None,
) -> None:  # fmt: skip
    """Add the products of one tap with vectors that hold whole groups."""
    lanes, inputs = schedule.lanes, schedule.inputs
    row = code["filters"] * schedule.parts
    f_vectors = [
        [f.at((tap * inputs + c) * row + v * lanes).load(lanes, m) for v, m in enumerate(masks)]
        for c in range(inputs)
    ]
    for p, x in positions:
        for v, mask in enumerate(masks):
            lane = d + v * lanes
            x_vectors = load_across_groups(code, schedule, x, lane, mask, lanes_left)
            for x_vector, f_row in zip(x_vectors, f_vectors, strict=True):
                for part, tile in enumerate(tiles):
                    factor = f_row[v]
                    if schedule.x.pairs:
                        factor = shuffle(factor, [i // 2 * 2 + part for i in range(lanes)])
                    multiply_add(tile.row(p)[v], x_vector, factor)


def _add_within_group(
    code: Code, schedule: Channels, positions: list[tuple[int, Pointer]], f: Pointer, tap: Value,
    d: Value, tiles: list[RegisterTile], masks: list[Mask | None], lanes_left: Value | None,
) -> None:  # fmt: skip
    """Add the products of one tap with vectors within one group."""
    parts, lanes = schedule.parts, schedule.lanes
    with code.loop(0, code["channels"]) as c:
        f = f.at((tap * code["channels"] + c) * (code["filters"] * parts))
        f_row = [f.at(v * lanes).load(lanes, mask) for v, mask in enumerate(masks)]
        offset = c * parts if schedule.x_contiguous else c * code["x_channel"]
        for p, x in positions:
            x_parts = broadcast_within_group(code, schedule, x.at(offset))
            for tile, x_part in zip(tiles, x_parts, strict=True):
                tile.add_products(p, x_part, f_row)


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
    return bind("channelwise_channels", kernel, schedule, arguments, threads, sig.machine)


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
        if prod(g.kernel) * vectors * sig.machine.vector_bytes > FILTER_CACHE_BYTES:
            vectors = 1
        max_tile = max(sig.accumulators // vectors, 1)
    if unrolled_row(sig):
        max_tile = min(sig.accumulators, 14)
        tile = -(-g.out[-1] // -(-g.out[-1] // max_tile))
        return tile, max(min(sig.accumulators // tile, vectors), 1)
    return max(-(-width // max(-(-width // max_tile), 1)), 1), vectors
