"""Depthwise convolution kernel, vectors along channels: each vector of x is loaded once per tile.

The register tile is R rows by P columns of positions by one vector of channels. Every vector of x
under the tile is multiplied with all taps that meet it,

    acc[r, p] += x[row, j] * f[k, l]        where tap (k, l) of position (r, p) meets x[row, j]

so that a product costs a fraction of a load. The taps of a row stay in registers, or T of them at
a time.

The kernel computes forward passes and input gradients, which differ in the elements that the taps
of a position meet on each axis (`Sources`): elements of x, through its border too, or of gy. A
strided input gradient skips the taps that meet no output.

For filters with many taps on few positions, a vector's plane of x and its taps are first packed:
read in place they are one position's channels apart, often a power of two, so that they would evict
each other from the first cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.ir_types import POINTER
from einstride.codegen.vector_formats import load
from einstride.codegen.vector_ops import address
from einstride.cpu.conv.blocked_sums import block_arguments, block_unit
from einstride.cpu.conv.channelwise.signature import Signature
from einstride.cpu.conv.depthwise.rows import (
    exceeds_caches,
    is_unrolled,
    loop_over_tiles,
    loop_over_vectors,
    tap_arguments,
)
from einstride.cpu.conv.depthwise.sources import (
    Pattern,
    forward_sources,
    gradient_sources,
    pattern_of,
)
from einstride.cpu.conv.depthwise.tile import Depthwise, Tile
from einstride.cpu.conv.loop_nest import block, locate_line, split
from einstride.cpu.runtime.argument_block import Call, bind
from einstride.cpu.runtime.chunks import FINE, chunk_count
from einstride.geometry.convolution import Geometry

ELEMENTS = 512
"""Vectors of x that are packed at once, at most. They lie on the stack; larger planes are read in
place."""

TAPS = 1024
"""Vectors of taps that are packed at once, at most."""

MAX_STREAMS = 5
"""Columns of a tile with few taps, at most, if memory limits the speed: the processor's own
prefetcher follows about as many streams."""

MIN_PACKED_TAPS = 25
"""Taps from which x and the taps are packed; fewer do not pay for the copy."""

MAX_REGISTER_TAPS = 16
"""Taps of a row that registers hold at once, at most."""

TileWriter = Callable[[Pointer, Pointer, list[Pointer], Pattern, "Pointer | None"], None]
"""Write a tile, given the addresses of x and y, the offset tables of the outer axes, its pattern,
and the offset table of the last axis if the tile meets a border."""


def kernel(schedule: Depthwise, names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``depthwise``."""
    code = Code("depthwise", names)
    with code.chunks(code["chunks"]) as chunk:
        panel, number, n = split(chunk, code["panels"], code["blocks"])
        if schedule.packed:
            _compute_packed(code, schedule, panel, n)
        else:
            x, y = _locate_example(code, schedule, n)
            first, last = block(number, code["row_blocks"], code["all_row_blocks"])
            with code.loop(first, last) as row_block:
                _compute_row_block(
                    code, schedule, x, y, row_block, _tile_in_place(code, schedule, panel)
                )
    return code.text()


def _locate_example(code: Code, schedule: Depthwise, n: Value) -> tuple[Pointer, Pointer]:
    x = code.array("x", schedule.x.stored).at(n * code["x_batch"])
    return x, code.array("y", schedule.y.stored).at(n * code["y_batch"])


def _tile_in_place(code: Code, schedule: Depthwise, panel: Value) -> TileWriter:
    """Return a function that writes one tile for all vectors of a panel of channels."""
    f, bias = (code.array(name, schedule.compute) for name in ("f", "bias"))
    strides = code["x_stride"], code["filters"]

    def compute_tile(
        x: Pointer, y: Pointer, tables: list[Pointer], pattern: Pattern, table: Pointer | None
    ) -> None:
        def compute_vector(d: Value, mask: Mask | None) -> None:
            tile = Tile(code, schedule, f.at(d), bias.at(d), tables, pattern, table, *strides,
                        mask, mask)  # fmt: skip
            tile.write(x.at(d), y.at(d))

        loop_over_vectors(code, schedule, panel, 1, compute_vector)

    return compute_tile


def _compute_packed(code: Code, schedule: Depthwise, panel: Value, number: Value) -> None:
    """Compute all tiles of some examples from packed x; their taps are packed once."""
    packed_x, packed_f = (
        _align_to_line(code.scratch(schedule.compute, (n + 1) * schedule.lanes))
        for n in (ELEMENTS, TAPS)
    )
    stride, taps = code.number(schedule.lanes), code["taps"]
    first, last = block(number, code["examples"], code["batch"])

    def compute_vectors(d: Value, mask: Mask | None) -> None:
        f = code.array("f", schedule.compute).at(d)
        with code.loop(0, taps) as k:
            for v in range(schedule.packed):
                vector = f.at(k * code["filters"] + v * schedule.lanes).load(schedule.lanes, mask)
                packed_f.at((taps * v + k) * schedule.lanes).store(vector)
        with code.loop(first, last) as n:
            x, y = _locate_example(code, schedule, n)
            _pack_plane(code, schedule, 0, x.at(d), packed_x, mask)
            with code.loop(0, schedule.packed) as i:
                vector_x, vector_f = packed_x.at(i * code["plane"]), packed_f.at(i * taps * stride)
                channel = d + i * stride
                bias = code.array("bias", schedule.compute).at(channel)

                def compute_tile(
                    x: Pointer, y: Pointer, tables: list[Pointer], pattern: Pattern,
                    table: Pointer | None,
                ) -> None:  # fmt: skip
                    tile = Tile(code, schedule, vector_f, bias, tables, pattern, table, stride,
                                stride, None, mask)  # fmt: skip
                    tile.write(x, y)

                with code.loop(0, code["all_row_blocks"]) as row_block:
                    _compute_row_block(
                        code, schedule, vector_x, y.at(channel), row_block, compute_tile
                    )

    loop_over_vectors(code, schedule, panel, schedule.packed, compute_vectors)


def _align_to_line(pointer: Pointer) -> Pointer:
    """Return the next address that is a multiple of 64 bytes, a cache line."""
    code = pointer.code
    line = (address(pointer) + 63) & -64
    return Pointer(code, code.builder.inttoptr(line.ir, POINTER), pointer.element)


def _pack_plane(
    code: Code, schedule: Depthwise, a: int, x: Pointer, packed: Pointer, mask: Mask | None
) -> None:
    """Pack a vector's plane of x from axis `a` on."""
    if a == schedule.rank:
        for v in range(schedule.packed):
            vector = load(x.at(v * schedule.lanes), schedule.x, schedule.lanes, mask, None)
            packed.at(code["plane"] * v).store(vector)
        return
    with code.loop(0, code[f"size{a}"]) as i:
        pointer = packed.at(i * code[f"packed_stride{a}"])
        _pack_plane(code, schedule, a + 1, x.at(i * code[f"x_stride_of{a}"]), pointer, mask)


def _compute_row_block(
    code: Code, schedule: Depthwise, x: Pointer, y: Pointer, row_block: Value,
    write_tile: TileWriter,
) -> None:  # fmt: skip
    """Compute the R rows of positions that have this number."""
    axis, rows = schedule.rank - 2, schedule.rows
    if rows == 1:
        tables, _, y = locate_line(code, axis + 1, row_block, y)
    else:
        index, outer = split(row_block, code["axis_blocks"])
        o = (index * rows).minimum(code[f"out{axis}"] - rows)
        tables, _, y = locate_line(code, axis, outer, y.at(o * code[f"y_stride{axis}"]))
        tables.append(code.array(f"table{axis}", "int64").at(o * code[f"taps{axis}"]))
    loop_over_tiles(
        code, schedule, schedule.vectors, x, y,
        lambda x, y, pattern, table: write_tile(x, y, tables, pattern, table),
    )  # fmt: skip


def call(sig: Signature, backwards: bool) -> Call:
    """Make the call that computes y = conv(x, f) + bias, or with `backwards` gx from gy.

    It takes the addresses x (x or gy), y (y or gx), f and bias (0: none).
    """
    g = sig.geometry
    axes = [(gradient_sources if backwards else forward_sources)(g, a) for a in range(g.rank)]
    last, out = axes[-1], tuple(axis.count for axis in axes)
    size = g.out if backwards else g.size
    rows, columns, taps = blocking(sig, out, last.alignment)
    unrolled = is_unrolled(out[-1], g.kernel[-1])
    packed = _packed_vectors(sig, size)
    schedule = Depthwise(
        sig.x, sig.y, sig.lanes, rows, columns, g.rank, g.channels % sig.lanes,
        pattern_of(last, columns, unrolled), unrolled, exceeds_caches(g) and not packed,
        last.alignment, taps, _resident_rows(sig, rows, columns), backwards, packed,
        block_unit(sig.x.computed if sig.blocked else "", sig.lanes, g.kernel, 1),
    )  # fmt: skip
    packed_strides = [prod(size[a + 1 :]) * sig.lanes for a in range(g.rank)]
    read = replace(sig, x_strides=(sig.x_strides[0], *packed_strides, 1)) if packed else sig
    arguments = {
        **_chunk_arguments(sig, out, rows, packed), **tap_arguments(read, axes, size, unrolled),
        "x_prefetch": columns * last.advance // last.alignment * sig.x_strides[-2],
        "y_prefetch": columns * sig.y_strides[-2], "taps": prod(g.kernel),
        "plane": prod(size) * sig.lanes, "bias": 0,
    }  # fmt: skip
    for a in range(g.rank):
        arguments |= {
            f"size{a}": size[a], f"x_stride_of{a}": sig.x_strides[a + 1],
            f"packed_stride{a}": packed_strides[a],
        }  # fmt: skip
    arguments |= block_arguments(schedule.block_unit, sig.lanes, g.kernel, 1)
    threads = min(sig.useful_threads, arguments["chunks"])
    return bind("depthwise", kernel, schedule, arguments, threads, sig.target)


def blocking(sig: Signature, out: tuple[int, ...], alignment: int) -> tuple[int, int, int]:
    """Choose R, P and T of the register tile with the fewest cycles by `_predict_cycles`."""
    g = sig.geometry
    registers, kernel = sig.target.registers - 2, g.kernel[-1]
    dense = g.rank > 1 and g.dilation[-2] == g.stride[-2] == 1
    max_rows = min(g.kernel[-2], out[-2], 4) if dense else 1
    narrow = exceeds_caches(g) and prod(g.kernel[-2:]) < 12
    best = (float("inf"), 1, alignment, 1)
    for rows in range(1, max_rows + 1):
        for columns in range(1, min(out[-1], MAX_STREAMS if narrow else 24) + 1):
            taps = min((registers - rows * columns) // rows, kernel, MAX_REGISTER_TAPS)
            if taps >= min(kernel, 2) and columns % alignment == 0:
                cycles = _predict_cycles(g, out, rows, columns, taps, alignment)
                best = min(best, (cycles, rows, columns, taps), key=lambda choice: choice[0])
    return best[1:]


def _predict_cycles(
    g: Geometry, out: tuple[int, ...], rows: int, columns: int, taps: int, alignment: int
) -> float:
    """Predict the cycles of a tile per position.

    The core is taken to do two multiply-adds and one load per cycle, and a multiply-add to take
    four cycles, so that eight independent sums keep it busy.
    """
    tap_rows, kernel = g.kernel[-2] if g.rank > 1 else 1, g.kernel[-1]
    blocks = -(-kernel // taps)
    stride = 1 if alignment > 1 else g.stride[-1]
    reach = (columns - 1) * stride // alignment + (taps - 1) * g.dilation[-1] // alignment + 1
    loads = (tap_rows + rows - 1) * blocks * min(reach, columns * taps)
    products = rows * columns * kernel * tap_rows / alignment
    waiting = max(1.0, 8 / (rows * columns))
    outputs = out[-1] / -(-out[-1] // columns)
    if rows > 1:
        outputs *= out[-2] / -(-out[-2] // rows)
    cycles = products * waiting / 2 + loads + rows * kernel * tap_rows / 2 + rows * columns
    return cycles / outputs


def _chunk_arguments(
    sig: Signature, out: tuple[int, ...], rows: int, packed: int
) -> dict[str, int]:
    """List the arguments that divide the work into chunks.

    A chunk is some blocks of R rows of one example, for a panel of channels where rows are too few
    for the threads.
    """
    g, examples = sig.geometry, 1
    axis_blocks = -(-out[-2] // rows) if len(out) > 1 else 1
    row_blocks = prod(out[:-2]) * axis_blocks
    max_chunks = chunk_count(sig.threads, FINE)
    width = sig.lanes * max(packed, 1)
    vectors = -(-g.filters // width)
    if packed:  # the taps of a panel are packed once for many examples
        block_size, panels = row_blocks, min(vectors, max_chunks)
        examples = max(-(-g.batch * panels // max_chunks), 1)
        blocks = 1
    else:
        block_size = min(max(-(-g.batch * row_blocks // max_chunks), 1), row_blocks)
        blocks = -(-row_blocks // block_size)
        panels = max(min(vectors, max_chunks // max(g.batch * blocks, 1)), 1)
    panel = -(-vectors // panels)
    panels = -(-vectors // panel)
    return {
        "chunks": -(-g.batch // examples) * blocks * panels, "panels": panels,
        "panel": panel * width, "blocks": blocks, "row_blocks": block_size,
        "all_row_blocks": row_blocks, "axis_blocks": axis_blocks, "batch": g.batch,
        "examples": examples,
    }  # fmt: skip


def _packed_vectors(sig: Signature, size: tuple[int, ...]) -> int:
    """Count the vectors that are packed at once; 0 if taps are few or positions are many."""
    g = sig.geometry
    taps, elements = prod(g.kernel), prod(size)
    if not MIN_PACKED_TAPS <= taps <= TAPS or elements > ELEMENTS:
        return 0
    max_vectors = min(4, TAPS // taps, ELEMENTS // max(elements, 1))
    width = sig.lanes * sig.threads
    return max(n for n in range(1, max_vectors + 1) if n == 1 or g.channels % (n * width) == 0)


def _resident_rows(sig: Signature, rows: int, columns: int) -> int:
    """Count the rows of taps if all taps stay in registers, else 0."""
    g = sig.geometry
    if g.rank == 1 or g.kernel[-2] < rows:
        return 0
    fits = prod(g.kernel[-2:]) + rows * columns + 2 <= sig.target.registers
    return g.kernel[-2] if fits else 0
