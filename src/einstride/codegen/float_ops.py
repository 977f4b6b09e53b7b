"""Operations on floats in kernels: comparisons with NaN, square roots, constants."""

from __future__ import annotations

from llvmlite import ir

from einstride.codegen.function_builder import Code, Value
from einstride.codegen.ir_types import ELEMENTS, letter, scalar


def constant_like(value: Value, number: float) -> Value:
    """Make a constant of the type of another value, with the number in every lane."""
    kind = value.ir.type
    lanes = kind.count if isinstance(kind, ir.VectorType) else 0
    return Value(value.code, ir.Constant(kind, [number] * lanes if lanes else number))


def float64_constant(code: Code, number: float) -> Value:
    """Make a float64 constant."""
    return Value(code, ir.Constant(ELEMENTS["float64"], number))


def greater(a: Value, b: Value) -> Value:
    """True if a > other; false if one of them is NaN."""
    return Value(a.code, a.code.builder.fcmp_ordered(">", a.ir, b.ir))


def greater_or_nan(a: Value, b: Value) -> Value:
    """True if a > other or if one of them is NaN."""
    return Value(a.code, a.code.builder.fcmp_unordered(">", a.ir, b.ir))


def equal_or_nan(a: Value, b: Value) -> Value:
    """True if a == other or if one of them is NaN."""
    return Value(a.code, a.code.builder.fcmp_unordered("==", a.ir, b.ir))


def is_nan(a: Value) -> Value:
    """True if a value is NaN, for each lane."""
    return Value(a.code, a.code.builder.fcmp_unordered("uno", a.ir, a.ir))


def square_root(a: Value) -> Value:
    """Return the square root of a scalar."""
    kind = a.ir.type
    return a.code.intrinsic(f"llvm.sqrt.{letter(scalar(kind))}", kind, [a])


def to_float(a: Value, dtype: str) -> Value:
    """Convert an integer to a float."""
    return Value(a.code, a.code.builder.sitofp(a.ir, ELEMENTS[dtype]))


def as_float64(a: Value) -> Value:
    """Return the float64 with the bits of an integer argument."""
    return Value(a.code, a.code.builder.bitcast(a.ir, ELEMENTS["float64"]))
