"""Define `conv_transpose`, the transposed convolution."""

from __future__ import annotations

from einstride.arrays.backends import Array
from einstride.dispatch import call_cache
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


def conv_transpose(
    x: ArrayT,
    f: Array,
    bias: Array | None = None,
    *,
    output_padding: Ints = 0,
    output_size: Ints | None = None,
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
    r"""Apply the adjoint of `conv` with equal settings, the transposed convolution, and add a bias.

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
        The filter of the forward convolution: its D output channels are the channels of x.
    bias : array, shape (C,), optional
        Added to every output position.
    output_padding : int or tuple of N ints
        Positions added at the end of each axis, in [0, max(stride, dilation)).
    output_size : int or tuple of N ints, optional
        Any size S whose forward convolution has the size of x; instead of `output_padding`.
    stride, padding, dilation, input_dilation, groups, padding_mode, fill : as in `conv`
        The hyperparameters of the forward call.
    layout, flip, algorithm, accuracy, accumulate : as in `conv`
        The same.
    batch_invariant, max_workspace, out : as in `conv`
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
    given = (
        stride, padding, dilation, input_dilation, groups, padding_mode, fill, layout, flip,
        algorithm, accuracy, accumulate, batch_invariant, max_workspace, output_padding,
        output_size,
    )  # fmt: skip
    where = "conv_transpose"
    result: ArrayT = call_cache.call(
        where, "input_grad", x, f, bias, out, given, parse.transposed, cache=None
    )
    return result
