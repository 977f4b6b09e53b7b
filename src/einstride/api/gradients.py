"""Define the gradients of `conv` with respect to x, f and bias, and its directional derivative."""

from __future__ import annotations

from functools import partial

from einstride.arrays import backends
from einstride.arrays.backends import Array
from einstride.dispatch import array_checks, call_cache, execute
from einstride.geometry import keywords as parse
from einstride.geometry.arithmetic import INTEGERS
from einstride.geometry.keywords import Keywords
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
from einstride.support.errors import bad_value


def conv_input_grad(
    gy: ArrayT,
    f: Array,
    input_size: Ints,
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
    r"""Compute the gradient of `conv` with respect to its input, the adjoint of x -> conv(x, f).

    .. math:: gx_{b,i,c} = \sum_{o,k,d:\; o s + k r - p = i} gy_{b,o,d} \, \overline{f_{k,c,d}}

    so that <conv(x, f), gy> = <x, gx> under the (complex) inner product: f is conjugated, as in
    PyTorch; JAX's gradient is the one for conj(f).

    Parameters
    ----------
    gy : array, shape (B, *O, D)
        The gradient of the output.
    f : array, shape (*K, C // groups, D)
        The filter.
    input_size : int or tuple of N ints
        The spatial size S of the input: with a stride, inputs of several sizes have outputs of one
        size.
    stride, padding, dilation, input_dilation, groups, padding_mode, fill : as in `conv`
        The hyperparameters of the forward call.
    layout, flip, algorithm, accuracy, accumulate : as in `conv`
        The same.
    batch_invariant, max_workspace, out : as in `conv`
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
    `gemm` computes the gradient by stride phases, forming no product with an inserted zero:
    `einstride.geometry.input_gradient_phases` has the derivation.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> gy, f = np.ones((1, 12, 12, 2)), np.ones((6, 6, 3, 2))
    >>> es.conv_input_grad(gy, f, 28, stride=2).shape
    (1, 28, 28, 3)
    """
    given = (
        stride, padding, dilation, input_dilation, groups, padding_mode, fill, layout, flip,
        algorithm, accuracy, accumulate, batch_invariant, max_workspace, input_size,
    )  # fmt: skip
    where = "conv_input_grad"
    result: ArrayT = call_cache.call(where, "input_grad", gy, f, None, out, given, parse.input_size)
    return result


def conv_filter_grad(
    x: ArrayT,
    gy: Array,
    kernel_size: Ints,
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
    per_example: bool = False,
) -> ArrayT:
    r"""Compute the gradient of `conv` with respect to its filter, the adjoint of f -> conv(x, f).

    .. math:: gf_{k,c,d} = \sum_{b,o} \overline{x_{b,\, o s + k r - p,\, c}} \, gy_{b,o,d}

    so that <conv(x, f), gy> = <f, gf> under the (complex) inner product: x is conjugated, as in
    PyTorch; JAX's gradient is the one for conj(x).

    Parameters
    ----------
    x : array, shape (B, *S, C)
        The input of the forward call.
    gy : array, shape (B, *O, D)
        The gradient of the output.
    kernel_size : int or tuple of N ints
        The spatial size K of the filter.
    stride, padding, dilation, input_dilation, groups, padding_mode, fill : as in `conv`
        The hyperparameters of the forward call.
    layout, flip, algorithm, accuracy, accumulate : as in `conv`
        The same.
    batch_invariant, max_workspace, out : as in `conv`
        The same.
    per_example : bool
        True computes one gradient for each example, not their sum.

    Returns
    -------
    array, shape (*K, C // groups, D)
        The gradient of the filter; with `per_example` (B, *K, C // groups, D). The dtype is the one
        that `conv` of x and gy would have. Blocks are summed in a fixed order, so that equal calls
        give equal bits. With ``groups="depthwise"`` the gradient of one filter for every channel,
        (*K, 1, 1), summed over the channels; that of a filter for each has groups=C.

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
    given = (
        stride, padding, dilation, input_dilation, groups, padding_mode, fill, layout, flip,
        algorithm, accuracy, accumulate, batch_invariant, max_workspace, kernel_size, per_example,
    )  # fmt: skip
    where = "conv_filter_grad"
    result: ArrayT = call_cache.call(
        where, "filter_grad", x, gy, None, out, given, parse.kernel_size
    )
    return result


def conv_jvp(
    x: ArrayT,
    f: Array,
    dx: Array | None,
    df: Array | None,
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
) -> ArrayT:
    r"""Compute the first-order change of ``conv(x, f)`` when x changes by dx and f by df.

    .. math:: dy = conv(dx, f) + conv(x, df)

    Convolution is bilinear, so dy is exact up to ``conv(dx, df)``, and second derivatives are
    compositions of the functions of this module: the derivative of ``conv_input_grad(gy, f)`` in
    the direction df is ``conv_input_grad(gy, df)``. In a border of mode "constant" dx is zero.

    Parameters
    ----------
    x : array, shape (B, *S, C)
        The input.
    f : array, shape (*K, C // groups, D)
        The filter.
    dx : array, shape (B, *S, C), or None
        The change of x; None for no change.
    df : array, shape (*K, C // groups, D), or None
        The change of f; None for no change.
    stride, padding, dilation, input_dilation, groups, padding_mode, fill : as in `conv`
        The hyperparameters of the forward call.
    layout, flip, algorithm, accuracy, accumulate : as in `conv`
        The same.
    batch_invariant, max_workspace : as in `conv`
        For each of the two convolutions; their sum takes one more array of the shape of y.

    Returns
    -------
    array, shape (B, *O, D)
        The change of y.

    Raises
    ------
    ValueError, TypeError
        As in `conv`; also if both changes are None.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> x, f = np.ones((1, 5, 1)), np.ones((3, 1, 1))
    >>> es.conv_jvp(x, f, None, 2 * f)[0, :, 0]
    array([6., 6., 6.])
    """
    k = Keywords(
        stride, padding, dilation, input_dilation, groups, padding_mode, fill, layout, flip,
        algorithm, accuracy, accumulate, batch_invariant, max_workspace,
    )  # fmt: skip
    where = "conv_jvp"
    changes = ((dx, f, k._replace(fill=0)), (x, df, k))  # a change of x leaves `fill` as it is
    given = [(a, b, own) for a, b, own in changes if a is not None and b is not None]
    if not given:
        raise bad_value(where, "dx or df must be given", "None and None", "pass one of them")
    array_checks.same_shape(where, "dx", dx, "x", x)
    array_checks.same_shape(where, "df", df, "f", f)
    terms = [
        call_cache.call(where, "forward", a, b, None, None, own, cache=None) for a, b, own in given
    ]
    if len(terms) == 1:
        only: ArrayT = terms[0]
        return only
    if backends.of(where, ("x",), terms[0]).dtype_name(terms[0]) in INTEGERS:
        terms[0] = array_checks.checked(where, partial(array_checks.sum_fits, where), *terms)
    total: ArrayT = terms[0] + terms[1]
    return total


def conv_bias_grad(gy: ArrayT, *, layout: str = "channels_last") -> ArrayT:
    r"""Compute the gradient of `conv` with respect to its bias: gy summed over batch and positions.

    .. math:: gb_d = \sum_{b,o} gy_{b,o,d}

    Parameters
    ----------
    gy : array, shape (B, *O, D)
        The gradient of the output.
    layout : str
        As in `conv`; only its part for y is used.

    Returns
    -------
    array, shape (D,)
        The sums, in the dtype of gy (float16 and bfloat16 are summed in float32); of integers, in
        int64 or uint64.

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
    result: ArrayT = execute.bias_grad("conv_bias_grad", gy, layout)
    return result
