"""Compute the output size of a convolution, and the padding that "same" stands for."""

from __future__ import annotations

from einstride.geometry import keywords as parse
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Settings, Shape
from einstride.geometry.types import Ints, Padding
from einstride.support.errors import bad_value


def output_size(
    input_size: Ints,
    kernel_size: Ints,
    *,
    stride: Ints = 1,
    padding: Padding = "valid",
    dilation: Ints = 1,
    input_dilation: Ints = 1,
) -> int | tuple[int, ...]:
    """Compute the spatial size of ``conv(x, f, ...)``.

    Parameters
    ----------
    input_size : int or tuple of N ints
        The spatial size of x.
    kernel_size : int or tuple of N ints
        The spatial size of f.
    stride, padding, dilation, input_dilation : as in `conv`
        The hyperparameters.

    Returns
    -------
    int or tuple of N ints
        (S + low + high - dilation * (K - 1) - 1) // stride + 1 on each axis; an int if
        `input_size` is one.

    Raises
    ------
    ValueError, TypeError
        As in `conv`.

    Examples
    --------
    >>> import einstride as es
    >>> es.output_size((224, 224), 7, stride=2, padding=3)
    (112, 112)
    """
    settings = Settings(
        parse.ints("output_size", "stride", stride),
        parse.freeze_padding("output_size", padding),
        parse.ints("output_size", "dilation", dilation),
        input_dilation=parse.ints("output_size", "input_dilation", input_dilation),
    )
    g = _geometry("output_size", input_size, kernel_size, settings)
    return g.out[0] if _is_int(input_size) else g.out


def same_padding(
    input_size: Ints,
    kernel_size: Ints,
    *,
    stride: Ints = 1,
    dilation: Ints = 1,
    lower: bool = False,
) -> tuple[tuple[int, int], ...]:
    """Compute the (low, high) pairs that ``padding="same"`` stands for.

    Parameters
    ----------
    input_size : int or tuple of N ints
        The spatial size of x.
    kernel_size : int or tuple of N ints
        The spatial size of f.
    stride, dilation : as in `conv`
        The hyperparameters.
    lower : bool
        True for "same_lower": an odd element goes to the start.

    Returns
    -------
    tuple of N (int, int) pairs
        A value for `padding`. On each axis low + high is (ceil(S / stride) - 1) * stride +
        dilation * (K - 1) + 1 - S, or zero if that is negative.

    Raises
    ------
    ValueError, TypeError
        As in `conv`.

    Examples
    --------
    >>> import einstride as es
    >>> es.same_padding(28, 4)
    ((1, 2),)
    """
    where = "same_padding"
    settings = Settings(
        parse.ints(where, "stride", stride),
        "same_lower" if parse.flag(where, "lower", lower) else "same",
        parse.ints(where, "dilation", dilation),
    )
    return _geometry(where, input_size, kernel_size, settings).padding


def _is_int(size: object) -> bool:
    return hasattr(size, "__index__")


def _geometry(where: str, input_size: Ints, kernel_size: Ints, settings: Settings) -> Geometry:
    given = parse.ints(where, "input_size", input_size)
    size: Shape = (given,) if isinstance(given, int) else given
    if any(s < 0 for s in size) or not size:
        raise bad_value(where, "input_size must not be negative", size, "give sizes of arrays")
    kernel = parse.per_axis(
        where, "kernel_size", parse.ints(where, "kernel_size", kernel_size), len(size), 1
    )
    got = f"input_size {size}, kernel_size {kernel}"
    return Geometry.of(where, (1, *size, 1), (*kernel, 1, 1), settings, got)
