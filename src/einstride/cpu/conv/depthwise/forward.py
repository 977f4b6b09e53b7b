"""Depthwise convolution kernel, vectors along channels: each vector of x is loaded once per tile.

The register tile is R rows by P columns of positions by one vector of channels. Every vector of x
under the tile is multiplied with all taps that meet it,

    acc[r, p] += x[row, j] * f[k, l]        where tap (k, l) of position (r, p) meets x[row, j]

so that a product costs a fraction of a load. The taps of a row stay in registers, or T of them at
a time. The j that a tap meets is known when the kernel is generated: as an index into the row where
the tiles of a short row are unrolled, else relative to the tile's first position. Tiles of a longer
row that meet a border take the offset of each j from a table, and skip those in padding of zeros.

The kernel computes forward passes and input gradients; what differs is which elements taps meet.
A strided input gradient skips the taps that meet no output.

For filters with many taps on few positions, a vector's plane of x and its taps are first packed:
read in place they are one position's channels apart, often a power of two, so that they would evict
each other from the first cache.
"""

from __future__ import annotations

from collections.abc import Callable

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.ir_types import INT64, POINTER
from einstride.codegen.vector_formats import load
from einstride.cpu.conv.depthwise.spec import Pattern, Spec
from einstride.cpu.conv.depthwise.tile import Tile

NAME = "depthwise"

ELEMENTS = 512
"""Vectors of x that are packed at once, at most. They lie on the stack; larger planes are read in
place."""

TAPS = 1024
"""Vectors of taps that are packed at once, at most."""

ComputeTile = Callable[[Pointer, Pointer, list[Pointer], Pattern, "Pointer | None"], None]
"""Generate one tile, given the addresses of x and y, the offset tables of the outer axes, its
pattern, and the offset table of the last axis if the tile meets a border."""


def axis_arguments(rank):
    return tuple(f"{name}{a}" for a in range(rank) for name in ("table", "taps", "out", "y_stride"))


def arguments(rank: int) -> tuple[str, ...]:
    """List the names of the kernel arguments."""
    return (
        "counter", "chunks", "panels", "panel", "blocks", "row_blocks", "all_row_blocks",
        "axis_blocks", "x", "x_batch", "x_stride", "x_first", "x_advance", "columns", "advance",
        "x_prefetch", "y_prefetch",
        "inside", "outside", "y", "y_batch", "f", "taps", "plane", "batch", "examples", "bias",
        "filters", *axis_arguments(rank),
        *(f"{name}{a}" for a in range(rank) for name in ("size", "x_stride_of", "packed_stride")),
    )  # fmt: skip


def kernel(spec: Spec) -> str:
    """Write the kernel's LLVM IR."""
    code = Code(NAME, arguments(spec.rank))
    buffers = [code.scratch(spec.x.computed, (n + 1) * spec.lanes) for n in (ELEMENTS, TAPS)]
    with code.chunks(code["chunks"]) as chunk:
        panel, remaining = chunk % code["panels"], chunk // code["panels"]
        low = panel * code["panel"]
        if spec.packed:
            _compute_packed(
                code, spec, remaining, low, [align_to_line(pointer) for pointer in buffers]
            )
        else:
            block, n = remaining % code["blocks"], remaining // code["blocks"]
            x, y = _locate_example(code, spec, n)
            first = block * code["row_blocks"]
            last = (first + code["row_blocks"]).minimum(code["all_row_blocks"])
            with code.loop(first, last) as row_block:
                _compute_row_block(code, spec, x, y, row_block, _tile_in_place(code, spec, low))
    return code.text()


def _locate_example(code: Code, spec: Spec, n: Value) -> tuple[Pointer, Pointer]:
    x = code.array("x", spec.x.stored).at(n * code["x_batch"])
    return x, code.array("y", spec.y.stored).at(n * code["y_batch"])


def align_to_line(pointer: Pointer) -> Pointer:
    """Return the next address that is a multiple of 64 bytes, a cache line."""
    code = pointer.code
    address = Value(code, code.builder.ptrtoint(pointer.ir, INT64))
    return Pointer(code, code.builder.inttoptr(((address + 63) & -64).ir, POINTER), pointer.element)


def _for_each_vector(
    code: Code, spec: Spec, low: Value, visit: Callable[[Value, Mask | None], None]
) -> None:
    """Call `visit` with the first channel and the mask of every vector of a panel of channels.

    The mask is None but for the tail, the last vector of all channels if it is not full.
    """
    filters = code["filters"]
    high = (low + code["panel"]).minimum(filters)
    width = spec.lanes * max(spec.packed, 1)
    with code.loop(low, high - (width - 1), width) as d:
        visit(d, None)
    if spec.tail:
        with code.when(high.equals(filters)):
            visit(filters - spec.tail, code.first_lanes(code.number(spec.tail), spec.lanes))


def _tile_in_place(code: Code, spec: Spec, low: Value) -> ComputeTile:
    """Return a function that generates one tile for all vectors of a panel of channels."""

    def compute_tile(
        x: Pointer, y: Pointer, tables: list[Pointer], pattern: Pattern, columns: Pointer | None
    ) -> None:
        def compute_vector(d: Value, mask: Mask | None) -> None:
            f = code.array("f", spec.x.computed).at(d)
            strides = code["x_stride"], code["filters"]
            bias = code.array("bias", spec.x.computed).at(d)
            tile = Tile(code, spec, f, bias, tables, pattern, columns, *strides, mask, mask)
            tile.generate(x.at(d), y.at(d))

        _for_each_vector(code, spec, low, compute_vector)

    return compute_tile


def _compute_packed(
    code: Code, spec: Spec, block: Value, low: Value, buffers: list[Pointer]
) -> None:
    """Compute all tiles of some examples from packed x; their taps are packed once."""
    packed_x, packed_f = buffers
    stride, taps = code.number(spec.lanes), code["taps"]
    first = block * code["examples"]
    last = (first + code["examples"]).minimum(code["batch"])

    def compute_vectors(d: Value, mask: Mask | None) -> None:
        f = code.array("f", spec.x.computed).at(d)
        with code.loop(0, taps) as k:
            for v in range(spec.packed):
                vector = f.at(k * code["filters"] + v * spec.lanes).load(spec.lanes, mask)
                packed_f.at((taps * v + k) * spec.lanes).store(vector)
        with code.loop(first, last) as n:
            x, y = _locate_example(code, spec, n)
            _pack_plane(code, spec, 0, x.at(d), packed_x, mask)
            with code.loop(0, spec.packed) as vector_number:
                pointer, f = (
                    packed_x.at(vector_number * code["plane"]),
                    packed_f.at(vector_number * taps * stride),
                )
                _compute_vector(code, spec, pointer, y, f, d + vector_number * stride, mask)

    _for_each_vector(code, spec, low, compute_vectors)


def _compute_vector(
    code: Code, spec: Spec, x: Pointer, y: Pointer, f: Pointer, d: Value, mask: Mask | None
) -> None:
    """Compute all tiles of one packed vector of channels."""
    bias, stride = code.array("bias", spec.x.computed).at(d), code.number(spec.lanes)

    def compute_tile(
        x: Pointer, y: Pointer, tables: list[Pointer], pattern: Pattern, columns: Pointer | None
    ) -> None:
        tile = Tile(code, spec, f, bias, tables, pattern, columns, stride, stride, None, mask)
        tile.generate(x, y)

    with code.loop(0, code["all_row_blocks"]) as row_block:
        _compute_row_block(code, spec, x, y.at(d), row_block, compute_tile)


def _pack_plane(
    code: Code, spec: Spec, a: int, x: Pointer, packed: Pointer, mask: Mask | None
) -> None:
    """Pack a vector's plane of x from axis `a` on."""
    if a == spec.rank:
        for v in range(spec.packed):
            vector = load(x.at(v * spec.lanes), spec.x, spec.lanes, mask, None)
            packed.at(code["plane"] * v).store(vector)
        return
    with code.loop(0, code[f"size{a}"]) as i:
        pointer = packed.at(i * code[f"packed_stride{a}"])
        _pack_plane(code, spec, a + 1, x.at(i * code[f"x_stride_of{a}"]), pointer, mask)


def _compute_row_block(
    code: Code, spec: Spec, x: Pointer, y: Pointer, row_block: Value, compute_tile: ComputeTile
) -> None:
    """Compute the R rows of positions that have this number."""
    tables: list[Pointer] = []
    remaining, row_axis = row_block, spec.rank - 2
    for a in reversed(range(spec.rank - 1)):
        count = code["axis_blocks"] if a == row_axis else code[f"out{a}"]
        index, remaining = remaining % count, remaining // count
        if a == row_axis and spec.rows > 1:
            index = (index * spec.rows).minimum(code[f"out{a}"] - spec.rows)
        tables.insert(0, code.array(f"table{a}", "int64").at(index * code[f"taps{a}"]))
        y = y.at(index * code[f"y_stride{a}"])
    y_stride = code[f"y_stride{spec.rank - 1}"]
    if spec.unrolled:
        for o in range(0, len(spec.pattern), spec.tile):
            part = spec.pattern[o : o + spec.tile]
            compute_tile(x.at(code["x_first"]), y.at(y_stride * o), tables, part, None)
        return
    out = code[f"out{spec.rank - 1}"]
    with code.loop(0, out, spec.tile) as index:
        w = index.minimum(out - spec.tile)  # the last tile overlaps the one before
        count = w // spec.alignment
        start = code["x_first"] + count * code["x_advance"]
        border = (w < code["inside"]) | (code["outside"] < w + spec.tile)
        with code.builder.if_else(border.ir) as (at_border, in_interior):
            with at_border:
                columns = code.array("columns", "int64").at(count * code["advance"])
                compute_tile(x, y.at(w * y_stride), tables, spec.pattern, columns)
            with in_interior:
                compute_tile(x.at(start), y.at(w * y_stride), tables, spec.pattern, None)
