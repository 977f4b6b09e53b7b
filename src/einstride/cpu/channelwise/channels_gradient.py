"""Filter gradient kernel for few channels per group, with vectors along channels.

    gf[tap, c, d] += x[position under the tap, c] * gy[position, d]

The register tile is T taps of the last axis by some input channels by V vectors of output channels.
It is summed over a span of positions of a row and then added to a partial sum in memory. A partial
sum covers a range of rows, or a strip of each; partial sums are added in order afterwards. Their
number depends on shapes alone, so the bits of the result do not depend on threads.

`einstride.cpu.channelwise.channels` explains how x is shuffled or broadcast to the lanes, which
offsets are looked up at a border, and how complex numbers are summed.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable
from einstride.codegen.vector_formats import Format, combine_conjugate, load, shuffle, swap_parts
from einstride.cpu.channelwise.signature import axis_arguments

NAME = "channelwise_channels_gradient"

SPAN = 32
"""Positions that are summed in registers before the register tile is added to memory. It decides
the order of sums, so a change changes the bits of results."""


@dataclass(frozen=True)
class Spec:
    """What the kernel is compiled for.

    Attributes
    ----------
    x, y : Format
        The formats of input and output gradient.
    lanes, rank : int
        Real numbers per vector; spatial axes.
    kernel : int
        Taps of the last axis.
    tile, vectors : int
        T and V.
    spans_groups : bool
        True if a vector holds whole groups.
    inputs, outputs : int
        Input and output channels per group if vectors span groups; else the input channels of a
        tile, and 0.
    x_contiguous, y_contiguous : bool
        True if neighbouring channels of x, or of gy, are contiguous in memory.
    """

    x: Format
    y: Format
    lanes: int
    rank: int
    kernel: int
    tile: int
    vectors: int
    spans_groups: bool
    inputs: int
    outputs: int
    x_contiguous: bool
    y_contiguous: bool


def arguments(rank: int) -> tuple[str, ...]:
    """List the names of the kernel arguments."""
    return (
        "counter", "chunks", "panels", "panel", "strips", "strip", "row_ranges", "rows",
        "result_rows", "all_rows", "x", "x_batch", "x_channel", "window_stride", "x_tap", "x_first",
        "inside", "outside", "y", "y_batch", "y_channel", "f", "f_partial", "channels", "groups",
        "filters",
        *axis_arguments(rank),
    )  # fmt: skip


def kernel(spec: Spec) -> str:
    """Write the kernel's LLVM IR."""
    code = Code(NAME, arguments(spec.rank))
    with code.chunks(code["chunks"]) as chunk:
        panel, partial = chunk % code["panels"], chunk // code["panels"]
        f = code.array("f", spec.x.computed).at(partial * code["f_partial"])
        strip, remaining = partial % code["strips"], partial // code["strips"]
        result, range_number = remaining // code["row_ranges"], remaining % code["row_ranges"]
        first = range_number * code["rows"]
        last = (first + code["rows"]).minimum(code["result_rows"])
        with code.loop(first, last) as i:
            row = result * code["result_rows"] + i
            _add_row(code, spec, row, strip, panel, f)
    return code.text()


def _add_row(code: Code, spec: Spec, row: Value, strip: Value, panel: Value, f: Pointer) -> None:
    """Add a strip of a row to the partial sum of a panel of channels, span by span."""
    n, remaining = row // code["all_rows"], row % code["all_rows"]
    x = code.array("x", spec.x.stored).at(n * code["x_batch"])
    y = code.array("y", spec.y.stored).at(n * code["y_batch"])
    rows: list[Pointer] = []
    for a in reversed(range(spec.rank - 1)):
        index = remaining % code[f"out{a}"]
        remaining = remaining // code[f"out{a}"]
        rows.insert(0, code.array(f"table{a}", "int64").at(index * code[f"taps{a}"]))
        y = y.at(index * code[f"y_stride{a}"])
    first = strip * code["strip"]
    last = (first + code["strip"]).minimum(code[f"out{spec.rank - 1}"])
    parts = 2 if spec.x.pairs else 1
    width = spec.vectors * spec.lanes
    with code.loop(first, last, SPAN) as w0:
        w1 = (w0 + SPAN).minimum(last)
        if spec.spans_groups:
            lanes = code["filters"] * parts
            first_lane = panel * code["panel"]
            last_lane = (first_lane + code["panel"]).minimum(lanes)
            whole = last_lane - (last_lane - first_lane) % width
            with code.loop(first_lane, whole, width) as d:
                _add_tile(code, spec, x, y, f, d, d, None, spec.vectors, rows, w0, w1)
            with code.loop(whole, last_lane, spec.lanes) as d:
                _add_tile(code, spec, x, y, f, d, d, last_lane - d, 1, rows, w0, w1)
        else:
            lanes = code["filters"] // code["groups"] * parts
            first_lane = panel * code["panel"]
            last_lane = (first_lane + code["panel"]).minimum(code["groups"])
            with (
                code.loop(first_lane, last_lane) as g,
                code.loop(0, lanes, width) as d,
                code.loop(0, code["channels"], spec.inputs) as c,
            ):
                pointer = x.at((g * code["channels"] + c) * code["x_channel"])
                _add_tile(
                    code,
                    spec,
                    pointer,
                    y,
                    f,
                    g * lanes + d,
                    c,
                    lanes - d,
                    spec.vectors,
                    rows,
                    w0,
                    w1,
                )


def _add_tile(
    code: Code, spec: Spec, x: Pointer, y: Pointer, f: Pointer, d: Value, c: Value,
    lanes_left: Value | None, vectors: int, rows: list[Pointer], w0: Value, w1: Value,
) -> None:  # fmt: skip
    """Add a span's products for all taps and some vectors of output channels, from lane d on."""
    lanes, rank = spec.lanes, spec.rank
    masks = [
        None if lanes_left is None else code.first_lanes(lanes_left - v * lanes, lanes)
        for v in range(vectors)
    ]

    def loop_over_axes(a: int, x: Pointer, tap: Value) -> None:
        if a + 1 < rank:
            with code.loop(0, code[f"taps{a}"]) as k:
                offset = rows[a].at(k).load()
                with code.when(offset >= 0):
                    loop_over_axes(a + 1, x.at(offset), tap * code[f"taps{a}"] + k)
            return
        last_taps = spec.kernel % spec.tile
        if spec.kernel >= spec.tile:
            with code.loop(0, spec.kernel - last_taps, spec.tile) as k:
                _sum_taps(code, spec, x, y, f, tap * spec.kernel, k, spec.tile, d, c, lanes_left,
                      masks, w0, w1)  # fmt: skip
        if last_taps:
            k = code.number(spec.kernel - last_taps)
            _sum_taps(
                code,
                spec,
                x,
                y,
                f,
                tap * spec.kernel,
                k,
                last_taps,
                d,
                c,
                lanes_left,
                masks,
                w0,
                w1,
            )

    loop_over_axes(0, x, code.number(0))


def _sum_taps(
    code: Code, spec: Spec, x: Pointer, y: Pointer, f: Pointer, tap: Value, k: Value, tile: int,
    d: Value, c: Value, lanes_left: Value | None, masks: list[Mask | None], w0: Value, w1: Value,
) -> None:  # fmt: skip
    """Sum the products of `tile` taps from k on over positions w0 to w1; add them to memory."""
    lanes, parts, vectors, inputs = spec.lanes, 2 if spec.x.pairs else 1, len(masks), spec.inputs
    axis = spec.rank - 1
    table = code.array(f"table{axis}", "int64")
    accs = [
        [code.variable(code.zero(spec.x.computed, lanes)) for _ in range(tile * inputs * vectors)]
        for _ in range(parts)
    ]
    channel_stride = None if spec.y_contiguous else code["y_channel"]

    def load_gy(w: Value) -> list[Value]:
        pointer = y.at(w * code[f"y_stride{axis}"])
        starts = [d + v * lanes for v in range(vectors)]
        if channel_stride is not None:
            starts = [s // parts * channel_stride for s in starts]
        return [
            load(pointer.at(s), spec.y, lanes, m, channel_stride)
            for s, m in zip(starts, masks, strict=True)
        ]

    def add_tap(pointer: Pointer, t: int, gy_vectors: list[Value]) -> None:
        sums = [part[t * inputs * vectors : (t + 1) * inputs * vectors] for part in accs]
        (_add_across_groups if spec.spans_groups else _add_within_group)(
            code, spec, pointer, gy_vectors, sums, c, lanes_left, masks
        )

    def add_border(w: Value, entry: Value) -> None:
        gy_vectors = load_gy(w)
        row = table.at(entry * spec.kernel + k)
        for t in range(tile):
            offset = row.at(t).load()
            with code.when(offset >= 0):
                add_tap(x.at(offset), t, gy_vectors)

    inside, outside = code["inside"], code["outside"]
    with code.loop(w0, w1.minimum(inside)) as w:
        add_border(w, w)
    with code.loop(_maximum(w0, inside), w1.minimum(outside)) as w:
        gy_vectors = load_gy(w)
        pointer = x.at(code["x_first"] + w * code["window_stride"] + k * code["x_tap"])
        for t in range(tile):
            add_tap(pointer.at(code["x_tap"] * t), t, gy_vectors)
    with code.loop(_maximum(w0, outside), w1) as w:
        add_border(w, w - outside + inside)
    depth = code.number(inputs) if spec.spans_groups else code["channels"]
    first = code.number(0) if spec.spans_groups else c
    for t in range(tile):
        for i in range(inputs):
            row = f.at(((tap + k + t) * depth + first + i) * (code["filters"] * parts) + d)
            for v in range(vectors):
                index = (t * inputs + i) * vectors + v
                value = _combine_conjugate(spec, [part[index].get() for part in accs])
                pointer = row.at(v * lanes)
                pointer.store(pointer.load(lanes, masks[v]) + value, masks[v])


def _maximum(a: Value, b: Value) -> Value:
    return (a < b).select(b, a)


def _add_across_groups(
    code: Code, spec: Spec, pointer: Pointer, gy_vectors: list[Value], sums: list[list[Variable]],
    d: Value, lanes_left: Value | None, masks: list[Mask | None],
) -> None:  # fmt: skip
    lanes, parts, vectors = spec.lanes, 2 if spec.x.pairs else 1, len(gy_vectors)
    inputs, outputs = spec.inputs, spec.outputs
    window = lanes * inputs // outputs
    channel_stride = None if spec.x_contiguous else code["x_channel"]
    for v, g in enumerate(gy_vectors):
        mask = masks[v]
        if lanes_left is not None and inputs != outputs:
            mask = code.first_lanes(lanes_left * inputs // outputs, window)
        start = (d + v * lanes) * inputs // outputs
        start = start if channel_stride is None else start // parts * channel_stride
        x_vector = load(pointer.at(start), spec.x, window, mask, channel_stride)
        for c in range(inputs):
            order = [(i // parts // outputs * inputs + c) * parts + i % parts for i in range(lanes)]
            _add_product(shuffle(x_vector, order), [g, swap_parts(g)] if spec.x.pairs else [g],
                 sums, c * vectors + v)  # fmt: skip


def _add_within_group(
    code: Code, spec: Spec, pointer: Pointer, gy_vectors: list[Value], sums: list[list[Variable]],
    d: Value, lanes_left: Value | None, masks: list[Mask | None],
) -> None:  # fmt: skip
    vectors = len(gy_vectors)
    for c in range(spec.inputs):
        channel = pointer.at(
            c * (2 if spec.x.pairs else 1) if spec.x_contiguous else code["x_channel"] * c
        )
        for part in range(2 if spec.x.pairs else 1):
            broadcast = code.splat(
                channel.at(part).load_as(spec.x.stored, spec.x.computed), spec.lanes
            )
            for v, g in enumerate(gy_vectors):
                a = sums[part][c * vectors + v]
                a.set(broadcast.multiply_add(g, a.get()))


def _add_product(x: Value, gy_vectors: list[Value], sums: list[list[Variable]], i: int) -> None:
    for part, g in zip(sums, gy_vectors, strict=True):
        part[i].set(x.multiply_add(g, part[i].get()))


def _combine_conjugate(spec: Spec, sums: list[Value]) -> Value:
    """Make the sum of conj(x) * gy from sums of `_add_across_groups` or `_add_within_group`."""
    if not spec.x.pairs:
        return sums[0]
    first, second = sums
    if not spec.spans_groups:  # sums of Re x * gy and of Im x * gy
        sign = ir.Constant(first.ir.type, [1.0, -1.0] * (spec.lanes // 2))
        return swap_parts(second).multiply_add(Value(first.code, sign), first)
    return combine_conjugate(first, second)
