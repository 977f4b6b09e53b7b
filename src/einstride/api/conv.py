"""The forward convolution, and the windows it is made of. All work is done by `execute`."""

from __future__ import annotations

from einstride.arrays.backends import Array
from einstride.dispatch import call_cache, windowed
from einstride.geometry import keywords as parse
from einstride.geometry.types import Ints, Padding


def conv(
    x: Array,
    f: Array,
    bias: Array | None = None,
    *,
    stride: Ints = 1,
    padding: Padding = "valid",
    dilation: Ints = 1,
    input_dilation: Ints = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    layout: str = "channels_last",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "normwise",
    accumulate: str | None = None,
    batch_invariant: bool = False,
    max_workspace: int | None = None,
    out: Array | None = None,
) -> Array:
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
        The filter's step.
    padding : int, name, or sequence of N entries
        Elements around x. An entry is an int (both sides), a (low, high) pair (negative crops), or
        a name: ``"valid"`` (none), ``"same"`` (the output has ceil(S / stride) positions, an odd
        one at the end: TensorFlow's and JAX's SAME), ``"same_lower"`` (an odd one at the start),
        ``"full"`` (every overlap), ``"causal"`` (dilation * (K - 1) zeros before).
    dilation : int or tuple of N ints
        The distance between the taps of the filter.
    input_dilation : int or tuple of N ints
        The distance between the elements of x, with zeros in between, before the padding (JAX's
        ``lhs_dilation``).
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
    algorithm : str
        ``"auto"``; ``"strided"``, ``"gemm"`` (any library); ``"winograd"`` (2 to 7 taps, stride
        1), ``"fft"`` (large filters); ``"direct"`` (compiled kernels: NumPy with the extra fast,
        CuPy), ``"implicit_gemm"`` (CuPy), ``"cudnn"`` (CuPy, an extra). Asked for by name it runs
        or raises; `plan` tells what "auto" takes, and why.
    accuracy : {"normwise", "elementwise", "tf32"}
        "normwise": the error is bounded against the norms of x and f. "elementwise": the error of
        each output is bounded against its own sum of abs(x) * abs(f), and a NaN or Inf of x (or
        gy) stays inside its own windows. Zeros of the padding are elements like others: an Inf
        in f times them is NaN. `strided`, `gemm`, `direct` and `implicit_gemm` always keep the
        elementwise bound; `winograd`, `fft` and `cudnn` do not, and are refused where it is asked
        for. "tf32": factors of float32 and complex64 may be rounded to 10 bits on GPUs whose
        tensor cores do so; never without this word, and without effect elsewhere.
    accumulate : str, optional
        The dtype of the sums, e.g. "int64" for int8 operands or "float64" for float32 ones. The
        result of integers has this dtype; the result of floats is rounded once at the end.
    batch_invariant : bool
        True: an example has the same bits alone as in any batch. Blocks are then cut as for a
        batch of one; a filter gradient can promise it only per example.
    max_workspace : int, optional
        Bytes of memory beyond inputs and output that may be used, never exceeded.
    out : array, optional
        Where the result goes: its exact shape, dtype, library and device, overlapping no input.

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
        If shapes, hyperparameters or the ceiling do not fit, in the form *function: the rule; the
        values got; the remedy*. Integer sums that could overflow are refused, never wrapped.
    TypeError
        If something is no array, or of another library, device or kind than it must be.

    Notes
    -----
    Floating point follows IEEE 754: what is too large for the dtype is an infinity, and an invalid
    operation gives NaN. NumPy's warnings about both (`numpy.errstate`) are given by no algorithm.

    By default 16 MiB of workspace are aimed at on NumPy; `strided`'s padded copy of a large x, and
    a single row of windows, may need more: only `max_workspace` is never exceeded. The
    sources are on the algorithms' own pages, `einstride.algorithms`.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> x = np.ones((64, 28, 28, 3), np.float32)
    >>> f = np.ones((6, 6, 3, 2), np.float32)
    >>> es.conv(x, f, stride=2).shape
    (64, 12, 12, 2)
    """
    given = (
        stride, padding, dilation, input_dilation, groups, padding_mode, layout, flip, algorithm,
        accuracy, accumulate, batch_invariant, max_workspace,
    )  # fmt: skip
    return call_cache.call("conv", "forward", x, f, bias, out, given)


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
    return windowed.windows(
        where,
        x,
        parse.ints(where, "kernel_size", kernel_size),
        parse.ints(where, "stride", stride),
        parse.ints(where, "dilation", dilation),
    )
