"""A convolutional layer: entirely specified by its filter, an optional bias and its keywords."""

from __future__ import annotations

from typing import NamedTuple

from einstride import backends, checks, execute, repeated
from einstride import settings as parse
from einstride._errors import bad_value
from einstride.backends import Array
from einstride.gradients import conv_bias_grad
from einstride.prepared import Prepared
from einstride.settings import Keywords
from einstride.signature import Ints, Padding


class Gradients(NamedTuple):
    """What `Conv.backward` gives: the gradients of the input, the filter and the bias (or None)."""

    gx: Array
    gf: Array
    gb: Array | None


class Conv:
    """A convolution that keeps its filter: ``layer(x)`` is ``conv(x, f, bias, ...)``.

    Parameters
    ----------
    f : array, shape (*K, C // groups, D)
        The filter. The layer keeps a copy of its own, and what the chosen algorithm makes of it
        before it can begin, where nobody can write the copy (NumPy).
    bias : array, shape (D,), optional
        Added to every output position; copied too.
    stride, padding, dilation, input_dilation, groups, padding_mode : as in `conv`
        The hyperparameters.
    layout, flip, algorithm, accuracy, accumulate, batch_invariant : as in `conv`
        The same.
    max_workspace : int, optional
        As in `conv`.

    Attributes
    ----------
    f, bias : array
        The layer's own, read-only where the library knows that. Assign new ones to change them.

    Raises
    ------
    ValueError, TypeError
        As in `conv`.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> layer = es.Conv(np.ones((3, 3, 2, 4)), np.zeros(4), padding="same")
    >>> y = layer.forward(np.ones((1, 8, 8, 2)))
    >>> gx, gf, gb = layer.backward(y)
    >>> gx.shape, gf.shape, gb.shape
    ((1, 8, 8, 2), (3, 3, 2, 4), (4,))
    """

    def __init__(
        self,
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
    ) -> None:
        self._keywords = Keywords(
            stride, padding, dilation, input_dilation, groups, padding_mode, layout, flip,
            algorithm, accuracy, accumulate, batch_invariant, max_workspace,
        )  # fmt: skip
        parse.settings("Conv", self._keywords)
        self._x: Array | None = None
        checks.layer("Conv", f, bias, self._keywords)
        self._f = _own(f, "f")
        self._kept = _keeper(self._f)
        self._bias = None if bias is None else _own(bias, "bias")

    @property
    def f(self) -> Array:
        """The filter."""
        return self._f

    @f.setter
    def f(self, f: Array) -> None:
        checks.layer("Conv", f, self._bias, self._keywords)
        self._f = _own(f, "f")
        self._kept = _keeper(self._f)

    @property
    def bias(self) -> Array | None:
        """The bias, or None."""
        return self._bias

    @bias.setter
    def bias(self, bias: Array | None) -> None:
        checks.layer("Conv", self._f, bias, self._keywords)
        self._bias = None if bias is None else _own(bias, "bias")

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """The output for x; nothing is kept.

        Parameters
        ----------
        x : array, shape (B, *S, C)
            The input.
        out : array, optional
            As in `conv`.

        Returns
        -------
        array, shape (B, *O, D)
            As `conv`.
        """
        given, kept = self._keywords, self._kept
        return repeated.call("Conv", "forward", x, self._f, self._bias, out, given, kept=kept)

    def forward(self, x: Array) -> Array:
        """The output for x, which is remembered (not copied) for `backward`.

        Parameters
        ----------
        x : array, shape (B, *S, C)
            The input.

        Returns
        -------
        array, shape (B, *O, D)
            As `conv`.
        """
        y = self(x)
        self._x = x
        return y

    def backward(self, gy: Array, x: Array | None = None) -> Gradients:
        """The gradients of the input, the filter and the bias.

        Parameters
        ----------
        gy : array, shape (B, *O, D)
            The gradient of the output.
        x : array, shape (B, *S, C), optional
            The input; that of the last `forward` if left out.

        Returns
        -------
        Gradients
            A named tuple (gx, gf, gb); gb is None without a bias.
        """
        where = "Conv.backward"
        x = self._x if x is None else x
        if x is None:
            raise bad_value(
                where, "there is no input to go back to", "x=None", "call forward(x) or pass x"
            )
        backends.of(where, ("x", "gy"), x, gy)
        k = self._keywords
        size, kernel = execute.sizes(where, x, self._f, k)
        gx = execute.call(where, "input_grad", gy, self._f, None, None, k, size, self._kept)
        gf = execute.call(where, "filter_grad", x, gy, None, None, k, kernel)
        gb = None if self._bias is None else conv_bias_grad(gy, layout=k.layout)
        return Gradients(gx, gf, gb)


def _own(a: Array, name: str) -> Array:
    """A copy that nobody else can write."""
    b = backends.of("Conv", (name,), a)
    with b.on(a):
        copy = b.xp.asarray(a, copy=True)
    if b.traits.library == "numpy":
        copy.flags.writeable = False
    return copy


def _keeper(f: Array) -> Prepared | None:
    """Where the filter's transforms are kept, if the filter cannot change behind our back."""
    b = backends.of("Conv", ("f",), f)
    return Prepared() if b.traits.library == "numpy" and not b.writeable(f) else None
