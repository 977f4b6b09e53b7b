"""Filter gradient kernel with vectors along a row: one channel, or channels_first arrays.

    gf[tap, c, d] += sum over lanes of x[vector under the tap, c] * gy[vector, d]

The sums of T taps of the last axis stay in registers for a strip of a row; then the lanes of each
are added pairwise, as a tree, and their sum is added to a partial sum in memory. Of complex
numbers, a register tile holds the sums of x * gy, and another those of x * swap_parts(gy).
`einstride.cpu.conv.channelwise.positions` explains the border.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.vector_formats import combine_conjugate, lane, load, shuffle, swap_parts
from einstride.cpu.conv.channelwise.partial_sums import (
    PartialSums,
    locate_partial_sum,
    loop_over_tap_tiles,
)
from einstride.cpu.conv.channelwise.positions import (
    Border,
    PositionSchedule,
    contiguous_and_masked,
    load_x,
    position_arguments,
    row_of_x,
)
from einstride.cpu.conv.channelwise.rows import locate_row, ranges_of_strip, visit_row
from einstride.cpu.conv.channelwise.signature import Signature
from einstride.cpu.runtime.argument_block import Call, bind
from einstride.cpu.runtime.chunks import block_size


@dataclass(frozen=True)
class PositionsGradient(PositionSchedule):
    """The schedule of the filter gradient; the rows of a register tile are T taps.

    Attributes
    ----------
    kernel : int
        Taps of the last axis.
    """

    kernel: int

    in_rows = "taps"
    loops = "partial sum, output channel, input channel, row of positions and strip, tap, position"
    stores = "lanes added pairwise, then added to a partial sum after each strip"

    @property
    def sides(self) -> dict[str, int]:
        """The lengths of the sides of the register tile, by name."""
        return {"lanes": self.lanes, "taps": self.rows}


def kernel(schedule: PositionsGradient, names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``channelwise_positions_gradient``."""
    code = Code("channelwise_positions_gradient", names)
    with code.chunks(code["chunks"]) as chunk:
        _, strip, rows, f = locate_partial_sum(code, chunk, schedule.compute)
        group_filters = code["filters"] // code["groups"]
        with (
            code.loop(0, code["filters"]) as d,
            code.loop(0, code["channels"]) as c,
            code.loop(*rows) as row,
        ):
            tables, x, y = locate_row(code, schedule, row)
            channel = d // group_filters * code["channels"] + c
            x, y = x.at(channel * code["x_channel"]), y.at(d * code["y_channel"])
            element = f.at((c * code["filters"] + d) * schedule.parts)

            def add_taps(x: Pointer, tap: Value, k: Value, taps: int) -> None:
                tile = replace(schedule, rows=taps)
                _add_taps(code, tile, x, y, element, tap, k, strip)

            loop_over_tap_tiles(code, tables, x, schedule.kernel, schedule.rows, add_taps)
    return code.text()


def _add_taps(
    code: Code, schedule: PositionsGradient, x: Pointer, y: Pointer, f: Pointer, tap: Value,
    k: Value, strip: Value,
) -> None:  # fmt: skip
    """Sum the products of a tile's taps over a strip, and add them to the partial sum.

    The first tap is number k of the last axis, and number `tap` of the outer axes.
    """
    lanes, parts = schedule.lanes, schedule.parts
    size, taps = schedule.vector_positions, range(schedule.rows)
    y_stride = code[f"y_stride{schedule.rank - 1}"]
    tiles = schedule.tiles(code)

    def add_vector(w: Value, border: Border | None) -> None:
        mask = None if border is None else code.first_lanes(border.count * parts, lanes)
        stride = None if schedule.y_contiguous else y_stride
        gy = load(y.at(w * y_stride), schedule.y, lanes, mask, stride)
        row = row_of_x(code, schedule, x, w, border)
        for t in taps:
            x_vector = load_x(code, schedule, row, k + t, w, border)
            for part, tile in enumerate(tiles):
                tile.add_products(t, x_vector, [swap_parts(gy) if part else gy])

    def add_interior(start: Value, stop: Value) -> None:
        with code.loop(start, stop, size) as w:
            add_vector(w, None)

    ranges = ranges_of_strip(code, strip, code[f"out{schedule.rank - 1}"])
    visit_row(
        code, ranges, size, lambda w, count, column: add_vector(w, Border(count, column)),
        add_interior,
    )  # fmt: skip
    for t in taps:
        sums = [tile.row(t)[0].get() for tile in tiles]
        total = combine_conjugate(*sums) if schedule.x.pairs else sums[0]
        width = lanes
        while width > parts:
            low = shuffle(total, list(range(width // 2)))
            total = low + shuffle(total, list(range(width // 2, width)))
            width //= 2
        element = f.at(
            (tap * schedule.kernel + k + t) * (code["channels"] * code["filters"] * parts)
        )
        for part in range(parts):
            pointer = element.at(part)
            pointer.store(pointer.load() + lane(total, part))


def call(sig: Signature, partials: PartialSums) -> Call:
    """Make the call that adds conj(x) gy to partial sums, given the addresses x, y (gy's) and f."""
    g, (inside, outside) = sig.geometry, sig.vector_interior
    accumulators = (16 if sig.target.registers == 32 else 8) // sig.parts
    taps = block_size(g.kernel[-1], accumulators)
    x_contiguous, y_contiguous, masked = contiguous_and_masked(sig)
    schedule = PositionsGradient(
        sig.x, sig.y, sig.lanes, taps, 1, g.rank, x_contiguous, y_contiguous, masked,
        g.kernel[-1],
    )  # fmt: skip
    size = sig.vector_positions
    arguments = {
        **partials.arguments(sig, 1, 1), **position_arguments(sig, masked),
        "strip": (outside - inside) // partials.strips // size * size,
    }  # fmt: skip
    threads = min(sig.useful_threads, arguments["chunks"])
    return bind("channelwise_positions_gradient", kernel, schedule, arguments, threads, sig.target)
