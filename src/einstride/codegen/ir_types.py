"""Map dtype names to LLVM IR types, and list the conversions between them."""

from __future__ import annotations

from typing import Any

from llvmlite import ir

INT64 = ir.IntType(64)
POINTER = ir.PointerType()

ELEMENTS: dict[str, Any] = {
    "float16": ir.HalfType(),
    "float32": ir.FloatType(),
    "float64": ir.DoubleType(),
    "bool": ir.IntType(8),
    **{f"{u}int{n}": ir.IntType(n) for u in ("", "u") for n in (8, 16, 32, 64)},
}
"""LLVM types by dtype name; signed and unsigned integers share a type and differ in conversions."""


def scalar(kind: Any) -> Any:
    """The element type of a vector type, or the type itself."""
    return kind.element if isinstance(kind, ir.VectorType) else kind


def is_float(kind: Any) -> bool:
    """True for a floating-point type, or a vector of one."""
    return isinstance(scalar(kind), (ir.HalfType, ir.FloatType, ir.DoubleType))


def is_narrow(element: Any) -> bool:
    """True for integers below 64 bits, and for float16, which LLVM moves as an integer."""
    return not isinstance(element, ir.FloatType) and bytes_of(element) < bytes_of(INT64)


def bytes_of(element: Any) -> int:
    """The bytes of a scalar type."""
    if isinstance(element, ir.IntType):
        return max(int(element.width) // 8, 1)
    return 2 if isinstance(element, ir.HalfType) else 4 if isinstance(element, ir.FloatType) else 8


def letter(element: Any) -> str:
    """The type as intrinsics spell it in their names, such as f32 or i64."""
    return ("f" if is_float(element) else "i") + str(8 * bytes_of(element))


def conversion(dtype: str, wanted: str) -> str | None:
    """The LLVM instruction that converts one dtype to another; None if the bits stay the same."""
    unsigned = dtype == "bool" or dtype.startswith("u")
    old, new = bytes_of(ELEMENTS[dtype]), bytes_of(ELEMENTS[wanted])
    if dtype == wanted:
        return None
    if dtype.startswith("float"):
        if wanted.startswith("float"):
            return "fpext" if new > old else "fptrunc"
        return "fptoui" if wanted.startswith("u") else "fptosi"
    if wanted.startswith("float"):
        return "uitofp" if unsigned else "sitofp"
    if new == old:
        return None
    return "trunc" if new < old else "zext" if unsigned else "sext"
