"""Convert arrays between libraries and dtypes, and check the arrays and integers of callers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from einstride.arrays import backends
from einstride.arrays.backends import Array, Backend
from einstride.geometry import keywords as parse
from einstride.geometry.arithmetic import HALVES
from einstride.support.errors import bad_type, bad_value

FLOATS = ("float16", "bfloat16", "float32", "float64")
Shape = tuple[int, ...]
HostArray = NDArray[Any]


def sum_dtype(name: str) -> str:
    """Return the dtype that sums are formed in: float32 for float16 and bfloat16, else `name`."""
    return "float32" if name in HALVES else name


def to_sum_dtype(x: Array, b: Backend) -> Array:
    """Convert x to the dtype that its sums are formed in; returns x itself if it has that dtype."""
    return b.astype(x, sum_dtype(b.dtype_name(x)))


def to_host(x: Array) -> HostArray:
    """Copy x of any library to a NumPy array; a NumPy array may be returned as it is."""
    found: HostArray = backends.of("to", ("x",), x).to_host(x)
    return found


def from_host(a: HostArray, b: Backend) -> Array:
    """Copy a NumPy array to a new array of the backend's library."""
    if b.traits.on_host:
        return np.array(a, order="C")
    name = a.dtype.name
    if not hasattr(b.xp, name) and name not in ("bfloat16",):
        raise bad_type(
            "to", f"{b.traits.library} must know the dtype of the array", name,
            "convert the model first: model.to(dtype='float32')",
        )  # fmt: skip
    return b.xp.asarray(np.ascontiguousarray(a) if a.ndim else a)


def call_into(function: Any, *operands: Any, out: Array | None) -> Array:
    """Return ``function(*operands)``, which is written to `out` unless that is None."""
    return function(*operands) if out is None else function(*operands, out=out)


def check_float(where: str, name: str, x: Array, b: Backend) -> None:
    """Raise TypeError unless x holds real floats: the caller has to convert integers explicitly."""
    found = b.dtype_name(x)
    if found not in FLOATS:
        raise bad_type(
            where, f"{name} must hold real floats", f"dtype {found}",
            f"convert it, e.g. {name}.astype('float32') / 255 for an 8-bit image",
        )  # fmt: skip


def check_shape(where: str, name: str, x: Array, shape: Shape) -> int:
    """Return the batch size B of x (B, *shape); raise ValueError for another shape or B = 0."""
    found = tuple(x.shape)
    if found[1:] != shape or not found:
        raise bad_value(
            where, f"{name} must have shape (B{''.join(f', {n}' for n in shape)})", found,
            "reshape it, or build the model for this shape",
        )  # fmt: skip
    if found[0] == 0:
        raise bad_value(
            where, "a batch must have at least one example", f"{name} {found}", "leave it out"
        )
    return int(found[0])


def check_count(where: str, name: str, value: object, least: int = 1) -> int:
    """Return `value` as an int; raise an error if it is no integer or less than `least`."""
    number = parse.integer(where, name, value)
    if number < least:
        raise bad_value(where, f"{name} must be at least {least}", number, "raise it")
    return int(number)
