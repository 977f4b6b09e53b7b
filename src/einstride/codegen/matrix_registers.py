"""Write the instructions of AMX, x86's registers that hold matrices and multiply them.

A register holds up to 16 rows of 64 bytes. One instruction adds the product of two of them to a
third:

    sums[p, d] += sum of left[p, k, i] * right[k, d, i]      16 rows p, 16 columns d, 16 numbers k

where i counts the numbers that share 32 bits, two of bfloat16 or four of 8 bits. The sums are of
float32 or int32. Numbers of bfloat16 and sums below 2^-126 count as zero.

Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.jit import Target

ROWS = 16
"""Rows of a register, at most."""

ROW_BYTES = 64
"""Bytes of a row, at most."""

COUNT = 8
"""Number of registers."""

PRODUCTS = {
    ("bfloat16", "bfloat16"): "tdpbf16ps",
    ("int8", "int8"): "tdpbssd",
    ("uint8", "int8"): "tdpbusd",
}
"""{dtypes of left and right: instruction}."""

_FEATURES = {
    "tdpbf16ps": ("+amx-tile", "+amx-bf16", "+avx512bf16"), "tdpbssd": ("+amx-tile", "+amx-int8"),
    "tdpbusd": ("+amx-tile", "+amx-int8"),
}  # fmt: skip


def usable(target: Target, operands: tuple[str, str]) -> bool:
    """True if a target can multiply matrices of these dtypes."""
    features = _FEATURES.get(PRODUCTS.get(operands, ""))
    if features is None or target.vector_bytes != ROW_BYTES:
        return False
    return set(features) <= set(target.features.split(","))


def configuration(sizes: Sequence[tuple[int, int]]) -> Any:
    """Return the 64 bytes that describe registers of these (rows, bytes of a row)."""
    block = np.zeros(64, np.uint8)
    block[0] = 1  # the palette of 8 registers of 1 KiB
    for i, (rows, row_bytes) in enumerate(sizes):
        block[16 + 2 * i] = row_bytes
        block[48 + i] = rows
    return block


def configure(code: Code, block: Pointer) -> None:
    """Set the sizes of the registers, and their contents to zero."""
    code.intrinsic("llvm.x86.ldtilecfg", ir.VoidType(), [block])


def release(code: Code) -> None:
    """Forget contents and sizes, so that nothing is kept when another thread runs."""
    code.intrinsic("llvm.x86.tilerelease", ir.VoidType(), [])


def zero(code: Code, register: int) -> None:
    """Set a register to zero."""
    code.intrinsic("llvm.x86.tilezero", ir.VoidType(), [_number(code, register)])


def load(register: int, memory: Pointer, stride: Value) -> None:
    """Load a register from rows that lie `stride` bytes apart."""
    code = memory.code
    arguments = [_number(code, register), memory, stride]
    code.intrinsic("llvm.x86.tileloadd64", ir.VoidType(), arguments)


def store(register: int, memory: Pointer, stride: Value) -> None:
    """Store a register to rows that lie `stride` bytes apart."""
    code = memory.code
    arguments = [_number(code, register), memory, stride]
    code.intrinsic("llvm.x86.tilestored64", ir.VoidType(), arguments)


def add_product(code: Code, operands: tuple[str, str], sums: int, left: int, right: int) -> None:
    """Add the product of two registers to a third."""
    numbers = [_number(code, register) for register in (sums, left, right)]
    code.intrinsic(f"llvm.x86.{PRODUCTS[operands]}", ir.VoidType(), numbers)


def round_to_bfloat16(low: Value, high: Value) -> Value:
    """Round two vectors of float32 to one of bfloat16, as bits, to nearest even."""
    code, lanes = low.code, low.ir.type.count
    name = f"llvm.x86.avx512bf16.cvtne2ps2bf16.{32 * lanes}"
    rounded = code.intrinsic(name, ir.VectorType(_BFloat(), 2 * lanes), [high, low])
    bits = ir.VectorType(ir.IntType(16), 2 * lanes)
    return Value(code, code.builder.bitcast(rounded.ir, bits))


class _BFloat(ir.Type):  # type: ignore[misc]  # llvmlite is untyped
    """LLVM's type bfloat, which llvmlite lacks."""

    def __str__(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def _number(code: Code, register: int) -> Value:
    return Value(code, ir.Constant(ir.IntType(8), register))
