"""Minimal filtering (Winograd; Lavin and Gray 2016): few products, in blocks that stay in cache.

A chunk is a block of tiles and some panels of output channels, done by one worker in its own
scratch memory:

1. each tile's patch of x is transformed in registers, V[point][tile][tap, channel];
2. for each panel and point, M[tile][point] = V[point] U[panel][point]: products of matrices;
3. M is transformed in registers, the bias is added, and what exists of the tile is stored.

The transformed filter U is either read, made beforehand by `filter_transform`, or made here slice
by slice just before its use, when no other block of tiles would use it (few tiles, many channels).
"""

from __future__ import annotations

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.linear_combinations import sandwiched
from einstride.codegen.vector_ops import local
from einstride.cpu.winograd import filter_transform
from einstride.cpu.winograd.tiles import Form, addresses, multiply, tile_at, transform

ARGUMENTS = (
    "counter", "chunks", "splits", "panels", "split_panels", "tiles", "block", "outer", "tiles0",
    "tiles1", "taps", "x", "x_batch", "y", "y_batch", "bias", "zeros", "channels", "filters",
    "scratch", "scratch_size", "v_point", "m_at", "u_at", "trash_at", "slice", "in_outer",
    "out_outer", "in0", "in1", "out0", "out1",
    "f", "f_panel", "f_point", "f_tap", "f_0", "f_1", "f_c", "f_d",
)  # fmt: skip
"""The words of the argument block; sizes and steps in elements. With a prepared filter f is U."""


def m_row(form: Form) -> int:
    """Elements from one tile to the next in M; a vector more than needed, so that no two tiles
    fall into the same sets of the cache."""
    return form.points * form.width + form.lanes


def kernel(form: Form, reading: str) -> str:
    """The text of the kernel: `reading` is "prepared", or how `filter_transform` reads f."""
    code = Code("winograd", ARGUMENTS)
    with code.chunks(code["chunks"]) as chunk:
        split = chunk % code["splits"]
        first = chunk // code["splits"] * code["block"]
        count = (code["tiles"] - first).least(code["block"])
        v = code.array("scratch", form.dtype).at(code.worker * code["scratch_size"])
        _input(code, form, first, count, v)
        start = split * code["split_panels"]
        with code.loop(start, (start + code["split_panels"]).least(code["panels"])) as panel:
            if reading == "prepared":
                _prepared(code, form, panel, count, v)
            else:
                _raw(code, form, reading, panel, count, v)
            _output(code, form, first, count, panel, v)
    return code.text()


def _input(code: Code, form: Form, first: Value, count: Value, v: Pointer) -> None:
    """V from the patches of x."""
    data = form.pair(lambda m: m.data)
    slots = local(code, form.points, "int64")
    taps, zeros = code["taps"], code.array("zeros", form.dtype)
    with code.loop(0, count) as t:
        tile = tile_at(code, first + t)
        x = code.array("x", form.dtype).at(tile.batch * code["x_batch"])
        with code.loop(0, taps) as tap:
            outer = code.array("in_outer", "int64").at(tile.outer * taps + tap).load()
            addresses(code, ("in0", "in1"), tile, form.sizes, x, outer, zeros, slots)
            target = v.at((t * taps + tap) * code["channels"])
            transform(code, form, data, slots, code["channels"], target, code["v_point"])


def _prepared(code: Code, form: Form, panel: Value, count: Value, v: Pointer) -> None:
    """M of one panel, with the filter transformed beforehand."""
    depth = code["taps"] * code["channels"]
    f = code.array("f", form.dtype).at(panel * code["f_panel"])
    with code.loop(0, depth, code["slice"]) as k:
        size = (depth - k).least(code["slice"])
        _points(code, form, count, v, k, size, f.at(k * form.width), code["f_point"])


def _raw(code: Code, form: Form, reading: str, panel: Value, count: Value, v: Pointer) -> None:
    """M of one panel, with slices of the filter transformed on the way."""
    channels, u, step = code["channels"], v.at(code["u_at"]), code["f_point"]
    with code.loop(0, code["taps"]) as tap, code.loop(0, channels, code["slice"]) as c:
        size = (channels - c).least(code["slice"])
        filter_transform.block(code, form, reading, panel, tap, c, size, u, step)
        _points(code, form, count, v, tap * channels + c, size, u, step)


def _points(
    code: Code, form: Form, count: Value, v: Pointer, k: Value, size: Value, u: Pointer, step: Value
) -> None:
    """Add to M the products of `size` rows of U from row k."""
    depth = code["taps"] * code["channels"]
    with code.loop(0, form.points) as point:
        here = v.at(point * code["v_point"] + k)
        multiply(
            code, form, count, lambda p: here.at(p.least(count - 1) * depth), 1,
            u.at(point * step), form.width, size,
            v.at(code["m_at"] + point * form.width), m_row(form), k.equals(0),
        )  # fmt: skip


def _output(code: Code, form: Form, first: Value, count: Value, panel: Value, v: Pointer) -> None:
    """y of one panel from M, and the bias."""
    output = form.pair(lambda m: m.output)
    (m0, _), (m1, _) = form.axes
    lanes, slots = form.lanes, local(code, m0 * m1, "int64")
    column = panel * form.width
    left, trash = code["filters"] - column, v.at(code["trash_at"])
    bias = code.array("bias", form.dtype).at(column)
    masks = [code.first_lanes(left - n * lanes, lanes) for n in range(form.vectors)]
    added = local(code, form.vectors, form.dtype, lanes)
    for n in range(form.vectors):
        added.at(n * lanes).store(code.zero(form.dtype, lanes))
        with code.when(code["bias"].equals(0) ^ 1):
            added.at(n * lanes).store(bias.at(n * lanes).load(lanes, masks[n]))
    with code.loop(0, count) as t:
        tile = tile_at(code, first + t)
        outer = code.array("out_outer", "int64").at(tile.outer).load() + column
        y = code.array("y", form.dtype).at(tile.batch * code["y_batch"])
        addresses(code, ("out0", "out1"), tile, (m0, m1), y, outer, trash, slots)
        m = v.at(code["m_at"] + t * m_row(form))

        def each(n: Value, mask: Mask | None) -> None:
            plus = added.at(n * lanes).load(lanes)

            def load(i: int, j: int) -> Value:
                return m.at((i * form.sizes[1] + j) * form.width).at(n * lanes).load(lanes)

            def store(i: int, j: int, value: Value) -> None:
                pointer = code.pointer(slots.at(i * m1 + j).load(), form.dtype)
                pointer.at(n * lanes).store(value + plus, mask)

            sandwiched(code, *output, load, store, form.dtype)

        whole = (left // lanes).least(form.vectors)
        with code.loop(0, whole) as full:
            each(full, None)
        with code.when(whole < form.vectors), code.when(code.number(0) < left % lanes):
            each(whole, code.first_lanes(left % lanes, lanes))
