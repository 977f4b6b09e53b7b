"""Write the forward kernel of Winograd's minimal filtering (Lavin and Gray 2016).

A chunk is a block of tiles and a range of panels of output channels. Its thread, in scratch memory
that stays in the cache:

1. transforms each tile of x in registers, to V[point][tile][tap, channel];
2. multiplies matrices for each panel and point, M[tile][point] = V[point] U[panel][point];
3. transforms M in registers, adds the bias, and stores the outputs of the tile that exist.

The transformed filter U is made beforehand by `filter_transform`, or here, slice by slice just
before its use, if no other block of tiles would read it (few tiles, many channels).
"""

from __future__ import annotations

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.linear_combinations import multiply_both_sides
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
"""Argument names; sizes and strides in elements. With a prepared filter, ``f`` is U."""


def m_row(form: Form) -> int:
    """Return the stride of tiles in M, in elements: one vector longer than a tile, so that tiles
    do not fall into the same cache sets."""
    return form.points * form.width + form.lanes


def kernel(form: Form, reading: str) -> str:
    """Write the kernel; `reading` is "prepared", or the reading of `filter_transform.kernel`."""
    code = Code("winograd", ARGUMENTS)
    with code.chunks(code["chunks"]) as chunk:
        split = chunk % code["splits"]
        first = chunk // code["splits"] * code["block"]
        count = (code["tiles"] - first).minimum(code["block"])
        v = code.array("scratch", form.dtype).at(code.worker * code["scratch_size"])
        _transform_x(code, form, first, count, v)
        start = split * code["split_panels"]
        with code.loop(start, (start + code["split_panels"]).minimum(code["panels"])) as panel:
            if reading == "prepared":
                _multiply_prepared(code, form, panel, count, v)
            else:
                _multiply_fused(code, form, reading, panel, count, v)
            _transform_m(code, form, first, count, panel, v)
    return code.text()


def _transform_x(code: Code, form: Form, first: Value, count: Value, v: Pointer) -> None:
    """Transform tiles of x to V."""
    data = form.pair(lambda m: m.data)
    pointers = local(code, form.points, "int64")
    taps, zeros = code["taps"], code.array("zeros", form.dtype)
    with code.loop(0, count) as t:
        tile = tile_at(code, first + t)
        x = code.array("x", form.dtype).at(tile.batch * code["x_batch"])
        with code.loop(0, taps) as tap:
            outer = code.array("in_outer", "int64").at(tile.outer * taps + tap).load()
            addresses(code, ("in0", "in1"), tile, form.sizes, x, outer, zeros, pointers)
            destination = v.at((t * taps + tap) * code["channels"])
            transform(code, form, data, pointers, code["channels"], destination, code["v_point"])


def _multiply_prepared(code: Code, form: Form, panel: Value, count: Value, v: Pointer) -> None:
    """Compute M of one panel from a filter that was transformed beforehand."""
    depth = code["taps"] * code["channels"]
    f = code.array("f", form.dtype).at(panel * code["f_panel"])
    with code.loop(0, depth, code["slice"]) as k:
        size = (depth - k).minimum(code["slice"])
        _multiply_points(code, form, count, v, k, size, f.at(k * form.width), code["f_point"])


def _multiply_fused(
    code: Code, form: Form, reading: str, panel: Value, count: Value, v: Pointer
) -> None:
    """Compute M of one panel, transforming each slice of the filter just before its use."""
    channels, u, point_stride = code["channels"], v.at(code["u_at"]), code["f_point"]
    with code.loop(0, code["taps"]) as tap, code.loop(0, channels, code["slice"]) as c:
        size = (channels - c).minimum(code["slice"])
        filter_transform.block(code, form, reading, panel, tap, c, size, u, point_stride)
        _multiply_points(code, form, count, v, tap * channels + c, size, u, point_stride)


def _multiply_points(
    code: Code,
    form: Form,
    count: Value,
    v: Pointer,
    k: Value,
    size: Value,
    u: Pointer,
    point_stride: Value,
) -> None:
    """Add to M the products of V with `size` rows of U from row k on."""
    depth = code["taps"] * code["channels"]
    with code.loop(0, form.points) as point:
        v_rows = v.at(point * code["v_point"] + k)
        multiply(
            code, form, count, lambda p: v_rows.at(p.minimum(count - 1) * depth), 1,
            u.at(point * point_stride), form.width, size,
            v.at(code["m_at"] + point * form.width), m_row(form), k.equals(0),
        )  # fmt: skip


def _transform_m(
    code: Code, form: Form, first: Value, count: Value, panel: Value, v: Pointer
) -> None:
    """Transform M of one panel to y, and add the bias."""
    output = form.pair(lambda m: m.output)
    (m0, _), (m1, _) = form.outputs_and_taps
    lanes, pointers = form.lanes, local(code, m0 * m1, "int64")
    column = panel * form.width
    left, discarded = code["filters"] - column, v.at(code["trash_at"])
    bias = code.array("bias", form.dtype).at(column)
    masks = [code.first_lanes(left - n * lanes, lanes) for n in range(form.vectors)]
    bias_vectors = local(code, form.vectors, form.dtype, lanes)
    for n in range(form.vectors):
        bias_vectors.at(n * lanes).store(code.zero(form.dtype, lanes))
        with code.when(code["bias"].equals(0) ^ 1):
            bias_vectors.at(n * lanes).store(bias.at(n * lanes).load(lanes, masks[n]))
    with code.loop(0, count) as t:
        tile = tile_at(code, first + t)
        outer = code.array("out_outer", "int64").at(tile.outer).load() + column
        y = code.array("y", form.dtype).at(tile.batch * code["y_batch"])
        addresses(code, ("out0", "out1"), tile, (m0, m1), y, outer, discarded, pointers)
        m = v.at(code["m_at"] + t * m_row(form))

        def transform_vector(n: Value, mask: Mask | None) -> None:
            bias_vector = bias_vectors.at(n * lanes).load(lanes)

            def load(i: int, j: int) -> Value:
                return m.at((i * form.sizes[1] + j) * form.width).at(n * lanes).load(lanes)

            def store(i: int, j: int, value: Value) -> None:
                pointer = code.pointer(pointers.at(i * m1 + j).load(), form.dtype)
                pointer.at(n * lanes).store(value + bias_vector, mask)

            multiply_both_sides(code, *output, load, store, form.dtype)

        full_vectors = (left // lanes).minimum(form.vectors)
        with code.loop(0, full_vectors) as vector:
            transform_vector(vector, None)
        with code.when(full_vectors < form.vectors), code.when(code.number(0) < left % lanes):
            transform_vector(full_vectors, code.first_lanes(left % lanes, lanes))
