"""Small helpers among the steps of a program: a filter brought into order, tables of sums added up.

Both look up where a number lies in a table of offsets, so that arrays may have any strides.
"""

from __future__ import annotations

from math import prod
from typing import Any

from einstride.codegen.function_builder import Code
from einstride.codegen.jit import KernelSpec, Machine
from einstride.cpu.runtime.argument_block import Call, address, name_of
from einstride.cpu.runtime.offset_tables import grid
from einstride.cpu.runtime.operands import steps, whole
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.support.byte_cache import kept

GATHER = ("counter", "chunks", "from", "to", "offsets", "count")
PLANES = ("counter", "chunks", "from", "to", "positions", "channels")
FOLD = ("counter", "chunks", "from", "to", "offsets", "count", "tables", "step")


def gather(a: Any, compute: str, on: Machine) -> Call:
    """One number after another of an array like `a`: wants the addresses from and to."""
    return _gather(a.shape, a.strides, name_of(a), compute, on)


@kept
def _gather(
    shape: tuple[int, ...], strides: tuple[int, ...], stored: str, compute: str, on: Machine
) -> Call:
    offsets = grid(shape, steps(strides, ITEMSIZE[stored]))
    kernel = KernelSpec("gather", gather_text, (stored, compute), on)
    values = {"chunks": 1, "offsets": address(offsets), "count": prod(shape)}
    return Call(kernel, GATHER, values, 1, [offsets])


def gather_text(stored: str, compute: str) -> str:
    """The text of ``gather``."""
    code = Code("gather", GATHER)
    with code.chunks(code["chunks"]), code.loop(0, code["count"]) as i:
        number = code.array("from", stored).at(code.array("offsets", "int64").at(i).load())
        code.array("to", compute).at(i).store(number.load_as(stored, compute))
    return code.text()


def planes(a: Any, on: Machine) -> Call:
    """A dense array like `a` (B, *O, D) as (B, D, *O): wants the addresses from and to."""
    return _planes(a.shape[0], prod(a.shape[1:-1]), a.shape[-1], name_of(a), on)


@kept
def _planes(batch: int, positions: int, channels: int, stored: str, on: Machine) -> Call:
    kernel = KernelSpec("planes", planes_text, (stored,), on)
    values = {"chunks": batch, "positions": positions, "channels": channels}
    return Call(kernel, PLANES, values, 1, [])


def planes_text(stored: str) -> str:
    """The text of ``planes``."""
    code = Code("planes", PLANES)
    with code.chunks(code["chunks"]) as example:
        positions, channels = code["positions"], code["channels"]
        begin = example * positions * channels
        with code.loop(0, channels) as c:
            to = code.array("to", stored).at(begin + c * positions)
            start = code.array("from", stored).at(begin + c)
            with code.loop(0, positions) as p:
                to.at(p).store(start.at(p * channels).load())
    return code.text()


def fold(a: Any, groups: int, tables: int, compute: str, on: Machine) -> Call:
    """Tables of sums (groups, tables, ...) added in order: wants the addresses from and to.

    They go into an array like `a`, which has an axis of groups in front if there are several.
    """
    shape, strides = (a.shape[1:], a.strides[1:]) if groups > 1 else (a.shape, a.strides)
    step = a.strides[0] if groups > 1 else 0
    return _fold(shape, strides, step, groups, tables, name_of(a), compute, on)


@kept
def _fold(
    shape: tuple[int, ...], strides: tuple[int, ...], step: int, groups: int, tables: int,
    result: str, compute: str, on: Machine,
) -> Call:  # fmt: skip
    item = ITEMSIZE[result]
    offsets = grid(shape, steps(strides, item))
    kernel = KernelSpec("fold", fold_text, (compute, result), on)
    values = {
        "chunks": groups, "offsets": address(offsets), "count": prod(shape), "tables": tables,
        "step": whole(step, item),
    }  # fmt: skip
    return Call(kernel, FOLD, values, 1, [offsets])


def fold_text(compute: str, result: str) -> str:
    """The text of ``fold``."""
    code = Code("fold", FOLD)
    with code.chunks(code["chunks"]) as group:
        count, tables = code["count"], code["tables"]
        first = code.array("from", compute).at(group * tables * count)
        to = code.array("to", result).at(group * code["step"])
        with code.loop(0, count) as i:
            total = code.variable(first.at(i).load())
            with code.loop(1, tables) as t:
                total.set(total.get() + first.at(t * count + i).load())
            pointer = to.at(code.array("offsets", "int64").at(i).load())
            pointer.store(code.convert(total.get(), compute, result))
    return code.text()
