"""Clear a strided view of an array on several threads.

An input gradient is zero at the positions that no tap meets: with strides larger than the filter,
whole phases of it.
"""

from __future__ import annotations

from math import prod
from typing import Any

from einstride.codegen.function_builder import Code
from einstride.codegen.jit import Target, host_target
from einstride.cpu.runtime.argument_block import Call, address, bind, dtype_name
from einstride.cpu.runtime.operands import contiguous_channels, element_strides
from einstride.cpu.runtime.recording import assign
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.support.byte_cache import kept

MIN_BYTES = 1 << 18
"""Bytes from which the kernel is faster than NumPy's assignment."""


def kernel(axes_and_lanes: tuple[int, int], names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``zeros``, for elements of 32 bits.

    The last axis is contiguous.
    """
    axes, lanes = axes_and_lanes
    code = Code("zeros", names)
    zeros = code.zero("float32", lanes)
    outer = range(2, axes - 1)
    with code.chunks(code["chunks"]) as chunk:
        row, plane = chunk % code["size1"], chunk // code["size1"]
        y = code.array("y", "float32").at(plane * code["step0"] + row * code["step1"])
        with code.loops(*((0, code[f"size{a}"]) for a in outer)) as indices:
            for a, i in zip(outer, indices, strict=True):
                y = y.at(i * code[f"step{a}"])
            size = code[f"size{axes - 1}"]
            full_vectors = size - size % lanes
            with code.loop(0, full_vectors, lanes) as i:
                y.at(i).store(zeros)
            with code.when(full_vectors < size):
                y.at(full_vectors).store(zeros, code.first_lanes(size - full_vectors, lanes))
    return code.text()


def clear(view: Any, launch: Any, threads: int) -> None:
    """Clear a view of an array, by a kernel if the last axis is contiguous and the view large."""
    item = ITEMSIZE[dtype_name(view)]
    supported = contiguous_channels(view) and view.ndim > 2 and item % 4 == 0
    if not supported or prod(view.shape) * item < MIN_BYTES:
        assign(view, 0, launch)
        return
    _clearing_call(view.shape, view.strides, item, threads, host_target())(launch, y=address(view))


@kept
def _clearing_call(
    shape: tuple[int, ...], strides: tuple[int, ...], item: int, threads: int, target: Target
) -> Call:
    sizes = (*shape[:-1], shape[-1] * item // 4)
    steps = (*element_strides(strides[:-1], 4), 1)
    arguments = {"chunks": shape[0] * shape[1], "y": 0}
    for a, (size, step) in enumerate(zip(sizes, steps, strict=True)):
        arguments |= {f"size{a}": size, f"step{a}": step}
    return bind("zeros", kernel, (len(shape), target.lanes(4)), arguments, threads, target)
