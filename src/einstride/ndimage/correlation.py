"""Define correlation and convolution over one axis and over several, as `scipy.ndimage` does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from einstride.arrays.backends import Array, Backend
from einstride.filters import along_axes, separable
from einstride.filters.operands import is_array, is_complex, is_integer, taps
from einstride.ndimage.arguments import (
    Mode,
    Output,
    axes_of,
    axis_of,
    constant,
    input_of,
    largest_sum,
    one_each,
    padding_mode,
    sums_in,
)
from einstride.support.errors import bad_call, bad_value, shown

EXACT_IN_FLOAT32 = 1 << 24
"""Bound for the magnitudes of sums of integers below which float32 holds them exactly, with all
sums of some of their terms: in any order, float32 gives the integers that int64 gives, in a third
of the time."""


def correlate1d(
    input: Array, weights: Any, axis: int = -1, output: Any = None, mode: str = "reflect",
    cval: complex = 0.0, origin: int = 0,
) -> Array:  # fmt: skip
    """Correlate an array with weights along one axis, as `scipy.ndimage.correlate1d`.

    Parameters
    ----------
    input : array or sequence
        Any number of axes, any dtype.
    weights : sequence or array
        The taps; complex ones are conjugated.
    axis : int
        The axis that they run along.
    output : array, dtype or name, optional
        The array that the result is written to, or its dtype; by default that of `input`.
    mode : {"reflect", "constant", "nearest", "mirror", "wrap"}
        The border in SciPy's words: "reflect" repeats the edge (`einstride.conv` calls it
        "symmetric"), "mirror" does not.
    cval : number
        The number in a border of mode "constant".
    origin : int
        Positions that the filter is shifted by, to the left if positive.

    Returns
    -------
    array
        The result, of the shape of `input`.

    Raises
    ------
    RuntimeError
        If there are no weights, the mode is unknown, or `output` does not fit.
    ValueError
        If `origin` leaves the filter.
    """
    return _one_axis("correlate1d", input, weights, axis, output, mode, cval, origin, False)


def convolve1d(
    input: Array, weights: Any, axis: int = -1, output: Any = None, mode: str = "reflect",
    cval: complex = 0.0, origin: int = 0,
) -> Array:  # fmt: skip
    """Convolve an array with weights along one axis, as `scipy.ndimage.convolve1d`.

    Parameters
    ----------
    input, weights, axis, output, mode, cval, origin : as in `correlate1d`
        The weights are reversed, and complex ones are not conjugated.

    Returns
    -------
    array
        The result, of the shape of `input`.
    """
    return _one_axis("convolve1d", input, weights, axis, output, mode, cval, origin, True)


def correlate(
    input: Array, weights: Any, output: Any = None, mode: str = "reflect", cval: complex = 0.0,
    origin: Any = 0, *, axes: Any = None,
) -> Array:  # fmt: skip
    """Correlate an array with weights over several axes, as `scipy.ndimage.correlate`.

    Parameters
    ----------
    input, output, mode, cval : as in `correlate1d`
        The same.
    weights : array
        One axis for each filtered one.
    origin : int or sequence of ints
        Positions that the filter is shifted by, for each axis.
    axes : int or sequence of ints, optional
        The axes that are filtered, by default all.

    Returns
    -------
    array
        The result, of the shape of `input`.

    Notes
    -----
    Weights that are the product of one filter for each axis, within rounding, run as one pass over
    each axis if the result is a float.
    """
    return _several_axes("correlate", input, weights, output, mode, cval, origin, False, axes)


def convolve(
    input: Array, weights: Any, output: Any = None, mode: str = "reflect", cval: complex = 0.0,
    origin: Any = 0, *, axes: Any = None,
) -> Array:  # fmt: skip
    """Convolve an array with weights over several axes, as `scipy.ndimage.convolve`.

    Parameters
    ----------
    input, weights, output, mode, cval, origin, axes : as in `correlate`
        The weights are reversed, and complex ones are not conjugated.

    Returns
    -------
    array
        The result, of the shape of `input`.
    """
    return _several_axes("convolve", input, weights, output, mode, cval, origin, True, axes)


def _one_axis(
    where: str, input: Any, weights: Any, axis: int, output: Any, mode: Any, cval: Any, origin: Any,
    flip: bool,
) -> Array:  # fmt: skip
    x, b = input_of(where, input)
    weights = host_array(weights, b)
    constant("constant", cval, where, is_complex(b.dtype_name(x)))
    if weights.ndim != 1 or weights.shape[0] < 1:
        raise bad_call(
            where, "no filter weights given", f"weights of shape {weights.shape}",
            "pass a sequence of numbers",
        )  # fmt: skip
    axis = axis_of(where, axis, x.ndim)
    return filtered(where, x, weights, (axis,), output, mode, cval, [origin], flip, b)


def _several_axes(
    where: str, input: Any, weights: Any, output: Any, mode: Any, cval: Any, origin: Any,
    flip: bool, axes: Any,
) -> Array:  # fmt: skip
    x, b = input_of(where, input)
    weights = host_array(weights, b)
    axes = axes_of(where, axes, x.ndim)
    constant("constant", cval, where, is_complex(b.dtype_name(x)))
    if weights.ndim != len(axes) or 0 in weights.shape:
        raise bad_call(
            where,
            f"weights.ndim ({weights.ndim}) must match len(axes) ({len(axes)}), each of them with "
            "at least one weight",
            f"weights of shape {weights.shape}", "give weights one axis for each filtered axis",
        )  # fmt: skip
    origins = one_each(where, "origin", origin, len(axes))
    if len(axes) < x.ndim:  # the axes of the weights are in the order of the array's, as in SciPy
        origins = [o for _, o in sorted(zip(axes, origins, strict=True))]
    axes = tuple(sorted(axes))
    if not isinstance(mode, str):
        raise bad_call(where, "A sequence of modes is not supported", shown(mode), "pass one name")
    return filtered(where, x, weights, axes, output, mode, cval, origins, flip, b)


def host_array(weights: Any, b: Backend) -> Any:
    """Return weights as an array of NumPy: they are few, and their values decide how they run."""
    if is_array(weights) and not isinstance(weights, np.ndarray):
        weights = b.to_host(weights)
    return np.asarray(weights)


def filtered(
    where: str, x: Array, weights: Any, axes: tuple[int, ...], output: Any, mode: Mode, cval: Any,
    origins: list[Any], flip: bool, b: Backend,
) -> Array:  # fmt: skip
    """Correlate x with weights of NumPy, which `flip` reverses, after checks of `origins`."""
    ours = padding_mode(where, mode)
    given = b.dtype_name(x)
    complex_result = is_complex(given) or weights.dtype.kind == "c"
    into = Output(where, output, x, b, complex_result)
    fill = constant(ours, cval, where, is_complex(given))
    if weights.dtype.kind == "c" and not flip:
        weights = weights.conj()
    if flip:
        weights = weights[(slice(None, None, -1),) * weights.ndim]
        origins = [-o - (n % 2 == 0) for o, n in zip(origins, weights.shape, strict=True)]
    for o, n in zip(origins, weights.shape, strict=True):
        if not -(n // 2) <= o <= (n - 1) // 2:
            raise bad_value(
                where,
                "Invalid origin; origin must satisfy -(weights.shape[k] // 2) <= origin[k] <= "
                "(weights.shape[k]-1) // 2",
                f"origin {o} for {n} weights", "choose an origin inside the filter",
            )  # fmt: skip
    if 0 in x.shape:
        return into.put(x)
    pads = tuple(
        (n // 2 + int(o), n - 1 - n // 2 - int(o))
        for o, n in zip(origins, weights.shape, strict=True)
    )
    name = sums_in(given, into.dtype, weights)
    if is_integer(name) and fill != 0:
        name = "float64"  # the border may hold what the input cannot
    largest = largest_sum(given, weights) if is_integer(given) and fill == 0 else math.inf
    if is_integer(name):
        exact = largest <= EXACT_IN_FLOAT32
        f = taps(weights, "float32" if exact else "int64", x, b)
        y = _pass(where, x, f, axes, pads, ours, fill, b)
        return into.put(b.astype(y, "int32") if exact and is_integer(into.dtype) else y)
    x = b.astype(x, name) if given != name and not (is_integer(given) and fill == 0) else x
    real = {"complex64": "float32", "complex128": "float64"}.get(name, name)
    weights = np.asarray(weights, name if weights.dtype.kind == "c" else real)
    y = _float_passes(where, x, weights, axes, pads, ours, fill, b, into.dtype)
    return into.put(y, largest)


def _float_passes(
    where: str, x: Array, weights: Any, axes: tuple[int, ...], pads: Any, mode: str, fill: Any,
    b: Backend, result: str,
) -> Array:  # fmt: skip
    separate = None
    if fill == 0 and not is_integer(result) and separable.worth_passes(weights.shape):
        separate = separable.factors(weights)
    if separate is None:
        f = taps(weights, str(weights.dtype), x, b)
        return _pass(where, x, f, axes, pads, mode, fill, b)
    for axis, line, ends in zip(axes, separate, pads, strict=True):
        x = _pass(where, x, taps(line, str(line.dtype), x, b), (axis,), (ends,), mode, 0, b)
    return x


def _pass(
    where: str, x: Array, f: Array, axes: tuple[int, ...], pads: Any, mode: str, fill: Any,
    b: Backend,
) -> Array:  # fmt: skip
    return along_axes.correlate(
        where, x, f, axes, pads, b, mode, fill, accuracy="elementwise"
    )  # fmt: skip
