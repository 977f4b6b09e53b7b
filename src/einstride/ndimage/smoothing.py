"""Define the uniform and the Gaussian filter, as `scipy.ndimage` does."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from einstride.arrays.backends import Array
from einstride.filters.operands import is_complex, is_integer
from einstride.ndimage.arguments import (
    Mode,
    Output,
    axes_of,
    axis_of,
    input_of,
    largest_sum,
    one_each,
)
from einstride.ndimage.correlation import correlate1d, filtered
from einstride.support.errors import bad_call, bad_value, shown

NEGLIGIBLE = 1e-15
"""Standard deviation in elements up to which a Gaussian leaves an axis as it is, SciPy's bound."""


def uniform_filter1d(
    input: Array, size: int, axis: int = -1, output: Any = None, mode: str = "reflect",
    cval: complex = 0.0, origin: int = 0,
) -> Array:  # fmt: skip
    """Average `size` neighbours along one axis, as `scipy.ndimage.uniform_filter1d`.

    Parameters
    ----------
    input, axis, output, mode, cval, origin : as in `einstride.ndimage.correlate1d`
        The same.
    size : int
        The number of elements that are averaged.

    Returns
    -------
    array
        The means, of the shape of `input`. Sums of integers are exact.
    """
    where = "uniform_filter1d"
    x, b = input_of(where, input)
    axis = axis_of(where, axis, x.ndim)
    if size < 1:
        raise bad_call(where, "incorrect filter size", shown(size), "average one or more elements")
    if not 0 <= size // 2 + origin < size:
        raise bad_value(
            where, "invalid origin", f"{origin} for size {size}", "choose one inside the filter"
        )
    given = b.dtype_name(x)
    into = Output(where, output, x, b, is_complex(given))
    if is_integer(given):  # exact sums, divided once
        ones = np.ones(size)
        largest = largest_sum(given, ones) if cval == 0 or mode != "constant" else math.inf
        # A quotient below 2**22 that is no integer is further from one than float32 rounds it.
        short = largest < 1 << 22 and is_integer(into.dtype)
        name = "float32" if short else "float64"
        sums = filtered(where, x, ones, (axis,), name, mode, cval, [origin], False, b)
        return into.put(sums / size, largest)
    mean = np.full(size, 1 / size)
    return filtered(where, x, mean, (axis,), output, mode, cval, [origin], False, b)


def uniform_filter(
    input: Array, size: Any = 3, output: Any = None, mode: Mode = "reflect", cval: complex = 0.0,
    origin: Any = 0, *, axes: Any = None,
) -> Array:  # fmt: skip
    """Average boxes of neighbours, as `scipy.ndimage.uniform_filter`: one axis after another.

    Parameters
    ----------
    input, output, cval : as in `einstride.ndimage.correlate1d`
        The same; between two axes the means are in the dtype of the output.
    size, mode, origin : one for all axes, or a sequence
        As in `uniform_filter1d`.
    axes : int or sequence of ints, optional
        The axes that are filtered, by default all.

    Returns
    -------
    array
        The means, of the shape of `input`.
    """
    where = "uniform_filter"
    x, b = input_of(where, input)
    into = Output(where, output, x, b, is_complex(b.dtype_name(x)))
    axes = axes_of(where, axes, x.ndim)
    lists = (one_each(where, n, v, len(axes)) for n, v in
             (("size", size), ("origin", origin), ("mode", mode)))  # fmt: skip
    y = x
    for axis, n, shift, border in zip(axes, *lists, strict=True):
        if n > 1:
            y = uniform_filter1d(y, int(n), axis, into.dtype, border, cval, shift)
    return into.put(copied(y, x, b))


def copied(y: Array, x: Array, b: Any) -> Array:
    """Return a result that no pass has changed as a copy of the input."""
    return b.xp.asarray(y, copy=True) if y is x else y


def gaussian_filter1d(
    input: Array, sigma: float, axis: int = -1, order: int = 0, output: Any = None,
    mode: str = "reflect", cval: complex = 0.0, truncate: float = 4.0, *, radius: Any = None,
) -> Array:  # fmt: skip
    """Smooth along one axis by a Gaussian, as `scipy.ndimage.gaussian_filter1d`.

    Parameters
    ----------
    input, axis, output, mode, cval : as in `einstride.ndimage.correlate1d`
        The same.
    sigma : float
        Standard deviation, in elements.
    order : int
        The derivative of the Gaussian, 0 for the Gaussian itself.
    truncate : float
        Radius of the filter in standard deviations.
    radius : int, optional
        Radius of the filter in elements, in place of `truncate`.

    Returns
    -------
    array
        The result, of the shape of `input`.
    """
    half = int(truncate * float(sigma) + 0.5) if radius is None else radius
    if not hasattr(half, "__index__") or half < 0:
        raise bad_value(
            "gaussian_filter1d", "Radius must be a nonnegative integer.", shown(radius),
            "pass e.g. radius=3",
        )  # fmt: skip
    weights = gaussian(float(sigma), order, int(half))
    return correlate1d(input, weights[::-1], axis, output, mode, cval, 0)


def gaussian(sigma: float, order: int, radius: int) -> Any:
    """Return a Gaussian, of sum 1, or its derivative of an order, at -radius to radius.

    The derivative of q(x) exp(-x**2 / (2 sigma**2)) is (q'(x) - q(x) x / sigma**2) times the same
    exponential.
    """
    if order < 0:
        raise bad_value(
            "gaussian_filter1d", "order must be non-negative", shown(order), "use 0 to smooth"
        )
    x = np.arange(-radius, radius + 1)
    phi = np.exp(-0.5 / sigma**2 * x**2)
    phi = phi / phi.sum()
    q = np.polynomial.Polynomial([1.0])
    for _ in range(order):
        q = q.deriv() - q * np.polynomial.Polynomial([0, 1 / sigma**2])
    return phi if order == 0 else q(x) * phi


def gaussian_filter(
    input: Array, sigma: Any, order: Any = 0, output: Any = None, mode: Mode = "reflect",
    cval: complex = 0.0, truncate: float = 4.0, *, radius: Any = None, axes: Any = None,
) -> Array:  # fmt: skip
    """Smooth by a Gaussian over several axes, as `scipy.ndimage.gaussian_filter`.

    Parameters
    ----------
    input, output, cval : as in `einstride.ndimage.correlate1d`
        The same; between two axes the numbers are in the dtype of the output.
    sigma, order, mode, radius : one for all axes, or a sequence
        As in `gaussian_filter1d`.
    truncate : float
        As in `gaussian_filter1d`.
    axes : int or sequence of ints, optional
        The axes that are filtered, by default all.

    Returns
    -------
    array
        The result, of the shape of `input`.
    """
    where = "gaussian_filter"
    x, b = input_of(where, input)
    into = Output(where, output, x, b, is_complex(b.dtype_name(x)))
    axes = axes_of(where, axes, x.ndim)
    given = (("order", order), ("sigma", sigma), ("mode", mode), ("radius", radius))
    lists = [one_each(where, n, v, len(axes)) for n, v in given]
    y = x
    for axis, nth, width, border, half in zip(axes, *lists, strict=True):
        if width > NEGLIGIBLE:
            y = gaussian_filter1d(
                y, width, axis, nth, into.dtype, border, cval, truncate, radius=half
            )
    return into.put(copied(y, x, b))
