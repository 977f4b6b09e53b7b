"""Choose the dtypes of a result and of its sums, from the names of the operands' dtypes.

float16 and bfloat16 are summed in float32. Integer results are exact: integers are multiplied in
floating point where every partial sum provably stays below 2**24 (float32) or 2**53 (float64), the
range in which floating-point arithmetic on integers makes no error. All other integers are
multiplied in 64-bit integers, after a check of their values, so that no sum wraps around.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from einstride.geometry.padding_modes import Number
from einstride.support.caches import cached
from einstride.support.errors import bad_type, bad_value, shown

INTEGERS: dict[str, tuple[int, int]] = {  # the least and the largest value of each dtype
    "bool": (0, 1),
    **{f"int{n}": (-(2 ** (n - 1)), 2 ** (n - 1) - 1) for n in (8, 16, 32, 64)},
    **{f"uint{n}": (0, 2**n - 1) for n in (8, 16, 32, 64)},
}
HALVES = ("float16", "bfloat16")
COMPLEXES = ("complex64", "complex128")
ITEMSIZE = {  # bytes of one element
    "bool": 1,
    **{f"{u}int{n}": n // 8 for u in ("", "u") for n in (8, 16, 32, 64)},
    **{"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16},
}

LARGEST_FLOAT = {
    "float16": 65504.0,
    "bfloat16": 2.0**128 - 2.0**120,
    "float32": 2.0**128 - 2.0**104,
}
"""Largest finite number of the dtypes that hold less than Python's float; complex64 as float32."""

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53}
UNIT_ROUNDOFF |= {"complex64": 2.0**-24, "complex128": 2.0**-53}
"""Largest relative error of one rounding, by dtype of the sums: half an ulp of IEEE 754."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Hold the dtypes of one call.

    Attributes
    ----------
    compute : str
        The dtype of products and sums.
    result : str
        The dtype of the result.
    check_values : bool
        True if the dtypes alone do not rule out an overflow, so that the values must be checked.
    """

    compute: str
    result: str
    check_values: bool = False

    @property
    def exact(self) -> bool:
        """True if the result is an integer, which admits no rounding error."""
        return self.result in INTEGERS


def magnitude(name: str) -> int:
    """Return the largest absolute value of an integer dtype."""
    low, high = INTEGERS[name]
    return max(-low, high)


def promote(*names: str) -> str:
    """Return the float or complex dtype of mixed operands, of which at least one is no integer."""
    inexact = [n for n in names if n not in INTEGERS]
    if len(set(inexact)) == 1:
        return inexact[0]
    wide = any(n in ("float64", "complex128") for n in inexact)
    if any(n in COMPLEXES for n in inexact):
        return "complex128" if wide else "complex64"
    return "float64" if wide else "float32"


@cached(1024)
def resolve(
    where: str, names: tuple[str, str, str | None], terms: int, accumulate: str | None, half: bool
) -> Arithmetic:
    """Choose the dtypes for sums of `terms` products of two dtypes, plus a bias of a third dtype.

    `half` is True if the array library itself sums products of float16 and bfloat16 in float32.
    """
    given = [n for n in names if n is not None]
    for name in given:
        if name not in ITEMSIZE:
            raise bad_type(
                where,
                "arrays must hold bools, integers, floats or complex numbers",
                f"dtypes {', '.join(given)}",
                "convert them first, e.g. x.astype('float32')",
            )
    if all(n in INTEGERS for n in given):
        return _integers(where, given, terms, accumulate)
    result = promote(*given)
    compute = "float32" if result in HALVES and not half else result
    if accumulate is not None:
        compute = _checked_accumulate(where, result, accumulate)
    return Arithmetic(compute, result)


def _checked_accumulate(where: str, result: str, accumulate: str) -> str:
    allowed = {
        "float16": ("float32", "float64"),
        "bfloat16": ("float32", "float64"),
        "float32": ("float32", "float64"),
        "float64": ("float64",),
        "complex64": ("complex64", "complex128"),
        "complex128": ("complex128",),
    }[result]
    if accumulate not in allowed:
        raise bad_value(
            where,
            f"sums of {result} cannot be formed in {accumulate}",
            f"accumulate={accumulate!r}",
            f"use {allowed}",
        )
    return accumulate


def _integers(where: str, names: list[str], terms: int, accumulate: str | None) -> Arithmetic:
    a, b = names[:2]
    bias = names[2] if len(names) == 3 else None
    eight_bit = a in ("int8", "uint8") and b in ("int8", "uint8")
    bias_fits = bias is None or bias in ("bool", "int8", "int16", "int32", "uint8", "uint16")
    result = "int32" if eight_bit and bias_fits else "int64"
    if all(n == "uint64" for n in names):
        result = "uint64"
    if accumulate is not None:
        if accumulate not in ("int32", "int64", "uint64"):
            raise bad_value(
                where,
                "integers accumulate in integers",
                f"accumulate={accumulate!r}",
                "use 'int32', 'int64' or 'uint64', or convert the arrays to a float dtype",
            )
        result = accumulate
    largest = terms * magnitude(a) * magnitude(b)
    low, high = INTEGERS[result]
    if largest > high and eight_bit and result == "int32":
        raise bad_value(
            where,
            f"a sum of {terms} products of {a} and {b} could overflow int32",
            f"up to {largest} in magnitude",
            'pass accumulate="int64"',
        )
    signed = INTEGERS[a][0] < 0 or INTEGERS[b][0] < 0
    may_overflow = largest > high or bias is not None or (signed and low == 0)
    compute = "float32" if largest < 2**24 else "float64" if largest < 2**53 else result
    return Arithmetic(compute, result, check_values=may_overflow)


def check_fill(where: str, fill: Number, name: str) -> None:
    """Raise unless an array of this dtype can hold the number that fills its border.

    A float is rounded to a float dtype; to an integer dtype nothing is rounded or wrapped.
    """
    if name in INTEGERS:
        low, high = INTEGERS[name]
        fits = not isinstance(fill, complex) and low <= fill <= high and fill == int(fill)
    else:
        largest = LARGEST_FLOAT.get("float32" if name == "complex64" else name, inf)
        parts = (fill.real, fill.imag) if isinstance(fill, complex) else (fill,)
        real = name in COMPLEXES or not isinstance(fill, complex)
        fits = real and all(abs(p) <= largest or p != p or abs(p) == inf for p in parts)
    if not fits:
        raise bad_value(
            where, "fill must be a number that x can hold", f"fill={shown(fill)}, x of {name}",
            "choose another number, or convert x first",
        )  # fmt: skip
