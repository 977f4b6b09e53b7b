"""The filter gradient of a depthwise layer, vectors along the channels, few taps.

    gf[k, l, c] += x[the place of tap (k, l) of position (r, p), c] * gy[r, p, c]

The sums of all taps stay in registers while a few rows go by; so do P neighbouring numbers of gy.
Each vector of x is then loaded once for all taps of its row. Rows are taken in units, each with a
table of sums, as told in `einstride.cpu.channelwise.channels_gradient`; tiles and borders are
those of `einstride.cpu.depthwise.forward`.
"""

from __future__ import annotations

from dataclasses import dataclass

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable
from einstride.codegen.vector_formats import Format, load
from einstride.cpu.channelwise.form import axis_names
from einstride.cpu.depthwise.spec import Pattern
from einstride.cpu.depthwise.tile import Known, along, fetch

NAME = "depthwise_gradient"


@dataclass(frozen=True)
class Spec:
    """What a kernel is made for; see `depthwise.Spec`.

    Attributes
    ----------
    x, y : Format
        The numbers of the input and of the output gradient.
    lanes, rank : int
        Numbers in a vector; spatial axes.
    high, tile : int
        Rows of taps, and P.
    last : int
        Lanes of the last vector of channels, 0 where it is full.
    pattern : tuple of tuple of int
        Where the taps of P positions lie, or of a whole row if `short`.
    short, ahead : bool
        Are a row's tiles written out? Is the next row fetched into the cache?
    """

    x: Format
    y: Format
    lanes: int
    rank: int
    high: int
    tile: int
    last: int
    pattern: Pattern
    short: bool
    ahead: bool


def arguments(rank: int) -> tuple[str, ...]:
    """The words of the argument block."""
    return (
        "counter", "chunks", "panels", "panel", "units", "rows", "group_rows", "all_rows",
        "stretch", "x", "x_batch", "x_step", "x_first", "x_move", "columns", "move",
        "x_ahead", "y_ahead",
        "inside", "outside", "y", "y_batch", "f", "f_unit", "filters", *axis_names(rank),
    )  # fmt: skip


def kernel(spec: Spec) -> str:
    """The text of the kernel."""
    code = Code(NAME, arguments(spec.rank))
    with code.chunks(code["chunks"]) as chunk:
        panel, unit = chunk % code["panels"], chunk // code["panels"]
        f = code.array("f", spec.x.computed).at(unit * code["f_unit"])
        group, number = unit // code["units"], unit % code["units"]
        first = number * code["rows"]
        last = (first + code["rows"]).least(code["group_rows"])
        low = panel * code["panel"]
        high = (low + code["panel"]).least(code["filters"])
        start = group * code["group_rows"]
        with code.loop(first, last, code["stretch"]) as i:
            stop = (i + code["stretch"]).least(last)
            with code.loop(low, high - (spec.lanes - 1), spec.lanes) as d:
                _stretch(code, spec, f, start + i, start + stop, d, None)
            if spec.last:
                with code.when(high.equals(code["filters"])):
                    mask = code.first_lanes(code.number(spec.last), spec.lanes)
                    _stretch(code, spec, f, start + i, start + stop, high - spec.last, mask)
    return code.text()


def _stretch(
    code: Code, spec: Spec, f: Pointer, first: Value, last: Value, d: Value, mask: Mask | None
) -> None:
    """The products of some rows, for a vector of channels, into the unit's table."""
    taps = spec.high * len(spec.pattern[0])
    sums = [code.variable(code.zero(spec.x.computed, spec.lanes)) for _ in range(taps)]
    rows = code["all_rows"]
    n, at = code.variable(first // rows), code.variable(first % rows)
    with code.loop(first, last):
        _row(code, spec, n.get(), at.get(), d, mask, sums)
        after = at.get() + 1  # counted, since a quotient for each row takes as long as a tile
        wraps = after.equals(rows)
        at.set(wraps.pick(code.number(0), after))
        n.set(wraps.pick(n.get() + 1, n.get()))
    pointer = f.at(d)
    for s in sums:
        pointer.store(pointer.load(spec.lanes, mask) + s.get(), mask)
        pointer = pointer.at(code["filters"])


def _row(
    code: Code, spec: Spec, n: Value, at: Value, d: Value, mask: Mask | None, sums: list[Variable]
) -> None:
    """The products of one row of one example."""
    x = code.array("x", spec.x.stored).at(n * code["x_batch"] + d)
    y = code.array("y", spec.y.stored).at(n * code["y_batch"] + d)
    offsets = [code.number(0)]
    if spec.rank > 1:
        y = y.at(at * code["y_step0"])
        table = code.array("table0", "int64").at(at * spec.high)
        offsets = [table.at(k).load() for k in range(spec.high)]
    step = code[f"y_step{spec.rank - 1}"]
    if spec.short:
        for o in range(0, len(spec.pattern), spec.tile):
            part = spec.pattern[o : o + spec.tile]
            here = x.at(code["x_first"])
            _tile(code, spec, here, y.at(step * o), offsets, part, None, mask, sums)
        return
    out = code[f"out{spec.rank - 1}"]
    whole = out - out % spec.tile

    def tile(w: Value, pattern: Pattern) -> None:
        start = code["x_first"] + w * code["x_move"]
        border = (w < code["inside"]) | (code["outside"] < w + len(pattern))
        with code.builder.if_else(border.ir) as (yes, no):
            with yes:
                columns = code.array("columns", "int64").at(w * code["move"])
                _tile(code, spec, x, y.at(w * step), offsets, pattern, columns, mask, sums)
            with no:
                _tile(code, spec, x.at(start), y.at(w * step), offsets, pattern, None, mask, sums)

    with code.loop(0, whole, spec.tile) as w:
        tile(w, spec.pattern)
    with code.loop(whole, out) as w:
        tile(w, spec.pattern[:1])


def _tile(
    code: Code, spec: Spec, x: Pointer, y: Pointer, offsets: list[Value], pattern: Pattern,
    columns: Pointer | None, mask: Mask | None, sums: list[Variable],
) -> None:  # fmt: skip
    """P positions: all rows of taps at once where they all meet x, else one after the other."""
    gs, step = [], code[f"y_step{spec.rank - 1}"]
    for _ in pattern:
        gs.append(load(y, spec.y, spec.lanes, mask, None))
        if spec.ahead:
            fetch(y.at(code["y_ahead"]), False)
        y = y.at(step)

    def products(rows: list[int]) -> None:
        _products(
            code, spec, [(k, x.at(offsets[k])) for k in rows], gs, pattern, columns, mask, sums
        )

    least = offsets[0]
    for offset in offsets[1:]:
        least = least.least(offset)
    if spec.high == 1:
        with code.when(least >= 0):
            products([0])
        return
    with code.builder.if_else((least >= 0).ir) as (yes, no):
        with yes:
            products(list(range(spec.high)))
        with no:
            for k, offset in enumerate(offsets):
                with code.when(offset >= 0):
                    products([k])


def _products(
    code: Code, spec: Spec, rows: list[tuple[int, Pointer]], gs: list[Value], pattern: Pattern,
    columns: Pointer | None, mask: Mask | None, sums: list[Variable],
) -> None:  # fmt: skip
    """The products of some rows of x with the numbers of gy."""
    kernel = len(pattern[0])

    def add(places: list[Pointer], pairs: Known) -> None:
        for n, pointer in zip([n for n, _ in rows], places, strict=True):
            each = load(pointer, spec.x, spec.lanes, mask, None)
            if spec.ahead and n == spec.high - 1:
                fetch(pointer.at(code["x_ahead"]), False)
            for p, k in pairs:
                s = sums[n * kernel + k]
                s.set(each.times_plus(gs[p], s.get()))

    along(code, [x for _, x in rows], pattern, columns, code["x_step"], add)
