"""Clear a strided view of an array on several threads.

An input gradient is zero at the positions that no tap meets: with strides larger than the filter,
whole phases of it.
"""

from __future__ import annotations

from math import prod
from typing import Any

from einstride.codegen.function_builder import Code, Pointer
from einstride.codegen.jit import KernelSpec, Target, host_target
from einstride.cpu.runtime.argument_block import Call, address, dtype_name
from einstride.cpu.runtime.operands import contiguous_channels, element_strides
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.support.byte_cache import kept

MIN_BYTES = 1 << 18
"""Bytes from which the kernel is faster than NumPy's assignment."""


def arguments(axes: int) -> tuple[str, ...]:
    """List the argument names; the last axis is contiguous."""
    axis_names = (f"{name}{a}" for a in range(axes) for name in ("size", "step"))
    return ("counter", "chunks", "y", *axis_names)


def text(axes: int, lanes: int) -> str:
    """Write the LLVM IR of the kernel ``zeros``, for elements of 32 bits."""
    code = Code("zeros", arguments(axes))
    zeros = code.zero("float32", lanes)

    def clear_axis(a: int, y: Pointer) -> None:
        if a < axes - 1:
            with code.loop(0, code[f"size{a}"]) as i:
                clear_axis(a + 1, y.at(i * code[f"step{a}"]))
            return
        size = code[f"size{a}"]
        full_vectors = size - size % lanes
        with code.loop(0, full_vectors, lanes) as i:
            y.at(i).store(zeros)
        with code.when(full_vectors < size):
            y.at(full_vectors).store(zeros, code.first_lanes(size - full_vectors, lanes))

    with code.chunks(code["chunks"]) as chunk:
        y = code.array("y", "float32")
        rows, plane = chunk % code["size1"], chunk // code["size1"]
        clear_axis(2, y.at(plane * code["step0"] + rows * code["step1"]))
    return code.text()


def clear(view: Any, launch: Any, threads: int) -> None:
    """Clear a view of an array, by a kernel if the last axis is contiguous and the view large."""
    item = ITEMSIZE[dtype_name(view)]
    supported = contiguous_channels(view) and view.ndim > 2 and item % 4 == 0
    if not supported or prod(view.shape) * item < MIN_BYTES:
        view[...] = 0
        return
    _clearing_call(view.shape, view.strides, item, threads, host_target())(launch, y=address(view))


@kept
def _clearing_call(
    shape: tuple[int, ...], strides: tuple[int, ...], item: int, threads: int, target: Target
) -> Call:
    sizes = (*shape[:-1], shape[-1] * item // 4)
    steps = (*element_strides(strides[:-1], 4), 1)
    values = {"chunks": shape[0] * shape[1]}
    for a, (size, step) in enumerate(zip(sizes, steps, strict=True)):
        values |= {f"size{a}": size, f"step{a}": step}
    kernel = KernelSpec("zeros", text, (len(shape), target.lanes(4)), target)
    return Call(kernel, arguments(len(shape)), values, threads, ())
