"""Depthwise convolution, vectors along the channels: each vector of x is loaded once for many taps.

A tile is R rows by P columns of positions by one vector of channels. Row by row of x, each vector
goes to all sums of the tile that it meets under some tap,

    acc[r, p] += x[row, j] * f[k, l]        where the tap (k, l) of position (r, p) lies on (row, j)

so that a product costs a fraction of a load. The taps of a row stay in registers, or T of them at
a time. Which j a tap of a position lies on is known when the kernel is written: by its number in
the row where tiles of a short row are written out, or relative to the tile's first position. Tiles
of a long row that meet a border look up where each j lies; nothing is added where it lies outside.

Forward passes and input gradients are the same kernel with other sources. A strided gradient skips
the taps that meet no position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir

from einstride.simd.channelwise_form import axis_names
from einstride.simd.code import Code, Place, Value, Variable
from einstride.simd.lanes import Format, load, store

NAME = "depthwise"

NOWHERE = -(1 << 20)
"""In a pattern: the tap of this position meets no element."""

Pattern = tuple[tuple[int, ...], ...]
"""For each position of a tile or row and each tap, the element of x's row."""

Rows = Sequence[tuple[int, Value]]
"""The rows of a tile that a row of x belongs to, each with the number of its first tap."""


@dataclass(frozen=True)
class Spec:
    """What a kernel is made for.

    Attributes
    ----------
    x, y : Format
        The numbers of the input and of the result.
    lanes, rank : int
        Numbers in a vector; spatial axes.
    rows, tile, taps : int
        R, P, and T: how many taps of a row are in registers at once.
    held : int
        Rows of taps, if they all stay in registers while a tile is summed; else 0.
    last : int
        Lanes of the last vector of channels, 0 where it is full.
    pattern : tuple of tuple of int
        Of the whole row, if `short`; else of P positions, counted from the first one's place.
    short : bool
        Are a row's tiles written out?
    group : int
        Positions that a long row's tiles may begin at are multiples of it.
    backwards : bool
        Do later taps lie further back, as in an input gradient?
    ahead : bool
        Are later positions fetched into the cache while a tile is summed?
    """

    x: Format
    y: Format
    lanes: int
    rank: int
    rows: int
    tile: int
    taps: int
    held: int
    last: int
    pattern: Pattern
    short: bool
    group: int
    backwards: bool
    ahead: bool


def arguments(rank: int) -> tuple[str, ...]:
    """The words of the argument block."""
    return (
        "counter", "chunks", "panels", "panel", "blocks", "groups", "all_groups", "row_groups",
        "x", "x_batch", "x_step", "x_first", "x_move", "columns", "move", "x_ahead", "y_ahead",
        "inside", "outside", "y", "y_batch", "f", "bias", "filters", *axis_names(rank),
    )  # fmt: skip


def kernel(spec: Spec) -> str:
    """The text of the kernel."""
    code = Code(NAME, arguments(spec.rank))
    with code.chunks(code["chunks"]) as chunk:
        panel, rest = chunk % code["panels"], chunk // code["panels"]
        block, n = rest % code["blocks"], rest // code["blocks"]
        x = code.array("x", spec.x.element).at(n * code["x_batch"])
        y = code.array("y", spec.y.element).at(n * code["y_batch"])
        first = block * code["groups"]
        with code.loop(first, (first + code["groups"]).least(code["all_groups"])) as group:
            _group(code, spec, x, y, group, panel * code["panel"])
    return code.text()


def _group(code: Code, spec: Spec, x: Place, y: Place, group: Value, low: Value) -> None:
    """R rows of positions."""
    tables: list[Place] = []
    rest, row_axis = group, spec.rank - 2
    for a in reversed(range(spec.rank - 1)):
        count = code["row_groups"] if a == row_axis else code[f"out{a}"]
        at, rest = rest % count, rest // count
        if a == row_axis and spec.rows > 1:
            at = (at * spec.rows).least(code[f"out{a}"] - spec.rows)
        tables.insert(0, code.array(f"table{a}", "int64").at(at * code[f"taps{a}"]))
        y = y.at(at * code[f"y_step{a}"])
    step = code[f"y_step{spec.rank - 1}"]
    if spec.short:
        for o in range(0, len(spec.pattern), spec.tile):
            here = x.at(code["x_first"])
            part = spec.pattern[o : o + spec.tile]
            _channels(code, spec, here, y.at(step * o), tables, low, part, code["x_ahead"])
        return
    out = code[f"out{spec.rank - 1}"]
    with code.loop(0, out, spec.tile) as at:
        w = at.least(out - spec.tile)  # the last tile overlaps the one before
        moved = w // spec.group
        start = code["x_first"] + moved * code["x_move"]
        border = (w < code["inside"]) | (code["outside"] < w + spec.tile)
        with code.builder.if_else(border.ir) as (yes, no):
            with yes:
                columns = code.array("columns", "int64").at(moved * code["move"])
                _channels(code, spec, x, y.at(w * step), tables, low, spec.pattern,
                          start + code["x_ahead"], columns)  # fmt: skip
            with no:
                _channels(code, spec, x.at(start), y.at(w * step), tables, low, spec.pattern,
                          code["x_ahead"])  # fmt: skip


def _channels(
    code: Code, spec: Spec, x: Place, y: Place, tables: list[Place], low: Value,
    pattern: Pattern, ahead: Value, columns: Place | None = None,
) -> None:  # fmt: skip
    """A tile for all vectors of a panel of channels."""
    filters = code["filters"]
    high = (low + code["panel"]).least(filters)
    with code.loop(low, high - (spec.lanes - 1), spec.lanes) as d:
        _tile(code, spec, x, y, tables, d, pattern, ahead, columns, None)
    if spec.last:
        whole = filters - spec.last
        with code.when(high.equals(filters)):
            mask = code.first_lanes(code.number(spec.last), spec.lanes)
            _tile(code, spec, x, y, tables, whole, pattern, ahead, columns, mask)


def _tile(
    code: Code, spec: Spec, x: Place, y: Place, tables: list[Place], d: Value,
    pattern: Pattern, ahead: Value, columns: Place | None, mask: Value | None,
) -> None:  # fmt: skip
    """The sums of one tile and one vector of channels."""
    lanes, rank, dtype = spec.lanes, spec.rank, spec.x.computed
    tile = len(pattern)
    accs = [code.variable(code.zero(dtype, lanes)) for _ in range(spec.rows * tile)]
    with code.when(code["bias"].equals(0) ^ 1):
        each = code.array("bias", dtype).at(d).load(lanes, mask)
        for a in accs:
            a.set(each)
    f, taps = code.array("f", dtype).at(d), code[f"taps{rank - 1}"]

    def row(x: Place, rows: Rows) -> None:
        fs = [(r, f.at(n * taps * code["filters"])) for r, n in rows]
        _row(code, spec, x, fs, accs, pattern, x.at(ahead), columns, mask)

    def held(x: Place, tap: Value) -> None:
        kernel = len(pattern[0])
        here, values = f.at(tap * spec.held * kernel * code["filters"]), []
        for _ in range(spec.held * kernel):
            values.append(here.load(lanes, mask))
            here = here.at(code["filters"])
        _held(code, spec, tables[-1], x, lambda x, rows: _products(
            code, spec, x, {(r, k): values[n * kernel + k] for r, n in rows for k in range(kernel)},
            accs, pattern, x.at(ahead), columns, mask))  # fmt: skip

    def outer(a: int, x: Place, tap: Value) -> None:
        if a + 1 == rank:
            row(x, [(0, tap)])
        elif a + 2 == rank and spec.held:
            held(x, tap)
        elif a + 2 == rank and spec.rows > 1:
            _rows(code, spec, a, tables[a], x, tap, row)
        else:
            with code.loop(0, code[f"taps{a}"]) as k:
                offset = tables[a].at(k).load()
                with code.when(offset >= 0):
                    outer(a + 1, x.at(offset), tap * code[f"taps{a}"] + k if a else k)

    outer(0, x.at(d), code.number(0))
    place, step = y.at(d), code[f"y_step{rank - 1}"]
    for r in range(spec.rows):
        here = place.at(code[f"y_step{rank - 2}"] * r) if r else place
        for p in range(tile):
            store(here, accs[r * tile + p].get(), spec.y, mask, None)
            if spec.ahead:
                fetch(here.at(code["y_ahead"]), True)
            here = here.at(step)


def fetch(place: Place, write: bool) -> None:
    """Ask for a line of memory that will be read, or written; any address will do."""
    place.code.intrinsic("llvm.prefetch.p0", ir.VoidType(), [place, int(write), 3, 1])


def _rows(
    code: Code, spec: Spec, a: int, table: Place, x: Place, tap: Value,
    row: Callable[[Place, Rows], None],
) -> None:  # fmt: skip
    """The rows of x under a tile: the first and the last ones belong to some of its rows only."""
    taps, rows = code[f"taps{a}"], spec.rows
    first, end = tap * taps, taps - 1

    def number(i: Value) -> Value:
        return end - i if spec.backwards else i

    def one(position: int, i: Value, members: list[tuple[int, Value]]) -> None:
        offset = table.at(taps * position + number(i)).load()
        with code.when(offset >= 0):
            row(x.at(offset), [(r, first + number(n)) for r, n in members])

    for i in range(rows - 1):
        at = code.number(i)
        one(0, at, [(r, code.number(i - r)) for r in range(i + 1)])
    with code.loop(rows - 1, taps) as at:
        one(0, at, [(r, at - r) for r in range(rows)])
    for i in range(1, rows):  # where the last tap of the tile's row i lies
        one(i, end, [(r, end + (i - r)) for r in range(i, rows)])


def _held(
    code: Code, spec: Spec, table: Place, x: Place,
    products: Callable[[Place, list[tuple[int, int]]], None],
) -> None:  # fmt: skip
    """The rows of x under a tile of which all taps are known."""
    end, rows = spec.held - 1, spec.rows

    def number(i: int) -> int:
        return end - i if spec.backwards else i

    for i in range(rows + end):
        position, at = max(i - end, 0), min(i, end)
        offset = table.at(position * spec.held + number(at)).load()
        with code.when(offset >= 0):
            members = [(r, number(i - r)) for r in range(rows) if 0 <= i - r <= end]
            products(x.at(offset), members)


def _row(
    code: Code, spec: Spec, x: Place, fs: list[tuple[int, Place]], accs: list[Variable],
    pattern: Pattern, later: Place, columns: Place | None, mask: Value | None,
) -> None:  # fmt: skip
    """The products of one row of x."""
    kernel = len(pattern[0])
    if spec.short or kernel <= spec.taps or spec.group > 1:
        for k in range(0, kernel, spec.taps):
            part = tuple(p[k : k + spec.taps] for p in pattern)
            along = _along(code, fs, code.number(k))
            _block(code, spec, x, along, accs, part, later, columns, mask)
        return
    # The pattern of the next T taps is the same, so much further on.
    move = pattern[0][1] - pattern[0][0]
    part = tuple(p[: spec.taps] for p in pattern)
    rest = kernel % spec.taps

    def block(k: Value, part: Pattern) -> None:
        if columns is None:
            here, there = x.at(k * code["x_step"] * move), None
        else:
            here, there = x, columns.at(k * move)
        _block(code, spec, here, _along(code, fs, k), accs, part, later.at(k * code["x_step"] * move), there, mask)

    with code.loop(0, kernel - rest, spec.taps) as k:
        block(k, part)
    if rest:
        block(code.number(kernel - rest), tuple(p[:rest] for p in part))


def _along(code: Code, fs: list[tuple[int, Place]], k: Value) -> list[tuple[int, Place]]:
    return [(r, f.at(k * code["filters"])) for r, f in fs]


def _block(
    code: Code, spec: Spec, x: Place, fs: list[tuple[int, Place]], accs: list[Variable],
    pattern: Pattern, later: Place, columns: Place | None, mask: Value | None,
) -> None:  # fmt: skip
    """The products of a row of x with a few taps, which are loaded here."""
    values: dict[tuple[int, int], Value] = {}
    used = [any(taps[k] != NOWHERE for taps in pattern) for k in range(len(pattern[0]))]
    for r, f in fs:
        for k, wanted in enumerate(used):
            if wanted:
                values[r, k] = f.load(spec.lanes, mask)
            f = f.at(code["filters"])
    _products(code, spec, x, values, accs, pattern, later, columns, mask)


def _products(
    code: Code, spec: Spec, x: Place, values: dict[tuple[int, int], Value], accs: list[Variable],
    pattern: Pattern, later: Place, columns: Place | None, mask: Value | None,
) -> None:  # fmt: skip
    """The products of a row of x with taps of these values."""
    tile, lanes = len(pattern), spec.lanes
    rows = sorted({r for r, _ in values})
    meets: dict[int, list[tuple[int, int]]] = {}
    for p, taps in enumerate(pattern):
        for k, j in enumerate(taps):
            if j != NOWHERE:
                meets.setdefault(j, []).append((p, k))

    def products(place: Place, pairs: list[tuple[int, int]]) -> None:
        each = load(place, spec.x, lanes, mask, None)
        for r in rows:
            for p, k in pairs:
                a = accs[r * tile + p]
                a.set(each.times_plus(values[r, k], a.get()))

    step = code["x_step"]
    at = min(meets, default=0)
    here, later = x.at(step * at), later.at(step * at)
    for j in sorted(meets):
        if spec.ahead:
            fetch(later, False)
            later = later.at(step)
        if columns is None:
            here = here.at(step * (j - at)) if j > at else here
            at = j
            products(here, meets[j])
            continue
        offset = columns.at(j).load()
        with code.when(offset >= 0):
            products(x.at(offset), meets[j])
