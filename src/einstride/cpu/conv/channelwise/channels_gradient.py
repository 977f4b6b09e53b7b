"""Filter gradient kernel for few channels per group, with vectors along channels.

    gf[tap, c, d] += x[position under the tap, c] * gy[position, d]

The register tile is T taps of the last axis by some input channels by V vectors of output channels.
It is summed over a span of positions of a row and then added to a partial sum in memory.

`cpu.conv.channelwise.panels` explains how x is shuffled or broadcast to the lanes. Of complex
numbers, a register tile holds the sums of x * gy and another those of x * swap_parts(gy); within a
group, those of Re x * gy and of Im x * gy.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

from llvmlite import ir

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.vector_formats import combine_conjugate, load, swap_parts
from einstride.cpu.conv.channelwise.panels import ChannelSchedule, Panel, loop_over_panels
from einstride.cpu.conv.channelwise.partial_sums import (
    MAX_PANELS,
    PartialSums,
    locate_partial_sum,
    loop_over_tap_tiles,
)
from einstride.cpu.conv.channelwise.rows import (
    locate_row,
    ranges_of_span,
    row_arguments,
    visit_row,
)
from einstride.cpu.conv.channelwise.signature import Signature, interior
from einstride.cpu.conv.filter_gradient import Range
from einstride.cpu.conv.loop_nest import block
from einstride.cpu.conv.register_tile import RegisterTile, add_in_memory
from einstride.cpu.runtime.argument_block import Call, bind
from einstride.cpu.runtime.chunks import block_size

SPAN = 32
"""Positions that are summed in registers before the register tile is added to memory. It decides
the order of sums, so a change changes the bits of results."""


@dataclass(frozen=True)
class ChannelsGradient(ChannelSchedule):
    """The schedule of the filter gradient; rows of a register tile are (tap, input channel).

    Attributes
    ----------
    kernel : int
        Taps of the last axis.
    """

    kernel: int

    in_rows = "(tap, input channel) pairs"
    loops = "panel and partial sum, row of positions, span, panel of output channels, tap, position"
    stores = "added to a partial sum after each span"

    @property
    def taps(self) -> int:
        """Taps of a register tile."""
        return self.rows // self.inputs

    @property
    def sides(self) -> dict[str, int]:
        """The lengths of the sides of the register tile, by name."""
        return {
            "lanes": self.lanes, "vectors": self.vectors, "input channels": self.inputs,
            "taps": self.taps,
        }  # fmt: skip


def kernel(schedule: ChannelsGradient, names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``channelwise_channels_gradient``."""
    code = Code("channelwise_channels_gradient", names)
    with code.chunks(code["chunks"]) as chunk:
        number, strip, rows, f = locate_partial_sum(code, chunk, schedule.compute)
        with code.loop(*rows) as row:
            tables, x, y = locate_row(code, schedule, row)
            first, last = block(strip, code["strip"], code[f"out{schedule.rank - 1}"])
            lanes = code["filters"] * schedule.parts if schedule.spans_groups else code["groups"]
            lanes_of_panel = block(number, code["panel"], lanes)
            with code.loop(first, last, SPAN) as w0:
                span = w0, (w0 + SPAN).minimum(last)

                def add_panel(panel: Panel, group: Value) -> None:
                    if schedule.spans_groups:
                        _add_panel(code, schedule, panel, x, y, f, tables, code.number(0), span)
                        return
                    with code.loop(0, code["channels"], schedule.inputs) as c:
                        start = x.at((group * code["channels"] + c) * code["x_channel"])
                        _add_panel(code, schedule, panel, start, y, f, tables, c, span)

                loop_over_panels(code, schedule, *lanes_of_panel, add_panel)
    return code.text()


def _add_panel(
    code: Code, schedule: ChannelsGradient, panel: Panel, x: Pointer, y: Pointer, f: Pointer,
    tables: list[Pointer], c: Value, span: Range,
) -> None:  # fmt: skip
    """Add a span's products for all taps, the input channels from c on, and a panel."""
    row, inputs = code["filters"] * schedule.parts, schedule.inputs
    depth = inputs if schedule.spans_groups else code["channels"]

    def add_taps(x: Pointer, tap: Value, k: Value, taps: int) -> None:
        tiles = _sum_taps(code, schedule, panel, x, y, k, taps, span)
        for t, i in product(range(taps), range(inputs)):
            element = f.at(((tap * schedule.kernel + k + t) * depth + c + i) * row + panel.lane)
            for v, mask in enumerate(panel.masks):
                sums = [tile.row(t * inputs + i)[v].get() for tile in tiles]
                pointer = element.at(v * schedule.lanes)
                add_in_memory(pointer, _combine_conjugate(schedule, sums), mask)

    loop_over_tap_tiles(code, tables, x, schedule.kernel, schedule.taps, add_taps)


def _sum_taps(
    code: Code, schedule: ChannelsGradient, panel: Panel, x: Pointer, y: Pointer, k: Value,
    taps: int, span: Range,
) -> list[RegisterTile]:  # fmt: skip
    """Sum the products of some taps from k on over a span."""
    axis, inputs = schedule.rank - 1, schedule.inputs
    table = code.array(f"table{axis}", "int64")
    stride = None if schedule.y_contiguous else code["y_channel"]
    tiles = panel.tiles(taps * inputs)

    def load_gy(w: Value) -> list[Value]:
        row = y.at(w * code[f"y_stride{axis}"])
        return [
            load(panel.address(row, v, stride), schedule.y, schedule.lanes, mask, stride)
            for v, mask in enumerate(panel.masks)
        ]

    def add_tap(t: int, x: Pointer, gy: list[Value]) -> None:
        def factor(_c: int, part: int, v: int) -> Value:
            return swap_parts(gy[v]) if part and schedule.spans_groups else gy[v]

        panel.add_products(tiles, range(t * inputs, (t + 1) * inputs), x, factor)

    def add_border(w: Value, _: Value, column: Value) -> None:
        gy = load_gy(w)
        offsets = table.at(column * schedule.kernel + k)
        for t in range(taps):
            offset = offsets.at(t).load()
            with code.when(offset >= 0):
                add_tap(t, x.at(offset), gy)

    def add_interior(start: Value, stop: Value) -> None:
        with code.loop(start, stop) as w:
            gy = load_gy(w)
            window = x.at(code["x_first"] + w * code["window_stride"] + k * code["x_tap"])
            for t in range(taps):
                add_tap(t, window.at(code["x_tap"] * t), gy)

    visit_row(code, ranges_of_span(code, *span), 1, add_border, add_interior)
    return tiles


def _combine_conjugate(schedule: ChannelsGradient, sums: list[Value]) -> Value:
    """Make the sum of conj(x) * gy from the sums of the register tiles."""
    if not schedule.x.pairs:
        return sums[0]
    first, second = sums
    if not schedule.spans_groups:  # sums of Re x * gy and of Im x * gy
        sign = ir.Constant(first.ir.type, [1.0, -1.0] * (schedule.lanes // 2))
        return swap_parts(second).multiply_add(Value(first.code, sign), first)
    return combine_conjugate(first, second)


def call(sig: Signature, partials: PartialSums) -> Call:
    """Make the call that adds conj(x) gy to partial sums, given the addresses x, y (gy's) and f."""
    g = sig.geometry
    inputs, outputs = g.channels // g.groups, g.filters // g.groups
    filters = g.filters if sig.spans_groups else outputs
    count = -(-filters * sig.parts // sig.lanes)
    c = inputs
    if not sig.spans_groups:
        c = max(i for i in range(1, min(inputs, 8) + 1) if inputs % i == 0)
    max_taps = max(sig.accumulators // c, 1)
    taps = block_size(g.kernel[-1], max_taps)
    vectors = max(min(sig.accumulators // (taps * c), count, 4), 1)
    schedule = ChannelsGradient(
        sig.x, sig.y, sig.lanes, taps * c, vectors, g.rank, *sig.contiguous_channels, c,
        outputs if sig.spans_groups else 0, g.kernel[-1],
    )  # fmt: skip
    lanes = g.filters * sig.parts if sig.spans_groups else g.groups
    multiple = schedule.width if sig.spans_groups else 1
    panel = -(-lanes // (multiple * MAX_PANELS)) * multiple if sig.useful_threads > 1 else lanes
    arguments = {
        **partials.arguments(sig, lanes, panel), **row_arguments(sig, *interior(g)),
        "strip": -(-g.out[-1] // partials.strips),
    }  # fmt: skip
    threads = min(sig.useful_threads, arguments["chunks"])
    return bind("channelwise_channels_gradient", kernel, schedule, arguments, threads, sig.target)
