"""Bring the arguments of a filter into one array library, and results into a dtype."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from einstride.arrays import backends
from einstride.arrays.backends import Array, Backend
from einstride.geometry.arithmetic import COMPLEXES, INTEGERS


def together(where: str, **given: Any) -> tuple[Backend, list[Array]]:
    """Return the backend of the arrays among the arguments, and all arguments as its arrays.

    Numbers and sequences of numbers become arrays of the library of the others, or of NumPy.
    """
    given = {n: np.asarray(v) if isinstance(v, np.generic) else v for n, v in given.items()}
    arrays = {name: value for name, value in given.items() if is_array(value)}
    if not arrays:
        converted = [np.asarray(value) for value in given.values()]
        return backends.of(where, tuple(given), *converted), converted
    b = backends.of(where, tuple(arrays), *arrays.values())
    like = next(iter(arrays.values()))
    return b, [v if name in arrays else array_like(v, like, b) for name, v in given.items()]


def is_array(value: object) -> bool:
    """True for arrays and scalars with a dtype; False for numbers and sequences of Python."""
    return hasattr(value, "dtype") and hasattr(value, "shape") and not isinstance(value, type)


def array_like(value: Any, like: Array, b: Backend) -> Array:
    """Return numbers as an array on the device of another one."""
    value = np.asarray(value)
    if isinstance(like, np.ndarray):
        return value
    where = None if b.device is None else b.device(like)
    return b.xp.asarray(value.tolist(), dtype=getattr(b.xp, str(value.dtype)), device=where)


def taps(weights: Any, name: str, like: Array, b: Backend) -> Array:
    """Return the taps of a filter in a dtype, contiguous, as an array on the device of another."""
    if is_array(weights) and not isinstance(weights, np.ndarray):
        return b.astype(weights, name)
    weights = np.ascontiguousarray(weights, name)
    return weights if isinstance(like, np.ndarray) else array_like(weights, like, b)


def common(x: Array, f: Array, b: Backend) -> str:
    """Return the name of the dtype that the library promotes two dtypes to.

    The array API leaves integers beside floats to the library. One that refuses them gets NumPy's.
    """
    try:
        promoted = b.xp.result_type(x, f)
    except TypeError:
        return str(np.result_type(b.dtype_name(x), b.dtype_name(f)))
    return b.dtype_name(b.xp.zeros(1, dtype=promoted))


def is_integer(name: str) -> bool:
    """True if a dtype's name is that of integers or bool."""
    return name in INTEGERS


def is_complex(name: str) -> bool:
    """True if a dtype's name is that of complex numbers."""
    return name in COMPLEXES


def is_known_finite(x: Array, b: Backend) -> bool:
    """True if an array holds no NaN and no infinity, and to find that out makes nobody wait.

    The values of an array on a device, or of one that is computed later, are not read.
    """
    if is_integer(b.dtype_name(x)):
        return True
    if not isinstance(x, np.ndarray):
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(x.sum()))  # a sum that overflows counts as infinite


def converted(y: Array, name: str, b: Backend, largest: float = math.inf) -> Array:
    """Convert a result to a dtype: floats lose their fraction as in C, and integers wrap.

    `largest` bounds the magnitudes of y.
    """
    given = b.dtype_name(y)
    if given == name:
        return y
    if is_complex(given) and not is_complex(name):
        y = b.xp.real(y)
        given = b.dtype_name(y)
    if is_integer(name) and name not in ("bool", "int64", "uint64") and not is_integer(given):
        # C wraps a number that is out of range; NumPy leaves it open
        y = b.astype(y, "int32" if largest < 2**31 - 1 else "int64")
    return b.astype(y, name)
