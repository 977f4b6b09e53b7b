"""Read the arguments that all filters of `scipy.ndimage` share, with its rules and its errors."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from einstride.arrays.backends import Array, Backend
from einstride.filters.operands import converted, is_array, is_complex, is_integer, together
from einstride.geometry.arithmetic import ITEMSIZE, magnitude
from einstride.support.errors import bad_call, bad_type, bad_value, shown

MODES = {
    "reflect": "symmetric", "grid-mirror": "symmetric", "mirror": "reflect",
    "nearest": "replicate", "wrap": "circular", "grid-wrap": "circular",
    "constant": "constant", "grid-constant": "constant",
}  # fmt: skip
"""The padding mode of `einstride.conv` for each mode of SciPy's filters."""

Mode = str | Sequence[str]


def padding_mode(where: str, mode: object) -> str:
    """Return the padding mode for a mode of SciPy."""
    if isinstance(mode, str) and mode in MODES:
        return MODES[mode]
    raise bad_call(where, "boundary mode not supported", shown(mode), f"use one of {tuple(MODES)}")


def one_each(where: str, name: str, value: Any, count: int) -> list[Any]:
    """Return a list of one value for each of `count` axes."""
    if isinstance(value, str) or not np.iterable(value):
        return [value] * count
    values = list(value)
    if len(values) == count:
        return values
    raise bad_call(
        where, "sequence argument must have length equal to input rank, or to axes if given",
        f"{name}={shown(values)} for {count} axes", "give one number, or one for each axis",
    )  # fmt: skip


def axes_of(where: str, axes: Any, rank: int) -> tuple[int, ...]:
    """Return the axes that are filtered as numbers from 0, all of them for None."""
    if axes is None:
        return tuple(range(rank))
    if isinstance(axes, Iterable):
        found = tuple(operator.index(a) for a in axes)
    elif hasattr(axes, "__index__"):
        found = (operator.index(axes),)
    else:
        raise bad_value(
            where, "axes must be an integer, iterable of integers, or None", shown(axes),
            "pass e.g. axes=(0, 1)",
        )  # fmt: skip
    found = tuple(axis_of(where, a, rank) for a in found)
    if len(set(found)) != len(found):
        raise bad_value(where, "axes must be unique", shown(axes), "name each axis once")
    return found


def axis_of(where: str, axis: Any, rank: int) -> int:
    """Return an axis as a number from 0."""
    number = operator.index(axis)
    if -rank <= number < rank:
        return number % rank
    raise np.exceptions.AxisError(
        f"{where}: specified axis: {number} is out of range; got an array of {rank} axes; "
        f"name one from {-rank} to {rank - 1}"
    )


class Output:
    """Hold where a result goes: into an array of the caller, or into a new one of a dtype."""

    def __init__(self, where: str, output: Any, x: Array, b: Backend, complex_result: bool) -> None:
        self.b, self.array = b, None
        given = b.dtype_name(x)
        if output is None:
            self.dtype = _complex_of(given) if complex_result else given
        elif is_array(output) or isinstance(output, list):
            self._take(where, output, x, complex_result)
        else:
            self._name(where, output, complex_result)

    def _take(self, where: str, output: Any, x: Array, complex_result: bool) -> None:
        if tuple(np.shape(output)) != tuple(x.shape):
            raise bad_call(
                where, "output shape not correct", f"{np.shape(output)} for {tuple(x.shape)}",
                "pass an array of the shape of input",
            )  # fmt: skip
        if not isinstance(output, list):
            self.array, self.dtype = output, _name_of(output.dtype)
        else:
            self.dtype = _name_of(np.asarray(output).dtype)
        if complex_result and not is_complex(self.dtype):
            raise _not_complex(where, self.dtype)

    def _name(self, where: str, output: Any, complex_result: bool) -> None:
        try:
            name = _name_of(np.dtype(output))
        except TypeError:
            name = _name_of(output)  # a dtype of another library
        if isinstance(output, str) and name == "bool":
            raise bad_call(
                where, "output must have numeric dtype", shown(output), "use e.g. 'float64'"
            )
        if name not in ITEMSIZE:
            raise bad_call(
                where, "output must have numeric dtype", shown(output), "use e.g. 'float64'"
            )
        if complex_result and not is_complex(name):
            if isinstance(output, str):
                raise _not_complex(where, name)
            warnings.warn("promoting specified output dtype to complex", stacklevel=5)
            name = _complex_of(name)
        self.dtype = name

    def put(self, y: Array, largest: float = math.inf) -> Array:
        """Return a result in the dtype of the output, written to the caller's array if given.

        `largest` bounds the magnitudes of y.
        """
        y = converted(y, self.dtype, self.b, largest)
        if self.array is None:
            return y
        array: Any = self.array
        if isinstance(array, np.ndarray) and not isinstance(y, np.ndarray):
            y = self.b.to_host(y)
        array[...] = y
        return array


def _not_complex(where: str, name: str) -> RuntimeError:
    return bad_call(where, "output must have complex dtype", name, "use e.g. 'complex128'")


def _name_of(dtype: Any) -> str:
    return str(getattr(dtype, "name", None) or dtype).rpartition(".")[2]


def _complex_of(name: str) -> str:
    """Return the dtype that NumPy promotes a dtype and complex64 to."""
    small = ("bool", "int8", "uint8", "int16", "uint16", "float16", "bfloat16", "float32")
    return "complex64" if name in (*small, "complex64") else "complex128"


def input_of(where: str, value: Any) -> tuple[Array, Backend]:
    """Return the input as an array, and its backend."""
    b, (x,) = together(where, input=value)
    if b.dtype_name(x) not in ITEMSIZE:
        raise bad_type(
            where, "input must hold bools, integers, floats or complex numbers",
            f"dtype {x.dtype}", "convert it first",
        )  # fmt: skip
    return x, b


def sums_in(given: str, output: str, weights: Any) -> str:
    """Return the dtype that products are formed in: as SciPy float64, or exact, or float32.

    Integers times integers are exact. A float32 result of a float32 input needs no more than its
    own rounding; every other one is formed in float64.
    """
    name = "float64"
    if is_integer(given) and _is_exact(given, weights):
        return given
    if given in ("float32", "complex64") and output in ("float32", "complex64"):
        name = "float32"
    if is_complex(given) or weights.dtype.kind == "c":
        return "complex64" if name == "float32" else "complex128"
    return name


def _is_exact(given: str, weights: Any) -> bool:
    """True if the weights are integers whose sums of products with a dtype fit into int64."""
    if weights.dtype.kind not in "iub":
        if weights.dtype.kind != "f" or not np.isfinite(weights).all():
            return False
        if (weights != np.rint(weights)).any():
            return False
    return largest_sum(given, weights) < 2**63


def largest_sum(given: str, weights: Any) -> float:
    """Return a bound for the sums of products of weights with integers of a dtype."""
    if weights.dtype.kind in "iub":
        return magnitude(given) * sum(abs(int(w)) for w in weights.flat)
    return magnitude(given) * float(np.abs(weights).sum(dtype=np.float64)) * (1 + 1e-9)


def constant(mode: str, cval: Any, where: str, complex_result: bool) -> Any:
    """Return the number in a constant border."""
    cval = complex(cval) if isinstance(cval, complex) or np.iscomplexobj(cval) else cval
    if isinstance(cval, complex) and not complex_result:
        raise bad_value(
            where, "Cannot provide a complex-valued cval when the input is real.", shown(cval),
            "pass a real number",
        )  # fmt: skip
    return cval if mode == "constant" else 0
