"""Map dtype names to the LLVM IR types of their elements in memory."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

INT64 = ir.IntType(64)
POINTER = ir.PointerType()

ELEMENTS: dict[str, Any] = {
    "float16": ir.IntType(16),
    "bfloat16": ir.IntType(16),
    "float32": ir.FloatType(),
    "float64": ir.DoubleType(),
    "bool": ir.IntType(8),
    **{f"{u}int{n}": ir.IntType(n) for u in ("", "u") for n in (8, 16, 32, 64)},
}
"""The LLVM type of an element in memory, by dtype name. Dtypes that share a type are converted in
different ways, by `conversions`."""


def scalar(kind: Any) -> Any:
    """Return the element type of a vector type, or the type itself."""
    return kind.element if isinstance(kind, ir.VectorType) else kind


def like(kind: Any, element: Any) -> Any:
    """Return the type with as many lanes as `kind`, of elements of the type `element`."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def is_float(kind: Any) -> bool:
    """True for a floating-point type, or a vector of one."""
    return isinstance(scalar(kind), (ir.FloatType, ir.DoubleType))


def is_narrow(element: Any) -> bool:
    """True for integers below 64 bits; 16-bit floats are stored as such integers."""
    return not isinstance(element, ir.FloatType) and bytes_of(element) < bytes_of(INT64)


def bytes_of(element: Any) -> int:
    """Count the bytes of a scalar type."""
    if isinstance(element, ir.IntType):
        return max(int(element.width) // 8, 1)
    return 4 if isinstance(element, ir.FloatType) else 8


def letter(element: Any) -> str:
    """Return the type as intrinsics spell it in their names, such as f32 or i64."""
    return ("f" if is_float(element) else "i") + str(8 * bytes_of(element))
