"""Make the helper steps of a program: copy a filter, transpose to planes, add partial sums.

The copy and the sum find elements of the caller's array through a table of offsets, so the array
may have any strides.
"""

from __future__ import annotations

from math import prod
from typing import Any

from einstride.codegen.function_builder import Code
from einstride.codegen.jit import KernelSpec, Machine
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.cpu.runtime.offset_tables import grid
from einstride.cpu.runtime.operands import element_stride, element_strides
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.support.byte_cache import kept

GATHER = ("counter", "chunks", "from", "to", "offsets", "count")
PLANES = ("counter", "chunks", "from", "to", "positions", "channels")
REDUCE = ("counter", "chunks", "from", "to", "offsets", "count", "partial_sums", "step")


def gather(a: Any, compute: str, on: Machine) -> Call:
    """Copy an array with the layout of `a`, row-major, to the dtype `compute`.

    The call needs the addresses ``from`` and ``to``, like all calls of this module.
    """
    return _gather_call(a.shape, a.strides, dtype_name(a), compute, on)


@kept
def _gather_call(
    shape: tuple[int, ...], strides: tuple[int, ...], stored: str, compute: str, on: Machine
) -> Call:
    offsets = grid(shape, element_strides(strides, ITEMSIZE[stored]))
    kernel = KernelSpec("gather", gather_text, (stored, compute), on)
    values = {"chunks": 1, "offsets": address(offsets), "count": prod(shape)}
    return Call(kernel, GATHER, values, 1, [offsets])


def gather_text(stored: str, compute: str) -> str:
    """Write the LLVM IR of ``gather``."""
    code = Code("gather", GATHER)
    with code.chunks(code["chunks"]), code.loop(0, code["count"]) as i:
        value = code.array("from", stored).at(code.array("offsets", "int64").at(i).load())
        code.array("to", compute).at(i).store(value.load_as(stored, compute))
    return code.text()


def planes(a: Any, on: Machine) -> Call:
    """Transpose a row-major array with the shape of `a`, (B, *O, D), to (B, D, *O)."""
    return _planes_call(a.shape[0], prod(a.shape[1:-1]), a.shape[-1], dtype_name(a), on)


@kept
def _planes_call(batch: int, positions: int, channels: int, stored: str, on: Machine) -> Call:
    kernel = KernelSpec("planes", planes_text, (stored,), on)
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


def reduce(a: Any, groups: int, partial_sums: int, compute: str, on: Machine) -> Call:
    """Add the partial sums of an array (groups, partial_sums, ...), in ascending order.

    The result has the layout of `a`, whose first axis is the groups if there are several.
    """
    shape, strides = (a.shape[1:], a.strides[1:]) if groups > 1 else (a.shape, a.strides)
    step = a.strides[0] if groups > 1 else 0
    return _reduce_call(shape, strides, step, groups, partial_sums, dtype_name(a), compute, on)


@kept
def _reduce_call(
    shape: tuple[int, ...], strides: tuple[int, ...], step: int, groups: int, partial_sums: int,
    result: str, compute: str, on: Machine,
) -> Call:  # fmt: skip
    item = ITEMSIZE[result]
    offsets = grid(shape, element_strides(strides, item))
    kernel = KernelSpec("reduce", reduce_text, (compute, result), on)
    values = {
        "chunks": groups, "offsets": address(offsets), "count": prod(shape),
        "partial_sums": partial_sums, "step": element_stride(step, item),
    }  # fmt: skip
    return Call(kernel, REDUCE, values, 1, [offsets])


def reduce_text(compute: str, result: str) -> str:
    """Write the LLVM IR of ``reduce``."""
    code = Code("reduce", REDUCE)
    with code.chunks(code["chunks"]) as group:
        count, partial_sums = code["count"], code["partial_sums"]
        first = code.array("from", compute).at(group * partial_sums * count)
        result_pointer = code.array("to", result).at(group * code["step"])
        with code.loop(0, count) as i:
            total = code.variable(first.at(i).load())
            with code.loop(1, partial_sums) as s:
                total.set(total.get() + first.at(s * count + i).load())
            pointer = result_pointer.at(code.array("offsets", "int64").at(i).load())
            pointer.store(code.convert(total.get(), compute, result))
    return code.text()
