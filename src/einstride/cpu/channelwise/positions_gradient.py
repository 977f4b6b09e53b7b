"""Filter gradient kernel with vectors along a row: one channel, or channels_first arrays.

    gf[tap, c, d] += sum over lanes of x[vector under the tap, c] * gy[vector, d]

The sums of T taps of the last axis stay in registers for a strip of a row; then the lanes of each
are added pairwise, as a tree, and their sum is added to a partial sum in memory.
`einstride.cpu.channelwise.channels_gradient` explains partial sums and the lanes of complex
numbers, `einstride.cpu.channelwise.positions` the border.
"""

from __future__ import annotations

from dataclasses import dataclass

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.vector_formats import (
    Format,
    combine_conjugate,
    lane,
    load,
    shuffle,
    swap_parts,
)
from einstride.cpu.channelwise.positions import load_border
from einstride.cpu.channelwise.signature import axis_arguments

NAME = "channelwise_positions_gradient"


@dataclass(frozen=True)
class Spec:
    """What the kernel is compiled for.

    Attributes
    ----------
    x, y : Format
        The formats of input and output gradient.
    lanes, rank : int
        Real numbers per vector; spatial axes.
    kernel, tile : int
        Taps of the last axis, and T.
    x_contiguous, y_contiguous : bool
        True if the positions of a vector are contiguous in x, or in gy.
    masked : bool
        True if vectors at the border are loaded with a mask, False if they are gathered.
    """

    x: Format
    y: Format
    lanes: int
    rank: int
    kernel: int
    tile: int
    x_contiguous: bool
    y_contiguous: bool
    masked: bool


def arguments(rank: int) -> tuple[str, ...]:
    """List the names of the kernel arguments."""
    return (
        "counter", "chunks", "strips", "strip", "row_ranges", "rows", "result_rows", "all_rows",
        "x", "x_batch", "x_channel", "window_stride", "x_tap", "x_first", "inside", "outside",
        "y", "y_batch", "y_channel", "f", "f_partial", "channels", "groups", "filters",
        "size", "low", "dilation", "border", *axis_arguments(rank),
    )  # fmt: skip


def kernel(spec: Spec) -> str:
    """Write the kernel's LLVM IR."""
    code = Code(NAME, arguments(spec.rank))
    with code.chunks(code["chunks"]) as partial:
        f = code.array("f", spec.x.computed).at(partial * code["f_partial"])
        strip, remaining = partial % code["strips"], partial // code["strips"]
        result, range_number = remaining // code["row_ranges"], remaining % code["row_ranges"]
        first = range_number * code["rows"]
        last = (first + code["rows"]).minimum(code["result_rows"])
        group_filters = code["filters"] // code["groups"]
        with (
            code.loop(0, code["filters"]) as d,
            code.loop(0, code["channels"]) as c,
            code.loop(first, last) as i,
        ):
            row = result * code["result_rows"] + i
            n, remaining = row // code["all_rows"], row % code["all_rows"]
            channel = d // group_filters * code["channels"] + c
            x = code.array("x", spec.x.stored)
            x = x.at(n * code["x_batch"] + channel * code["x_channel"])
            y = code.array("y", spec.y.stored)
            y = y.at(n * code["y_batch"] + d * code["y_channel"])
            parts = 2 if spec.x.pairs else 1
            pointer = f.at((c * code["filters"] + d) * parts)
            _add_row(code, spec, x, y, pointer, remaining, strip)
    return code.text()


def _add_row(
    code: Code, spec: Spec, x: Pointer, y: Pointer, f: Pointer, row: Value, strip: Value
) -> None:
    """Add a strip of a row to the partial sum of one channel of x and one of gy."""
    axis = spec.rank - 1
    rows: list[Pointer] = []
    for a in reversed(range(axis)):
        index = row % code[f"out{a}"]
        row = row // code[f"out{a}"]
        rows.insert(0, code.array(f"table{a}", "int64").at(index * code[f"taps{a}"]))
        y = y.at(index * code[f"y_stride{a}"])

    def loop_over_axes(a: int, x: Pointer, tap: Value) -> None:
        if a < axis:
            with code.loop(0, code[f"taps{a}"]) as k:
                offset = rows[a].at(k).load()
                with code.when(offset >= 0):
                    loop_over_axes(a + 1, x.at(offset), tap * code[f"taps{a}"] + k)
            return
        last_taps = spec.kernel % spec.tile
        if spec.kernel >= spec.tile:
            with code.loop(0, spec.kernel - last_taps, spec.tile) as k:
                _sum_taps(code, spec, x, y, f, tap * spec.kernel, k, spec.tile, strip)
        if last_taps:
            k = code.number(spec.kernel - last_taps)
            _sum_taps(code, spec, x, y, f, tap * spec.kernel, k, last_taps, strip)

    loop_over_axes(0, x, code.number(0))


def _sum_taps(
    code: Code, spec: Spec, x: Pointer, y: Pointer, f: Pointer, tap: Value, k: Value, tile: int,
    strip: Value,
) -> None:  # fmt: skip
    """Sum the products of `tile` taps from k on over a strip, and add them to the partial sum."""
    axis, lanes, dtype = spec.rank - 1, spec.lanes, spec.x.computed
    parts = 2 if spec.x.pairs else 1
    vector_positions = lanes // parts
    accs = [[code.variable(code.zero(dtype, lanes)) for _ in range(tile)] for _ in range(parts)]
    y_stride = None if spec.y_contiguous else code[f"y_stride{axis}"]
    x_stride = None if spec.x_contiguous else code["window_stride"]
    is_last = strip.equals(code["strips"] - 1)
    start = code["inside"] + strip * code["strip"]
    stop = is_last.select(code["outside"], start + code["strip"])
    end = code[f"out{axis}"]

    def add_vector(w: Value, positions_left: Value | None, border_column: Value) -> None:
        mask = None if positions_left is None else code.first_lanes(positions_left * parts, lanes)
        g = load(y.at(w * code[f"y_stride{axis}"]), spec.y, lanes, mask, y_stride)
        gy_vectors = [g, swap_parts(g)] if spec.x.pairs else [g]
        x_pointer = (
            x.at(code["x_first"] + w * code["window_stride"])
            if positions_left is None or spec.masked
            else x
        )
        for t in range(tile):
            if positions_left is None:
                pointer = x_pointer.at((k + t) * code["x_tap"])
                x_vector = load(pointer, spec.x, lanes, None, x_stride)
            else:
                x_vector = load_border(
                    code, spec, x_pointer, k + t, w, border_column, positions_left
                )
            for part, g in zip(accs, gy_vectors, strict=True):
                part[t].set(x_vector.multiply_add(g, part[t].get()))

    with code.loop(
        0, strip.equals(0).select(code["inside"], code.number(0)), vector_positions
    ) as w:
        add_vector(w, code["inside"] - w, w)
    with code.loop(start, stop, vector_positions) as w:
        add_vector(w, None, w)
    with code.loop(is_last.select(code["outside"], end), end, vector_positions) as w:
        add_vector(w, end - w, w - code["outside"] + code["inside"])
    row = code["channels"] * code["filters"] * parts
    for t in range(tile):
        values = [part[t].get() for part in accs]
        total = values[0] if parts == 1 else combine_conjugate(values[0], values[1])
        width = lanes
        while width > parts:
            low = shuffle(total, list(range(width // 2)))
            total = low + shuffle(total, list(range(width // 2, width)))
            width //= 2
        pointer = f.at((tap + k + t) * row)
        for part in range(parts):
            pointer.at(part).store(pointer.at(part).load() + lane(total, part))
