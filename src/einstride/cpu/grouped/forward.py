"""Write the forward kernel of many small groups: a tile is positions of a row by a panel's lanes.

In the loops over outer taps, input channels c and taps k of the last axis,

    acc[p] += broadcast(x[position p under tap k, channel c of each lane's group]) * f[c, k]

One broadcast, a shuffle, serves all positions that read the same element of x; see
`einstride.cpu.grouped.rows`. Tiles are parts of a row, so no tile computes coordinates. Outer taps
in the border are skipped, and so are the products of the last axis that are known to lie there.
Every output is summed in the same order.
"""

from __future__ import annotations

from dataclasses import replace

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable
from einstride.cpu.grouped.rows import Seen, Source, Spec, aligned, channel, range_names, stage


def arguments(rank: int) -> tuple[str, ...]:
    """The argument names; those with a number belong to a spatial axis or a kind of tile."""
    names = ("table", "taps", "out", "y_step")
    each = [f"{name}{a}" for a in range(rank) for name in names]
    each.remove(f"table{rank - 1}")
    return (
        "counter", "chunks", "blocks", "block", "rows", "panels", "parts", "part", "x", "y", "f",
        "bias", "zeros", "line", "x_first", "x_stride", "x_step", "x_batch", "y_batch", "f_panel",
        "inner", "panel_x", "panel_column", "panel_columns", "panel_inputs", *range_names(), *each,
    )  # fmt: skip


def kernel(spec: Spec) -> str:
    """The LLVM IR of the kernel ``grouped``."""
    code = Code("grouped", arguments(spec.rank))
    staged = aligned(code, spec.compute, spec.room * spec.shape.lanes)
    with code.chunks(code["chunks"]) as chunk:
        one = code["part"].equals(1)  # 1: blocks are the inner loop of chunks; else parts are
        count = one.pick(code["blocks"], code["parts"])
        fast, slow = chunk % count, chunk // count
        start, first = one.pick(slow, fast) * code["part"], one.pick(fast, slow) * code["block"]
        stop, last = start + code["part"], first + code["block"]
        # A row stays in the cache for all panels of a part; or one large panel, for all rows.
        with (
            code.loop(first, last.least(code["rows"])) as row,
            code.loop(start, stop.least(code["panels"])) as panel,
        ):
            _row(code, spec, panel, row, staged)
    return code.text()


def _row(code: Code, spec: Spec, panel: Value, row: Value, staged: Pointer) -> None:
    """Compute a row of positions for one panel."""
    s, last = spec.shape, spec.rank - 1
    column = code.array("panel_column", "int64").at(panel).load()
    columns = code.array("panel_columns", "int64").at(panel).load()
    masks = [code.first_lanes(columns - v * s.lanes, s.lanes) for v in range(s.vectors)]
    x = code.array("x", spec.first).at(code.array("panel_x", "int64").at(panel).load())
    y = code.array("y", spec.second).at(column)
    f = code.array("f", spec.compute).at(panel * code["f_panel"])
    rows: list[Pointer] = []
    rest, coming = row, (row, f)
    for a in reversed(range(last)):
        at, rest = rest % code[f"out{a}"], rest // code[f"out{a}"]
        rows.insert(0, code.array(f"table{a}", "int64").at(at * code[f"taps{a}"]))
        coming = coming if a + 1 < last else (at, rows[0])
        y = y.at(at * code[f"y_step{a}"])
    x, y = x.at(rest * code["x_batch"]), y.at(rest * code["y_batch"])
    if last and spec.ahead:
        _ahead(code, spec, x, y, coming)
    here = code.array("panel_inputs", "int64").at(panel).load()
    for i, seen in enumerate(spec.runs):
        with code.loop(code[f"run{i}"], code[f"stop{i}"], len(seen)) as w:
            line = code.array("line", "int64").at(w * spec.stride)
            start = code["x_first"] + w * code["x_stride"]
            zeros = code.array("zeros", spec.first)
            source = Source(x, line, zeros, here, start, code["x_step"])
            acc = _begin(code, spec, seen, column, masks)
            _taps(code, spec, seen, source, rows, f, acc, staged)
            _write(code, spec, y.at(w * code[f"y_step{last}"]), acc, masks)


def _ahead(code: Code, spec: Spec, x: Pointer, y: Pointer, coming: tuple[Value, Pointer]) -> None:
    """Prefetch the cache lines that the next row is the first to access."""
    at, table = coming
    a = spec.rank - 2
    taps = code[f"taps{a}"]
    offset = table.at(taps + taps - 1).load()
    with (
        code.when(at + 1 < code[f"out{a}"]),
        code.loop(0, code[f"out{a + 1}"]) as w,
    ):
        y.at(code[f"y_step{a}"] + w * code[f"y_step{a + 1}"]).prefetch(write=True)
        for i in range(spec.stride):
            x.at(offset + (w * spec.stride + i) * code["x_step"]).prefetch()


def _begin(code: Code, spec: Spec, seen: Seen, column: Value, masks: list[Mask]) -> list[Variable]:
    """Initialise the sums of a tile with the bias."""
    s = spec.shape
    acc = [code.variable(code.zero(spec.compute, s.lanes)) for _ in range(len(seen) * s.vectors)]
    with code.when(code["bias"].equals(0) ^ 1):
        for v, mask in enumerate(masks):
            each = code.array("bias", spec.compute).at(column + v * s.lanes).load(s.lanes, mask)
            for p in range(len(seen)):
                acc[p * s.vectors + v].set(each)
    return acc


def _taps(
    code: Code, spec: Spec, seen: Seen, source: Source, rows: list[Pointer], f: Pointer,
    acc: list[Variable], staged: Pointer,
) -> None:  # fmt: skip
    """Add the products of every outer tap that does not lie in the border."""
    s = spec.shape

    def along(a: int, x: Pointer, tap: Value) -> None:
        if a == spec.rank - 1:
            here = replace(source, x=x)
            with code.loop(0, code["inner"]) as block:
                stage(code, spec, here, block, seen, staged)
                at = (tap * code["inner"] + block) * (s.block * spec.taps * s.width)
                _products(code, spec, seen, staged, f.at(at), acc)
            return
        with code.loop(0, code[f"taps{a}"]) as k:
            offset = rows[a].at(k).load()
            with code.when(offset >= 0):
                along(a + 1, x.at(offset), tap * code[f"taps{a}"] + k)

    along(0, source.x, code.number(0))


def _products(
    code: Code, spec: Spec, seen: Seen, staged: Pointer, f: Pointer, acc: list[Variable]
) -> None:
    """Add the products of a block of channels."""
    s = spec.shape
    if s.joined > 1:
        for i in range(s.block):
            _channel(code, spec, seen, staged, f.at(i * spec.taps * s.width), i, acc)
        return
    with code.loop(0, s.block) as c:
        _channel(code, spec, seen, staged, f.at(c * (spec.taps * s.width)), c, acc)


def _channel(
    code: Code, spec: Spec, seen: Seen, staged: Pointer, f: Pointer, c: Value | int,
    acc: list[Variable],
) -> None:  # fmt: skip
    """Add the products of one channel; each broadcast serves all positions that read it."""
    s, places = spec.shape, spec.places(seen)
    number = {pair: i for i, pairs in enumerate(places.values()) for pair in pairs}

    def row(k: int) -> list[Value]:
        return [f.at(k * s.width + v * s.lanes).load(s.lanes) for v in range(s.vectors)]

    def add(p: int, spread: Value, numbers: list[Value]) -> None:
        for v, each in enumerate(numbers):
            sums = acc[p * s.vectors + v]
            sums.set(spread.times_plus(each, sums.get()))

    if s.vectors == 1:
        fs = [row(k) for k in range(spec.taps)]
        for i, pairs in enumerate(places.values()):
            spread = channel(spec, staged.at(i * s.lanes), c)
            for p, k in pairs:
                add(p, spread, fs[k])
        return
    for k in range(spec.taps):  # sums and a row of f fill the registers
        fs_k = row(k)
        for p in range(len(seen)):
            if seen[p][k]:
                add(p, channel(spec, staged.at(number[p, k] * s.lanes), c), fs_k)


def _write(code: Code, spec: Spec, y: Pointer, acc: list[Variable], masks: list[Mask]) -> None:
    """Store the sums of a tile, rounded to the dtype of the result."""
    s, step = spec.shape, code[f"y_step{spec.rank - 1}"]
    for i, sums in enumerate(acc):
        p, v = divmod(i, s.vectors)
        found = code.convert(sums.get(), spec.compute, spec.second)
        pointer = y.at(step * p).at(v * s.lanes)
        pointer.store(found, None if spec.full_y else masks[v])
