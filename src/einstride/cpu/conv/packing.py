"""Pack a filter into panels, which kernels then read contiguously.

A panel is (tap, channel, V vectors of columns), or (tap of outer axes, channel, tap of the last
axis, V vectors of columns). Columns are output channels; zeros fill the last vectors. The filter
may have any strides, so flipped filters, the taps of one phase and the transposed filter of an
input gradient are packed without another copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.ir_types import INT64, POINTER, bytes_of, letter
from einstride.codegen.jit import Target
from einstride.codegen.vector_ops import transpose
from einstride.cpu.conv.loop_nest import look_up
from einstride.cpu.conv.register_tile import vector_masks
from einstride.cpu.runtime.argument_block import Call, bind
from einstride.geometry.arithmetic import ITEMSIZE

SINGLE_THREADED = 1 << 17
"""Elements of a filter up to which one thread packs: waking a second one takes longer than it
saves. Chosen."""


@dataclass(frozen=True)
class Packing:
    """What the packing kernel is compiled for.

    Attributes
    ----------
    operand, compute : str
        The dtypes of f and of the panels.
    lanes, vectors : int
        Elements of a vector, vectors of a panel.
    order : str
        The contiguous axis of f: "columns" (output channels), "channels", or "any"; "groups" if a
        table holds the offsets of the columns, which belong to several groups.
    padded : bool
        True if a panel has more channels than f; the caller fills them with zeros.
    interleaved : bool
        True if panels are (tap of outer axes, channel, tap of the last axis, vectors), and a chunk
        is a panel; else a chunk is one tap of a panel.
    """

    operand: str
    compute: str
    lanes: int
    vectors: int
    order: str
    padded: bool
    interleaved: bool


def packing_call(
    dtypes: tuple[str, str], lanes: int, vectors: int, taps: Any, channels: int,
    strides: tuple[int, int], panel_f: Any, panel_columns: Any, threads: int, target: Target,
    padded: int, inner_taps: int = 1, column_offsets: Any = None,
) -> Call:  # fmt: skip
    """Make the call that packs a filter; it needs the addresses ``f`` and ``panels``.

    Parameters
    ----------
    dtypes : tuple of str
        The dtypes of f and of the panels.
    lanes, vectors : int
        Elements of a vector, vectors of a panel.
    taps, panel_f : array of int
        The offset in f of each tap, and of each panel's first column.
    channels, padded : int
        The channels of f, and those of a panel.
    strides : tuple of int
        The strides of a channel and of a column of f.
    panel_columns : array of int
        The number of columns of each panel.
    threads : int
        The number of threads.
    target : Target
        The target that the kernel is compiled for.
    inner_taps : int
        The taps of the last axis, if panels are `interleaved`; else 1.
    column_offsets : array of int, optional
        The offsets of a panel's columns, where they have no constant stride.
    """
    channel, column = strides
    order = "columns" if column == 1 else "channels" if channel == 1 else "any"
    order = order if column_offsets is None else "groups"
    interleaved = inner_taps > 1
    arguments = {
        "chunks": len(panel_f) * (1 if interleaved else len(taps)), "f": 0, "panels": 0,
        "taps": len(taps), "channels": channels, "tap_offsets": taps, "f_channel": channel,
        "f_column": column, "panel_f": panel_f, "panel_columns": panel_columns,
    }  # fmt: skip
    if column_offsets is not None:
        arguments["column_bytes"] = column_offsets * ITEMSIZE[dtypes[0]]
    if interleaved:
        arguments["inner_taps"] = inner_taps
    if padded > channels:
        arguments["padded"] = padded
    packing = Packing(*dtypes, lanes, vectors, order, padded > channels, interleaved)
    size = len(taps) * channels * int(panel_columns.sum())
    return bind(
        "panels", kernel, packing, arguments, threads if size > SINGLE_THREADED else 1, target
    )


def kernel(packing: Packing, names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``panels``."""
    code = Code("panels", names)
    taps = code["taps"]
    with code.chunks(code["chunks"]) as chunk:
        if packing.interleaved:
            inner = code["inner_taps"]
            with code.loop(0, taps // inner) as o, code.loop(0, inner) as k:
                _pack_tap(code, packing, chunk, o * inner + k, k)
        else:
            _pack_tap(code, packing, chunk // taps, chunk % taps)
    return code.text()


def _pack_tap(
    code: Code, packing: Packing, panel: Value, tap: Value, inner_tap: Value | int = 0
) -> None:
    """Pack one tap of a panel."""
    operand, compute, lanes = packing.operand, packing.compute, packing.lanes
    width = lanes * packing.vectors
    depth = code["padded"] if packing.padded else code["channels"]
    step = code["inner_taps"] * width if packing.interleaved else width  # between channels
    f = code.array("f", operand)
    f = f.at(look_up(code, "tap_offsets", tap)).at(look_up(code, "panel_f", panel))
    columns = look_up(code, "panel_columns", panel)
    row = (panel * code["taps"] + (tap - inner_tap)) * depth + inner_tap
    packed = code.array("panels", compute).at(row * width)
    if packing.order == "channels":
        for v in range(packing.vectors):
            _transpose_panel(
                code, packing, f.at(code["f_column"] * (v * lanes)), packed.at(v * lanes),
                columns - v * lanes, step,
            )  # fmt: skip
        return
    masks = vector_masks(code, columns, lanes, packing.vectors)
    with code.loop(0, code["channels"]) as c:  # the outer loop, since rows may lie far apart
        f_row = f.at(c * code["f_channel"])
        for v, mask in enumerate(masks):
            if packing.order == "columns":
                vector = f_row.at(v * lanes).load(lanes, mask)
            else:
                vector = _gather(f_row, _byte_offsets(f_row, packing, v * lanes), mask)
            packed.at(c * step + v * lanes).store(code.convert(vector, operand, compute))


def _transpose_panel(
    code: Code, packing: Packing, f: Pointer, packed: Pointer, columns: Value, step: Value | int
) -> None:
    """Pack one vector of output channels, transposing lanes x lanes elements in registers."""
    operand, compute, lanes = packing.operand, packing.compute, packing.lanes
    channels = code["channels"]
    rows = [f.at(code["f_column"] * j) for j in range(lanes)]
    full_squares = (columns >= lanes).select(channels - channels % lanes, code.number(0))
    with code.loop(0, full_squares, lanes) as c:
        square = transpose([row.at(c).load_as(operand, compute, lanes) for row in rows])
        for j, vector in enumerate(square):
            packed.at((c + j) * step).store(vector)
    with code.loop(full_squares, channels, lanes) as c:
        depth = channels - c
        square = transpose(
            [
                row.at(c).load_as(
                    operand, compute, lanes,
                    code.first_lanes((columns >= j + 1).select(depth, code.number(0)), lanes),
                )
                for j, row in enumerate(rows)
            ]
        )  # fmt: skip
        for j, vector in enumerate(square):
            with code.when(depth >= j + 1):
                packed.at((c + j) * step).store(vector)


def _byte_offsets(row: Pointer, packing: Packing, first: int) -> Value:
    """Return the offsets in bytes of the columns (first, first + 1, ...) from the first column."""
    code, lanes = row.code, packing.lanes
    if packing.order == "groups":
        return code.array("column_bytes", "int64").at(first).load(lanes)
    numbers = ir.Constant(ir.VectorType(INT64, lanes), list(range(first, first + lanes)))
    return Value(code, numbers) * code.splat(code["f_column"] * bytes_of(row.element), lanes)


def _gather(pointer: Pointer, offsets: Value, mask: Mask) -> Value:
    """Gather the elements at a vector of offsets in bytes."""
    code, lanes = pointer.code, offsets.ir.type.count
    kind, size = ir.VectorType(pointer.element, lanes), bytes_of(pointer.element)
    base = code.splat(Value(code, code.builder.ptrtoint(pointer.ir, INT64)), lanes)
    addresses = base + offsets
    pointers = Value(code, code.builder.inttoptr(addresses.ir, ir.VectorType(POINTER, lanes)))
    name = f"llvm.masked.gather.v{lanes}{letter(pointer.element)}.v{lanes}p0"
    return code.intrinsic(name, kind, [pointers, size, mask, Value(code, ir.Constant(kind, None))])
