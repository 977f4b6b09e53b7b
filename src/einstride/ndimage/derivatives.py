"""Define filters of first and second derivatives, as `scipy.ndimage` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from einstride.arrays.backends import Array
from einstride.filters.operands import converted, is_complex
from einstride.ndimage.arguments import Mode, Output, axes_of, axis_of, input_of, one_each
from einstride.ndimage.correlation import correlate1d
from einstride.ndimage.smoothing import copied, gaussian_filter


def sobel(
    input: Array, axis: int = -1, output: Any = None, mode: Mode = "reflect", cval: complex = 0.0
) -> Array:
    """Differentiate along one axis and smooth along the others, as `scipy.ndimage.sobel`.

    Parameters
    ----------
    input, axis, output, cval : as in `einstride.ndimage.correlate1d`
        The same; between two axes the numbers are in the dtype of the output.
    mode : str or sequence of str
        One for all axes, or one for each.

    Returns
    -------
    array
        The result, of the shape of `input`.
    """
    return _edges("sobel", input, axis, output, mode, cval, [1, 2, 1])


def prewitt(
    input: Array, axis: int = -1, output: Any = None, mode: Mode = "reflect", cval: complex = 0.0
) -> Array:
    """Differentiate along one axis and sum along the others, as `scipy.ndimage.prewitt`.

    Parameters
    ----------
    input, axis, output, mode, cval : as in `sobel`
        The same.

    Returns
    -------
    array
        The result, of the shape of `input`.
    """
    return _edges("prewitt", input, axis, output, mode, cval, [1, 1, 1])


def _edges(
    where: str, input: Any, axis: int, output: Any, mode: Mode, cval: Any, smooth: list[int]
) -> Array:
    x, b = input_of(where, input)
    axis = axis_of(where, axis, x.ndim)
    into = Output(where, output, x, b, is_complex(b.dtype_name(x)))
    modes = one_each(where, "mode", mode, x.ndim)
    y = correlate1d(x, [-1, 0, 1], axis, into.dtype, modes[axis], cval)
    for other in range(x.ndim):
        if other != axis:
            y = correlate1d(y, smooth, other, into.dtype, modes[other], cval)
    return into.put(y)


Derivative = Callable[..., Array]


def generic_laplace(
    input: Array, derivative2: Derivative, output: Any = None, mode: Mode = "reflect",
    cval: complex = 0.0, extra_arguments: Any = (), extra_keywords: Any = None, *, axes: Any = None,
) -> Array:  # fmt: skip
    """Sum second derivatives along the axes, as `scipy.ndimage.generic_laplace`.

    Parameters
    ----------
    input, output, mode, cval : as in `sobel`
        The same.
    derivative2 : callable
        ``derivative2(input, axis, output, mode, cval, *extra_arguments, **extra_keywords)`` returns
        the second derivative along an axis.
    extra_arguments, extra_keywords : sequence, dict
        Passed to `derivative2`.
    axes : int or sequence of ints, optional
        The axes that are differentiated along, by default all.

    Returns
    -------
    array
        The sum, of the shape of `input`.
    """
    return _summed(
        "generic_laplace", input, derivative2, output, mode, cval, extra_arguments, extra_keywords,
        axes, False,
    )  # fmt: skip


def generic_gradient_magnitude(
    input: Array, derivative: Derivative, output: Any = None, mode: Mode = "reflect",
    cval: complex = 0.0, extra_arguments: Any = (), extra_keywords: Any = None, *, axes: Any = None,
) -> Array:  # fmt: skip
    """Compute the length of the gradient, as `scipy.ndimage.generic_gradient_magnitude`.

    Parameters
    ----------
    input, output, mode, cval : as in `sobel`
        The same.
    derivative : callable
        ``derivative(input, axis, output, mode, cval, *extra_arguments, **extra_keywords)`` returns
        the derivative along an axis.
    extra_arguments, extra_keywords, axes : as in `generic_laplace`
        The same.

    Returns
    -------
    array
        The root of the sum of squares, of the shape of `input`.
    """
    return _summed(
        "generic_gradient_magnitude", input, derivative, output, mode, cval, extra_arguments,
        extra_keywords, axes, True,
    )  # fmt: skip


def _summed(
    where: str, input: Any, derivative: Derivative, output: Any, mode: Mode, cval: Any,
    arguments: Any, keywords: Any, axes: Any, squared: bool,
) -> Array:  # fmt: skip
    """Sum derivatives, or their squares, in the dtype of the output; then take the root."""
    x, b = input_of(where, input)
    into = Output(where, output, x, b, False)
    axes = axes_of(where, axes, x.ndim)
    modes = one_each(where, "mode", mode, len(axes))
    total: Any = None
    for axis, border in zip(axes, modes, strict=True):
        dtype = output_dtype(into)
        term = derivative(x, axis, dtype, border, cval, *arguments, **(keywords or {}))
        term = converted(term, into.dtype, b)
        term = converted(term * term, into.dtype, b) if squared else term
        total = term if total is None else converted(total + term, into.dtype, b)
    if total is None:
        return into.put(copied(x, x, b))
    if squared:
        name = into.dtype
        exact = name.startswith(("int", "uint", "bool"))
        total = b.xp.sqrt(b.astype(total, "float64") if exact else total)
    return into.put(total)


def output_dtype(into: Output) -> Any:
    """Return the dtype of an output as `scipy.ndimage` passes it on: an object of NumPy's."""
    import numpy as np

    try:
        return np.dtype(into.dtype)
    except TypeError:
        return into.dtype


def laplace(
    input: Array, output: Any = None, mode: Mode = "reflect", cval: complex = 0.0, *,
    axes: Any = None,
) -> Array:  # fmt: skip
    """Sum the second differences along the axes, as `scipy.ndimage.laplace`.

    Parameters
    ----------
    input, output, mode, cval, axes : as in `generic_laplace`
        The same.

    Returns
    -------
    array
        The sum, of the shape of `input`.
    """

    def second(x: Array, axis: int, output: Any, mode: str, cval: complex) -> Array:
        return correlate1d(x, [1, -2, 1], axis, output, mode, cval)

    return generic_laplace(input, second, output, mode, cval, axes=axes)


def gaussian_laplace(
    input: Array, sigma: Any, output: Any = None, mode: Mode = "reflect", cval: complex = 0.0, *,
    axes: Any = None, **kwargs: Any,
) -> Array:  # fmt: skip
    """Sum second derivatives of the smoothed input, as `scipy.ndimage.gaussian_laplace`.

    Parameters
    ----------
    input, output, mode, cval, axes : as in `generic_laplace`
        The same.
    sigma : float or sequence of floats
        Standard deviations of the Gaussian.
    **kwargs
        Passed to `gaussian_filter`.

    Returns
    -------
    array
        The sum, of the shape of `input`.
    """
    where = "gaussian_laplace"
    x, _ = input_of(where, input)
    chosen = axes_of(where, axes, x.ndim)
    widths = one_each(where, "sigma", sigma, len(chosen))
    sigmas = [dict(zip(chosen, widths, strict=True)).get(a, 0) for a in range(x.ndim)]
    second = _smoothed(x.ndim, 2)
    return generic_laplace(
        x, second, output, mode, cval, extra_arguments=(sigmas,), extra_keywords=kwargs, axes=chosen
    )


def gaussian_gradient_magnitude(
    input: Array, sigma: Any, output: Any = None, mode: Mode = "reflect", cval: complex = 0.0, *,
    axes: Any = None, **kwargs: Any,
) -> Array:  # fmt: skip
    """Compute the length of the gradient of the smoothed input.

    Parameters
    ----------
    input, output, mode, cval, axes : as in `generic_laplace`
        The same.
    sigma : float or sequence of floats
        Standard deviations of the Gaussian.
    **kwargs
        Passed to `gaussian_filter`.

    Returns
    -------
    array
        As `scipy.ndimage.gaussian_gradient_magnitude`.
    """
    x, _ = input_of("gaussian_gradient_magnitude", input)
    return generic_gradient_magnitude(
        x, _smoothed(x.ndim, 1), output, mode, cval, extra_arguments=(sigma,),
        extra_keywords=kwargs, axes=axes,
    )  # fmt: skip


def _smoothed(rank: int, order: int) -> Derivative:
    """Return the function of a derivative of the smoothed input along one axis."""

    def derivative(
        x: Array, axis: int, output: Any, mode: str, cval: complex, sigma: Any, **kwargs: Any
    ) -> Array:
        orders = [order if a == axis else 0 for a in range(rank)]
        return gaussian_filter(x, sigma, orders, output, mode, cval, **kwargs)

    return derivative
