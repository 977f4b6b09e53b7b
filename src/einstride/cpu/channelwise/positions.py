"""Forward kernel with vectors along a row of positions: one channel, or channels_first arrays.

The register tile is V vectors of neighbouring positions by R output channels of one group. For each
tap and each channel c of the group,

    acc[v, r] += x[vector v under the tap, c] * broadcast(f[tap, c, output channel r])

The interior of a row is the whole vectors whose taps all meet x. A vector at the border is loaded
with a mask where the padding is zeros and the row is contiguous in memory; otherwise its lanes are
gathered by an offset table.

A complex number takes two lanes; `einstride.cpu.channelwise.channels` says how they are summed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.vector_formats import (
    Format,
    all_lanes,
    broadcast_parts,
    combine_parts,
    gather,
    load,
    shuffle,
    store,
)
from einstride.cpu.channelwise.signature import axis_arguments

NAME = "channelwise_positions"


@dataclass(frozen=True)
class Spec:
    """What the kernel is compiled for.

    Attributes
    ----------
    x, y : Format
        The formats of input and result.
    lanes, rank : int
        Real numbers per vector; spatial axes.
    vectors, results : int
        V and R.
    x_contiguous, y_contiguous : bool
        True if the positions of a vector are contiguous in x, or in y.
    masked : bool
        True if vectors at the border are loaded with a mask, False if they are gathered.
    """

    x: Format
    y: Format
    lanes: int
    rank: int
    vectors: int
    results: int
    x_contiguous: bool
    y_contiguous: bool
    masked: bool


def arguments(rank: int) -> tuple[str, ...]:
    """List the names of the kernel arguments."""
    return (
        "counter", "chunks", "blocks", "rows", "all_rows", "strips", "strip",
        "x", "x_batch", "x_channel", "window_stride", "x_tap", "x_first", "inside", "outside",
        "y", "y_batch", "y_channel", "f", "bias", "channels", "groups", "filters",
        "size", "low", "dilation", "border", *axis_arguments(rank),
    )  # fmt: skip


def kernel(spec: Spec) -> str:
    """Write the kernel's LLVM IR."""
    code = Code(NAME, arguments(spec.rank))
    with code.chunks(code["chunks"]) as chunk:
        strip = chunk % code["strips"]
        remaining = chunk // code["strips"]
        block, n = remaining % code["blocks"], remaining // code["blocks"]
        x = code.array("x", spec.x.stored).at(n * code["x_batch"])
        y = code.array("y", spec.y.stored).at(n * code["y_batch"])
        first = block * code["rows"]
        last = (first + code["rows"]).minimum(code["all_rows"])
        group_filters = code["filters"] // code["groups"]
        with code.loop(0, code["filters"], spec.results) as d, code.loop(first, last) as row:
            pointer = x.at(d // group_filters * code["channels"] * code["x_channel"])
            _compute_row(code, spec, pointer, y.at(d * code["y_channel"]), d, row, strip)
    return code.text()


def _compute_row(
    code: Code, spec: Spec, x: Pointer, y: Pointer, d: Value, row: Value, strip: Value
) -> None:
    """Compute one strip of a row: border, interior, border."""
    rows: list[Pointer] = []
    remaining = row
    for a in reversed(range(spec.rank - 1)):
        index = remaining % code[f"out{a}"]
        remaining = remaining // code[f"out{a}"]
        rows.insert(0, code.array(f"table{a}", "int64").at(index * code[f"taps{a}"]))
        y = y.at(index * code[f"y_stride{a}"])
    vector_positions = spec.lanes // (2 if spec.x.pairs else 1)
    is_last = strip.equals(code["strips"] - 1)
    start = code["inside"] + strip * code["strip"]
    stop = is_last.select(code["outside"], start + code["strip"])
    end = code[f"out{spec.rank - 1}"]

    with code.loop(
        0, strip.equals(0).select(code["inside"], code.number(0)), vector_positions
    ) as w:
        _compute_tile(code, spec, x, y, d, rows, w, 1, code["inside"] - w, w)
    tile_positions = vector_positions * spec.vectors
    full_tiles = stop - (stop - start) % tile_positions
    with code.loop(start, full_tiles, tile_positions) as w:
        _compute_tile(code, spec, x, y, d, rows, w, spec.vectors, None, w)
    if spec.vectors > 1:
        with code.loop(full_tiles, stop, vector_positions) as w:
            _compute_tile(code, spec, x, y, d, rows, w, 1, None, w)
    with code.loop(is_last.select(code["outside"], end), end, vector_positions) as w:
        _compute_tile(
            code, spec, x, y, d, rows, w, 1, end - w, w - code["outside"] + code["inside"]
        )


def _compute_tile(
    code: Code, spec: Spec, x: Pointer, y: Pointer, d: Value, rows: list[Pointer], w: Value,
    vectors: int, positions_left: Value | None, border_column: Value,
) -> None:  # fmt: skip
    """Compute V vectors of positions from w on.

    At the border it is one vector, of which `positions_left` are written; `border_column` is its
    first column in the offset table of the last axis.
    """
    lanes, rank, dtype = spec.lanes, spec.rank, spec.x.computed
    parts = 2 if spec.x.pairs else 1
    results = range(spec.results)
    accs = [
        [code.variable(code.zero(dtype, lanes)) for _ in range(vectors * spec.results)]
        for _ in range(parts)
    ]
    bias = code.array("bias", dtype)
    with code.when(code["bias"].equals(0) ^ 1):
        for r in results:
            pair = [bias.at((d + r) * parts + part).load() for part in range(parts)]
            initial = broadcast_parts(code, pair, lanes)
            for v in range(vectors):
                accs[0][v * spec.results + r].set(initial)
    f = code.array("f", dtype).at(d * parts)
    row = code["filters"] * parts
    x_pointer = x.at(code["x_first"] + w * code["window_stride"])

    def add_products(x: Pointer, tap: Value) -> None:
        with code.loop(0, code[f"taps{rank - 1}"]) as k:
            tap = tap * code[f"taps{rank - 1}"] + k
            with code.loop(0, code["channels"]) as c:
                pointer = x.at(c * code["x_channel"])
                if positions_left is None:
                    x_vectors = _load_interior(code, spec, pointer.at(k * code["x_tap"]), vectors)
                else:
                    x_vectors = [
                        load_border(code, spec, pointer, k, w, border_column, positions_left)
                    ]
                numbers = f.at((tap * code["channels"] + c) * row)
                for r in results:
                    for part in range(parts):
                        broadcast = code.splat(numbers.at(r * parts + part).load(), lanes)
                        for v in range(vectors):
                            a = accs[part][v * spec.results + r]
                            a.set(x_vectors[v].multiply_add(broadcast, a.get()))

    def loop_over_axes(a: int, x: Pointer, tap: Value) -> None:
        if a + 1 == rank:
            add_products(x, tap)
            return
        with code.loop(0, code[f"taps{a}"]) as k:
            offset = rows[a].at(k).load()
            with code.when(offset >= 0):
                loop_over_axes(a + 1, x.at(offset), tap * code[f"taps{a}"] + k if a else k)

    loop_over_axes(0, x_pointer if positions_left is None or spec.masked else x, code.number(0))
    y_stride = None if spec.y_contiguous else code[f"y_stride{rank - 1}"]
    mask = None if positions_left is None else code.first_lanes(positions_left * parts, lanes)
    y = y.at(w * code[f"y_stride{rank - 1}"])
    for r in results:
        for v in range(vectors):
            index = v * spec.results + r
            value = accs[0][index].get()
            if spec.x.pairs:
                value = combine_parts(value, accs[1][index].get())
            pointer = y.at(
                code["y_channel"] * r + code[f"y_stride{rank - 1}"] * (v * lanes // parts)
            )
            store(pointer, value, spec.y, mask, y_stride)


def _load_interior(code: Code, spec: Spec, x: Pointer, vectors: int) -> list[Value]:
    """Load vectors of x in the interior."""
    parts = 2 if spec.x.pairs else 1
    if spec.x_contiguous:
        return [load(x.at(v * spec.lanes), spec.x, spec.lanes, None, None) for v in range(vectors)]
    window_stride = code["window_stride"]
    return [
        load(
            x.at(window_stride * (v * spec.lanes // parts)), spec.x, spec.lanes, None, window_stride
        )
        for v in range(vectors)
    ]


def load_border(
    code: Code,
    spec: Any,
    x: Pointer,
    k: Value,
    w: Value,
    border_column: Value,
    positions_left: Value,
) -> Value:
    """Load a vector of x at the border; zeros in padding and beyond `positions_left`."""
    lanes, parts = spec.lanes, 2 if spec.x.pairs else 1
    if spec.masked:
        first = code["low"] - k * code["dilation"] - w  # the lane that meets x[0]
        stop = (first + code["size"]).minimum(positions_left)
        mask = code.first_lanes(stop * parts, lanes) & (
            code.first_lanes(first * parts, lanes) ^ all_lanes(code, lanes)
        )
        return load(x.at(k * code["x_tap"]), spec.x, lanes, mask, None)
    axis = spec.rank - 1
    table = code.array(f"table{axis}", "int64").at(k * code["border"] + border_column)
    positions = lanes // parts
    offsets = (
        table.load(positions, code.first_lanes(positions_left, positions))
        if positions > 1
        else table.load()
    )
    offsets, inside = _offsets_of_lanes(code, offsets, positions_left, lanes, parts)
    return gather(x, spec.x, offsets, inside)


def _offsets_of_lanes(
    code: Code, offsets: Value, positions_left: Value, lanes: int, parts: int
) -> tuple[Value, Value]:
    """Make the offsets of all lanes from one per position, and the mask of the lanes inside x."""
    if parts == 2:
        if lanes == 2:
            offsets = code.splat(offsets, 2)
        else:
            offsets = shuffle(offsets, [i // 2 for i in range(lanes)])
        odd = ir.Constant(offsets.ir.type, [i % 2 for i in range(lanes)])
        lane_offsets = offsets + Value(code, odd)
    else:
        lane_offsets = offsets
    zero = Value(code, ir.Constant(offsets.ir.type, None))
    inside = Value(code, code.builder.icmp_signed(">=", offsets.ir, zero.ir))
    return lane_offsets, inside & code.first_lanes(positions_left * parts, lanes)
