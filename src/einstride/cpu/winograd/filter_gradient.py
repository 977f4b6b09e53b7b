"""The filter gradient by minimal filtering: G^T [ sum over tiles (B^T d) (A gy)^T ] G.

A chunk is one share of the tiles, one tap of the outer axes, one block of input channels and one of
output channels. Block by block of tiles, V (of x) and Y (of gy) are transformed into the worker's
scratch memory, and the products of matrices W[point] += V[point]^T Y[point] are added up.

The order of each sum is that of the tiles, whoever computes it: the bits do not depend on the
number of threads. With several shares, all their W are kept, and `finish` adds them in order.
"""

from __future__ import annotations

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.linear_combinations import sandwiched
from einstride.codegen.vector_ops import local
from einstride.cpu.winograd.tiles import Form, addresses, by_vectors, multiply, tile_at, transform
from einstride.geometry.cook_toom import transposed

ARGUMENTS = (
    "counter", "chunks", "shares", "share", "tiles", "block", "outer", "tiles0", "tiles1", "taps",
    "x", "x_batch", "y", "y_batch", "zeros", "channels", "filters", "c_block", "c_blocks",
    "d_block", "d_blocks", "v_point", "y_point", "w_point", "w_row", "v", "v_worker", "y_at",
    "w", "w_worker", "w_chunk", "in_outer", "out_outer", "in0", "in1", "out0", "out1",
    "f", "f_tap", "f_0", "f_1", "f_c",
)  # fmt: skip
"""The words of the argument block of both kernels; sizes and steps in elements."""


def kernel(form: Form) -> str:
    """The kernel that sums over tiles, and finishes where there is one share."""
    code = Code("winograd_grad", ARGUMENTS)
    with code.chunks(code["chunks"]) as chunk:
        share = chunk % code["shares"]
        part = _Part(code, chunk // code["shares"])
        v = code.array("v", form.dtype).at(code.worker * code["v_worker"])
        w = code.array("w", form.dtype)
        w = w.at(code.worker * code["w_worker"] + chunk * code["w_chunk"])
        start = share * code["share"]
        stop = (start + code["share"]).least(code["tiles"])
        with code.loop(start, stop, code["block"]) as first:
            count = (stop - first).least(code["block"])
            _data(code, form, part, first, count, v)
            _result(code, form, part, first, count, v.at(code["y_at"]))
            _products(code, form, part, count, v, w, first.equals(start))
        with code.when(code["shares"].equals(1)):
            _finish(code, form, part, w)
    return code.text()


def finish(form: Form) -> str:
    """The kernel that adds all shares to the first, in order, and transforms the sums."""
    code = Code("winograd_finish", ARGUMENTS)
    with code.chunks(code["chunks"]) as chunk:
        w = code.array("w", form.dtype).at(chunk * code["shares"] * code["w_chunk"])
        with code.loop(0, code["w_chunk"], form.lanes) as i:
            total = code.variable(w.at(i).load(form.lanes))
            with code.loop(1, code["shares"]) as share:
                other = w.at(share * code["w_chunk"] + i).load(form.lanes)
                total.set(total.get() + other)
            w.at(i).store(total.get())
        _finish(code, form, _Part(code, chunk), w)
    return code.text()


class _Part:
    """Which part of the filter a chunk computes."""

    def __init__(self, code: Code, index: Value) -> None:
        self.d = index % code["d_blocks"] * code["d_block"]
        index = index // code["d_blocks"]
        self.c = index % code["c_blocks"] * code["c_block"]
        self.tap = index // code["c_blocks"]
        self.channels = (code["channels"] - self.c).least(code["c_block"])
        self.filters = (code["filters"] - self.d).least(code["d_block"])


def _data(code: Code, form: Form, part: _Part, first: Value, count: Value, v: Pointer) -> None:
    """V[point][tile][channel] of the block's channels."""
    slots = local(code, form.points, "int64")
    zeros = code.array("zeros", form.dtype)
    rows = form.pair(lambda m: m.data)
    with code.loop(0, count) as t:
        tile = tile_at(code, first + t)
        x = code.array("x", form.dtype).at(tile.batch * code["x_batch"] + part.c)
        at = tile.outer * code["taps"] + part.tap
        outer = code.array("in_outer", "int64").at(at).load()
        addresses(code, ("in0", "in1"), tile, form.sizes, x, outer, zeros, slots)
        target = v.at(t * code["c_block"])
        transform(code, form, rows, slots, part.channels, target, code["v_point"])


def _result(code: Code, form: Form, part: _Part, first: Value, count: Value, y: Pointer) -> None:
    """Y[point][tile][output channel] of the block's output channels."""
    (m0, _), (m1, _) = form.axes
    slots = local(code, m0 * m1, "int64")
    zeros = code.array("zeros", form.dtype)
    rows = form.pair(lambda m: transposed(m.output))
    with code.loop(0, count) as t:
        tile = tile_at(code, first + t)
        gy = code.array("y", form.dtype).at(tile.batch * code["y_batch"] + part.d)
        outer = code.array("out_outer", "int64").at(tile.outer).load()
        addresses(code, ("out0", "out1"), tile, (m0, m1), gy, outer, zeros, slots)
        target = y.at(t * code["d_block"])
        transform(code, form, rows, slots, part.filters, target, code["y_point"])


def _products(
    code: Code, form: Form, part: _Part, count: Value, v: Pointer, w: Pointer, fresh: Value
) -> None:
    """W[point][channel][output channel] += the sum over the block's tiles."""
    y = v.at(code["y_at"])
    with code.loop(0, form.points) as point:
        vs, ws = v.at(point * code["v_point"]), w.at(point * code["w_point"])
        with code.loop(0, part.filters, form.width) as d:
            multiply(
                code, form, part.channels, lambda c: vs.at(c), code["c_block"],
                y.at(point * code["y_point"] + d), code["d_block"], count,
                ws.at(d), code["w_row"], fresh,
            )  # fmt: skip


def _finish(code: Code, form: Form, part: _Part, w: Pointer) -> None:
    """G^T W G, a channel at a time."""
    rows = form.pair(lambda m: transposed(m.taps))
    lanes = form.lanes
    offset = code.array("f_tap", "int64").at(part.tap).load()
    f = code.array("f", form.dtype).at(offset + part.c * code["f_c"] + part.d)
    with code.loop(0, part.channels) as c:
        sums, target = w.at(c * code["w_row"]), f.at(c * code["f_c"])

        def each(
            d: Value, mask: Mask | None, sums: Pointer = sums, target: Pointer = target
        ) -> None:
            def load(i: int, j: int) -> Value:
                point = i * form.sizes[1] + j
                return sums.at(code["w_point"] * point + d).load(lanes)

            def store(i: int, j: int, value: Value) -> None:
                target.at(code["f_0"] * i + code["f_1"] * j + d).store(value, mask)

            sandwiched(code, rows[0], rows[1], load, store, form.dtype)

        by_vectors(code, part.filters, lanes, each)
