"""The types of numbers in LLVM's intermediate language, by our dtype names."""

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
"""The type of a number in memory, by dtype. Dtypes of one type are converted in different ways, by
`conversions`."""


def scalar(kind: Any) -> Any:
    """The element type of a vector type, or the type itself."""
    return kind.element if isinstance(kind, ir.VectorType) else kind


def like(kind: Any, element: Any) -> Any:
    """The type with as many numbers as another type, of element type `element`."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def is_float(kind: Any) -> bool:
    """True for floating-point numbers, and for vectors of them."""
    return isinstance(scalar(kind), (ir.FloatType, ir.DoubleType))


def is_narrow(element: Any) -> bool:
    """True for integers that wider ones can be truncated to; halves are stored as such too."""
    return not isinstance(element, ir.FloatType) and bytes_of(element) < bytes_of(INT64)


def bytes_of(element: Any) -> int:
    """The size of a number."""
    if isinstance(element, ir.IntType):
        return max(int(element.width) // 8, 1)
    return 4 if isinstance(element, ir.FloatType) else 8


def letter(element: Any) -> str:
    """How names of LLVM's functions spell the type."""
    return ("f" if is_float(element) else "i") + str(8 * bytes_of(element))
