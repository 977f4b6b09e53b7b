"""Convolution with few channels in a group, vectors along the channels: no windows are copied.

A tile is P neighbouring positions of a row by V vectors of output channels. While the taps go by,

    acc[p, v] += spread(x[position p under the tap, group's channel c]) * f[tap, c, vector v]

What `spread` is depends on the groups. Merged: whole groups fill a vector, and a vector of x is put
in the order of the output's lanes, as it is for a depthwise layer. Split: a vector lies within one
group, and the single number of x goes to all lanes.

Inside a row, where every tap meets x, its place is a sum of steps. The columns near a border look
up where each tap lies, in a table; a negative offset stands in the border and is skipped. So every
kind of border costs nothing in the interior. The other axes look up their taps once per tile.

A complex number takes two lanes. The sums of x * Re f and of x * Im f are kept apart until the end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable
from einstride.codegen.vector_formats import Format, combined, load, shuffle, store
from einstride.cpu.channelwise.form import axis_names

NAME = "channelwise_channels"

Products = Callable[[Pointer, Value], None]
"""Add the products of one tap: where its position lies, and the number of the tap."""


@dataclass(frozen=True)
class Spec:
    """What a kernel is made for.

    Attributes
    ----------
    x, y : Format
        The numbers of the input and of the result.
    lanes : int
        Real numbers in a vector.
    rank : int
        Spatial axes.
    tile, vectors : int
        P and V, in the interior.
    merged : bool
        Do vectors span whole groups?
    inputs, outputs : int
        The channels of a group, where groups are merged; else 0.
    x_unit, y_unit : bool
        Do neighbouring channels lie side by side?
    row : tuple of tuple of int
        Of a row whose tiles are written out: the element of x under each tap of each position,
        -1 in a border of zeros. Empty for longer rows.
    """

    x: Format
    y: Format
    lanes: int
    rank: int
    tile: int
    vectors: int
    merged: bool
    inputs: int
    outputs: int
    x_unit: bool
    y_unit: bool
    row: tuple[tuple[int, ...], ...] = ()


def arguments(rank: int) -> tuple[str, ...]:
    """The words of the argument block."""
    return (
        "counter", "chunks", "blocks", "rows", "all_rows", "strips", "strip",
        "x", "x_batch", "x_channel", "x_stride", "x_tap", "x_first", "x_step", "x_back",
        "inside", "outside",
        "y", "y_batch", "y_channel", "f", "bias", "channels", "groups", "filters",
        *axis_names(rank),
    )  # fmt: skip


def kernel(spec: Spec) -> str:
    """The text of the kernel."""
    code = Code(NAME, arguments(spec.rank))
    with code.chunks(code["chunks"]) as chunk:
        strip = chunk % code["strips"]
        rest = chunk // code["strips"]
        block, n = rest % code["blocks"], rest // code["blocks"]
        x = code.array("x", spec.x.stored).at(n * code["x_batch"])
        y = code.array("y", spec.y.stored).at(n * code["y_batch"])
        first = block * code["rows"]
        with code.loop(first, (first + code["rows"]).least(code["all_rows"])) as row:
            _row(code, spec, x, y, row, strip)
    return code.text()


def _row(code: Code, spec: Spec, x: Pointer, y: Pointer, row: Value, strip: Value) -> None:
    """One strip of a row of positions: border, interior, border."""
    rows: list[Pointer] = []
    rest = row
    for a in reversed(range(spec.rank - 1)):
        at = rest % code[f"out{a}"]
        rest = rest // code[f"out{a}"]
        rows.insert(0, code.array(f"table{a}", "int64").at(at * code[f"taps{a}"]))
        y = y.at(at * code[f"y_step{a}"])
    last_axis = spec.rank - 1
    step = code[f"y_step{last_axis}"]
    table = code.array(f"table{last_axis}", "int64")
    if spec.row:
        for o in range(0, len(spec.row), spec.tile):
            taps = spec.row[o : o + spec.tile]
            part = replace(spec, row=taps, tile=len(taps))
            _tile(code, part, x.at(code["x_back"]), y.at(step * o), rows, step, None)
        return
    is_last = strip.equals(code["strips"] - 1)
    start = code["inside"] + strip * code["strip"]
    stop = is_last.pick(code["outside"], start + code["strip"])

    def border(w: Value, number: Value) -> None:
        here = table.at(number * code[f"taps{last_axis}"])
        _tile(code, spec, x, y.at(w * step), rows, None, here)

    with code.loop(0, strip.equals(0).pick(code["inside"], code.number(0))) as w:
        border(w, w)
    with code.loop(start, stop, spec.tile) as w0:
        w = w0.least(stop - spec.tile)  # the last tile overlaps the one before
        pointer = x.at(code["x_first"] + w * code["x_stride"])
        _tile(code, spec, pointer, y.at(w * step), rows, step, None)
    end = code[f"out{last_axis}"]
    with code.loop(is_last.pick(code["outside"], end), end) as w:
        border(w, w - code["outside"] + code["inside"])


def _tile(
    code: Code, spec: Spec, x: Pointer, y: Pointer, rows: list[Pointer],
    step: Value | None, table: Pointer | None,
) -> None:  # fmt: skip
    """All channels of a tile; of a single position, with a table, if it is at the border."""
    tile = spec.tile if step is not None else 1
    accumulators = spec.tile * spec.vectors
    vectors = spec.vectors if tile > 1 else min(accumulators, 4 if spec.merged else spec.vectors)
    width = vectors * spec.lanes
    parts = 2 if spec.x.pairs else 1

    def panel(x: Pointer, y: Pointer, d: Value, c: Value, left: Value | None, vectors: int) -> None:
        _panel(code, spec, x, y, d, c, left, tile, vectors, rows, step, table)

    if spec.merged:
        lanes = code["filters"] * parts
        whole = lanes - lanes % width
        with code.loop(0, whole, width) as d:
            panel(x, y, d, d, None, vectors)
        with code.loop(whole, lanes, spec.lanes) as d:
            panel(x, y, d, d, lanes - d, 1)
        return
    lanes = code["filters"] // code["groups"] * parts
    with code.loop(0, code["groups"]) as g, code.loop(0, lanes, width) as d:
        c = g * code["channels"] * code["x_channel"]
        panel(x.at(c), y, g * lanes + d, code.number(0), lanes - d, vectors)


def _panel(
    code: Code, spec: Spec, x: Pointer, y: Pointer, d: Value, c: Value, left: Value | None,
    tile: int, vectors: int, rows: list[Pointer], step: Value | None, table: Pointer | None,
) -> None:  # fmt: skip
    """A tile's sums for some vectors of output channels, from lane d on; `left` of them exist."""
    lanes, parts = spec.lanes, 2 if spec.x.pairs else 1
    dtype = spec.x.computed
    masks = [
        None if left is None else code.first_lanes(left - v * lanes, lanes) for v in range(vectors)
    ]
    accs = [
        [code.variable(code.zero(dtype, lanes)) for _ in range(tile * vectors)]
        for _ in range(parts)
    ]
    bias = code.array("bias", dtype)
    with code.when(code["bias"].equals(0) ^ 1):
        for v in range(vectors):
            each = bias.at(d + v * lanes).load(lanes, masks[v])
            for p in range(tile):
                accs[0][p * vectors + v].set(each)
    f = code.array("f", dtype).at(d)

    add = _merged if spec.merged else _split

    def products(here: Pointer, tap: Value) -> None:
        points = [(p, here.at(code["x_stride"] * p) if p else here) for p in range(tile)]
        add(code, spec, points, f, tap, c, accs, masks, left)

    def row(here: Pointer, tap: Value) -> None:
        for k in range(len(spec.row[0])):
            at = [(p, taps[k]) for p, taps in enumerate(spec.row) if taps[k] >= 0]
            points = [(p, here.at(code["x_step"] * i)) for p, i in at]
            add(code, spec, points, f, tap + k, c, accs, masks, left)

    axis(code, spec.rank, 0, x, rows, code.number(0), table, products, row if spec.row else None)
    y_step = None if spec.y_unit else code["y_channel"]
    for p in range(tile):
        pointer = y if p == 0 or step is None else y.at(step * p)
        for v in range(vectors):
            found = accs[0][p * vectors + v].get()
            if spec.x.pairs:
                found = combined(found, accs[1][p * vectors + v].get())
            start = d + v * lanes
            start = start if y_step is None else start // parts * y_step
            store(pointer.at(start), found, spec.y, masks[v], y_step)


def axis(
    code: Code, rank: int, a: int, x: Pointer, rows: list[Pointer], tap: Value,
    table: Pointer | None, products: Products, row: Products | None,
) -> None:  # fmt: skip
    """All taps of the axes from `a` on: x's place and the tap's number go to `products`."""
    taps = code[f"taps{a}"]
    if row is not None and a + 1 == rank:
        row(x, tap * taps)
        return
    looked_up = rows[a] if a + 1 < rank else table
    with code.loop(0, taps) as k:
        number = tap * taps + k if a else k
        if looked_up is None:
            products(x.at(k * code["x_tap"]), number)
        else:
            offset = looked_up.at(k).load()
            with code.when(offset >= 0):
                if a + 1 < rank:
                    axis(code, rank, a + 1, x.at(offset), rows, number, table, products, row)
                else:
                    products(x.at(offset), number)


def _merged(
    code: Code, spec: Spec, points: list[tuple[int, Pointer]], f: Pointer, tap: Value, d: Value,
    accs: list[list[Variable]], masks: list[Mask | None], left: Value | None,
) -> None:  # fmt: skip
    """Vectors that hold whole groups; known numbers of channels in each."""
    lanes, parts = spec.lanes, 2 if spec.x.pairs else 1
    inputs, outputs, vectors = spec.inputs, spec.outputs, len(masks)
    window = lanes * inputs // outputs
    row = code["filters"] * parts
    step = None if spec.x_unit else code["x_channel"]
    fs = [
        [f.at((tap * inputs + c) * row + v * lanes).load(lanes, masks[v]) for v in range(vectors)]
        for c in range(inputs)
    ]
    for p, point in points:
        for v in range(vectors):
            mask = None
            if left is not None:
                count = left * inputs // outputs
                mask = masks[v] if inputs == outputs else code.first_lanes(count, window)
            start = (d + v * lanes) * inputs // outputs
            start = start if step is None else start // parts * step
            xs = load(point.at(start), spec.x, window, mask, step)
            for c in range(inputs):
                order = [
                    (i // parts // outputs * inputs + c) * parts + i % parts for i in range(lanes)
                ]
                _add(spec, shuffle(xs, order), fs[c][v], accs, p * vectors + v)


def _split(
    code: Code, spec: Spec, points: list[tuple[int, Pointer]], f: Pointer, tap: Value, d: Value,
    accs: list[list[Variable]], masks: list[Mask | None], left: Value | None,
) -> None:  # fmt: skip
    """Vectors within one group, for each of its channels."""
    lanes, parts, vectors = spec.lanes, 2 if spec.x.pairs else 1, len(masks)
    row = code["filters"] * parts
    with code.loop(0, code["channels"]) as c:
        f = f.at((tap * code["channels"] + c) * row)
        fs = [f.at(v * lanes).load(lanes, masks[v]) for v in range(vectors)]
        offset = c * parts if spec.x_unit else c * code["x_channel"]
        for p, point in points:
            for part in range(parts):
                one = code.splat(
                    point.at(offset + part).load_as(spec.x.stored, spec.x.computed), lanes
                )
                for v in range(vectors):
                    a = accs[part][p * vectors + v]
                    a.set(one.times_plus(fs[v], a.get()))


def _add(spec: Spec, x: Value, f: Value, accs: list[list[Variable]], i: int) -> None:
    """acc += x * f; of complex numbers by f's real and imaginary parts."""
    if not spec.x.pairs:
        accs[0][i].set(x.times_plus(f, accs[0][i].get()))
        return
    for part in range(2):
        half = shuffle(f, [j // 2 * 2 + part for j in range(spec.lanes)])
        accs[part][i].set(x.times_plus(half, accs[part][i].get()))
