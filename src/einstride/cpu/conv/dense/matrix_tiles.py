"""Forward kernel on matrix registers (AMX): sums of products of bfloat16 or of 8-bit integers.

The register tile is U blocks of P output positions of one line by V blocks of 16 output channels,
each block a matrix register. For each tap and each block of input channels,

    sums[u, v] += x[positions u under the tap, input channels] @ f[tap, input channels, columns v]

A block of positions is read where it lies if all of its positions under a tap lie in x, a constant
stride apart, and the channels fill whole registers. Else it is first copied to scratch memory, with
zeros for the border and behind the last channel. `matrix_filter` packs f.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np

from einstride.codegen import matrix_registers
from einstride.codegen.function_builder import Code, Pointer, Value, Variable
from einstride.codegen.jit import Target, host_target
from einstride.codegen.matrix_registers import ROW_BYTES, ROWS
from einstride.codegen.vector_formats import Format
from einstride.codegen.vector_ops import address, local
from einstride.cpu.conv.dense.forward import arguments_of, describe_axes
from einstride.cpu.conv.dense.matrix_filter import (
    SHARED_BYTES,
    ColumnBlocks,
    channel_blocks,
    column_blocks,
)
from einstride.cpu.conv.loop_nest import any_inside, block, look_up, split
from einstride.cpu.conv.register_tile import vector_masks
from einstride.cpu.conv.schedule import Schedule
from einstride.cpu.runtime.argument_block import Call, Layout, bind
from einstride.cpu.runtime.chunks import chunk_count
from einstride.cpu.runtime.operands import element_strides
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Job
from einstride.support.byte_cache import kept
from einstride.support.caches import cached

CHUNK_BYTES = 512 << 10
"""Bytes of x that the blocks of a chunk read, about; chosen to stay in a second-level cache."""

COPIED, OUTSIDE = -1, -2
"""Instead of an offset: a block that is copied first, a block without a position in x."""


@dataclass(frozen=True)
class MatrixTiles(Schedule):
    """The schedule of the kernel; rows: P, vectors: V.

    Attributes
    ----------
    dtypes : tuple of str
        The dtypes of x and f.
    blocks : int
        U, the number of blocks of positions.
    tables : tuple of bool
        For each axis of outputs, a line's last: True if it has an offset table.
    in_place : bool
        True if blocks of channels are read where they lie.
    has_tail : bool
        True if the channels of a position do not fill whole vectors.
    max_channels : int
        Input channels of a position of a copied block, at most.
    """

    dtypes: tuple[str, str]
    blocks: int
    tables: tuple[bool, ...]
    in_place: bool
    has_tail: bool
    max_channels: int

    in_lanes = "output channels"
    in_rows = "output positions"
    loops = "part of the panels and chunk of positions, panel, blocks of positions, tap, channels"
    operands = "x and packed f in matrix registers (AMX)"
    edges = "a tap is skipped where all blocks lie in zeros; blocks with a border are copied first"

    @property
    def sides(self) -> dict[str, int]:
        """The lengths of the sides of the register tile, by name."""
        return {"lanes": self.lanes, "vectors": self.vectors,
                self.in_rows: self.rows * self.blocks}  # fmt: skip

    def sizes(self, rows: int, row_bytes: int) -> list[tuple[int, int]]:
        """List rows, and bytes of a row, of the registers: sums, blocks of x, blocks of f."""
        sums = [(rows, ROW_BYTES)] * (self.blocks * self.vectors)
        left = [(rows, row_bytes)] * self.blocks
        return sums + left + [(row_bytes // SHARED_BYTES, ROW_BYTES)] * self.vectors

    @property
    def last(self) -> int:
        """The axis of a line."""
        return len(self.tables) - 1

    @property
    def vector(self) -> int:
        """Input channels of a vector."""
        return ROW_BYTES // ITEMSIZE[self.x.stored]


class Block(NamedTuple):
    """A block of positions.

    Attributes
    ----------
    offset : Value
        The constant part of its offset in x.
    tables : dict
        Its rows of the offset tables of the outer axes, by axis.
    number : Value
        Its number in its line.
    start : Value
        Its first position in the line.
    out : Value
        The offset in y of its first position.
    """

    offset: Value
    tables: dict[int, Pointer]
    number: Value
    start: Value
    out: Value


def kernel(schedule: MatrixTiles, names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``matrix_tiles``."""
    code = Code("matrix_tiles", names)
    copies = [local(code, 1, schedule.x.stored, schedule.max_channels * ROWS)
              for _ in range(schedule.blocks)]  # fmt: skip
    sums = local(code, 1, schedule.compute, ROWS * schedule.width)
    matrix_registers.configure(code, code.array("configuration", "uint8"))
    with code.chunks(code["chunks"]) as chunk:
        part, number = split(chunk, code["parts"])
        first, last = block(number, code["chunk_blocks"], code["all_blocks"])
        first_panel, last_panel = block(part, code["part"], code["panels"])
        with (
            code.loop(first_panel, last_panel) as panel,
            code.loop(first, last, schedule.blocks) as b,
        ):
            numbers = [(b + u).minimum(last - 1) for u in range(schedule.blocks)]
            blocks = [_locate_block(code, schedule, number) for number in numbers]
            for i in range(schedule.blocks * schedule.vectors):
                matrix_registers.zero(code, i)
            _loop_over_taps(code, schedule, blocks, panel, copies)
            for u, positions in enumerate(blocks):
                _store_sums(code, schedule, u, positions, panel * schedule.width, sums)
    matrix_registers.release(code)
    return code.text()


def _locate_block(code: Code, schedule: MatrixTiles, number: Value) -> Block:
    """Return the coordinates of a block of positions; the last block of a line overlaps another."""
    last = schedule.last
    number_in_line, line = split(number, code["line_blocks"])
    start = (number_in_line * code["rows"]).minimum(code[f"out{last}"] - code["rows"])
    offset, out = code.number(0), start * code[f"y_stride{last}"]
    tables: dict[int, Pointer] = {}
    for a in reversed(range(last)):
        index, line = split(line, code[f"out{a}"]) if a else (line, line)
        if schedule.tables[a]:
            tables[a] = code.array(f"table{a}", "int64").at(index * code[f"taps{a}"])
        else:
            offset = offset + code[f"x_first{a}"] + index * code[f"x_stride{a}"]
        out = out + index * code[f"y_stride{a}"]
    return Block(offset, tables, number_in_line, start, out)


def _loop_over_taps(
    code: Code, schedule: MatrixTiles, blocks: list[Block], panel: Value, copies: list[Pointer]
) -> None:
    """Add the products of all taps that some block reads x under."""
    last = schedule.last
    axes = [a for a in range(last) if schedule.tables[a]]
    taps = code[f"taps{last}"]
    f = code.array("f", "uint8").at(panel * code["panel_bytes"])

    def loop(axes: list[int], offsets: list[Value], tap: Value) -> None:
        if axes:
            a, *inner_axes = axes
            with code.loop(0, code[f"taps{a}"]) as k:
                inner = [o + b.tables[a].at(k).load() for o, b in zip(offsets, blocks, strict=True)]
                with code.when(any_inside(inner)):
                    loop(inner_axes, inner, tap * code[f"taps{a}"] + k)
            return
        with code.loop(0, taps) as k:
            firsts = [_first_offset(code, schedule, b, k) for b in blocks]
            outside = firsts[0].equals(OUTSIDE)
            for first in firsts[1:]:
                outside = outside & first.equals(OUTSIDE)
            with code.when(outside ^ 1):
                rows = [
                    _place_rows(code, schedule, positions, offset, first, k, copy)
                    for positions, offset, first, copy in zip(
                        blocks, offsets, firsts, copies, strict=True
                    )
                ]
                _add_products(code, schedule, rows, f.at((tap * taps + k) * code["tap_bytes"]))

    loop(axes, [b.offset for b in blocks], code.number(0))


def _first_offset(code: Code, schedule: MatrixTiles, positions: Block, k: Value) -> Value:
    """Return the offset on the last axis of a block under tap k, or `COPIED` or `OUTSIDE`."""
    if schedule.tables[schedule.last]:
        number = positions.number * code[f"taps{schedule.last}"] + k
        return look_up(code, "block_offsets", number)
    if not schedule.in_place:
        return code.number(COPIED)
    return _offset(code, schedule, positions.start, k)


def _offset(code: Code, schedule: MatrixTiles, position: Value, k: Value) -> Value:
    """Return the offset on the last axis of a position under tap k; negative outside of x."""
    a = schedule.last
    if schedule.tables[a]:
        return look_up(code, f"table{a}", position * code[f"taps{a}"] + k)
    return code[f"x_first{a}"] + position * code[f"x_stride{a}"]


def _place_rows(
    code: Code, schedule: MatrixTiles, positions: Block, offset: Value, first: Value, k: Value,
    copy: Pointer,
) -> tuple[Variable, Variable]:  # fmt: skip
    """Return where the rows of a block under a tap lie: their address, and the bytes between two.

    That is in x, or in `copy`, to which they are copied.
    """
    item = ITEMSIZE[schedule.x.stored]
    x = code.array("x", schedule.x.stored)
    start = code.variable(address(x.at(offset + first)))
    stride = code.variable(code["x_step"] * item)
    with code.when(((offset >= 0) & (first >= 0)) ^ 1):
        start.set(address(copy))
        stride.set(code["copy_channels"] * item)
        zeros = code.array("zeros", schedule.x.stored)
        whole = code["channels"] // schedule.vector * schedule.vector
        tail = code.first_lanes(code["channels"] - whole, schedule.vector)
        with code.loop(0, code["rows"]) as p:
            entry = _offset(code, schedule, positions.start + p, k)
            inside = (offset >= 0) & (entry >= 0)
            source = inside.select_pointer(x.at(offset + entry), zeros)
            row = copy.at(p * code["copy_channels"])
            with code.loop(0, whole, schedule.vector) as c:
                row.at(c).store(source.at(c).load(schedule.vector))
            if schedule.has_tail:
                row.at(whole).store(source.at(whole).load(schedule.vector, tail))
    return start, stride


def _add_products(
    code: Code, schedule: MatrixTiles, rows: list[tuple[Variable, Variable]], f: Pointer
) -> None:
    """Add the products of one tap for every block of input channels."""
    count = schedule.blocks * schedule.vectors
    places = [(code.pointer(start.get(), "uint8"), stride.get()) for start, stride in rows]
    with code.loop(0, code["channel_blocks"]) as c:
        for u, (start, stride) in enumerate(places):
            matrix_registers.load(count + u, start.at(c * code["row_bytes"]), stride)
        for v in range(schedule.vectors):
            matrix = f.at((c * schedule.vectors + v) * code["matrix_bytes"])
            right = count + schedule.blocks + v
            matrix_registers.load(right, matrix, code.number(ROW_BYTES))
            for u in range(schedule.blocks):
                matrix_registers.add_product(
                    code, schedule.dtypes, u * schedule.vectors + v, count + u, right
                )


def _store_sums(
    code: Code, schedule: MatrixTiles, u: int, positions: Block, column: Value, sums: Pointer
) -> None:
    """Store the sums of a block of positions, with the bias, rounded to the dtype of the result."""
    lanes, compute, size = schedule.lanes, schedule.compute, ROWS * schedule.lanes
    columns = code["filters"] - column
    bias = [code.variable(code.zero(compute, lanes)) for _ in range(schedule.vectors)]
    with code.when(code["bias"].equals(0) ^ 1):
        pointer = code.array("bias", compute).at(column)
        for v, vector in enumerate(bias):
            mask = code.first_lanes(columns - v * lanes, lanes)
            vector.set(pointer.at(v * lanes).load(lanes, mask))
    for v in range(schedule.vectors):
        register = u * schedule.vectors + v
        matrix_registers.store(register, sums.at(v * size), code.number(ROW_BYTES))
    y = code.array("y", schedule.y.stored).at(positions.out + column)
    rounds = schedule.y.stored == "bfloat16"
    width = 2 * lanes if rounds else lanes
    # a vector of bfloat16 may reach into the next panel
    masks = vector_masks(code, columns.minimum(schedule.width), width, -(-schedule.width // width))
    with code.loop(0, code["rows"]) as p:
        row = y.at(p * code[f"y_stride{schedule.last}"])
        totals = [
            sums.at(p * lanes + v * size).load(lanes) + vector.get()
            for v, vector in enumerate(bias)
        ]
        if rounds:
            pairs = zip(totals[::2], (*totals[1::2], totals[-1]), strict=False)
            totals = [matrix_registers.round_to_bfloat16(low, high) for low, high in pairs]
        for i, (total, mask) in enumerate(zip(totals, masks, strict=True)):
            row.at(i * width).store(total, mask)


# Terms of the predicted time, in multiply-adds of vectors: see `algorithms.direct`. Fitted by hand
# to ten layers of 48 to 1024 channels on one core with AMX, whose matrix products take 14 ns.
PRODUCT = 100.0
"""Time of a product of two matrices."""

STORED = 350.0
"""Time to store the sums of a matrix, and to begin the next."""

COPIED_VECTOR = 3.0
"""Time to copy a vector of a position that cannot be multiplied where it lies."""

LEAST_CHANNELS = 8
"""Input channels, at least: fewer would fill a small part of the registers."""

MAX_CHANNELS = 2048
"""Input channels, at most: copies of blocks lie on the stack."""


@cached(1024)
def fits(g: Geometry, job: Job) -> bool:
    """True if this CPU can compute a job so; `g` is the geometry of its forward pass.

    Numbers of bfloat16 below 2^-126 would count as zero, so ``accuracy="elementwise"`` is left to
    other kernels.
    """
    integers = job.operands[1] == "int8"
    return (
        job.direction != "filter_grad"
        and g.groups == 1
        and LEAST_CHANNELS <= g.channels <= MAX_CHANNELS
        and job.arithmetic.result == ("int32" if integers else "bfloat16")
        and (integers or (job.arithmetic.compute == "float32" and job.accuracy != "elementwise"))
        and matrix_registers.usable(host_target(), job.operands)
    )


def work(g: Geometry, item: int) -> float:
    """Predict the time of a forward pass, in multiply-adds of vectors."""
    columns, channels = column_blocks(g.filters), channel_blocks(g.channels, item)
    pointwise = prod(g.kernel) == 1 and not any(map(any, g.padding))
    line = g.batch * prod(g.out) if pointwise else g.out[-1]
    blocks = g.batch * prod(g.out) // max(line, 1) * -(-line // ROWS)
    matrices = blocks * columns.panels * columns.vectors
    found = matrices * (prod(g.kernel) * channels.count * PRODUCT + STORED)
    if not channels.whole:
        vectors = (
            blocks * columns.panels * prod(g.kernel) * ROWS * -(-g.channels * item // ROW_BYTES)
        )
        found += vectors * COPIED_VECTOR
    return found


@kept
def correlation(
    g: Geometry, operands: tuple[str, str], x: Layout, y: Layout, threads: int, target: Target
) -> Call:
    """Make the call that computes y = conv(x, f) + bias of a geometry without flip and groups.

    It needs the arrays x, f (of `matrix_filter`), y and bias (or None); the channels of x and y are
    contiguous. The bias has the dtype of the sums.
    """
    compute = "float32" if operands[0] == "bfloat16" else "int32"
    item = ITEMSIZE[x.dtype]
    x_strides, y_strides = (element_strides(a.strides, ITEMSIZE[a.dtype]) for a in (x, y))
    axes, base = describe_axes(g, x_strides, y_strides)
    last = axes[-1]
    columns = column_blocks(g.filters)
    line_blocks = -(-last.out // ROWS)
    rows = -(-last.out // line_blocks)
    vector, channels = ROW_BYTES // item, channel_blocks(g.channels, item)
    row_bytes = channels.channels * item
    copied = -(-max(g.channels, channels.count * channels.channels) // vector) * vector
    schedule = MatrixTiles(
        Format(x.dtype, compute), Format(y.dtype, compute), ROWS, ROWS, columns.vectors, operands,
        columns.blocks, tuple(axis.table is not None for axis in axes), channels.whole,
        g.channels % vector > 0, 1 << (copied - 1).bit_length(),
    )  # fmt: skip
    step, offsets = last.x_stride, np.zeros(1, np.int64)
    if last.table is not None:
        step = g.stride[-1] * x_strides[-2]
        offsets = _block_offsets(last.table, rows, line_blocks, step, schedule.in_place)
    matrix_bytes = row_bytes // SHARED_BYTES * ROW_BYTES
    tap_bytes = channels.count * columns.vectors * matrix_bytes
    all_blocks = prod(axis.out for axis in axes[:-1]) * line_blocks
    size, part = _divide(g, all_blocks, columns, threads, item)
    arguments = {
        "chunks": -(-all_blocks // size) * -(-columns.panels // part),
        "parts": -(-columns.panels // part), "part": part, "panels": columns.panels,
        "chunk_blocks": size, "all_blocks": all_blocks, "line_blocks": line_blocks, "rows": rows,
        "x": base * item, "y": 0, "f": 0, "bias": 0, "filters": g.filters, "channels": g.channels,
        "channel_blocks": channels.count, "copy_channels": copied,
        "row_bytes": row_bytes, "matrix_bytes": matrix_bytes,
        "zeros": np.zeros(copied, np.uint8 if item == 1 else np.uint16),
        "x_step": step, "block_offsets": offsets, "tap_bytes": tap_bytes,
        "panel_bytes": prod(g.kernel) * tap_bytes,
        "configuration": matrix_registers.configuration(schedule.sizes(rows, row_bytes)),
    }  # fmt: skip
    arguments |= arguments_of(axes)
    return bind("matrix_tiles", kernel, schedule, arguments, threads, target)


def _block_offsets(table: Any, rows: int, line_blocks: int, step: int, in_place: bool) -> Any:
    """List (blocks of a line, taps) the offset of each block, or `COPIED` or `OUTSIDE`."""
    starts = np.minimum(np.arange(line_blocks) * rows, len(table) - rows)
    entries = table[starts[:, None] + np.arange(rows)]  # (blocks, rows, taps)
    first = entries[:, :1]
    regular = (entries == first + step * np.arange(rows)[:, None]).all(1) & (first[:, 0] >= 0)
    found = np.where(regular & in_place, first[:, 0], COPIED)
    found[(entries < 0).all(1)] = OUTSIDE
    return np.ascontiguousarray(found, np.int64)


def _divide(
    g: Geometry, blocks: int, columns: ColumnBlocks, threads: int, item: int
) -> tuple[int, int]:
    """Choose the blocks of a chunk, and the panels of its part."""
    block_bytes = prod(g.x_shape) * item // max(blocks, 1) + 1
    chunks = chunk_count(threads) if threads > 1 else 1
    size = min(max(CHUNK_BYTES // block_bytes, columns.blocks), -(-blocks // chunks))
    size = max(-(-size // columns.blocks) * columns.blocks, 1)
    count = -(-blocks // size)
    parts = min(-(-chunks // count), columns.panels)
    return size, -(-columns.panels // parts)
