"""Write the kernels of Winograd's filter gradient: G^T [ sum over tiles (B^T d) (A gy)^T ] G.

A chunk is one partial sum (a range of tiles) for one tap of the outer axes, one block of input
channels and one of output channels. For each block of tiles, the thread transforms x to V and gy to
Y in its scratch memory, and adds the matrix products W[point] += V[point]^T Y[point].

Each sum is added in the order of the tiles, so its bits do not depend on the number of threads.
With several partial sums, each has its own W, and `finish` adds these in order.
"""

from __future__ import annotations

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.linear_combinations import multiply_both_sides
from einstride.codegen.vector_ops import local
from einstride.cpu.winograd.tiles import (
    Form,
    addresses,
    for_each_vector,
    multiply,
    tile_at,
    transform,
)
from einstride.geometry.cook_toom import transposed

ARGUMENTS = (
    "counter", "chunks", "shares", "share", "tiles", "block", "outer", "tiles0", "tiles1", "taps",
    "x", "x_batch", "y", "y_batch", "zeros", "channels", "filters", "c_block", "c_blocks",
    "d_block", "d_blocks", "v_point", "y_point", "w_point", "w_row", "v", "v_worker", "y_at",
    "w", "w_worker", "w_chunk", "in_outer", "out_outer", "in0", "in1", "out0", "out1",
    "f", "f_tap", "f_0", "f_1", "f_c",
)  # fmt: skip
"""Argument names of both kernels; sizes and strides in elements. ``shares`` counts the partial sums
of a filter block, ``share`` the tiles of each."""


def kernel(form: Form) -> str:
    """Write the kernel that sums over tiles, and transforms the sum if it is the only one."""
    code = Code("winograd_grad", ARGUMENTS)
    with code.chunks(code["chunks"]) as chunk:
        partial_sum = chunk % code["shares"]
        part = _FilterBlock(code, chunk // code["shares"])
        v = code.array("v", form.dtype).at(code.worker * code["v_worker"])
        w = code.array("w", form.dtype)
        w = w.at(code.worker * code["w_worker"] + chunk * code["w_chunk"])
        start = partial_sum * code["share"]
        stop = (start + code["share"]).minimum(code["tiles"])
        with code.loop(start, stop, code["block"]) as first:
            count = (stop - first).minimum(code["block"])
            _transform_x(code, form, part, first, count, v)
            _transform_gy(code, form, part, first, count, v.at(code["y_at"]))
            _add_products(code, form, part, count, v, w, first.equals(start))
        with code.when(code["shares"].equals(1)):
            _transform_sums(code, form, part, w)
    return code.text()


def finish(form: Form) -> str:
    """Write the kernel that adds the partial sums to the first, in order, and transforms it."""
    code = Code("winograd_finish", ARGUMENTS)
    with code.chunks(code["chunks"]) as chunk:
        w = code.array("w", form.dtype).at(chunk * code["shares"] * code["w_chunk"])
        with code.loop(0, code["w_chunk"], form.lanes) as i:
            total = code.variable(w.at(i).load(form.lanes))
            with code.loop(1, code["shares"]) as partial_sum:
                term = w.at(partial_sum * code["w_chunk"] + i).load(form.lanes)
                total.set(total.get() + term)
            w.at(i).store(total.get())
        _transform_sums(code, form, _FilterBlock(code, chunk), w)
    return code.text()


class _FilterBlock:
    """The part of the filter that a chunk computes: a tap, input channels, output channels."""

    def __init__(self, code: Code, index: Value) -> None:
        self.d = index % code["d_blocks"] * code["d_block"]
        index = index // code["d_blocks"]
        self.c = index % code["c_blocks"] * code["c_block"]
        self.tap = index // code["c_blocks"]
        self.channels = (code["channels"] - self.c).minimum(code["c_block"])
        self.filters = (code["filters"] - self.d).minimum(code["d_block"])


def _transform_x(
    code: Code, form: Form, part: _FilterBlock, first: Value, count: Value, v: Pointer
) -> None:
    """Transform x to V[point][tile][channel], for the part's input channels."""
    pointers = local(code, form.points, "int64")
    zeros = code.array("zeros", form.dtype)
    rows = form.pair(lambda m: m.data)
    with code.loop(0, count) as t:
        tile = tile_at(code, first + t)
        x = code.array("x", form.dtype).at(tile.batch * code["x_batch"] + part.c)
        index = tile.outer * code["taps"] + part.tap
        outer = code.array("in_outer", "int64").at(index).load()
        addresses(code, ("in0", "in1"), tile, form.sizes, x, outer, zeros, pointers)
        destination = v.at(t * code["c_block"])
        transform(code, form, rows, pointers, part.channels, destination, code["v_point"])


def _transform_gy(
    code: Code, form: Form, part: _FilterBlock, first: Value, count: Value, y: Pointer
) -> None:
    """Transform gy to Y[point][tile][output channel], for the part's output channels."""
    (m0, _), (m1, _) = form.outputs_and_taps
    pointers = local(code, m0 * m1, "int64")
    zeros = code.array("zeros", form.dtype)
    rows = form.pair(lambda m: transposed(m.output))
    with code.loop(0, count) as t:
        tile = tile_at(code, first + t)
        gy = code.array("y", form.dtype).at(tile.batch * code["y_batch"] + part.d)
        outer = code.array("out_outer", "int64").at(tile.outer).load()
        addresses(code, ("out0", "out1"), tile, (m0, m1), gy, outer, zeros, pointers)
        destination = y.at(t * code["d_block"])
        transform(code, form, rows, pointers, part.filters, destination, code["y_point"])


def _add_products(
    code: Code,
    form: Form,
    part: _FilterBlock,
    count: Value,
    v: Pointer,
    w: Pointer,
    first_accumulation: Value,
) -> None:
    """W[point][channel][output channel] += the sum of V * Y over the block's tiles."""
    y = v.at(code["y_at"])
    with code.loop(0, form.points) as point:
        v_point, w_point = v.at(point * code["v_point"]), w.at(point * code["w_point"])
        with code.loop(0, part.filters, form.width) as d:
            multiply(
                code, form, part.channels, lambda c: v_point.at(c), code["c_block"],
                y.at(point * code["y_point"] + d), code["d_block"], count,
                w_point.at(d), code["w_row"], first_accumulation,
            )  # fmt: skip


def _transform_sums(code: Code, form: Form, part: _FilterBlock, w: Pointer) -> None:
    """Transform W to the filter gradient, G^T W G, one input channel at a time."""
    rows = form.pair(lambda m: transposed(m.taps))
    lanes = form.lanes
    offset = code.array("f_tap", "int64").at(part.tap).load()
    f = code.array("f", form.dtype).at(offset + part.c * code["f_c"] + part.d)
    with code.loop(0, part.channels) as c:
        sums, destination = w.at(c * code["w_row"]), f.at(c * code["f_c"])

        def transform_vector(
            d: Value, mask: Mask | None, sums: Pointer = sums, destination: Pointer = destination
        ) -> None:
            def load(i: int, j: int) -> Value:
                point = i * form.sizes[1] + j
                return sums.at(code["w_point"] * point + d).load(lanes)

            def store(i: int, j: int, value: Value) -> None:
                destination.at(code["f_0"] * i + code["f_1"] * j + d).store(value, mask)

            multiply_both_sides(code, rows[0], rows[1], load, store, form.dtype)

        for_each_vector(code, part.filters, lanes, transform_vector)
