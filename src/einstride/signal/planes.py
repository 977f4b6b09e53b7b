"""Define convolutions of planes with a border, as `scipy.signal` does."""

from __future__ import annotations

from typing import Any

from einstride.arrays import ops
from einstride.arrays.backends import Array, Backend
from einstride.filters import along_axes
from einstride.filters.operands import common, converted, is_complex, is_integer, together
from einstride.signal.convolution import MODES, pads_of, swapped
from einstride.support.errors import bad_type, bad_value, shown

BOUNDARIES = {
    "fill": "constant", "pad": "constant", "wrap": "circular", "circular": "circular",
    "symm": "symmetric", "symmetric": "symmetric", "reflect": "reflect",
}  # fmt: skip
"""The padding mode of `einstride.conv` for each boundary of SciPy."""


def convolve2d(
    in1: Any, in2: Any, mode: str = "full", boundary: str = "fill", fillvalue: Any = 0
) -> Array:
    """Convolve two planes, as `scipy.signal.convolve2d`.

    Parameters
    ----------
    in1, in2 : array of two axes
        The planes.
    mode : {"full", "valid", "same"}
        As in `einstride.signal.convolve`.
    boundary : {"fill", "wrap", "symm"}
        The border of in1: `fillvalue`, in1 wrapped around, or mirrored with its edge.
    fillvalue : number
        The number in a border that is filled.

    Returns
    -------
    array
        The result, in the common dtype of the planes.
    """
    return _plane("convolve2d", in1, in2, mode, boundary, fillvalue, False)


def correlate2d(
    in1: Any, in2: Any, mode: str = "full", boundary: str = "fill", fillvalue: Any = 0
) -> Array:
    """Correlate two planes, as `scipy.signal.correlate2d`.

    Parameters
    ----------
    in1, in2, mode, boundary, fillvalue : as in `convolve2d`
        The second plane is conjugated.

    Returns
    -------
    array
        The result, in the common dtype of the planes.
    """
    return _plane("correlate2d", in1, in2, mode, boundary, fillvalue, True)


def _plane(
    where: str, in1: Any, in2: Any, mode: str, boundary: str, fill: Any, reverse: bool
) -> Array:
    b, (x, f) = together(where, in1=in1, in2=in2)
    if not x.ndim == f.ndim == 2:
        raise bad_value(
            where, f"{where} inputs must both be 2-D arrays", f"{x.ndim} and {f.ndim} axes",
            "index or reshape them",
        )  # fmt: skip
    change = swapped(where, mode, x.shape, f.shape)
    if change:
        x, f = f, x
    if mode not in MODES:
        raise bad_value(
            where, "Acceptable mode flags are 'valid', 'same', or 'full'.", shown(mode),
            "use 'full'",
        )  # fmt: skip
    if boundary not in BOUNDARIES:
        raise bad_value(
            where,
            "Acceptable boundary flags are 'fill', 'circular' (or 'wrap'), and 'symmetric' (or "
            "'symm').",
            shown(boundary), "use 'fill'",
        )  # fmt: skip
    f = ops.conjugate(f, b) if reverse else f
    name = common(x, f, b)
    fill = _number(where, fill, name)
    if not is_integer(name):
        x, f = (b.astype(a, name) for a in (x, f))
    pads = pads_of(mode, f.shape)
    if reverse and mode == "same":  # SciPy centres even filters of correlate2d from the other end
        pads = tuple((high, low) for low, high in pads)
    y = along_axes.correlate(
        where, x, f, (0, 1), pads, b, BOUNDARIES[boundary], fill, flip=not reverse,
        accuracy="elementwise",
    )  # fmt: skip
    if change and reverse:
        y = b.xp.flip(y, axis=(0, 1))
    return converted(y, name, b)


def _number(where: str, fill: Any, name: str) -> Any:
    if getattr(fill, "size", 1) != 1 or isinstance(fill, list | tuple | str):
        raise bad_value(
            where, "`fillvalue` must be scalar or an array with one element", shown(fill),
            "pass one number",
        )  # fmt: skip
    fill = fill.item() if hasattr(fill, "item") else fill
    if isinstance(fill, complex) and not is_complex(name):
        raise bad_value(
            where, "could not cast `fillvalue` directly to the output array, which is real",
            shown(fill), "pass a real number",
        )  # fmt: skip
    return fill


def sepfir2d(input: Any, hrow: Any, hcol: Any) -> Array:
    """Filter the rows of a plane, then its columns, as `scipy.signal.sepfir2d`.

    Parameters
    ----------
    input : array of two axes
        The plane, mirrored at its borders with its edge repeated.
    hrow, hcol : array of one axis
        The taps along rows and along columns, an odd number of each.

    Returns
    -------
    array
        The result, of the shape of `input`.
    """
    where = "sepfir2d"
    b, (x, rows, columns) = together(where, input=input, hrow=hrow, hcol=hcol)
    if x.ndim != 2 or rows.ndim != 1 or columns.ndim != 1:
        raise bad_value(
            where, "object of too small depth for desired array",
            f"{x.ndim}, {rows.ndim} and {columns.ndim} axes", "pass a plane and two lines",
        )  # fmt: skip
    if rows.shape[0] % 2 == 0 or columns.shape[0] % 2 == 0:
        raise bad_value(
            where, "hrow and hcol must be odd length",
            f"{rows.shape[0]} and {columns.shape[0]} taps", "add a zero to the filter",
        )  # fmt: skip
    given = b.dtype_name(x)
    name = given if given in ("float32", "float64", "complex64", "complex128") else "float64"
    if not is_integer(given) and name != given:
        raise bad_type(where, "input must be float32, float64 or complex", given, "convert it")
    x = b.astype(x, name)
    for axis, taps in ((1, rows), (0, columns)):
        x = _line(where, x, b.astype(taps, name), axis, b)
    return x


def _line(where: str, x: Array, taps: Array, axis: int, b: Backend) -> Array:
    half = taps.shape[0] // 2
    return along_axes.correlate(
        where, x, taps, (axis,), ((half, half),), b, "symmetric", flip=True, accuracy="elementwise"
    )
