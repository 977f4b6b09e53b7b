"""Zeros in every so many positions of an array, by several threads.

The input gradient of a strided convolution has positions that no tap meets.
"""

from __future__ import annotations

from math import prod
from typing import Any

from einstride.codegen.function_builder import Code, Pointer
from einstride.codegen.jit import KernelSpec, Machine, machine
from einstride.cpu.runtime.argument_block import Call, address, name_of
from einstride.cpu.runtime.operands import neighbours, steps
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.support.byte_cache import kept

WORTH = 1 << 18
"""Bytes from which this is faster than NumPy's assignment."""


def arguments(axes: int) -> tuple[str, ...]:
    """The words of the argument block: the last axis is that of neighbours in memory."""
    each = (f"{name}{a}" for a in range(axes) for name in ("size", "step"))
    return ("counter", "chunks", "y", *each)


def text(axes: int, lanes: int) -> str:
    """The text of the kernel ``zeros``, for numbers of 32 bits."""
    code = Code("zeros", arguments(axes))
    nothing = code.zero("float32", lanes)

    def inside(a: int, y: Pointer) -> None:
        if a < axes - 1:
            with code.loop(0, code[f"size{a}"]) as i:
                inside(a + 1, y.at(i * code[f"step{a}"]))
            return
        size = code[f"size{a}"]
        whole = size - size % lanes
        with code.loop(0, whole, lanes) as i:
            y.at(i).store(nothing)
        with code.when(whole < size):
            y.at(whole).store(nothing, code.first_lanes(size - whole, lanes))

    with code.chunks(code["chunks"]) as chunk:
        y = code.array("y", "float32")
        rows, plane = chunk % code["size1"], chunk // code["size1"]
        inside(2, y.at(plane * code["step0"] + rows * code["step1"]))
    return code.text()


def clear(part: Any, launch: Any, threads: int) -> None:
    """part[...] = 0, of a view whose neighbours on the last axis are neighbours in memory."""
    item = ITEMSIZE[name_of(part)]
    ready = neighbours(part) and part.ndim > 2 and item % 4 == 0
    if not ready or prod(part.shape) * item < WORTH:
        part[...] = 0
        return
    _call(part.shape, part.strides, item, threads, machine())(launch, y=address(part))


@kept
def _call(
    shape: tuple[int, ...], strides: tuple[int, ...], item: int, threads: int, on: Machine
) -> Call:
    sizes = (*shape[:-1], shape[-1] * item // 4)
    moves = (*steps(strides[:-1], 4), 1)
    values = {"chunks": shape[0] * shape[1]}
    for a, (size, step) in enumerate(zip(sizes, moves, strict=True)):
        values |= {f"size{a}": size, f"step{a}": step}
    kernel = KernelSpec("zeros", text, (len(shape), on.lanes(4)), on)
    return Call(kernel, arguments(len(shape)), values, threads, ())
