"""A dense convolution as sums of outer products in registers: no windows are copied.

One tile is P output positions by V vectors of output channels, held in registers while all taps and
channels go by:

    acc[p, v] += x[position p under the tap, channel c] * f[tap, c, vector v]

The number of x is spread over a vector, the vector of f comes from a panel that holds the filter as
(tap, channel, V vectors). Where a tap of position p lies is looked up, axis by axis, in tables of
offsets; a negative offset stands in the border, and reads a row of zeros instead. So stride,
dilation and every kind of border cost nothing, and a tap that no position of a tile sees is skipped.
"""

from __future__ import annotations

from einstride.simd.code import Code, Place, Value, Variable

OUTSIDE = -(1 << 60)
"""An offset so negative that no sum with others becomes positive."""


def arguments(rank: int) -> tuple[str, ...]:
    """The words of the argument block."""
    axes = [f"{name}{a}" for a in range(rank) for name in ("table", "taps", "out", "y_step")]
    return (
        "counter", "chunks", "blocks", "block", "positions", "batch", "panels",
        "x", "x_batch", "y", "y_batch", "f", "f_panel", "bias", "zeros",
        "panel_x", "panel_y", "panel_columns", "channels", "slice", *axes,
    )  # fmt: skip


def kernel(dtype: str, lanes: int, tile: int, vectors: int, rank: int) -> str:
    """The text of the kernel for tiles of so many positions and vectors."""
    code = Code("dense", arguments(rank))
    with code.chunks(code["chunks"]) as chunk:
        block = chunk % code["blocks"]
        rest = chunk // code["blocks"]
        n, panel = rest % code["batch"], rest // code["batch"]
        _chunk(code, block, n, panel, dtype, lanes, tile, vectors, rank)
    return code.text()


def _chunk(
    code: Code, block: Value, n: Value, panel: Value,
    dtype: str, lanes: int, tile: int, vectors: int, rank: int,
) -> None:  # fmt: skip
    """One block of positions of one example, for one panel of output channels."""
    x = code.array("x", dtype).at(n * code["x_batch"])
    x = x.at(code.array("panel_x", "int64").at(panel).load())
    column = code.array("panel_y", "int64").at(panel).load()
    y = code.array("y", dtype).at(n * code["y_batch"] + column)
    bias = code.array("bias", dtype).at(column)
    columns = code.array("panel_columns", "int64").at(panel).load()
    f = code.array("f", dtype).at(panel * code["f_panel"])
    masks = [code.first_lanes(columns - v * lanes, lanes) for v in range(vectors)]
    first = block * code["block"]
    last = (first + code["block"]).least(code["positions"])
    channels, width = code["channels"], vectors * lanes
    with code.loop(0, channels, code["slice"]) as c0:
        depth = (channels - c0).least(code["slice"])
        with code.loop(first, last, tile) as start:
            places = [_coordinates(code, start + p, last, rank) for p in range(tile)]
            acc = [code.variable(code.zero(dtype, lanes)) for _ in range(tile * vectors)]
            with code.when(c0.equals(0) & (code["bias"].equals(0) ^ 1)):
                for v in range(vectors):
                    each = bias.at(v * lanes).load(lanes, masks[v])
                    for p in range(tile):
                        acc[p * vectors + v].set(each)
            with code.when(code.number(0) < c0):
                for p, (_, out) in enumerate(places):
                    for v in range(vectors):
                        acc[p * vectors + v].set(y.at(out + v * lanes).load(lanes, masks[v]))
            _taps(code, x.at(c0), f.at(c0 * width), depth, [t for t, _ in places], acc,
                  dtype, lanes, vectors, rank)  # fmt: skip
            for p, (_, out) in enumerate(places):
                with code.when(start + p < last):
                    for v in range(vectors):
                        y.at(out + v * lanes).store(acc[p * vectors + v].get(), masks[v])


def _coordinates(
    code: Code, position: Value, last: Value, rank: int
) -> tuple[list[Place], Value]:
    """The rows of the offset tables of a position, one for each axis, and where its output lies."""
    rest = position.least(last - 1)
    rows: list[Place] = []
    out = code.number(0)
    for a in reversed(range(rank)):
        at = rest % code[f"out{a}"] if a else rest
        rest = rest // code[f"out{a}"] if a else rest
        rows.insert(0, code.array(f"table{a}", "int64").at(at * code[f"taps{a}"]))
        out = out + at * code[f"y_step{a}"]
    return rows, out


def _taps(
    code: Code, x: Place, f: Place, depth: Value, rows: list[list[Place]], acc: list[Variable],
    dtype: str, lanes: int, vectors: int, rank: int,
) -> None:  # fmt: skip
    """Add every tap's products to the accumulators."""
    tap_size = code["channels"] * (vectors * lanes)
    zeros = code.array("zeros", dtype)

    def axis(a: int, offsets: list[Value], tap: Value) -> None:
        with code.loop(0, code[f"taps{a}"]) as k:
            here = [o + row[a].at(k).load() for o, row in zip(offsets, rows, strict=True)]
            number = tap * code[f"taps{a}"] + k
            inside = here[0]
            for other in here[1:]:
                inside = inside & other  # negative only if all are
            with code.when(inside >= 0):
                if a + 1 < rank:
                    axis(a + 1, here, number)
                else:
                    points = [_either(o, x, zeros) for o in here]
                    _products(code, points, f.at(number * tap_size), depth, acc, lanes, vectors)

    axis(0, [code.number(0)] * len(rows), code.number(0))


def _either(offset: Value, x: Place, zeros: Place) -> Place:
    """The place in x, or the row of zeros for a negative offset."""
    return (offset >= 0).pick_place(x.at(offset), zeros)


def _products(
    code: Code, points: list[Place], f: Place, depth: Value, acc: list[Variable],
    lanes: int, vectors: int,
) -> None:  # fmt: skip
    """acc[p, v] += x[p, c] * f[c, v] for every channel c."""
    with code.loop(0, depth) as c:
        row = f.at(c * (vectors * lanes))
        fs = [row.at(v * lanes).load(lanes) for v in range(vectors)]
        for p, point in enumerate(points):
            spread = code.splat(point.at(c).load(), lanes)
            for v in range(vectors):
                a = acc[p * vectors + v]
                a.set(spread.times_plus(fs[v], a.get()))
