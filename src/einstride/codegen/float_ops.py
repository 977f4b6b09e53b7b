"""Words for floating numbers: comparisons that know of NaN, roots, numbers known beforehand."""

from __future__ import annotations

from llvmlite import ir

from einstride.codegen.function_builder import Code, Value
from einstride.codegen.ir_types import ELEMENTS, letter, scalar


def like(value: Value, number: float) -> Value:
    """A number in every lane of the type of another value."""
    kind = value.ir.type
    lanes = kind.count if isinstance(kind, ir.VectorType) else 0
    return Value(value.code, ir.Constant(kind, [number] * lanes if lanes else number))


def double(code: Code, number: float) -> Value:
    """A float64."""
    return Value(code, ir.Constant(ELEMENTS["float64"], number))


def greater(a: Value, other: Value) -> Value:
    """a > other, false if one is NaN."""
    return Value(a.code, a.code.builder.fcmp_ordered(">", a.ir, other.ir))


def not_below(a: Value, other: Value) -> Value:
    """a > other, true if one is NaN."""
    return Value(a.code, a.code.builder.fcmp_unordered(">", a.ir, other.ir))


def not_other(a: Value, other: Value) -> Value:
    """a == other, true if one is NaN."""
    return Value(a.code, a.code.builder.fcmp_unordered("==", a.ir, other.ir))


def is_nan(a: Value) -> Value:
    """Is it no number?"""
    return Value(a.code, a.code.builder.fcmp_unordered("uno", a.ir, a.ir))


def root(a: Value) -> Value:
    """The square root of a single number."""
    kind = a.ir.type
    return a.code.intrinsic(f"llvm.sqrt.{letter(scalar(kind))}", kind, [a])


def whole(a: Value, dtype: str) -> Value:
    """An integer as a float."""
    return Value(a.code, a.code.builder.sitofp(a.ir, ELEMENTS[dtype]))


def bits(a: Value) -> Value:
    """The float64 whose bits a word of the argument block holds."""
    return Value(a.code, a.code.builder.bitcast(a.ir, ELEMENTS["float64"]))
