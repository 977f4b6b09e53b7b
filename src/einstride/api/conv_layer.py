"""A convolutional layer: entirely specified by its filter, an optional bias and its keywords."""

from __future__ import annotations

from typing import Any, NamedTuple

from einstride.api.gradients import conv_bias_grad
from einstride.arrays import backends
from einstride.arrays.backends import Array
from einstride.dispatch import array_checks, call_cache, execute
from einstride.dispatch.filter_cache import Prepared
from einstride.geometry import keywords as parse
from einstride.geometry.keywords import Keywords
from einstride.geometry.types import Ints, Padding
from einstride.support.errors import bad_value


class Gradients(NamedTuple):
    """What `Conv.backward` gives: the gradients of the input, the filter and the bias (or None)."""

    gx: Array
    gf: Array
    gb: Array | None


class Conv:
    """A convolution that keeps its filter: ``layer(x)`` is ``conv(x, f, bias, ...)``.

    A layer's result is always that of its filter as it is at the moment of the call. With NumPy
    the layer keeps what an algorithm makes of its filter before it can begin, and the filter's
    memory is one that Python cannot write: changing it through `f`, its ``flags`` or its ``base``
    raises ValueError. Other libraries' arrays can be written, and nothing is kept for them.

    A copy (``copy.copy``, ``copy.deepcopy``, ``pickle``) has arrays of its own. It holds neither
    what was made of the filter, which it makes again, nor the input of the last `forward`.

    Any number of threads may call a layer at once. `forward` and `backward` share the input that
    is remembered, so threads that train pass x to `backward`.

    Parameters
    ----------
    f : array, shape (*K, C // groups, D)
        The filter, which the layer copies.
    bias : array, shape (D,), optional
        Added to every output position; copied too.
    stride, padding, dilation, input_dilation, groups, padding_mode : as in `conv`
        The hyperparameters.
    layout, flip, algorithm, accuracy, accumulate, batch_invariant : as in `conv`
        The same.
    max_workspace : int, optional
        As in `conv`. With it nothing that an algorithm makes of the filter is kept.

    Attributes
    ----------
    f, bias : array
        The layer's own, read-only where the library knows that. Assign new ones to change them:
        each is copied and checked, and the next call takes it.

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
        array_checks.layer("Conv", f, bias, self._keywords)
        self._filter = _Filter.of(f)
        self._bias = None if bias is None else _own(bias, "bias")

    @property
    def f(self) -> Array:
        """The filter."""
        return _shown(self._filter.f, "f")

    @f.setter
    def f(self, f: Array) -> None:
        array_checks.layer("Conv", f, self._bias, self._keywords)
        self._filter = _Filter.of(f)

    @property
    def bias(self) -> Array | None:
        """The bias, or None."""
        return None if self._bias is None else _shown(self._bias, "bias")

    @bias.setter
    def bias(self, bias: Array | None) -> None:
        array_checks.layer("Conv", self._filter.f, bias, self._keywords)
        self._bias = None if bias is None else _own(bias, "bias")

    def __getstate__(self) -> dict[str, Any]:
        """What a copy is made of: all but the transforms of the filter and the last input."""
        return {**self.__dict__, "_filter": self._filter.f, "_x": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a copy, with arrays of its own."""
        self.__dict__.update(state)
        self._filter = _Filter.of(state["_filter"])
        self._bias = None if state["_bias"] is None else _own(state["_bias"], "bias")

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
        f, kept = self._filter
        return call_cache.call("Conv", "forward", x, f, self._bias, out, self._keywords, kept=kept)

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
        k, bias = self._keywords, self._bias
        f, kept = self._filter
        size, kernel = execute.sizes(where, x, f, k)
        gx = execute.call(where, "input_grad", gy, f, None, None, k, size, kept)
        gf = execute.call(where, "filter_grad", x, gy, None, None, k, kernel)
        gb = None if bias is None else conv_bias_grad(gy, layout=k.layout)
        return Gradients(gx, gf, gb)


class _Filter(NamedTuple):
    """A filter with what was made of it: replaced as one, so that neither outlives the other."""

    f: Array
    kept: Prepared | None

    @classmethod
    def of(cls, f: Array) -> _Filter:
        """A copy of a filter; its transforms are kept if nobody can write the copy."""
        frozen = backends.of("Conv", ("f",), f).frozen is not None
        return cls(_own(f, "f"), Prepared() if frozen else None)


def _own(a: Array, name: str) -> Array:
    """A copy that nobody else can write, where the library has such memory."""
    b = backends.of("Conv", (name,), a)
    if b.frozen is not None:
        return b.frozen(a)
    with b.on(a):
        return b.xp.asarray(a, copy=True)


def _shown(own: Array, name: str) -> Array:
    """A layer's own array for a caller, who may change an array's shape even if it is read-only."""
    b = backends.of("Conv", (name,), own)
    return own if b.frozen is None else b.xp.ndarray(own.shape, own.dtype, own.base, 0, own.strides)
