"""The public functions. Each parses nothing and computes nothing itself: see `execute`."""

from __future__ import annotations

from einstride import execute
from einstride import settings as parse
from einstride.backends import Array
from einstride.settings import Keywords, Transposed

Ints = int | tuple[int, ...]
Padding = int | str | tuple[int | str | tuple[int, int], ...]


def conv(
    x: Array,
    f: Array,
    bias: Array | None = None,
    *,
    stride: Ints = 1,
    padding: Padding = "valid",
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    layout: str = "channels_last",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "normwise",
    accumulate: str | None = None,
    max_workspace: int | None = None,
    out: Array | None = None,
) -> Array:
    r"""Convolve x with the filter f: cross-correlation over any number of spatial axes.

    .. math:: y_{b,o,d} = \sum_{k,c} x_{b,\, o s + k r - p,\, c} \, f_{k,c,d} + bias_d

    with stride s, dilation r and low padding p; x is zero outside its bounds (or see `padding_mode`), and c runs over the
    channels of the group that d belongs to. The filter is not flipped, as in every deep-learning
    library; nothing is conjugated.

    Parameters
    ----------
    x : array, shape (B, *S, C)
        The input: a batch, N >= 1 spatial axes, channels. Any strides, never written.
    f : array, shape (*K, C // groups, D)
        The filter, with D output channels.
    bias : array, shape (D,), optional
        Added to every output position.
    stride : int or tuple of N ints
        The filter's step.
    padding : int, name, or sequence of N entries
        Elements around x. An entry is an int (both sides), a (low, high) pair (negative crops), or a
        name: ``"valid"`` (none), ``"same"`` (the output has ceil(S / stride) positions, an odd zero
        at the end: TensorFlow's and JAX's SAME), ``"same_lower"`` (the odd zero at the start),
        ``"full"`` (every overlap), ``"causal"`` (dilation * (K - 1) zeros before).
    dilation : int or tuple of N ints
        The distance between the taps of the filter.
    groups : int
        Divides C and D; group j of the outputs sees group j of the inputs. Depthwise is groups=C.
    padding_mode : {"zeros", "reflect", "replicate", "circular"}
        What the padding holds: zeros, or x itself mirrored (the edge not repeated), its edge
        repeated, or wrapped around. Gradients are exact: what falls into the border is added where
        it came from.
    layout : str
        ``"channels_last"``: shapes as written here. ``"channels_first"``: x (B, C, *S), f (D,
        C // groups, *K), y (B, D, *O). Or a spec ``"x,f->y"`` of any order, with N and C in x and
        y, I and O in f, and one further letter per spatial axis, e.g. ``"NCHW,OIHW->NHWC"``;
        tuples (stride, ...) follow the order of the spatial letters in x.
    flip : bool
        True reverses the filter's spatial axes: the mathematician's convolution.
    algorithm : {"auto", "strided", "gemm"}
        Asked for by name it runs or raises; `plan` tells what "auto" takes.
    accuracy : {"normwise", "elementwise"}
        "normwise": the error is bounded against the norms of x and f. "elementwise": the error of
        each output is bounded against its own sum of abs(x) * abs(f), and a NaN or Inf stays
        inside its own windows.
    accumulate : str, optional
        The dtype of the sums, e.g. "int64" for int8 operands or "float64" for float32 ones. The
        result of integers has this dtype; the result of floats is rounded once at the end.
    max_workspace : int, optional
        Bytes of memory beyond inputs and output that may be used, never exceeded.
    out : array, optional
        Where the result goes: its exact shape, dtype, library and device, overlapping no input.

    Returns
    -------
    array, shape (B, *O, D)
        O = (S + low + high - dilation * (K - 1) - 1) // stride + 1 on each axis. The library and
        the device are those of x. The dtype follows the array-API promotion rules; float16 and
        bfloat16 are summed in float32; two 8-bit integers give int32, other integers int64 (uint64
        if both are), exactly; an integer with a float gives that float.

    Raises
    ------
    ValueError
        If shapes, hyperparameters or the ceiling do not fit, in the form *function: the rule; the
        values got; the remedy*. Integer sums that could overflow are refused, never wrapped.
    TypeError
        If something is no array, or of another library, device or kind than it must be.

    Notes
    -----
    The workspace is below 16 MiB by default on NumPy, unless one row of windows needs more. The
    sources are on the algorithms' own pages, `einstride.algorithms`.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> x = np.ones((64, 28, 28, 3), np.float32)
    >>> f = np.ones((6, 6, 3, 2), np.float32)
    >>> es.conv(x, f, stride=2).shape
    (64, 12, 12, 2)
    """
    k = Keywords(
        stride,
        padding,
        dilation,
        groups,
        padding_mode,
        layout,
        flip,
        algorithm,
        accuracy,
        accumulate,
        max_workspace,
    )
    return execute.call("conv", "forward", x, f, bias, out, k)


def conv_input_grad(
    gy: Array,
    f: Array,
    input_size: Ints,
    *,
    stride: Ints = 1,
    padding: Padding = "valid",
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    layout: str = "channels_last",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "normwise",
    accumulate: str | None = None,
    max_workspace: int | None = None,
    out: Array | None = None,
) -> Array:
    r"""Gradient of `conv` with respect to its input: the adjoint of ``x -> conv(x, f)``.

    .. math:: gx_{b,i,c} = \sum_{o,k,d:\; o s + k r - p = i} gy_{b,o,d} \, \overline{f_{k,c,d}}

    so that <conv(x, f), gy> = <x, gx> under the (complex) inner product: f is conjugated, as in
    PyTorch; JAX's gradient is this one with conj(f) in the place of f.

    Parameters
    ----------
    gy : array, shape (B, *O, D)
        The gradient of the output.
    f : array, shape (*K, C // groups, D)
        The filter.
    input_size : int or tuple of N ints
        The spatial size S of the input: with a stride, several sizes have the same output.
    stride, padding, dilation, groups, padding_mode, layout, flip : as in `conv`
        The hyperparameters of the forward call.
    algorithm, accuracy, accumulate, max_workspace, out : as in `conv`
        The same.

    Returns
    -------
    array, shape (B, *S, C)
        The gradient of the input, in the dtype that `conv` of gy and f would have.

    Raises
    ------
    ValueError, TypeError
        As in `conv`; also if `input_size` does not lead to the shape of gy.

    Notes
    -----
    `gemm` computes it by stride phases, forming no product with an inserted zero:
    `einstride.adjoint` has the derivation.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> gy, f = np.ones((1, 12, 12, 2)), np.ones((6, 6, 3, 2))
    >>> es.conv_input_grad(gy, f, 28, stride=2).shape
    (1, 28, 28, 3)
    """
    k = Keywords(
        stride,
        padding,
        dilation,
        groups,
        padding_mode,
        layout,
        flip,
        algorithm,
        accuracy,
        accumulate,
        max_workspace,
    )
    size = parse.ints("conv_input_grad", "input_size", input_size)
    return execute.call("conv_input_grad", "input_grad", gy, f, None, out, k, size)


def conv_filter_grad(
    x: Array,
    gy: Array,
    kernel_size: Ints,
    *,
    stride: Ints = 1,
    padding: Padding = "valid",
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    layout: str = "channels_last",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "normwise",
    accumulate: str | None = None,
    max_workspace: int | None = None,
    out: Array | None = None,
) -> Array:
    r"""Gradient of `conv` with respect to its filter: the adjoint of ``f -> conv(x, f)``.

    .. math:: gf_{k,c,d} = \sum_{b,o} \overline{x_{b,\, o s + k r - p,\, c}} \, gy_{b,o,d}

    so that <conv(x, f), gy> = <f, gf> under the (complex) inner product: x is conjugated, as in
    PyTorch; JAX's gradient is this one with conj(x) in the place of x.

    Parameters
    ----------
    x : array, shape (B, *S, C)
        The input of the forward call.
    gy : array, shape (B, *O, D)
        The gradient of the output.
    kernel_size : int or tuple of N ints
        The spatial size K of the filter.
    stride, padding, dilation, groups, padding_mode, layout, flip : as in `conv`
        The hyperparameters of the forward call.
    algorithm, accuracy, accumulate, max_workspace, out : as in `conv`
        The same.

    Returns
    -------
    array, shape (*K, C // groups, D)
        The gradient of the filter, in the dtype that `conv` of x and gy would have. Blocks are
        summed in a fixed order: the same call gives the same bits.

    Raises
    ------
    ValueError, TypeError
        As in `conv`; also if `kernel_size` does not lead to the shape of gy.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> x, gy = np.ones((1, 28, 28, 3)), np.ones((1, 12, 12, 2))
    >>> es.conv_filter_grad(x, gy, 6, stride=2).shape
    (6, 6, 3, 2)
    """
    k = Keywords(
        stride,
        padding,
        dilation,
        groups,
        padding_mode,
        layout,
        flip,
        algorithm,
        accuracy,
        accumulate,
        max_workspace,
    )
    size = parse.ints("conv_filter_grad", "kernel_size", kernel_size)
    return execute.call("conv_filter_grad", "filter_grad", x, gy, None, out, k, size)


def conv_bias_grad(gy: Array, *, layout: str = "channels_last") -> Array:
    r"""Gradient of `conv` with respect to its bias: the sum of gy over batch and positions.

    .. math:: gb_d = \sum_{b,o} gy_{b,o,d}

    Parameters
    ----------
    gy : array, shape (B, *O, D)
        The gradient of the output.
    layout : str
        As in `conv`; the part for y is read.

    Returns
    -------
    array, shape (D,)
        In the dtype of gy (summed in float32 for float16 and bfloat16; integers in int64 or
        uint64).

    Raises
    ------
    ValueError, TypeError
        As in `conv`.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> es.conv_bias_grad(np.ones((2, 4, 4, 3)))
    array([32., 32., 32.])
    """
    return execute.bias_grad("conv_bias_grad", gy, layout)


def conv_transpose(
    x: Array,
    f: Array,
    bias: Array | None = None,
    *,
    output_padding: Ints = 0,
    output_size: Ints | None = None,
    stride: Ints = 1,
    padding: Padding = "valid",
    dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    layout: str = "channels_last",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "normwise",
    accumulate: str | None = None,
    max_workspace: int | None = None,
    out: Array | None = None,
) -> Array:
    r"""Transposed convolution: the adjoint of `conv` with the same settings, plus a bias.

    .. math::
        y_{b,i,c} = \sum_{o,k,d:\; o s + k r - p = i} x_{b,o,d} \, \overline{f_{k,c,d}} + bias_c

    It is ``conv_input_grad(x, f, size)`` for the size that follows from x: integer padding crops,
    "same" gives ``n * stride``. Complex filters are conjugated, as an adjoint asks; pass
    ``conj(f)`` for PyTorch's unconjugated ``conv_transpose``.

    Parameters
    ----------
    x : array, shape (B, *O, D)
        The input, which has the shape of a forward output.
    f : array, shape (*K, C // groups, D)
        The filter of the forward convolution: its output channels meet those of x.
    bias : array, shape (C,), optional
        Added to every output position.
    output_padding : int or tuple of N ints
        Positions added at the end of each axis, in [0, max(stride, dilation)).
    output_size : int or tuple of N ints, optional
        Any size S whose forward convolution has the size of x; instead of `output_padding`.
    stride, padding, dilation, groups, padding_mode, layout, flip : as in `conv`
        The hyperparameters of the forward call.
    algorithm, accuracy, accumulate, max_workspace, out : as in `conv`
        The same.

    Returns
    -------
    array, shape (B, *S, C)
        S = (O - 1) * stride + dilation * (K - 1) + 1 - low - high + output_padding.

    Raises
    ------
    ValueError, TypeError
        As in `conv`; also if both `output_padding` and `output_size` are given.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> es.conv_transpose(np.ones((1, 5, 5, 8)), np.ones((3, 3, 4, 8)), stride=2).shape
    (1, 11, 11, 4)
    """
    k = Keywords(
        stride,
        padding,
        dilation,
        groups,
        padding_mode,
        layout,
        flip,
        algorithm,
        accuracy,
        accumulate,
        max_workspace,
    )
    where = "conv_transpose"
    extra = Transposed(
        parse.ints(where, "output_padding", output_padding),
        parse.optional(where, "output_size", output_size, parse.ints),
    )
    return execute.call(where, "input_grad", x, f, bias, out, k, extra)


def windows(x: Array, kernel_size: Ints, stride: Ints = 1, dilation: Ints = 1) -> Array:
    r"""Every window of x: the seed's strided view, with its bounds checked.

    .. math:: w_{b,o,k,c} = x_{b,\, o s + k r,\, c}

    Parameters
    ----------
    x : array, shape (B, *S, C)
        The input.
    kernel_size, stride, dilation : int or tuple of N ints
        As in `conv`.

    Returns
    -------
    array, shape (B, *O, *K, C)
        O = (S - dilation * (K - 1) - 1) // stride + 1. On NumPy a read-only view, on CuPy a view
        (do not write to it: its elements overlap), elsewhere a copy.

    Raises
    ------
    ValueError
        If a window does not fit into x.
    TypeError
        If x is no array or a size no int.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> es.windows(np.arange(5.0).reshape(1, 5, 1), 3)[0, :, :, 0]
    array([[0., 1., 2.],
           [1., 2., 3.],
           [2., 3., 4.]])
    """
    where = "windows"
    return execute.windows(
        where,
        x,
        parse.ints(where, "kernel_size", kernel_size),
        parse.ints(where, "stride", stride),
        parse.ints(where, "dilation", dilation),
    )
