"""Convert numbers between the dtype they are stored in and the one they are computed in.

Memory holds each dtype as its type in `ir_types.ELEMENTS`: floats of 32 and 64 bits as such,
integers and bools by their size, and both halves as integers of 16 bits, which every machine can
load and store under a mask:

    float16     sign, 5 bits of exponent, 10 of mantissa: one instruction to and from float32
    bfloat16    the upper 16 bits of a float32: a shift, and rounding on the way back

Products and sums are formed in the dtype that `geometry.arithmetic` names, for halves float32. A
kernel converts each vector, or single number, in a register after it is loaded, and its sums
before they are stored. A complex number is converted as two real ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from einstride.codegen.ir_types import ELEMENTS, bytes_of, is_float, like
from einstride.geometry.arithmetic import HALVES

if TYPE_CHECKING:
    from einstride.codegen.jit import Target

_HALF, _FLOAT, _INT16, _INT32 = ir.HalfType(), ir.FloatType(), ir.IntType(16), ir.IntType(32)

QUIET = 0x40
"""The bit of a bfloat16 that makes a NaN quiet, and keeps a NaN one without its lower 16 bits."""


def unconverted(stored: Iterable[str], compute: str, target: Target) -> str | None:
    """Why kernels cannot convert these dtypes to and from `compute`; None if they can."""
    halves = [dtype for dtype in stored if dtype in HALVES]
    if halves and compute != "float32":
        return "vectors convert halves to and from float32 only"
    if "float16" in halves and not target.converts_float16:
        return "this machine's vectors do not convert float16"
    return None


def convert(builder: Any, value: Any, dtype: str, new_dtype: str) -> Any:
    """Convert a number or a vector to another dtype that can hold it, with an IR builder.

    Halves are converted to and from float32 only; floats that become integers are integer values.
    """
    if dtype == new_dtype:
        return value
    if dtype in HALVES:
        return _convert_from_half(builder, value, dtype)
    if new_dtype in HALVES:
        return _convert_to_half(builder, value, new_dtype)
    name = _conversion_instruction(dtype, new_dtype)
    if name is None:
        return value
    if name == "sitofp" and bytes_of(ELEMENTS[dtype]) < 4:
        # 32 bits hold them as signed numbers, which convert faster
        value = convert(builder, value, dtype, "int32")
    return getattr(builder, name)(value, like(value.type, ELEMENTS[new_dtype]))


def _conversion_instruction(dtype: str, new_dtype: str) -> str | None:
    """Name the instruction between two dtypes, none a half; None if the bits stay the same."""
    unsigned = dtype == "bool" or dtype.startswith("u")
    old_bytes, new_bytes = bytes_of(ELEMENTS[dtype]), bytes_of(ELEMENTS[new_dtype])
    from_float, to_float = is_float(ELEMENTS[dtype]), is_float(ELEMENTS[new_dtype])
    if from_float and to_float:
        return "fpext" if new_bytes > old_bytes else "fptrunc"
    if from_float:
        return "fptosi"  # sums stay below 2**53
    if to_float:
        return "uitofp" if unsigned and old_bytes >= 4 else "sitofp"
    if new_bytes == old_bytes:
        return None
    return "trunc" if new_bytes < old_bytes else "zext" if unsigned else "sext"


def _convert_from_half(builder: Any, value: Any, dtype: str) -> Any:
    """Convert halves to float32."""
    kind = value.type
    if dtype == "float16":
        return builder.fpext(builder.bitcast(value, like(kind, _HALF)), like(kind, _FLOAT))
    bits = builder.zext(value, like(kind, _INT32))
    return builder.bitcast(builder.shl(bits, _constant(bits, 16)), like(kind, _FLOAT))


def _convert_to_half(builder: Any, value: Any, half_dtype: str) -> Any:
    """Round float32 to halves: the nearest, of two as near the even one; a NaN stays a NaN."""
    kind = value.type
    if half_dtype == "float16":
        return builder.bitcast(builder.fptrunc(value, like(kind, _HALF)), like(kind, _INT16))
    bits = builder.bitcast(value, like(kind, _INT32))

    def upper_half(number: Any) -> Any:
        return builder.lshr(number, _constant(bits, 16))

    odd_bit = _constant(bits, 1)
    nearest = upper_half(
        builder.add(
            builder.add(bits, _constant(bits, 0x7FFF)), builder.and_(upper_half(bits), odd_bit)
        )
    )
    nan = builder.fcmp_unordered("uno", value, value)
    rounded = builder.select(nan, builder.or_(upper_half(bits), _constant(bits, QUIET)), nearest)
    return builder.trunc(rounded, like(kind, _INT16))


def _constant(value: Any, number: int) -> Any:
    """Return an integer as a constant of the type of another value, in every lane of a vector."""
    kind = value.type
    lanes = kind.count if isinstance(kind, ir.VectorType) else 0
    return ir.Constant(kind, [number] * lanes if lanes else number)
