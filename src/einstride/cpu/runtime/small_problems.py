"""Make the helper steps of a program: copy a filter, transpose to planes, add partial sums.

The copy and the sum find the rows of the caller's array, of which each goes along the last axis,
through a table of offsets, so the array may have any strides.
"""

from __future__ import annotations

from math import prod
from typing import Any

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.jit import KernelSpec, Target
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.cpu.runtime.offset_tables import grid
from einstride.cpu.runtime.operands import element_stride, element_strides
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.support.byte_cache import kept

GATHER = ("counter", "chunks", "from", "to", "offsets", "rows", "columns", "stride")
PLANES = ("counter", "chunks", "from", "to", "positions", "channels")
REDUCE = (*GATHER, "partial_sums", "step")


def gather(a: Any, compute: str, target: Target) -> Call:
    """Copy an array with the layout of `a`, row-major, to the dtype `compute`.

    The call needs the addresses ``from`` and ``to``, like all calls of this module.
    """
    return _gather_call(a.shape, a.strides, dtype_name(a), compute, target)


@kept
def _gather_call(
    shape: tuple[int, ...], strides: tuple[int, ...], stored: str, compute: str, target: Target
) -> Call:
    values, offsets = _rows(shape, strides, ITEMSIZE[stored])
    kernel = KernelSpec("gather", gather_text, (stored, compute), target)
    return Call(kernel, GATHER, {"chunks": 1, **values}, 1, [offsets])


def _rows(
    shape: tuple[int, ...], strides: tuple[int, ...], item: int
) -> tuple[dict[str, int], Any]:
    """Describe the rows of an array by kernel arguments and the table of their offsets.

    A row is as long as one stride allows: all of a contiguous array is one row.
    """
    *outer, stride = element_strides(strides, item)
    axes, columns = len(outer), shape[-1]
    while axes and outer[axes - 1] == columns * stride:
        axes, columns = axes - 1, columns * shape[axes - 1]
    offsets = grid(shape[:axes], outer[:axes])
    values = {
        "offsets": address(offsets),
        "rows": len(offsets),
        "columns": columns,
        "stride": stride,
    }
    return values, offsets


def gather_text(stored: str, compute: str) -> str:
    """Write the LLVM IR of ``gather``."""
    code = Code("gather", GATHER)
    columns, stride = code["columns"], code["stride"]
    with code.chunks(code["chunks"]), code.loop(0, code["rows"]) as r:
        row = code.array("from", stored).at(code.array("offsets", "int64").at(r).load())
        copy = code.array("to", compute).at(r * columns)
        with code.loop(0, columns) as c:
            copy.at(c).store(row.at(c * stride).load_as(stored, compute))
    return code.text()


def planes(a: Any, target: Target) -> Call:
    """Transpose a row-major array with the shape of `a`, (B, *O, D), to (B, D, *O)."""
    return _planes_call(a.shape[0], prod(a.shape[1:-1]), a.shape[-1], dtype_name(a), target)


@kept
def _planes_call(batch: int, positions: int, channels: int, stored: str, target: Target) -> Call:
    kernel = KernelSpec("planes", planes_text, (stored,), target)
    values = {"chunks": batch, "positions": positions, "channels": channels}
    return Call(kernel, PLANES, values, 1, [])


def planes_text(stored: str) -> str:
    """Write the LLVM IR of ``planes``."""
    code = Code("planes", PLANES)
    with code.chunks(code["chunks"]) as example:
        positions, channels = code["positions"], code["channels"]
        begin = example * positions * channels
        with code.loop(0, channels) as c:
            plane = code.array("to", stored).at(begin + c * positions)
            channel = code.array("from", stored).at(begin + c)
            with code.loop(0, positions) as p:
                plane.at(p).store(channel.at(p * channels).load())
    return code.text()


def reduce(a: Any, groups: int, partial_sums: int, compute: str, target: Target) -> Call:
    """Add the partial sums of an array (groups, partial_sums, ...), in ascending order.

    The result has the layout of `a`, whose first axis is the groups if there are several.
    """
    shape, strides = (a.shape[1:], a.strides[1:]) if groups > 1 else (a.shape, a.strides)
    step = a.strides[0] if groups > 1 else 0
    return _reduce_call(shape, strides, step, groups, partial_sums, dtype_name(a), compute, target)


@kept
def _reduce_call(
    shape: tuple[int, ...], strides: tuple[int, ...], step: int, groups: int, partial_sums: int,
    result: str, compute: str, target: Target,
) -> Call:  # fmt: skip
    item = ITEMSIZE[result]
    values, offsets = _rows(shape, strides, item)
    kernel = KernelSpec(
        "reduce", reduce_text, (compute, result, target.lanes(ITEMSIZE[compute])), target
    )
    values |= {"chunks": groups, "partial_sums": partial_sums, "step": element_stride(step, item)}
    return Call(kernel, REDUCE, values, 1, [offsets])


def reduce_text(compute: str, result: str, lanes: int) -> str:
    """Write the LLVM IR of ``reduce``, with vectors for rows whose elements are contiguous."""
    code = Code("reduce", REDUCE)
    with code.chunks(code["chunks"]) as group:
        columns, stride, partial_sums = code["columns"], code["stride"], code["partial_sums"]
        count = code["rows"] * columns
        first = code.array("from", compute).at(group * partial_sums * count)
        result_pointer = code.array("to", result).at(group * code["step"])
        vectors_end = stride.equals(1).select(columns - columns % lanes, code.number(0))

        def add(element: Pointer, lanes: int) -> Value:
            total = code.variable(element.load(lanes))
            with code.loop(1, partial_sums) as s:
                total.set(total.get() + element.at(s * count).load(lanes))
            return code.convert(total.get(), compute, result)

        with code.loop(0, code["rows"]) as r:
            row = result_pointer.at(code.array("offsets", "int64").at(r).load())
            with code.loop(0, vectors_end, lanes) as c:
                row.at(c).store(add(first.at(r * columns + c), lanes))
            with code.loop(vectors_end, columns) as c:
                row.at(c * stride).store(add(first.at(r * columns + c), 1))
    return code.text()
