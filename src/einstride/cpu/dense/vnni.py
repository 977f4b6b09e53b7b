"""Products of 8-bit numbers, four channels at a time, in the CPU's own instruction for them.

It multiplies unsigned numbers by signed ones and adds four products to a sum of 32 bits, which
wraps but never saturates. Signed x becomes unsigned by adding 128; the sums begin with -128 times
the sum of the filter, and sums of 32 bits that wrap on the way end at the same number.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from einstride.codegen.function_builder import Pointer, Value
from einstride.codegen.jit import Machine, machine
from einstride.cpu.dense.pack_call import shape
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Job
from einstride.support.caches import cached

FEATURE = "+avx512vnni"


class Quads(NamedTuple):
    """A filter in panels of four input channels each, and what the sums begin with."""

    panels: Any  # (panels, taps, C // 4, columns, 4) of 8 bits
    start: Any  # (D,) of 32 bits


@cached(1024)
def fits(g: Geometry, job: Job) -> bool:
    """Can this CPU do a job so, with the geometry `g` of its forward pass?"""
    return (
        job.direction == "forward"
        and job.operands in (("int8", "int8"), ("uint8", "int8"))
        and job.arithmetic.result == "int32"
        and g.groups == 1
        and g.channels % 4 == 0
        and usable(machine())
    )


def usable(on: Machine) -> bool:
    """Does it have the instruction, for the whole of a vector?"""
    return on.vector_bytes == 64 and FEATURE in on.features.split(",")


def pack(f: Any, g: Geometry, signed: bool) -> Quads:
    """The filter (*K, C, D) of int8, of any strides; `signed` if x is."""
    s = shape("int32", g.filters, machine())
    taps, width = prod(g.kernel), s.per_group * s.width
    wide = np.zeros((taps, g.channels, width), np.int8)
    wide[..., : g.filters] = f.reshape(taps, g.channels, g.filters)
    parts = wide.reshape(taps, g.channels // 4, 4, s.per_group, s.width)
    panels = np.ascontiguousarray(parts.transpose(3, 0, 1, 4, 2))
    start = wide.sum((0, 1), dtype=np.int32)[: g.filters] * np.int32(-128 if signed else 0)
    return Quads(panels, np.ascontiguousarray(start))


def spread(pointer: Pointer, operand: str, lanes: int) -> Value:
    """Four neighbours as unsigned bytes, in every lane."""
    code = pointer.code
    found = code.builder.load(pointer.ir, typ=ir.IntType(32))
    found.align = 1
    four = Value(code, found)
    if operand == "int8":
        four = four ^ (0x80808080 - (1 << 32))
    return code.splat(four, lanes)


def products(sums: Value, four: Value, numbers: Value) -> Value:
    """sums + the four products of each lane."""
    name = "llvm.x86.avx512.vpdpbusd.512"
    return sums.code.intrinsic(name, sums.ir.type, [sums, four, numbers])
