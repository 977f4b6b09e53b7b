"""The filter gradient of many small groups: sums stay in registers while positions go by.

A tile is all taps k of the last axis and a block of channels c, by a vector of output channels:

    acc[k, c] += spread(x[position p under tap k, channel c of each lane's group]) * gy[p]

What is spread serves all pairs of a position and a tap that see the same place of x; see
`einstride.simd.grouped_rows`. Rows are visited in regions that fit the cache, tap by tap of the
outer axes; a region's sums are added to gf in a fixed order. A pair in a border has no product.
"""

from __future__ import annotations

from einstride.simd.code import Code, Place, Value, Variable
from einstride.simd.grouped_rows import Seen, Source, Spec, aligned, channel, range_names, stage


def arguments(rank: int) -> tuple[str, ...]:
    """The words of the argument block."""
    names = ("table", "taps", "out", "y_step", "first", "last")
    each = (f"{name}{a}" for a in range(rank) for name in names)
    return (
        "counter", "chunks", "panels", "parts", "part", "examples", "batch", "region_batch",
        "region_rows", "x", "y", "gf", "zeros", "x_batch", "y_batch", "gf_batch", "gf_channel",
        "tap_offsets", "inner", "panel_x", "panel_column", "panel_columns", "panel_inputs",
        *range_names(), *each,
    )  # fmt: skip


def kernel(spec: Spec) -> str:
    """The text of the kernel ``grouped_gradient``."""
    code = Code("grouped_gradient", arguments(spec.rank))
    staged = aligned(code, spec.compute, spec.room * spec.shape.lanes)
    with code.chunks(code["chunks"]) as chunk:
        panel, rest = chunk % code["panels"], chunk // code["panels"]
        part, example = rest % code["parts"], rest // code["parts"]
        _chunk(code, spec, panel, part, example, staged)
    return code.text()


def _chunk(
    code: Code, spec: Spec, panel: Value, part: Value, example: Value, staged: Place
) -> None:
    """Some input channels of all taps, for one panel of output channels."""
    column = code.array("panel_column", "int64").at(panel).load()
    columns = code.array("panel_columns", "int64").at(panel).load()
    mask = None if spec.full_y else code.first_lanes(columns, spec.shape.lanes)
    x = code.array("x", spec.first).at(code.array("panel_x", "int64").at(panel).load())
    gy = code.array("y", spec.second).at(column)
    gf = code.array("gf", spec.compute).at(column + example * code["gf_batch"])
    here = code.array("panel_inputs", "int64").at(panel).load()
    source = Source(x, x, code.array("zeros", spec.first), here)
    begin = part * code["part"]
    blocks = begin, (begin + code["part"]).least(code["inner"])
    every = code["examples"].equals(1)
    first = every.pick(code.number(0), example)
    end = every.pick(code["batch"], example + 1)
    rows = code["out0"] if spec.rank > 1 else code.number(1)
    with (
        code.loop(first, end, code["region_batch"]) as n0,
        code.loop(0, rows, code["region_rows"]) as r0,
    ):
        region = (n0, (n0 + code["region_batch"]).least(end), r0, r0 + code["region_rows"])
        fresh = n0.equals(first) & r0.equals(0)

        def axis(a: int, tap: Value, taps: list[Value]) -> None:
            if a == spec.rank - 1:
                with code.loop(*blocks) as block:
                    acc = _sums(code, spec, source, gy, region, taps, block, mask, staged)
                    _add(code, spec, gf, tap, block, acc, fresh, mask)
                return
            with code.loop(0, code[f"taps{a}"]) as k:
                axis(a + 1, tap * code[f"taps{a}"] + k, [*taps, k])

        axis(0, code.number(0), [])


def _sums(
    code: Code, spec: Spec, source: Source, gy: Place, region: tuple[Value, ...],
    taps: list[Value], block: Value, mask: Value | None, staged: Place,
) -> list[Variable]:  # fmt: skip
    """The sums over a region for one outer tap."""
    s, last = spec.shape, spec.rank - 1
    acc = [code.variable(code.zero(spec.compute, s.lanes)) for _ in range(spec.taps * s.block)]
    n0, n1, r0, r1 = region

    def axis(a: int, x: Place, y: Place) -> None:
        if a == last:
            for i, seen in enumerate(spec.runs):
                with code.loop(code[f"run{i}"], code[f"stop{i}"], len(seen)) as w:
                    line = code.array(f"table{last}", "int64").at(w * spec.stride)
                    here = Source(x, line, source.zeros, source.here)
                    stage(code, spec, here, block, seen, staged)
                    step = code[f"y_step{last}"]
                    _products(code, spec, seen, staged, y.at(w * step), step, acc, mask)
            return
        lo = code.array(f"first{a}", "int64").at(taps[a]).load()
        hi = code.array(f"last{a}", "int64").at(taps[a]).load()
        if a == 0:
            lo, hi = lo.most(r0), hi.least(r1)
        table = code.array(f"table{a}", "int64").at(taps[a])
        with code.loop(lo, hi) as o:
            offset = table.at(o * code[f"taps{a}"]).load()
            axis(a + 1, x.at(offset), y.at(o * code[f"y_step{a}"]))

    with code.loop(n0, n1) as n:
        axis(0, source.x.at(n * code["x_batch"]), gy.at(n * code["y_batch"]))
    return acc


def _products(
    code: Code, spec: Spec, seen: Seen, staged: Place, y: Place, step: Value,
    acc: list[Variable], mask: Value | None,
) -> None:  # fmt: skip
    """The products of a tile of positions."""
    s = spec.shape
    rows: dict[int, Value] = {}
    for i, pairs in enumerate(spec.places(seen).values()):
        for p, _ in pairs:
            if p not in rows:
                rows[p] = y.at(step * p).load_as(spec.second, spec.compute, s.lanes, mask)
        for c in range(s.block):
            spread = channel(spec, staged, i, c)
            for p, k in pairs:
                sums = acc[k * s.block + c]
                sums.set(spread.times_plus(rows[p], sums.get()))


def _add(
    code: Code, spec: Spec, gf: Place, tap: Value, block: Value, acc: list[Variable],
    fresh: Value, mask: Value | None,
) -> None:  # fmt: skip
    """Put the first region's sums into gf, and add the others'."""
    s = spec.shape
    table = code.array("tap_offsets", "int64").at(tap * spec.taps)
    for k in range(spec.taps):
        to = gf.at(table.at(k).load())
        for c in range(s.block):
            number = block * s.block + c
            with code.when(number < s.inputs):
                place, sums = to.at(number * code["gf_channel"]), acc[k * s.block + c]
                with code.when(fresh ^ 1):
                    sums.set(sums.get() + place.load(s.lanes, mask))
                place.store(sums.get(), mask)
