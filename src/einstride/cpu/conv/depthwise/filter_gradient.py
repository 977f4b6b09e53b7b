"""Filter gradient kernel of a depthwise layer with few taps, vectors along channels.

    gf[k, l, c] += x[element under tap (k, l) of position (r, p), c] * gy[r, p, c]

The sums of all taps stay in registers for a span of rows, and so do the vectors of gy at P
neighbouring positions; each vector of x is loaded once for all taps of its row. Sums are added to
partial sums, which `einstride.cpu.conv.channelwise.partial_sums` explains.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.vector_formats import load
from einstride.cpu.conv.channelwise.partial_sums import (
    PartialSums,
    locate_partial_sum,
)
from einstride.cpu.conv.channelwise.signature import Signature
from einstride.cpu.conv.depthwise.rows import (
    DepthwiseSchedule,
    Pairs,
    exceeds_caches,
    is_unrolled,
    loop_over_elements,
    loop_over_tiles,
    loop_over_vectors,
    suits,
    tap_arguments,
)
from einstride.cpu.conv.depthwise.sources import Pattern, forward_sources, pattern_of
from einstride.cpu.conv.filter_gradient import Range
from einstride.cpu.conv.loop_nest import lowest_of
from einstride.cpu.conv.register_tile import RegisterTile, add_in_memory, multiply_add
from einstride.cpu.runtime.argument_block import Call, bind
from einstride.cpu.runtime.chunks import FINE, block_size, chunk_count

MIN_SPAN = 64
"""Positions of the rows, about, that are summed in registers before the sums are added to memory;
twice as many if the caches hold the arrays. They decide the order of sums."""


@dataclass(frozen=True)
class DepthwiseGradient(DepthwiseSchedule):
    """The schedule of a depthwise filter gradient.

    A row of the register tile has the sums of a row of taps, a vector for each tap.

    Attributes
    ----------
    columns : int
        P, the neighbouring positions whose vectors of gy stay in registers.
    """

    columns: int

    in_rows = "rows of taps"
    loops = "panel and partial sum, span of rows, vector of channels, row, tile, element of x"
    stores = "added to a partial sum after each span"
    overlapping = False

    @property
    def sides(self) -> dict[str, int]:
        """The lengths of the sides of the register tile, by name."""
        return {
            "lanes": self.lanes, "output positions": self.columns, "rows of taps": self.rows,
        }  # fmt: skip


def kernel(schedule: DepthwiseGradient, names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``depthwise_gradient``."""
    code = Code("depthwise_gradient", names)
    with code.chunks(code["chunks"]) as chunk:
        panel, _, (first, last), f = locate_partial_sum(code, chunk, schedule.compute)
        with code.loop(first, last, code["span"]) as row:
            rows = row, (row + code["span"]).minimum(last)

            def add_span(d: Value, mask: Mask | None) -> None:
                _add_span(code, schedule, f.at(d), rows, d, mask)

            loop_over_vectors(code, schedule, panel, 1, add_span)
    return code.text()


def _add_span(
    code: Code, schedule: DepthwiseGradient, f: Pointer, rows: Range, d: Value, mask: Mask | None
) -> None:
    """Add the products of a span of rows to the partial sum of a vector of channels."""
    sums = schedule.register_tile(code)
    (first, last), all_rows = rows, code["all_rows"]
    example, next_row = code.variable(first // all_rows), code.variable(first % all_rows)
    with code.loop(first, last):
        n, row = example.get(), next_row.get()
        x = code.array("x", schedule.x.stored).at(n * code["x_batch"] + d)
        y = code.array("y", schedule.y.stored).at(n * code["y_batch"] + d)
        offsets = [code.number(0)]
        if schedule.rank > 1:
            y = y.at(row * code["y_stride0"])
            table = code.array("table0", "int64").at(row * schedule.rows)
            offsets = [table.at(k).load() for k in range(schedule.rows)]

        def add_tile(x: Pointer, y: Pointer, pattern: Pattern, table: Pointer | None) -> None:
            _add_tile(code, schedule, x, y, offsets, pattern, table, mask, sums)

        loop_over_tiles(code, schedule, schedule.columns, x, y, add_tile)
        # Counted, because one division for each row would take as long as a tile.
        is_last_row = (row + 1).equals(all_rows)
        next_row.set(is_last_row.select(code.number(0), row + 1))
        example.set(is_last_row.select(n + 1, n))
    for accumulator in sums.accumulators:
        add_in_memory(f, accumulator.get(), mask)
        f = f.at(code["filters"])


def _add_tile(
    code: Code, schedule: DepthwiseGradient, x: Pointer, y: Pointer, offsets: list[Value],
    pattern: Pattern, table: Pointer | None, mask: Mask | None, sums: RegisterTile,
) -> None:  # fmt: skip
    """Add the products of P positions: all rows of taps at once if all meet x, else one by one."""
    gy_vectors, y_stride = [], code[f"y_stride{schedule.rank - 1}"]
    for _ in pattern:
        gy_vectors.append(load(y, schedule.y, schedule.lanes, mask, None))
        if schedule.prefetch:
            y.at(code["y_prefetch"]).prefetch()
        y = y.at(y_stride)

    def add_rows(rows: list[int]) -> None:
        def add_element(pointers: list[Pointer], pairs: Pairs) -> None:
            for r, pointer in zip(rows, pointers, strict=True):
                vector = load(pointer, schedule.x, schedule.lanes, mask, None)
                if schedule.prefetch and r == schedule.rows - 1:
                    pointer.at(code["x_prefetch"]).prefetch()
                for p, k in pairs:
                    multiply_add(sums.row(r)[k], vector, gy_vectors[p])

        x_rows = [x.at(offsets[r]) for r in rows]
        loop_over_elements(code, x_rows, pattern, table, code["x_stride"], add_element)

    if schedule.rows == 1:
        with code.when(offsets[0] >= 0):
            add_rows([0])
        return
    with code.builder.if_else((lowest_of(offsets) >= 0).ir) as (all_meet, some_miss):
        with all_meet:
            add_rows(list(range(schedule.rows)))
        with some_miss:
            for r, offset in enumerate(offsets):
                with code.when(offset >= 0):
                    add_rows([r])


def suits_gradient(sig: Signature, partials: PartialSums) -> bool:
    """True if the kernel computes this filter gradient: registers hold the sums of all taps."""
    g = sig.geometry
    fits = prod(g.kernel) + 6 <= sig.target.registers and g.rank <= 2
    return fits and partials.strips == 1 and suits(sig, False)


def call(sig: Signature, partials: PartialSums) -> Call:
    """Make the call that adds x gy to partial sums, given the addresses x, y (gy's) and f."""
    g = sig.geometry
    axes = [forward_sources(g, a) for a in range(g.rank)]
    unrolled = is_unrolled(g.out[-1], g.kernel[-1])
    max_columns = min(sig.target.registers - 2 - prod(g.kernel), g.out[-1], 16)
    columns = block_size(g.out[-1], max_columns)
    schedule = DepthwiseGradient(
        sig.x, sig.y, sig.lanes, prod(g.kernel[:-1]), g.kernel[-1], g.rank, g.channels % sig.lanes,
        pattern_of(axes[-1], columns, unrolled), unrolled, g.rank > 1 and exceeds_caches(g), 1,
        columns,
    )  # fmt: skip
    vectors = -(-g.filters // sig.lanes)
    sums = partials.results * partials.per_result
    max_panels = -(-chunk_count(sig.threads, FINE) // sums) if sig.useful_threads > 1 else 1
    panel = -(-vectors // min(vectors, max_panels)) * sig.lanes
    arguments = {
        **partials.arguments(sig, vectors * sig.lanes, panel),
        **tap_arguments(sig, axes, g.size, unrolled),
        "span": max((MIN_SPAN if exceeds_caches(g) else 2 * MIN_SPAN) // g.out[-1], 1),
        "x_prefetch": g.stride[0] * sig.x_strides[1], "y_prefetch": sig.y_strides[1],
    }  # fmt: skip
    threads = min(sig.useful_threads, arguments["chunks"])
    return bind("depthwise_gradient", kernel, schedule, arguments, threads, sig.target)
