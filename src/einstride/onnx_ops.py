"""ONNX's Conv, ConvTranspose and ConvInteger, with ONNX's attributes, by einstride's functions.

A small adapter, for runtimes that hold plain arrays and as a table of correspondences. Not imported
by ``import einstride``; ``from einstride import onnx_ops`` loads it. Shapes are ONNX's: x (N, C,
*S), w (M, C // group, *K), and for `conv_transpose` w (C, M // group, *K).

The attributes and their defaults are those of the operators' specifications (ONNX 1.22, Conv-22,
ConvTranspose-22 and ConvInteger-10).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from array_api_compat import array_namespace

from einstride import api, transposed
from einstride._errors import bad_type, bad_value, shown
from einstride.backends import Array

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
EIGHT = {"int8": (-128, 127), "uint8": (0, 255)}

Numbers = Sequence[int]
Pairs = tuple[tuple[int, int], ...]


def conv(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Numbers | None = None,
    group: int = 1,
    kernel_shape: Numbers | None = None,
    pads: Numbers | None = None,
    strides: Numbers | None = None,
    **keywords: Any,
) -> Array:
    """ONNX's Conv.

    Parameters
    ----------
    x : array, shape (N, C, *S)
        The input X.
    w : array, shape (M, C // group, *K)
        The filter W.
    b : array, shape (M,), optional
        The bias B.
    auto_pad : {"NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"}
        "NOTSET" pads as `pads` says; the others are "same", "same_lower" and "valid" of
        `einstride.conv`.
    dilations, strides : sequence of ints, optional
        One for each spatial axis; 1 if left out.
    group : int
        Divides C and M.
    kernel_shape : sequence of ints, optional
        K, which w tells anyway: checked if given.
    pads : sequence of ints, optional
        The starts of all spatial axes, then the ends; 0 if left out.
    **keywords : object
        Further keywords of `einstride.conv`: `algorithm`, `max_workspace`, `out`, ...

    Returns
    -------
    array, shape (N, M, *O)
        Y.

    Raises
    ------
    ValueError, TypeError
        As `einstride.conv`; also if the attributes contradict each other.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import onnx_ops
    >>> x, w = np.ones((1, 3, 28, 28)), np.ones((8, 3, 5, 5))
    >>> onnx_ops.conv(x, w, strides=[2, 2], pads=[1, 1, 2, 2]).shape
    (1, 8, 14, 14)
    """
    where = "onnx_ops.conv"
    rank = _rank(where, x, w, kernel_shape)
    padding = _padding(where, auto_pad, pads, rank)
    return api.conv(
        x, w, b, stride=_ones(strides, rank), padding=padding, dilation=_ones(dilations, rank),
        groups=group, layout="channels_first", **keywords,
    )  # fmt: skip


def conv_transpose(
    x: Array,
    w: Array,
    b: Array | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Numbers | None = None,
    group: int = 1,
    kernel_shape: Numbers | None = None,
    output_padding: Numbers | None = None,
    output_shape: Numbers | None = None,
    pads: Numbers | None = None,
    strides: Numbers | None = None,
    **keywords: Any,
) -> Array:
    """ONNX's ConvTranspose.

    Parameters
    ----------
    x : array, shape (N, C, *S)
        The input X.
    w : array, shape (C, M // group, *K)
        The filter W.
    b : array, shape (M,), optional
        The bias B.
    auto_pad : {"NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"}
        The two SAME give an output of S * strides, unless `output_shape` says otherwise; an odd
        element is cropped at the end (SAME_UPPER) or at the start.
    dilations, group, kernel_shape, strides : as in `conv`
        The same.
    output_padding : sequence of ints, optional
        Elements added at the end of each spatial axis.
    output_shape : sequence of ints, optional
        The spatial size of the output; `pads` are then ignored and made to fit. What the output
        has more than there is to crop is added at its end.
    pads : sequence of ints, optional
        What is cropped: the starts of all spatial axes, then the ends; 0 if left out.
    **keywords : object
        Further keywords of `einstride.conv_transpose`.

    Returns
    -------
    array, shape (N, M, *O)
        Y, with O = (S - 1) * strides + output_padding + dilations * (K - 1) + 1 - starts - ends.

    Raises
    ------
    ValueError, TypeError
        As `einstride.conv_transpose`; also if the attributes contradict each other.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import onnx_ops
    >>> x, w = np.ones((1, 8, 7, 7)), np.ones((8, 3, 3, 3))
    >>> onnx_ops.conv_transpose(x, w, strides=[2, 2], auto_pad="SAME_UPPER").shape
    (1, 3, 14, 14)
    """
    where = "onnx_ops.conv_transpose"
    rank = _rank(where, x, w, kernel_shape)
    stride, dilation = _ones(strides, rank), _ones(dilations, rank)
    extra = (0,) * rank if output_padding is None else tuple(output_padding)
    wanted = output_shape
    _check_auto_pad(where, auto_pad, None if output_shape is not None else pads)
    if auto_pad.startswith("SAME") and wanted is None:
        wanted = [s * t for s, t in zip(x.shape[2:], stride, strict=False)]
    padding: Any
    if wanted is None:
        padding = _padding(where, auto_pad, pads, rank)
    else:
        for name, given in (("output_shape", wanted), ("strides", stride),
                            ("dilations", dilation), ("output_padding", extra)):  # fmt: skip
            _count(where, name, given, rank)
        padding = tuple(
            _crops((s - 1) * t + more + d * (k - 1) + 1 - size, auto_pad)
            for s, t, more, d, k, size in zip(
                x.shape[2:], stride, extra, dilation, w.shape[2:], wanted, strict=True
            )
        )
    return transposed.conv_transpose(
        x, w, b, output_padding=extra, stride=stride, padding=padding, dilation=dilation,
        groups=group, layout="channels_first", **keywords,
    )  # fmt: skip


def conv_integer(
    x: Array,
    w: Array,
    x_zero_point: Array | int | None = None,
    w_zero_point: Array | int | None = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Numbers | None = None,
    group: int = 1,
    kernel_shape: Numbers | None = None,
    pads: Numbers | None = None,
    strides: Numbers | None = None,
    **keywords: Any,
) -> Array:
    """ONNX's ConvInteger: 8-bit operands less their zero points, summed exactly in int32.

    Parameters
    ----------
    x : array of int8 or uint8, shape (N, C, *S)
        The input. Its padding holds `x_zero_point`.
    w : array of int8 or uint8, shape (M, C // group, *K)
        The filter.
    x_zero_point : scalar array or int, optional
        The number that stands for zero in x, of the dtype of x; 0 if left out.
    w_zero_point : scalar array, array of shape (M,) or int, optional
        The same for w, or one for each output channel.
    auto_pad, dilations, group, kernel_shape, pads, strides : as in `conv`
        The attributes.
    **keywords : object
        Further keywords of `einstride.conv`.

    Returns
    -------
    array of int32, shape (N, M, *O)
        Y.

    Raises
    ------
    ValueError, TypeError
        As `conv`; also if sums could leave int32, where ONNX allows them to wrap.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import onnx_ops
    >>> x, w = np.full((1, 1, 3, 3), 12, np.uint8), np.ones((1, 1, 2, 2), np.uint8)
    >>> onnx_ops.conv_integer(x, w, 10)[0, 0]
    array([[8, 8],
           [8, 8]], dtype=int32)
    """
    where = "onnx_ops.conv_integer"
    x = _centred(where, "x", x, x_zero_point, ())
    w = _centred(where, "w", w, w_zero_point, (w.shape[0],) if w.ndim else ())
    return conv(
        x, w, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape,
        pads=pads, strides=strides, accumulate="int32", **keywords,
    )  # fmt: skip


def _rank(where: str, x: Array, w: Array, kernel_shape: Numbers | None) -> int:
    """The number of spatial axes."""
    kernel = tuple(w.shape[2:])
    if kernel_shape is not None and tuple(kernel_shape) != kernel:
        got = f"{tuple(kernel_shape)}, w {tuple(w.shape)}"
        raise bad_value(where, "kernel_shape must be that of w", got, "leave it out")
    return max(len(x.shape) - 2, 1)


def _ones(given: Numbers | None, rank: int) -> tuple[int, ...]:
    return (1,) * rank if given is None else tuple(given)


def _count(where: str, name: str, given: Numbers, n: int) -> None:
    if len(given) != n:
        raise bad_value(where, f"{name} needs {n} ints", tuple(given), f"pass {n}")


def _check_auto_pad(where: str, auto_pad: str, pads: Numbers | None) -> None:
    if auto_pad not in AUTO_PADS:
        raise bad_value(where, "auto_pad is unknown", shown(auto_pad), f"use one of {AUTO_PADS}")
    if auto_pad != "NOTSET" and pads is not None:
        got = f"auto_pad={auto_pad!r}, pads={tuple(pads)}"
        raise bad_value(where, "auto_pad and pads exclude each other", got, "give one of them")


def _padding(where: str, auto_pad: str, pads: Numbers | None, rank: int) -> str | Pairs:
    _check_auto_pad(where, auto_pad, pads)
    names = {"SAME_UPPER": "same", "SAME_LOWER": "same_lower", "VALID": "valid"}
    if auto_pad != "NOTSET":
        return names[auto_pad]
    if pads is None:
        return "valid"
    _count(where, "pads", pads, 2 * rank)
    return tuple(zip(pads[:rank], pads[rank:], strict=True))


def _crops(total: int, auto_pad: str) -> tuple[int, int]:
    """What is cropped at the start and at the end; a negative total adds at the end."""
    if total < 0:
        return 0, total
    less, more = total // 2, total - total // 2
    return (less, more) if auto_pad == "SAME_UPPER" else (more, less)


def _centred(where: str, name: str, a: Array, zero: Any, per_channel: tuple[int, ...]) -> Array:
    """8-bit integers less their zero point, in 16 bits; as they are without one."""
    xp = array_namespace(a)
    dtype = str(a.dtype).rpartition(".")[2]
    if dtype not in EIGHT:
        raise bad_type(where, f"{name} must hold int8 or uint8", dtype, "quantize it, or use conv")
    if zero is None:
        return a
    if not isinstance(zero, int):
        if zero.dtype != a.dtype or tuple(zero.shape) not in ((), (1,), per_channel):
            raise bad_value(
                where, f"{name}_zero_point must be {dtype} of shape {per_channel or ()} or ()",
                f"{zero.dtype} {tuple(zero.shape)}", "convert it",
            )  # fmt: skip
        zero = xp.astype(xp.reshape(zero, (-1, *(1,) * (a.ndim - 1))), xp.int16)
    elif not EIGHT[dtype][0] <= zero <= EIGHT[dtype][1]:
        raise bad_value(where, f"{name}_zero_point must be a {dtype}", zero, "requantize")
    return xp.astype(a, xp.int16) - zero
