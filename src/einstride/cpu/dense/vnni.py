"""Multiply 8-bit integers four channels at a time, by the VNNI dot product of AVX-512.

The instruction VPDPBUSD multiplies unsigned by signed bytes and adds four products to a 32-bit sum,
which wraps and never saturates. A signed x becomes unsigned by adding 128. The sums then begin with
-128 times the sum of the filter; sums modulo 2^32 that wrap on the way end at the same value.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from einstride.codegen.function_builder import Pointer, Value
from einstride.codegen.jit import Target, host_target
from einstride.cpu.dense.pack_call import panel_layout
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Job
from einstride.support.caches import cached

FEATURE = "+avx512vnni"


class VnniFilter(NamedTuple):
    """A filter in panels of four input channels each, and the initial value of the sums."""

    panels: Any  # (panels, taps, C // 4, columns, 4) of 8 bits
    start: Any  # (D,) of 32 bits


@cached(1024)
def fits(g: Geometry, job: Job) -> bool:
    """True if this CPU can compute a job by VNNI; `g` is the geometry of its forward pass."""
    return (
        job.direction == "forward"
        and job.operands in (("int8", "int8"), ("uint8", "int8"))
        and job.arithmetic.result == "int32"
        and g.groups == 1
        and g.channels % 4 == 0
        and usable(host_target())
    )


def usable(target: Target) -> bool:
    """True if a CPU has the VNNI instruction for 512-bit vectors."""
    return target.vector_bytes == 64 and FEATURE in target.features.split(",")


def pack(f: Any, g: Geometry, signed: bool) -> VnniFilter:
    """Pack an int8 filter (*K, C, D) with any strides; `signed` is true for a signed x."""
    layout = panel_layout("int32", g.filters, host_target())
    taps, width = prod(g.kernel), layout.per_group * layout.width
    wide = np.zeros((taps, g.channels, width), np.int8)
    wide[..., : g.filters] = f.reshape(taps, g.channels, g.filters)
    parts = wide.reshape(taps, g.channels // 4, 4, layout.per_group, layout.width)
    panels = np.ascontiguousarray(parts.transpose(3, 0, 1, 4, 2))
    start = wide.sum((0, 1), dtype=np.int32)[: g.filters] * np.int32(-128 if signed else 0)
    return VnniFilter(panels, np.ascontiguousarray(start))


def broadcast_bytes(pointer: Pointer, operand: str, lanes: int) -> Value:
    """Broadcast four neighbouring bytes to every 32-bit lane; signed ones are made unsigned."""
    code = pointer.code
    bits = code.builder.load(pointer.ir, typ=ir.IntType(32))
    bits.align = 1
    four_bytes = Value(code, bits)
    if operand == "int8":
        four_bytes = four_bytes ^ (0x80808080 - (1 << 32))
    return code.splat(four_bytes, lanes)


def products(sums: Value, x_bytes: Value, f_bytes: Value) -> Value:
    """Add the four products of each lane to the sums."""
    name = "llvm.x86.avx512.vpdpbusd.512"
    return sums.code.intrinsic(name, sums.ir.type, [sums, x_bytes, f_bytes])
