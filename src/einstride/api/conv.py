"""Define `conv`, the forward convolution, and `windows`, the strided view that it contracts."""

from __future__ import annotations

from einstride.arrays.backends import Array
from einstride.dispatch import call_cache, windowed
from einstride.geometry import keywords as parse
from einstride.geometry.types import (
    Accumulate,
    Accuracy,
    Algorithm,
    ArrayT,
    Groups,
    Ints,
    Padding,
    PaddingMode,
)


def conv(
    x: ArrayT,
    f: Array,
    bias: Array | None = None,
    *,
    stride: Ints = 1,
    padding: Padding = "valid",
    dilation: Ints = 1,
    input_dilation: Ints = 1,
    groups: Groups = 1,
    padding_mode: PaddingMode = "zeros",
    fill: complex = 0,
    layout: str = "channels_last",
    flip: bool = False,
    algorithm: Algorithm = "auto",
    accuracy: Accuracy = "normwise",
    accumulate: Accumulate | None = None,
    batch_invariant: bool = False,
    max_workspace: int | None = None,
    out: Array | None = None,
) -> ArrayT:
    r"""Convolve x with the filter f: cross-correlation over any number of spatial axes.

    .. math:: y_{b,o,d} = \sum_{k,c} x_{b,\, o s + k r - p,\, c} \, f_{k,c,d} + bias_d

    with stride s, dilation r and low padding p; x is zero outside its bounds (or see
    `padding_mode`), and c runs over the channels of the group that d belongs to. The filter is not
    flipped, as in every deep-learning library; nothing is conjugated.

    Parameters
    ----------
    x : array, shape (B, *S, C)
        The input: a batch, N >= 1 spatial axes, channels. Any strides, never written.
    f : array, shape (*K, C // groups, D)
        The filter, with D output channels.
    bias : array, shape (D,), optional
        Added to every output position.
    stride : int or tuple of N ints
        Positions between neighbouring windows.
    padding : int, name, or sequence of N entries
        Positions around x. An entry is an int (both sides), a (low, high) pair (negative crops), or
        a name: ``"valid"`` (none), ``"same"`` (the output has ceil(S / stride) positions, an odd
        one at the end: TensorFlow's and JAX's SAME), ``"same_lower"`` (an odd one at the start),
        ``"full"`` (every overlap), ``"causal"`` (dilation * (K - 1) zeros before).
    dilation : int or tuple of N ints
        Positions between neighbouring taps of the filter.
    input_dilation : int or tuple of N ints
        Positions between neighbouring elements of x, with zeros in between, before the padding
        (JAX's ``lhs_dilation``).
    groups : int or "depthwise"
        Number of groups, which divides C and D; outputs of group j read inputs of group j only.
        "depthwise" is groups=C, and then a filter (*K, 1, 1) is one filter for every channel, read
        as (*K, 1, C) without a copy of x. Where the shapes do not show C (in `conv_input_grad` and
        `conv_transpose`), C is D.
    padding_mode : {"zeros", "reflect", "replicate", "circular", "symmetric", "constant"}
        Contents of the padding: zeros; x mirrored without repeating its edge ("reflect", as in
        NumPy and PyTorch) or with it ("symmetric": what `scipy.ndimage` calls "reflect"); its edge
        repeated; x wrapped around; or the number `fill`. A tuple of N names gives each axis a mode.
        Gradients are exact: the gradient of the border is added to the elements that the border
        repeats, and `fill` counts as an element of x in the gradient of the filter.
    fill : number
        The constant of padding_mode "constant"; x must be able to hold it.
    layout : str
        ``"channels_last"``: shapes as written here. ``"channels_first"``: x (B, C, *S), f (D,
        C // groups, *K), y (B, D, *O). Or a spec ``"x,f->y"`` of any order, with N and C in x and
        y, I and O in f, and one further letter per spatial axis, e.g. ``"NCHW,OIHW->NHWC"``;
        tuples (stride, ...) follow the order of the spatial letters in x.
    flip : bool
        True reverses the filter's spatial axes: convolution as in mathematics.
    algorithm : str
        ``"auto"``; ``"strided"``, ``"gemm"`` (any library); ``"winograd"`` (2 to 7 taps, stride
        1), ``"fft"`` (large filters); ``"direct"`` (compiled kernels: NumPy, and JAX on CPUs, with
        the extra fast; CuPy), ``"implicit_gemm"`` (CuPy), ``"cudnn"`` (CuPy, an extra). An
        algorithm that is asked for by name runs or raises an error; `plan` tells which one "auto"
        takes, and why.
    accuracy : {"normwise", "elementwise", "tf32"}
        "normwise": the error is bounded against the norms of x and f. "elementwise": the error of
        each output is bounded against its own sum of abs(x) * abs(f), and a NaN or Inf of x (or
        gy) affects only the outputs whose windows hold it. Zeros of the padding are elements like
        others: an Inf in f times such a zero is NaN. `strided`, `gemm`, `direct` and
        `implicit_gemm` always keep the elementwise bound; `winograd`, `fft` and `cudnn` do not, and
        "elementwise" refuses them. With the extra fast, "auto" then takes `direct` on NumPy
        whenever it can, and adds products in one order that depends on no size: a part of an array
        has the bits of the whole, as long as the offset tables of `direct` hold its axes (about
        2**18 positions, or 2**19 pairs of output and tap). "tf32": factors of float32 and
        complex64 may be rounded to 10 bits on GPUs whose tensor cores do so. No other value allows
        that rounding, and "tf32" has no effect elsewhere.
    accumulate : str, optional
        The dtype of the sums, e.g. "int64" for int8 operands or "float64" for float32 ones. The
        result of integers has this dtype; the result of floats is rounded once at the end.
    batch_invariant : bool
        True: an example has the same bits alone as in any batch. Blocks are then those of a batch
        of one. A filter gradient can keep this promise only per example.
    max_workspace : int, optional
        Most bytes of memory beyond inputs and output, never exceeded.
    out : array, optional
        The array that the result is written to. It has the exact shape, dtype, library and device
        of the result, and shares no memory with an input.

    Returns
    -------
    array, shape (B, *O, D)
        O = (S + low + high - dilation * (K - 1) - 1) // stride + 1 on each axis. The library and
        the device are those of x. The dtype follows the array-API promotion rules; float16 and
        bfloat16 are summed in float32; two 8-bit integers give int32, other integers (bool among
        them) int64, or uint64 if both are, exactly; an integer with a float gives that float.

    Raises
    ------
    ValueError
        If shapes or hyperparameters do not fit together, or `max_workspace` is too small, in the
        form *function: the rule; the values got; the remedy*. Integer sums that could overflow are
        refused, never wrapped.
    TypeError
        If an argument is no array, or of another library, device or type than it must be.

    Notes
    -----
    Floating point follows IEEE 754: a value too large for the dtype becomes an infinity, and an
    invalid operation gives NaN. No algorithm gives NumPy's warnings about either
    (`numpy.errstate`).

    The default limit of workspace is soft, 16 MiB on NumPy: `strided`'s padded copy of a large x,
    and a single row of windows, may take more. Only `max_workspace` is never exceeded. The modules
    of the algorithms name their sources, see `einstride.algorithms`.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> x = np.ones((64, 28, 28, 3), np.float32)
    >>> f = np.ones((6, 6, 3, 2), np.float32)
    >>> es.conv(x, f, stride=2).shape
    (64, 12, 12, 2)
    """
    given = (
        stride, padding, dilation, input_dilation, groups, padding_mode, fill, layout, flip,
        algorithm, accuracy, accumulate, batch_invariant, max_workspace,
    )  # fmt: skip
    result: ArrayT = call_cache.call("conv", "forward", x, f, bias, out, given)
    return result


def windows(
    x: ArrayT,
    kernel_size: Ints,
    stride: Ints = 1,
    dilation: Ints = 1,
    *,
    padding: Padding = "valid",
    padding_mode: PaddingMode = "zeros",
    fill: complex = 0,
) -> ArrayT:
    r"""Return all windows of x as a strided view, with its bounds checked.

    .. math:: v_{b,o,k,c} = x_{b,\, o s + k r,\, c}

    Parameters
    ----------
    x : array, shape (B, *S, C)
        The input.
    kernel_size, stride, dilation : int or tuple of N ints
        As in `conv`.
    padding, padding_mode, fill : as in `conv`
        The border, which is added in a copy of x.

    Returns
    -------
    array, shape (B, *O, *K, C)
        O = (S + low + high - dilation * (K - 1) - 1) // stride + 1. On NumPy a read-only view, on
        CuPy a view (do not write to it: its elements overlap), elsewhere a copy.

    Raises
    ------
    ValueError
        If a window does not fit into x.
    TypeError
        If x is no array, or a size is no int.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> es.windows(np.arange(5.0).reshape(1, 5, 1), 3)[0, :, :, 0]
    array([[0., 1., 2.],
           [1., 2., 3.],
           [2., 3., 4.]])
    """
    where = "windows"
    k = parse.Keywords(stride, padding, dilation, padding_mode=padding_mode, fill=fill)
    size = parse.ints(where, "kernel_size", kernel_size)
    result: ArrayT = windowed.windows(where, x, size, parse.settings(where, k))
    return result
