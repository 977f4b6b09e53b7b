"""Which dtype a result has, and in which dtype it is computed. Names only: no array library here.

float16 and bfloat16 are summed in float32. Integers are exact: small ones are multiplied in
floating point while every partial sum provably stays below 2**24 (float32) or 2**53 (float64),
where floating-point arithmetic on integers makes no error; the others in 64-bit integers,
with the values checked beforehand. Nothing wraps silently.
"""

from __future__ import annotations

from dataclasses import dataclass

from einstride.support.caches import cached
from einstride.support.errors import bad_type, bad_value

INTEGERS: dict[str, tuple[int, int]] = {
    "bool": (0, 1),
    **{f"int{n}": (-(2 ** (n - 1)), 2 ** (n - 1) - 1) for n in (8, 16, 32, 64)},
    **{f"uint{n}": (0, 2**n - 1) for n in (8, 16, 32, 64)},
}
HALVES = ("float16", "bfloat16")
COMPLEXES = ("complex64", "complex128")
ITEMSIZE = {
    "bool": 1,
    **{f"{u}int{n}": n // 8 for u in ("", "u") for n in (8, 16, 32, 64)},
    **{"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex64": 8, "complex128": 16},
}

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53}
UNIT_ROUNDOFF |= {"complex64": 2.0**-24, "complex128": 2.0**-53}
"""The largest relative error of one rounding, by the dtype of sums."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """The dtypes of a call.

    Attributes
    ----------
    compute : str
        The dtype products and sums are formed in.
    result : str
        The dtype of the result.
    check_values : bool
        True when the dtypes alone do not rule out an overflow, so the values must be looked at.
    """

    compute: str
    result: str
    check_values: bool = False

    @property
    def exact(self) -> bool:
        """Is the result an integer, which floating-point means must reach without an error?"""
        return self.result in INTEGERS


def magnitude(name: str) -> int:
    """The largest absolute value of an integer dtype."""
    low, high = INTEGERS[name]
    return max(-low, high)


def promote(*names: str) -> str:
    """The float or complex dtype of mixed operands (at least one of them not an integer)."""
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
    """The arithmetic of a sum of `terms` products of two dtypes, plus an optional bias dtype.

    `half` says that the backend multiplies float16 and bfloat16 with sums in float32 by itself.
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
        compute = _wider(where, result, accumulate)
    return Arithmetic(compute, result)


def _wider(where: str, result: str, accumulate: str) -> str:
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
    eight = a in ("int8", "uint8") and b in ("int8", "uint8")
    fits = bias is None or bias in ("bool", "int8", "int16", "int32", "uint8", "uint16")
    result = "int32" if eight and fits else "int64"
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
    reach = terms * magnitude(a) * magnitude(b)
    low, high = INTEGERS[result]
    if reach > high and eight and result == "int32":
        raise bad_value(
            where,
            f"a sum of {terms} products of {a} and {b} could overflow int32",
            f"up to {reach} in magnitude",
            'pass accumulate="int64"',
        )
    signed = INTEGERS[a][0] < 0 or INTEGERS[b][0] < 0
    unsure = reach > high or bias is not None or (signed and low == 0)
    compute = "float32" if reach < 2**24 else "float64" if reach < 2**53 else result
    return Arithmetic(compute, result, check_values=unsure)
