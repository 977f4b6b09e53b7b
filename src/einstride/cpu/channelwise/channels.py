"""Forward kernel for few channels per group, with vectors along channels; no window is copied.

The register tile is P neighbouring positions of a row by V vectors of output channels. For each tap
and each channel c of a group,

    acc[p, v] += lanes_of(x[position p under the tap, c]) * f[tap, c, vector v]

`lanes_of` depends on the groups. If vectors span groups, a vector of x is loaded and shuffled into
the order of the output's lanes; a depthwise layer needs no shuffle. Otherwise a vector lies within
one group, and one number of x is broadcast to all lanes.

In the interior of a row, where every tap meets x, the address of x is computed from strides. For
positions near a border it comes from an offset table, where a negative offset means padding of
zeros and the tap is skipped; so no padding mode costs anything in the interior. The taps of the
other axes are looked up once per tile.

A complex number takes two lanes. The sums of x * Re f and of x * Im f are kept apart until the end,
so that real and imaginary parts are swapped once per tile and not once per product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable
from einstride.codegen.vector_formats import Format, combine_parts, load, shuffle, store
from einstride.cpu.channelwise.signature import axis_arguments

NAME = "channelwise_channels"

Products = Callable[[Pointer, Value], None]
"""Add the products of one tap, given the address of x under it and the number of the tap."""


@dataclass(frozen=True)
class Spec:
    """What the kernel is compiled for.

    Attributes
    ----------
    x, y : Format
        The formats of input and result.
    lanes : int
        Real numbers per vector.
    rank : int
        Spatial axes.
    tile, vectors : int
        P and V, in the interior.
    spans_groups : bool
        True if a vector holds whole groups.
    inputs, outputs : int
        Input and output channels per group if vectors span groups, else 0.
    x_contiguous, y_contiguous : bool
        True if neighbouring channels of x, or of y, are contiguous in memory.
    row : tuple of tuple of int
        For a row whose tiles are unrolled: the element of x under each tap of each position, -1 in
        padding of zeros. Empty for longer rows.
    """

    x: Format
    y: Format
    lanes: int
    rank: int
    tile: int
    vectors: int
    spans_groups: bool
    inputs: int
    outputs: int
    x_contiguous: bool
    y_contiguous: bool
    row: tuple[tuple[int, ...], ...] = ()


def arguments(rank: int) -> tuple[str, ...]:
    """List the names of the kernel arguments."""
    return (
        "counter", "chunks", "blocks", "rows", "all_rows", "strips", "strip",
        "x", "x_batch", "x_channel", "window_stride", "x_tap", "x_first", "x_stride", "x_back",
        "inside", "outside",
        "y", "y_batch", "y_channel", "f", "bias", "channels", "groups", "filters",
        *axis_arguments(rank),
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
        with code.loop(first, (first + code["rows"]).minimum(code["all_rows"])) as row:
            _compute_row(code, spec, x, y, row, strip)
    return code.text()


def _compute_row(code: Code, spec: Spec, x: Pointer, y: Pointer, row: Value, strip: Value) -> None:
    """Compute one strip of a row of positions: border, interior, border."""
    rows: list[Pointer] = []
    remaining = row
    for a in reversed(range(spec.rank - 1)):
        index = remaining % code[f"out{a}"]
        remaining = remaining // code[f"out{a}"]
        rows.insert(0, code.array(f"table{a}", "int64").at(index * code[f"taps{a}"]))
        y = y.at(index * code[f"y_stride{a}"])
    last_axis = spec.rank - 1
    y_stride = code[f"y_stride{last_axis}"]
    table = code.array(f"table{last_axis}", "int64")
    if spec.row:
        for o in range(0, len(spec.row), spec.tile):
            taps = spec.row[o : o + spec.tile]
            part = replace(spec, row=taps, tile=len(taps))
            _compute_tile(
                code, part, x.at(code["x_back"]), y.at(y_stride * o), rows, y_stride, None
            )
        return
    is_last = strip.equals(code["strips"] - 1)
    start = code["inside"] + strip * code["strip"]
    stop = is_last.select(code["outside"], start + code["strip"])

    def compute_border(w: Value, entry: Value) -> None:
        offsets = table.at(entry * code[f"taps{last_axis}"])
        _compute_tile(code, spec, x, y.at(w * y_stride), rows, None, offsets)

    with code.loop(0, strip.equals(0).select(code["inside"], code.number(0))) as w:
        compute_border(w, w)
    with code.loop(start, stop, spec.tile) as w0:
        w = w0.minimum(stop - spec.tile)  # the last tile overlaps the one before
        pointer = x.at(code["x_first"] + w * code["window_stride"])
        _compute_tile(code, spec, pointer, y.at(w * y_stride), rows, y_stride, None)
    end = code[f"out{last_axis}"]
    with code.loop(is_last.select(code["outside"], end), end) as w:
        compute_border(w, w - code["outside"] + code["inside"])


def _compute_tile(
    code: Code, spec: Spec, x: Pointer, y: Pointer, rows: list[Pointer],
    position_stride: Value | None, table: Pointer | None,
) -> None:  # fmt: skip
    """Compute all output channels of a tile, or of one border position, whose `table` is given."""
    tile = spec.tile if position_stride is not None else 1
    accumulators = spec.tile * spec.vectors
    vectors = (
        spec.vectors if tile > 1 else min(accumulators, 4 if spec.spans_groups else spec.vectors)
    )
    width = vectors * spec.lanes
    parts = 2 if spec.x.pairs else 1

    def compute_panel(
        x: Pointer, y: Pointer, d: Value, c: Value, lanes_left: Value | None, vectors: int
    ) -> None:
        _compute_panel(
            code, spec, x, y, d, c, lanes_left, tile, vectors, rows, position_stride, table
        )

    if spec.spans_groups:
        lanes = code["filters"] * parts
        full_lanes = lanes - lanes % width
        with code.loop(0, full_lanes, width) as d:
            compute_panel(x, y, d, d, None, vectors)
        with code.loop(full_lanes, lanes, spec.lanes) as d:
            compute_panel(x, y, d, d, lanes - d, 1)
        return
    lanes = code["filters"] // code["groups"] * parts
    with code.loop(0, code["groups"]) as g, code.loop(0, lanes, width) as d:
        c = g * code["channels"] * code["x_channel"]
        compute_panel(x.at(c), y, g * lanes + d, code.number(0), lanes - d, vectors)


def _compute_panel(
    code: Code, spec: Spec, x: Pointer, y: Pointer, d: Value, c: Value, lanes_left: Value | None,
    tile: int, vectors: int, rows: list[Pointer], position_stride: Value | None,
    table: Pointer | None,
) -> None:  # fmt: skip
    """Compute some vectors of output channels of a tile, from lane d on.

    Only `lanes_left` lanes from d on exist; None if all of them do.
    """
    lanes, parts = spec.lanes, 2 if spec.x.pairs else 1
    dtype = spec.x.computed
    masks = [
        None if lanes_left is None else code.first_lanes(lanes_left - v * lanes, lanes)
        for v in range(vectors)
    ]
    accs = [
        [code.variable(code.zero(dtype, lanes)) for _ in range(tile * vectors)]
        for _ in range(parts)
    ]
    bias = code.array("bias", dtype)
    with code.when(code["bias"].equals(0) ^ 1):
        for v in range(vectors):
            initial = bias.at(d + v * lanes).load(lanes, masks[v])
            for p in range(tile):
                accs[0][p * vectors + v].set(initial)
    f = code.array("f", dtype).at(d)

    add_products = _add_across_groups if spec.spans_groups else _add_within_group

    def add_tap(pointer: Pointer, tap: Value) -> None:
        pointers = [
            (p, pointer.at(code["window_stride"] * p) if p else pointer) for p in range(tile)
        ]
        add_products(code, spec, pointers, f, tap, c, accs, masks, lanes_left)

    def add_row(pointer: Pointer, tap: Value) -> None:
        for k in range(len(spec.row[0])):
            elements = [(p, taps[k]) for p, taps in enumerate(spec.row) if taps[k] >= 0]
            pointers = [(p, pointer.at(code["x_stride"] * i)) for p, i in elements]
            add_products(code, spec, pointers, f, tap + k, c, accs, masks, lanes_left)

    loop_over_axes(
        code, spec.rank, 0, x, rows, code.number(0), table, add_tap, add_row if spec.row else None
    )
    channel_stride = None if spec.y_contiguous else code["y_channel"]
    for p in range(tile):
        pointer = y if p == 0 or position_stride is None else y.at(position_stride * p)
        for v in range(vectors):
            value = accs[0][p * vectors + v].get()
            if spec.x.pairs:
                value = combine_parts(value, accs[1][p * vectors + v].get())
            start = d + v * lanes
            start = start if channel_stride is None else start // parts * channel_stride
            store(pointer.at(start), value, spec.y, masks[v], channel_stride)


def loop_over_axes(
    code: Code, rank: int, a: int, x: Pointer, rows: list[Pointer], tap: Value,
    table: Pointer | None, add_tap: Products, add_row: Products | None,
) -> None:  # fmt: skip
    """Call `add_tap` with the address of x and the number of every tap of the axes from `a` on.

    `add_row` is called instead once for all taps of the last axis, where they are unrolled.
    """
    taps = code[f"taps{a}"]
    if add_row is not None and a + 1 == rank:
        add_row(x, tap * taps)
        return
    offsets = rows[a] if a + 1 < rank else table
    with code.loop(0, taps) as k:
        tap_number = tap * taps + k if a else k
        if offsets is None:
            add_tap(x.at(k * code["x_tap"]), tap_number)
        else:
            offset = offsets.at(k).load()
            with code.when(offset >= 0):
                if a + 1 < rank:
                    loop_over_axes(
                        code, rank, a + 1, x.at(offset), rows, tap_number, table, add_tap, add_row
                    )
                else:
                    add_tap(x.at(offset), tap_number)


def _add_across_groups(
    code: Code, spec: Spec, pointers: list[tuple[int, Pointer]], f: Pointer, tap: Value, d: Value,
    accs: list[list[Variable]], masks: list[Mask | None], lanes_left: Value | None,
) -> None:  # fmt: skip
    """Add the products of one tap with vectors that hold whole groups."""
    lanes, parts = spec.lanes, 2 if spec.x.pairs else 1
    inputs, outputs, vectors = spec.inputs, spec.outputs, len(masks)
    window = lanes * inputs // outputs
    row = code["filters"] * parts
    channel_stride = None if spec.x_contiguous else code["x_channel"]
    f_vectors = [
        [f.at((tap * inputs + c) * row + v * lanes).load(lanes, masks[v]) for v in range(vectors)]
        for c in range(inputs)
    ]
    for p, pointer in pointers:
        for v in range(vectors):
            mask = None
            if lanes_left is not None:
                count = lanes_left * inputs // outputs
                mask = masks[v] if inputs == outputs else code.first_lanes(count, window)
            start = (d + v * lanes) * inputs // outputs
            start = start if channel_stride is None else start // parts * channel_stride
            x_vector = load(pointer.at(start), spec.x, window, mask, channel_stride)
            for c in range(inputs):
                order = [
                    (i // parts // outputs * inputs + c) * parts + i % parts for i in range(lanes)
                ]
                _add_product(spec, shuffle(x_vector, order), f_vectors[c][v], accs, p * vectors + v)


def _add_within_group(
    code: Code, spec: Spec, pointers: list[tuple[int, Pointer]], f: Pointer, tap: Value, d: Value,
    accs: list[list[Variable]], masks: list[Mask | None], lanes_left: Value | None,
) -> None:  # fmt: skip
    """Add the products of one tap with vectors within one group."""
    lanes, parts, vectors = spec.lanes, 2 if spec.x.pairs else 1, len(masks)
    row = code["filters"] * parts
    with code.loop(0, code["channels"]) as c:
        f = f.at((tap * code["channels"] + c) * row)
        f_vectors = [f.at(v * lanes).load(lanes, masks[v]) for v in range(vectors)]
        offset = c * parts if spec.x_contiguous else c * code["x_channel"]
        for p, pointer in pointers:
            for part in range(parts):
                broadcast = code.splat(
                    pointer.at(offset + part).load_as(spec.x.stored, spec.x.computed), lanes
                )
                for v in range(vectors):
                    a = accs[part][p * vectors + v]
                    a.set(broadcast.multiply_add(f_vectors[v], a.get()))


def _add_product(spec: Spec, x: Value, f: Value, accs: list[list[Variable]], i: int) -> None:
    """Add x * f to accumulator i; for complex numbers x * Re f and x * Im f to two of them."""
    if not spec.x.pairs:
        accs[0][i].set(x.multiply_add(f, accs[0][i].get()))
        return
    for part in range(2):
        half = shuffle(f, [j // 2 * 2 + part for j in range(spec.lanes)])
        accs[part][i].set(x.multiply_add(half, accs[part][i].get()))
