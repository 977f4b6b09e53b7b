"""Filter gradient kernel of a depthwise layer with few taps, vectors along channels.

    gf[k, l, c] += x[element under tap (k, l) of position (r, p), c] * gy[r, p, c]

The sums of all taps stay in registers for a span of rows, and so do the vectors of gy at P
neighbouring positions; each vector of x is loaded once for all taps of its row. Sums are added to
partial sums, which `einstride.cpu.channelwise.channels_gradient` explains. Unrolled rows and
borders are treated as in `einstride.cpu.depthwise.forward`.
"""

from __future__ import annotations

from dataclasses import dataclass

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable
from einstride.codegen.vector_formats import Format, load
from einstride.cpu.channelwise.signature import axis_arguments
from einstride.cpu.depthwise.spec import Pattern
from einstride.cpu.depthwise.tile import Pairs, prefetch_line, walk_row

NAME = "depthwise_gradient"


@dataclass(frozen=True)
class Spec:
    """What the kernel is compiled for.

    Attributes
    ----------
    x, y : Format
        The formats of input and output gradient.
    lanes, rank : int
        Lanes of a vector; spatial axes.
    tap_rows, tile : int
        Rows of taps, and P.
    tail : int
        Channels in the last vector if it is not full, else 0.
    pattern : tuple of tuple of int
        The elements that the taps of P positions meet, or of a whole row if `unrolled`.
    unrolled, prefetch : bool
        True if the tiles of a row are unrolled; True if the next row is prefetched.
    """

    x: Format
    y: Format
    lanes: int
    rank: int
    tap_rows: int
    tile: int
    tail: int
    pattern: Pattern
    unrolled: bool
    prefetch: bool


def arguments(rank: int) -> tuple[str, ...]:
    """List the names of the kernel arguments."""
    return (
        "counter", "chunks", "panels", "panel", "row_ranges", "rows", "result_rows", "all_rows",
        "span", "x", "x_batch", "x_stride", "x_first", "x_advance", "columns", "advance",
        "x_prefetch", "y_prefetch", "inside", "outside", "y", "y_batch", "f", "f_partial",
        "filters", *axis_arguments(rank),
    )  # fmt: skip


def kernel(spec: Spec) -> str:
    """Write the kernel's LLVM IR."""
    code = Code(NAME, arguments(spec.rank))
    with code.chunks(code["chunks"]) as chunk:
        panel, partial = chunk % code["panels"], chunk // code["panels"]
        f = code.array("f", spec.x.computed).at(partial * code["f_partial"])
        result, range_number = partial // code["row_ranges"], partial % code["row_ranges"]
        first = range_number * code["rows"]
        last = (first + code["rows"]).minimum(code["result_rows"])
        low = panel * code["panel"]
        high = (low + code["panel"]).minimum(code["filters"])
        start = result * code["result_rows"]
        with code.loop(first, last, code["span"]) as i:
            stop = (i + code["span"]).minimum(last)
            with code.loop(low, high - (spec.lanes - 1), spec.lanes) as d:
                _add_span(code, spec, f, start + i, start + stop, d, None)
            if spec.tail:
                with code.when(high.equals(code["filters"])):
                    mask = code.first_lanes(code.number(spec.tail), spec.lanes)
                    _add_span(code, spec, f, start + i, start + stop, high - spec.tail, mask)
    return code.text()


def _add_span(
    code: Code, spec: Spec, f: Pointer, first: Value, last: Value, d: Value, mask: Mask | None
) -> None:
    """Add the products of a span of rows to the partial sum of a vector of channels."""
    taps = spec.tap_rows * len(spec.pattern[0])
    sums = [code.variable(code.zero(spec.x.computed, spec.lanes)) for _ in range(taps)]
    rows = code["all_rows"]
    n, row = code.variable(first // rows), code.variable(first % rows)
    with code.loop(first, last):
        _add_row(code, spec, n.get(), row.get(), d, mask, sums)
        next_row = row.get() + 1  # counted: one division per row would take as long as a tile
        is_last_row = next_row.equals(rows)
        row.set(is_last_row.select(code.number(0), next_row))
        n.set(is_last_row.select(n.get() + 1, n.get()))
    pointer = f.at(d)
    for s in sums:
        pointer.store(pointer.load(spec.lanes, mask) + s.get(), mask)
        pointer = pointer.at(code["filters"])


def _add_row(
    code: Code, spec: Spec, n: Value, row: Value, d: Value, mask: Mask | None, sums: list[Variable]
) -> None:
    """Add the products of one row of one example to the sums."""
    x = code.array("x", spec.x.stored).at(n * code["x_batch"] + d)
    y = code.array("y", spec.y.stored).at(n * code["y_batch"] + d)
    offsets = [code.number(0)]
    if spec.rank > 1:
        y = y.at(row * code["y_stride0"])
        table = code.array("table0", "int64").at(row * spec.tap_rows)
        offsets = [table.at(k).load() for k in range(spec.tap_rows)]
    y_stride = code[f"y_stride{spec.rank - 1}"]
    if spec.unrolled:
        for o in range(0, len(spec.pattern), spec.tile):
            part = spec.pattern[o : o + spec.tile]
            x_row = x.at(code["x_first"])
            _add_tile(code, spec, x_row, y.at(y_stride * o), offsets, part, None, mask, sums)
        return
    out = code[f"out{spec.rank - 1}"]
    full_tiles = out - out % spec.tile

    def add_tile(w: Value, pattern: Pattern) -> None:
        start = code["x_first"] + w * code["x_advance"]
        border = (w < code["inside"]) | (code["outside"] < w + len(pattern))
        with code.builder.if_else(border.ir) as (at_border, in_interior):
            with at_border:
                columns = code.array("columns", "int64").at(w * code["advance"])
                _add_tile(code, spec, x, y.at(w * y_stride), offsets, pattern, columns, mask, sums)
            with in_interior:
                _add_tile(
                    code, spec, x.at(start), y.at(w * y_stride), offsets, pattern, None, mask, sums
                )

    with code.loop(0, full_tiles, spec.tile) as w:
        add_tile(w, spec.pattern)
    with code.loop(full_tiles, out) as w:
        add_tile(w, spec.pattern[:1])


def _add_tile(
    code: Code, spec: Spec, x: Pointer, y: Pointer, offsets: list[Value], pattern: Pattern,
    columns: Pointer | None, mask: Mask | None, sums: list[Variable],
) -> None:  # fmt: skip
    """Add the products of P positions: all rows of taps at once if all meet x, else one by one."""
    gy_vectors, y_stride = [], code[f"y_stride{spec.rank - 1}"]
    for _ in pattern:
        gy_vectors.append(load(y, spec.y, spec.lanes, mask, None))
        if spec.prefetch:
            prefetch_line(y.at(code["y_prefetch"]), False)
        y = y.at(y_stride)

    def add_rows(rows: list[int]) -> None:
        _add_products(
            code,
            spec,
            [(k, x.at(offsets[k])) for k in rows],
            gy_vectors,
            pattern,
            columns,
            mask,
            sums,
        )

    lowest = offsets[0]
    for offset in offsets[1:]:
        lowest = lowest.minimum(offset)
    if spec.tap_rows == 1:
        with code.when(lowest >= 0):
            add_rows([0])
        return
    with code.builder.if_else((lowest >= 0).ir) as (all_meet, some_miss):
        with all_meet:
            add_rows(list(range(spec.tap_rows)))
        with some_miss:
            for k, offset in enumerate(offsets):
                with code.when(offset >= 0):
                    add_rows([k])


def _add_products(
    code: Code, spec: Spec, rows: list[tuple[int, Pointer]], gy_vectors: list[Value],
    pattern: Pattern, columns: Pointer | None, mask: Mask | None, sums: list[Variable],
) -> None:  # fmt: skip
    """Add the products of some rows of x with the vectors `gy_vectors` of gy."""
    kernel = len(pattern[0])

    def add_element(pointers: list[Pointer], pairs: Pairs) -> None:
        for n, pointer in zip([n for n, _ in rows], pointers, strict=True):
            vector = load(pointer, spec.x, spec.lanes, mask, None)
            if spec.prefetch and n == spec.tap_rows - 1:
                prefetch_line(pointer.at(code["x_prefetch"]), False)
            for p, k in pairs:
                s = sums[n * kernel + k]
                s.set(vector.multiply_add(gy_vectors[p], s.get()))

    walk_row(code, [x for _, x in rows], pattern, columns, code["x_stride"], add_element)
