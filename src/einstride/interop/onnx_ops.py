"""Compute ONNX's Conv, ConvTranspose and ConvInteger, with ONNX's attributes.

The functions serve runtimes that hold plain arrays, and show how ONNX's attributes correspond to
einstride's keywords. ``import einstride`` does not import this module; ``from einstride import
onnx_ops`` does. Shapes are ONNX's: x (N, C, *S), w (M, C // group, *K), and for `conv_transpose`
w (C, M // group, *K).

The attributes and their defaults are those of the operators' specifications (ONNX 1.22, Conv-22,
ConvTranspose-22 and ConvInteger-10).
"""

from __future__ import annotations

from typing import Any

from array_api_compat import array_namespace

from einstride.api import conv as api
from einstride.api import conv_transpose as transposed
from einstride.arrays import backends
from einstride.arrays.backends import Array
from einstride.interop import onnx_attributes as attributes
from einstride.interop.onnx_attributes import Numbers
from einstride.support.errors import bad_type, bad_value, shown

EIGHT_BIT = {"int8": (-128, 127), "uint8": (0, 255)}  # least and largest value


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
    """Compute ONNX's Conv.

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
        The number of groups, which divides C and M.
    kernel_shape : sequence of ints, optional
        K; checked against the shape of w if given.
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
    rank = attributes.rank(where, x, w, kernel_shape)
    padding = attributes.padding(where, auto_pad, pads, rank)
    stride = attributes.ones(where, "strides", strides, rank)
    dilation = attributes.ones(where, "dilations", dilations, rank)
    return api.conv(
        x, w, b, stride=stride, padding=padding, dilation=dilation,
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
    """Compute ONNX's ConvTranspose.

    Parameters
    ----------
    x : array, shape (N, C, *S)
        The input X.
    w : array, shape (C, M // group, *K)
        The filter W.
    b : array, shape (M,), optional
        The bias B.
    auto_pad : {"NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"}
        "SAME_UPPER" and "SAME_LOWER" give an output of size S * strides unless `output_shape` is
        given; of an odd number of positions, one more is cropped at the end (SAME_UPPER) or at the
        start.
    dilations, group, kernel_shape, strides : as in `conv`
        The same.
    output_padding : sequence of ints, optional
        Positions added at the end of each spatial axis.
    output_shape : sequence of ints, optional
        The spatial size of the output; `pads` are then ignored, and positions are cropped to reach
        this size. A size larger than the uncropped output adds positions at the end.
    pads : sequence of ints, optional
        Positions to crop: at the starts of all spatial axes, then at the ends; 0 if left out.
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
    rank = attributes.rank(where, x, w, kernel_shape)
    stride = attributes.ones(where, "strides", strides, rank)
    dilation = attributes.ones(where, "dilations", dilations, rank)
    extra = attributes.numbers(where, "output_padding", output_padding) or (0,) * rank
    wanted = attributes.numbers(where, "output_shape", output_shape)
    attributes.check_auto_pad(where, auto_pad, None if output_shape is not None else pads)
    if auto_pad.startswith("SAME") and wanted is None:
        wanted = tuple(s * t for s, t in zip(x.shape[2:], stride, strict=False))
    padding: Any
    if wanted is None:
        padding = attributes.padding(where, auto_pad, pads, rank)
    else:
        for name, given in (("output_shape", wanted), ("strides", stride),
                            ("dilations", dilation), ("output_padding", extra)):  # fmt: skip
            attributes.check_count(where, name, given, rank)
        padding = tuple(
            attributes.crops((s - 1) * t + more + d * (k - 1) + 1 - size, auto_pad)
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
    """Compute ONNX's ConvInteger: 8-bit operands less their zero points, summed exactly in int32.

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
        As `conv`; also if sums could overflow int32, where ONNX allows them to wrap.

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
    backends.of(where, ("x", "w"), x, w)
    x = _without_zero_point(where, "x", x, x_zero_point, ())
    w = _without_zero_point(where, "w", w, w_zero_point, (w.shape[0],) if w.ndim else ())
    return conv(
        x, w, auto_pad=auto_pad, dilations=dilations, group=group, kernel_shape=kernel_shape,
        pads=pads, strides=strides, accumulate="int32", **keywords,
    )  # fmt: skip


def _without_zero_point(
    where: str, name: str, a: Array, zero: Any, per_channel: tuple[int, ...]
) -> Array:
    """Subtract the zero point from 8-bit integers, in 16 bits; return `a` itself if it is None."""
    xp = array_namespace(a)
    dtype = str(a.dtype).rpartition(".")[2]
    if dtype not in EIGHT_BIT:
        raise bad_type(where, f"{name} must hold int8 or uint8", dtype, "quantize it, or use conv")
    if zero is None:
        return a
    if isinstance(zero, bool) or not (isinstance(zero, int) or hasattr(zero, "dtype")):
        raise bad_type(
            where, f"{name}_zero_point must be an array or an int", shown(zero), "convert it"
        )
    if not isinstance(zero, int):
        if zero.dtype != a.dtype or tuple(zero.shape) not in ((), (1,), per_channel):
            raise bad_value(
                where, f"{name}_zero_point must be {dtype} of shape {per_channel or ()} or ()",
                f"{zero.dtype} {tuple(zero.shape)}", "convert it",
            )  # fmt: skip
        zero = xp.astype(xp.reshape(zero, (-1, *(1,) * (a.ndim - 1))), xp.int16)
    elif not EIGHT_BIT[dtype][0] <= zero <= EIGHT_BIT[dtype][1]:
        raise bad_value(where, f"{name}_zero_point must be a {dtype}", zero, "requantize")
    return xp.astype(a, xp.int16) - zero
