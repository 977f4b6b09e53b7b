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

Where a filter has many taps and the positions are few, a vector's plane of x and its taps are first
copied side by side: they lie a whole pixel of channels apart, often a power of two, and would drive
one another out of the first cache.
"""

from __future__ import annotations

from collections.abc import Callable

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.ir_types import INT64, POINTER
from einstride.codegen.vector_formats import load
from einstride.cpu.channelwise.form import axis_names
from einstride.cpu.depthwise.spec import Pattern, Spec
from einstride.cpu.depthwise.tile import Tile

NAME = "depthwise"

ELEMENTS = 512
"""Vectors of x that are copied side by side, at most: with the taps they fit the first cache."""

TAPS = 1024
"""Vectors of taps that are copied side by side, at most."""

Sums = Callable[[Pointer, Pointer, list[Pointer], Pattern, "Pointer | None"], None]
"""Sum a tile: places of x and y, tables of the outer axes, its pattern, and the table of the last
axis where the tile meets a border."""


def arguments(rank: int) -> tuple[str, ...]:
    """The words of the argument block."""
    return (
        "counter", "chunks", "panels", "panel", "blocks", "groups", "all_groups", "row_groups",
        "x", "x_batch", "x_step", "x_first", "x_move", "columns", "move", "x_ahead", "y_ahead",
        "inside", "outside", "y", "y_batch", "f", "taps", "plane", "batch", "examples", "bias",
        "filters", *axis_names(rank),
        *(f"{name}{a}" for a in range(rank) for name in ("size", "here", "there")),
    )  # fmt: skip


def kernel(spec: Spec) -> str:
    """The text of the kernel."""
    code = Code(NAME, arguments(spec.rank))
    room = [code.scratch(spec.x.computed, (n + 1) * spec.lanes) for n in (ELEMENTS, TAPS)]
    with code.chunks(code["chunks"]) as chunk:
        panel, rest = chunk % code["panels"], chunk // code["panels"]
        low = panel * code["panel"]
        if spec.packed:
            _packed(code, spec, rest, low, [aligned(pointer) for pointer in room])
        else:
            block, n = rest % code["blocks"], rest // code["blocks"]
            x, y = _example(code, spec, n)
            first = block * code["groups"]
            last = (first + code["groups"]).least(code["all_groups"])
            with code.loop(first, last) as group:
                _group(code, spec, x, y, group, _channels(code, spec, low))
    return code.text()


def _example(code: Code, spec: Spec, n: Value) -> tuple[Pointer, Pointer]:
    x = code.array("x", spec.x.stored).at(n * code["x_batch"])
    return x, code.array("y", spec.y.stored).at(n * code["y_batch"])


def aligned(pointer: Pointer) -> Pointer:
    """The next address that begins a line of the cache."""
    code = pointer.code
    found = Value(code, code.builder.ptrtoint(pointer.ir, INT64))
    return Pointer(code, code.builder.inttoptr(((found + 63) & -64).ir, POINTER), pointer.element)


def _vectors(
    code: Code, spec: Spec, low: Value, each: Callable[[Value, Mask | None], None]
) -> None:
    """The vectors of a panel of channels; the last of all may be a part of one, and has a mask."""
    filters = code["filters"]
    high = (low + code["panel"]).least(filters)
    width = spec.lanes * max(spec.packed, 1)
    with code.loop(low, high - (width - 1), width) as d:
        each(d, None)
    if spec.last:
        with code.when(high.equals(filters)):
            each(filters - spec.last, code.first_lanes(code.number(spec.last), spec.lanes))


def _channels(code: Code, spec: Spec, low: Value) -> Sums:
    """A tile for all vectors of a panel."""

    def sums(
        x: Pointer, y: Pointer, tables: list[Pointer], pattern: Pattern, columns: Pointer | None
    ) -> None:
        def each(d: Value, mask: Mask | None) -> None:
            f = code.array("f", spec.x.computed).at(d)
            steps = code["x_step"], code["filters"]
            bias = code.array("bias", spec.x.computed).at(d)
            tile = Tile(code, spec, f, bias, tables, pattern, columns, *steps, mask, mask)
            tile.write(x.at(d), y.at(d))

        _vectors(code, spec, low, each)

    return sums


def _packed(code: Code, spec: Spec, block: Value, low: Value, room: list[Pointer]) -> None:
    """All tiles of a few vectors, of some examples, whose taps are copied once."""
    xs, fs = room
    step, taps = code.number(spec.lanes), code["taps"]
    first = block * code["examples"]
    last = (first + code["examples"]).least(code["batch"])

    def each(d: Value, mask: Mask | None) -> None:
        f = code.array("f", spec.x.computed).at(d)
        with code.loop(0, taps) as k:
            for v in range(spec.packed):
                found = f.at(k * code["filters"] + v * spec.lanes).load(spec.lanes, mask)
                fs.at((taps * v + k) * spec.lanes).store(found)
        with code.loop(first, last) as n:
            x, y = _example(code, spec, n)
            _copy(code, spec, 0, x.at(d), xs, mask)
            with code.loop(0, spec.packed) as number:
                pointer, f = xs.at(number * code["plane"]), fs.at(number * taps * step)
                _one(code, spec, pointer, y, f, d + number * step, mask)

    _vectors(code, spec, low, each)


def _one(
    code: Code, spec: Spec, x: Pointer, y: Pointer, f: Pointer, d: Value, mask: Mask | None
) -> None:
    """All tiles of one vector, copied before."""
    bias, step = code.array("bias", spec.x.computed).at(d), code.number(spec.lanes)

    def sums(
        x: Pointer, y: Pointer, tables: list[Pointer], pattern: Pattern, columns: Pointer | None
    ) -> None:
        tile = Tile(code, spec, f, bias, tables, pattern, columns, step, step, None, mask)
        tile.write(x, y)

    with code.loop(0, code["all_groups"]) as group:
        _group(code, spec, x, y.at(d), group, sums)


def _copy(code: Code, spec: Spec, a: int, x: Pointer, there: Pointer, mask: Mask | None) -> None:
    """A vector's plane of x, from axis `a` on, side by side."""
    if a == spec.rank:
        for v in range(spec.packed):
            found = load(x.at(v * spec.lanes), spec.x, spec.lanes, mask, None)
            there.at(code["plane"] * v).store(found)
        return
    with code.loop(0, code[f"size{a}"]) as i:
        pointer = there.at(i * code[f"there{a}"])
        _copy(code, spec, a + 1, x.at(i * code[f"here{a}"]), pointer, mask)


def _group(code: Code, spec: Spec, x: Pointer, y: Pointer, group: Value, sums: Sums) -> None:
    """R rows of positions."""
    tables: list[Pointer] = []
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
            part = spec.pattern[o : o + spec.tile]
            sums(x.at(code["x_first"]), y.at(step * o), tables, part, None)
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
                sums(x, y.at(w * step), tables, spec.pattern, columns)
            with no:
                sums(x.at(start), y.at(w * step), tables, spec.pattern, None)
