"""Pack a filter for the kernel on matrix registers (`matrix_tiles`).

Panels are (panel, tap, block of input channels, block of 16 output channels, 16 rows, 16 output
channels, input channels that share 32 bits); zeros fill the last blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from llvmlite import ir

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.jit import Target, host_target
from einstride.codegen.matrix_registers import ROW_BYTES, ROWS
from einstride.codegen.vector_ops import transpose
from einstride.cpu.conv.loop_nest import look_up, split
from einstride.cpu.runtime.aligned_memory import CACHE_LINE, aligned_empty
from einstride.cpu.runtime.argument_block import Call, Layout, bind, layout
from einstride.cpu.runtime.offset_tables import grid
from einstride.cpu.runtime.operands import element_strides
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

SHARED_BYTES = 4
"""Bytes of the numbers that are multiplied and added at once."""

SINGLE_THREADED = 1 << 18
"""Elements of a filter up to which one thread packs. Chosen."""


@dataclass(frozen=True)
class ColumnBlocks:
    """The register tile, in registers: `blocks` of positions by `vectors` of 16 output channels."""

    blocks: int
    vectors: int
    panels: int


@dataclass(frozen=True)
class ChannelBlocks:
    """The blocks of input channels, whose products one instruction adds.

    Attributes
    ----------
    count, channels : int
        The number of blocks, and the channels of a block.
    whole : bool
        True if the channels fill the blocks; else zeros are behind the last channel.
    """

    count: int
    channels: int
    whole: bool


@cached(1024)
def channel_blocks(channels: int, item: int) -> ChannelBlocks:
    """Divide input channels into blocks of equal size.

    Half as many blocks again as are necessary are taken if the channels fill them: then x is
    multiplied where it lies.
    """
    largest, shared = ROW_BYTES // item, SHARED_BYTES // item
    least = -(-channels // largest)
    for count in range(least, least + least // 2 + 1):
        if channels % (count * shared) == 0:
            return ChannelBlocks(count, channels // count, True)
    return ChannelBlocks(least, largest, False)


def column_blocks(filters: int) -> ColumnBlocks:
    """Choose the register tile with the fewest loads for each product, padding included.

    U x V products need U + V loads, and U * V + U + V registers.
    """
    count = -(-filters // ROWS)
    tiles = ((2, 2), (1, 3), (3, 1))
    blocks, vectors = min(tiles, key=lambda t: -(-count // t[1]) * t[1] * (1 + sum(t) / prod(t)))
    return ColumnBlocks(blocks, vectors, -(-count // vectors))


def _panel_bytes(g: Geometry, item: int) -> int:
    columns, blocks = column_blocks(g.filters), channel_blocks(g.channels, item)
    matrices = columns.panels * prod(g.kernel) * blocks.count * columns.vectors
    return matrices * blocks.channels * item // SHARED_BYTES * ROW_BYTES


def panel_bytes(g: Geometry, item: int) -> int:
    """Count the bytes of a packed filter of elements of `item` bytes."""
    return _panel_bytes(g, item) + CACHE_LINE


def contiguous_side(f: Any) -> bool:
    """True if the input or the output channels of a filter are contiguous in memory."""
    return any(f.strides[a] == f.itemsize for a in (-1, -2))


def pack(f: Any, g: Geometry, launch: Any, threads: int) -> Any:
    """Pack a filter (*K, C, D) that is `contiguous_side`; the strides of taps are arbitrary."""
    panels = aligned_empty((_panel_bytes(g, f.itemsize),), "uint8")
    packing(g, layout(f), threads, host_target())(launch, f=f, panels=panels)
    return panels


@kept
def packing(g: Geometry, f: Layout, threads: int, target: Target) -> Call:
    """Make the call that packs a filter; it needs the arrays f and panels."""
    item = ITEMSIZE[f.dtype]
    *taps, channel, column = element_strides(f.strides, item)
    columns, blocks = column_blocks(g.filters), channel_blocks(g.channels, item)
    tap_count = prod(g.kernel)
    by_columns = column == 1 or g.filters == 1
    arguments = {
        "chunks": columns.panels * tap_count, "taps": tap_count, "channel_blocks": blocks.count,
        "block": blocks.channels, "rows": blocks.channels * item // SHARED_BYTES,
        "f": 0, "panels": 0, "tap_offsets": grid(g.kernel, taps), "channels": g.channels,
        "filters": g.filters, "f_channel": channel, "f_column": column,
    }  # fmt: skip
    size = tap_count * g.channels * g.filters
    threads = threads if size > SINGLE_THREADED else 1
    masked = g.filters % (columns.vectors * ROWS) > 0 or not blocks.whole
    parameters = f.dtype, columns.vectors, by_columns, masked
    return bind("matrix_filter", kernel, parameters, arguments, threads, target)


def kernel(parameters: tuple[str, int, bool, bool], names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``matrix_filter`` for (dtype, vectors, by columns, masked).

    ``masked``: some blocks reach behind the last channel.
    """
    dtype, vectors, by_columns, masked = parameters
    code = Code("matrix_filter", names)
    write_block = _interleave_rows if by_columns else _transpose_columns
    with code.chunks(code["chunks"]) as chunk:
        tap, panel = split(chunk, code["taps"])
        f = code.array("f", dtype).at(look_up(code, "tap_offsets", tap))
        with code.loop(0, code["channel_blocks"]) as c:
            number = chunk * code["channel_blocks"] + c
            for v in range(vectors):
                packed = code.array("panels", "int32").at(
                    (number * vectors + v) * (code["rows"] * ROWS)
                )
                column = (panel * vectors + v) * ROWS
                write_block(code, dtype, masked, f, packed, c * code["block"], column)
    return code.text()


def _interleave_rows(
    code: Code, dtype: str, masked: bool, f: Pointer, packed: Pointer, first: Value, column: Value
) -> None:
    """Pack a block whose output channels are contiguous: interleave the rows of its channels."""
    item = ITEMSIZE[dtype]
    per_row = SHARED_BYTES // item
    number = ir.VectorType(ir.IntType(32), ROWS)
    columns = code["filters"] - column
    with code.loop(0, code["rows"]) as r:
        row = code.zero("int32", ROWS)
        for i in range(per_row):
            channel = first + r * per_row + i
            exists = channel < code["channels"]
            count = exists.select(columns, code.number(0))
            mask = code.first_lanes(count, ROWS) if masked else None
            pointer = f.at(channel * code["f_channel"] + column)
            bits = Value(code, code.builder.zext(pointer.load(ROWS, mask).ir, number))
            shift = ir.Constant(number, [8 * item * i] * ROWS)
            row = row | Value(code, code.builder.shl(bits.ir, shift))
        packed.at(r * ROWS).store(row)


def _transpose_columns(
    code: Code, dtype: str, masked: bool, f: Pointer, packed: Pointer, first: Value, column: Value
) -> None:
    """Pack a block whose input channels are contiguous: transpose it as a square of 32 bits."""
    channels = ROW_BYTES // ITEMSIZE[dtype]
    remaining = (code["channels"] - first).minimum(code["block"])
    rows = []
    for d in range(ROWS):
        exists = column + d < code["filters"]
        mask = code.first_lanes(exists.select(remaining, code.number(0)), channels)
        vector = f.at((column + d) * code["f_column"] + first).load(channels, mask)
        square = ir.VectorType(ir.IntType(32), ROWS)
        rows.append(Value(code, code.builder.bitcast(vector.ir, square)))
    for r, row in enumerate(transpose(rows)):
        with code.when(code.number(r) < code["rows"]):
            packed.at(r * ROWS).store(row)
