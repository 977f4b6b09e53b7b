"""Write the filter-gradient kernel of many small groups: sums in registers, over positions.

A register tile is all taps k of the last axis and a block of input channels c, by a vector of
output channels:

    acc[k, c] += broadcast(x[position p under tap k, channel c of each lane's group]) * gy[p]

One broadcast serves all pairs (position, tap) that read the same element of x; see
`einstride.cpu.grouped.rows`. Rows are summed in regions. The x and gy of a panel and a region are
packed first: in the arrays they lie so far apart that they would share few sets of the cache. A
region's sums are added to gf in the order of the regions. A pair in the border has no product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable
from einstride.cpu.grouped.rows import Seen, Source, Spec, channel, loaded, range_names


def arguments(rank: int) -> tuple[str, ...]:
    """The argument names; ``near`` is the memory of packed x and gy, of each thread."""
    names = (
        "table",
        "taps",
        "size",
        "out",
        "first",
        "last",
        "x_step",
        "y_step",
        "near_x",
        "near_y",
    )
    each = (f"{name}{a}" for a in range(rank) for name in names)
    return (
        "counter", "chunks", "panels", "parts", "part", "examples", "batch",
        "region_batch", "region_rows", "low_rows", "high_rows", "near", "near_bytes", "near_gy",
        "near_x_batch", "near_y_batch", "x", "y", "gf", "zeros", "x_batch", "y_batch", "gf_batch",
        "gf_channel", "tap_offsets", "inner", "line", "places", "panel_x", "panel_column",
        "panel_columns", "panel_inputs", *range_names(), *each,
    )  # fmt: skip


def kernel(spec: Spec) -> str:
    """The LLVM IR of the kernel ``grouped_gradient``."""
    code = Code("grouped_gradient", arguments(spec.rank))
    near = code.pointer(code["near"] + code.worker * code["near_bytes"], spec.compute)
    with code.chunks(code["chunks"]) as chunk:
        panel, rest = chunk % code["panels"], chunk // code["panels"]
        part, example = rest % code["parts"], rest // code["parts"]
        every = code["examples"].equals(1)
        first = every.pick(code.number(0), example)
        end = every.pick(code["batch"], example + 1)
        rows = code["out0"] if spec.rank > 1 else code.number(1)
        with (
            code.loop(first, end, code["region_batch"]) as n0,
            code.loop(0, rows, code["region_rows"]) as r0,
        ):
            ends = (n0 + code["region_batch"]).least(end), (r0 + code["region_rows"]).least(rows)
            fresh = n0.equals(first) & r0.equals(0)
            _region(code, spec, panel, part, example, (n0, ends[0], r0, ends[1]), fresh, near)
    return code.text()


def _region(
    code: Code, spec: Spec, panel: Value, part: Value, example: Value, region: Sequence[Value],
    fresh: Value, near: Pointer,
) -> None:  # fmt: skip
    """Add a region's products to gf, for blocks of input channels, all taps and one panel."""
    column = code.array("panel_column", "int64").at(panel).load()
    columns = code.array("panel_columns", "int64").at(panel).load()
    mask = None if spec.full_y else code.first_lanes(columns, spec.shape.lanes)
    x = code.array("x", spec.first).at(code.array("panel_x", "int64").at(panel).load())
    here = code.array("panel_inputs", "int64").at(panel).load()
    zeros = code.array("zeros", spec.first)
    source = Source(x, code.array("line", "int64"), zeros, here, here, here)
    near_gy = near.at(code["near_gy"])
    _n0, _, r0, _r1 = region
    low, high = code.number(0), code.number(0)
    if spec.rank > 1:
        number = r0 // code["region_rows"]
        low = code.array("low_rows", "int64").at(number).load()
        high = code.array("high_rows", "int64").at(number).load()
    _copy_x(code, spec, source, region, (low, high), near)
    gy = code.array("y", spec.second).at(column)
    _copy_gy(code, spec, gy, region, near_gy, mask)
    base = near
    if spec.rank > 1:
        base, near_gy = near.at(low * -1 * code["near_x0"]), near_gy.at(r0 * -1 * code["near_y0"])
    gf = code.array("gf", spec.compute).at(column + example * code["gf_batch"])
    begin = part * code["part"]
    blocks = begin, (begin + code["part"]).least(code["inner"])

    def axis(a: int, tap: Value, taps: list[Value]) -> None:
        if a == spec.rank - 1:
            with code.loop(*blocks) as block:
                shift = block * (spec.shape.lanes if spec.shape.joined > 1 else spec.shape.block)
                acc = _sums(code, spec, base.at(shift), near_gy, region, taps)
                _add(code, spec, gf, tap, block, acc, fresh, mask)
            return
        with code.loop(0, code[f"taps{a}"]) as k:
            axis(a + 1, tap * code[f"taps{a}"] + k, [*taps, k])

    axis(0, code.number(0), [])


def _copy_x(
    code: Code, spec: Spec, source: Source, region: Sequence[Value], rows: tuple[Value, Value],
    near: Pointer,
) -> None:  # fmt: skip
    """Pack the x of a panel's groups at each position of the padded rows that a region reads."""
    s, n0, n1 = spec.shape, region[0], region[1]

    def axis(a: int, x: Pointer, to: Pointer) -> None:
        if a == spec.rank - 1:
            here = replace(source, x=x)
            with code.loop(0, code["places"]) as q, code.loop(0, s.held // s.lanes) as v:
                if s.joined > 1:
                    found = loaded(code, spec, here, v * s.block, source.line.at(q).load())
                else:
                    found = loaded(code, spec, here, v * s.lanes, source.line.at(q).load())
                to.at(q * s.held + v * s.lanes).store(found)
            return
        first, last = rows if a == 0 else (code.number(0), code[f"size{a}"])
        with code.loop(first, last) as i:
            axis(a + 1, x.at(i * code[f"x_step{a}"]), to.at((i - first) * code[f"near_x{a}"]))

    with code.loop(n0, n1) as n:
        axis(0, source.x.at(n * code["x_batch"]), near.at((n - n0) * code["near_x_batch"]))


def _copy_gy(
    code: Code, spec: Spec, gy: Pointer, region: Sequence[Value], near: Pointer, mask: Mask | None
) -> None:
    """Pack the gy of a panel, one vector for each position of a region."""
    s, (n0, n1, r0, r1) = spec.shape, region

    def axis(a: int, y: Pointer, to: Pointer) -> None:
        first, last = (r0, r1) if a == 0 and spec.rank > 1 else (code.number(0), code[f"out{a}"])
        step = s.lanes if a == spec.rank - 1 else code[f"near_y{a}"]
        with code.loop(first, last) as o:
            pointer, there = y.at(o * code[f"y_step{a}"]), to.at((o - first) * step)
            if a == spec.rank - 1:
                there.store(pointer.load_as(spec.second, spec.compute, s.lanes, mask))
            else:
                axis(a + 1, pointer, there)

    with code.loop(n0, n1) as n:
        axis(0, gy.at(n * code["y_batch"]), near.at((n - n0) * code["near_y_batch"]))


def _sums(
    code: Code, spec: Spec, x: Pointer, gy: Pointer, region: Sequence[Value], taps: list[Value]
) -> list[Variable]:
    """Sum the products of a region's packed x and gy for one outer tap."""
    s, last = spec.shape, spec.rank - 1
    acc = [code.variable(code.zero(spec.compute, s.lanes)) for _ in range(spec.taps * s.block)]
    n0, n1, r0, r1 = region

    def axis(a: int, x: Pointer, y: Pointer) -> None:
        if a == last:
            for i, seen in enumerate(spec.runs):
                with code.loop(code[f"run{i}"], code[f"stop{i}"], len(seen)) as w:
                    row = x.at(w * (spec.stride * s.held))
                    _products(spec, seen, row, y.at(w * s.lanes), acc)
            return
        lo = code.array(f"first{a}", "int64").at(taps[a]).load()
        hi = code.array(f"last{a}", "int64").at(taps[a]).load()
        if a == 0:
            lo, hi = lo.most(r0), hi.least(r1)
        table = code.array(f"table{a}", "int64").at(taps[a])
        with code.loop(lo, hi) as o:
            offset = table.at(o * code[f"taps{a}"]).load()
            axis(a + 1, x.at(offset), y.at(o * code[f"near_y{a}"]))

    with code.loop(0, n1 - n0) as n:
        axis(0, x.at(n * code["near_x_batch"]), gy.at(n * code["near_y_batch"]))
    return acc


def _products(spec: Spec, seen: Seen, x: Pointer, y: Pointer, acc: list[Variable]) -> None:
    """Add the products of a tile of positions to the accumulators."""
    s = spec.shape
    rows: dict[int, Value] = {}
    for q, pairs in spec.places(seen).items():
        for p, _ in pairs:
            if p not in rows:
                rows[p] = y.at(p * s.lanes).load(s.lanes)
        for c in range(s.block):
            spread = channel(spec, x.at(q * s.held), c)
            for p, k in pairs:
                sums = acc[k * s.block + c]
                sums.set(spread.times_plus(rows[p], sums.get()))


def _add(
    code: Code, spec: Spec, gf: Pointer, tap: Value, block: Value, acc: list[Variable],
    fresh: Value, mask: Mask | None,
) -> None:  # fmt: skip
    """Store the first region's sums in gf, or add those of a later region to gf."""
    s = spec.shape
    table = code.array("tap_offsets", "int64").at(tap * spec.taps)
    for k in range(spec.taps):
        to = gf.at(table.at(k).load())
        for c in range(s.block):
            number = block * s.block + c
            with code.when(number < s.inputs):
                pointer, sums = to.at(number * code["gf_channel"]), acc[k * s.block + c]
                with code.when(fresh ^ 1):
                    sums.set(sums.get() + pointer.load(s.lanes, mask))
                pointer.store(sums.get(), mask)
