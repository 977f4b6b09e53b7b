"""Arrays between libraries and dtypes: the few places where anything is moved or converted."""

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
Host = NDArray[Any]


def wide(name: str) -> str:
    """The dtype that sums are formed in: float32 for the halves, else the dtype itself."""
    return "float32" if name in HALVES else name


def widened(x: Array, b: Backend) -> Array:
    """`x` in the dtype of its sums; x itself where that is its own."""
    return b.astype(x, wide(b.dtype_name(x)))


def host(x: Array) -> Host:
    """A NumPy array with the elements of x, whichever library it comes from."""
    found: Host = backends.of("to", ("x",), x).to_host(x)
    return found


def device(a: Host, b: Backend) -> Array:
    """A new array of the backend's library with the elements of a NumPy array."""
    if b.traits.on_host:
        return np.array(a, order="C")
    name = a.dtype.name
    if not hasattr(b.xp, name) and name not in ("bfloat16",):
        raise bad_type(
            "to", f"{b.traits.library} must know the dtype of the array", name,
            "convert the model first: model.to(dtype='float32')",
        )  # fmt: skip
    return b.xp.asarray(np.ascontiguousarray(a) if a.ndim else a)


def into(function: Any, *operands: Any, out: Array | None) -> Array:
    """``function(*operands)``, written to `out` where the library has such a thing."""
    return function(*operands) if out is None else function(*operands, out=out)


def check_float(where: str, name: str, x: Array, b: Backend) -> None:
    """Refuse arrays that hold no real floats: integers are converted by the caller, in sight."""
    found = b.dtype_name(x)
    if found not in FLOATS:
        raise bad_type(
            where, f"{name} must hold real floats", f"dtype {found}",
            f"convert it, e.g. {name}.astype('float32') / 255 for an 8-bit image",
        )  # fmt: skip


def check_shape(where: str, name: str, x: Array, shape: Shape) -> int:
    """The number of examples of x (B, *shape); a sentence if it has another shape, or none."""
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


def count(where: str, name: str, value: object, least: int = 1) -> int:
    """An integer that is not too small."""
    number = parse.integer(where, name, value)
    if number < least:
        raise bad_value(where, f"{name} must be at least {least}", number, "raise it")
    return int(number)
