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
    from einstride.codegen.jit import Machine

_HALF, _FLOAT, _INT16, _INT32 = ir.HalfType(), ir.FloatType(), ir.IntType(16), ir.IntType(32)

QUIET = 0x40
"""The bit of a bfloat16 that makes a NaN quiet, and keeps a NaN one without its lower 16 bits."""


def unconverted(stored: Iterable[str], compute: str, machine: Machine) -> str | None:
    """Why kernels cannot convert these dtypes to and from `compute`; None if they can."""
    halves = [dtype for dtype in stored if dtype in HALVES]
    if halves and compute != "float32":
        return "vectors convert halves to and from float32 only"
    if "float16" in halves and not machine.converts_float16:
        return "this machine's vectors do not convert float16"
    return None


def convert(b: Any, value: Any, dtype: str, wanted: str) -> Any:
    """Write, with the IR builder `b`, a number or vector of one dtype in another that can hold it.

    Halves are converted to and from float32 only; floats that become integers are integer values.
    """
    if dtype == wanted:
        return value
    if dtype in HALVES:
        return _from_half(b, value, dtype)
    if wanted in HALVES:
        return _to_half(b, value, wanted)
    name = _instruction(dtype, wanted)
    if name is None:
        return value
    if name == "sitofp" and bytes_of(ELEMENTS[dtype]) < 4:
        # 32 bits hold them as signed numbers, which convert faster
        value = convert(b, value, dtype, "int32")
    return getattr(b, name)(value, like(value.type, ELEMENTS[wanted]))


def _instruction(dtype: str, wanted: str) -> str | None:
    """The instruction between two dtypes that are no halves; None if the bits stay the same."""
    unsigned = dtype == "bool" or dtype.startswith("u")
    old, new = bytes_of(ELEMENTS[dtype]), bytes_of(ELEMENTS[wanted])
    from_float, to_float = is_float(ELEMENTS[dtype]), is_float(ELEMENTS[wanted])
    if from_float and to_float:
        return "fpext" if new > old else "fptrunc"
    if from_float:
        return "fptosi"  # sums stay below 2**53
    if to_float:
        return "uitofp" if unsigned and old >= 4 else "sitofp"
    if new == old:
        return None
    return "trunc" if new < old else "zext" if unsigned else "sext"


def _from_half(b: Any, value: Any, dtype: str) -> Any:
    """Halves as float32."""
    kind = value.type
    if dtype == "float16":
        return b.fpext(b.bitcast(value, like(kind, _HALF)), like(kind, _FLOAT))
    bits = b.zext(value, like(kind, _INT32))
    return b.bitcast(b.shl(bits, _constant(bits, 16)), like(kind, _FLOAT))


def _to_half(b: Any, value: Any, wanted: str) -> Any:
    """float32 as halves: the nearest one, of two as near the even one; a NaN stays a NaN."""
    kind = value.type
    if wanted == "float16":
        return b.bitcast(b.fptrunc(value, like(kind, _HALF)), like(kind, _INT16))
    bits = b.bitcast(value, like(kind, _INT32))

    def upper(number: Any) -> Any:
        return b.lshr(number, _constant(bits, 16))

    one = _constant(bits, 1)
    nearest = upper(b.add(b.add(bits, _constant(bits, 0x7FFF)), b.and_(upper(bits), one)))
    nan = b.fcmp_unordered("uno", value, value)
    found = b.select(nan, b.or_(upper(bits), _constant(bits, QUIET)), nearest)
    return b.trunc(found, like(kind, _INT16))


def _constant(value: Any, number: int) -> Any:
    """An integer as a constant of the type of another value, in every lane of a vector."""
    kind = value.type
    lanes = kind.count if isinstance(kind, ir.VectorType) else 0
    return ir.Constant(kind, [number] * lanes if lanes else number)
