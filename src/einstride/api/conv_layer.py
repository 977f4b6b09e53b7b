"""Define `Conv`, a convolutional layer that keeps its filter, its bias and its keywords."""

from __future__ import annotations

from typing import Any, NamedTuple

from einstride.api.gradients import conv_bias_grad
from einstride.arrays import backends
from einstride.arrays.backends import Array
from einstride.dispatch import array_checks, call_cache, depthwise, execute
from einstride.dispatch.filter_cache import Prepared
from einstride.geometry import keywords as parse
from einstride.geometry.keywords import Keywords
from einstride.geometry.types import (
    Accumulate,
    Accuracy,
    Algorithm,
    Groups,
    Ints,
    Padding,
    PaddingMode,
)
from einstride.support.errors import bad_value


class Gradients(NamedTuple):
    """Hold the results of `Conv.backward`: gradients of input, filter and bias (or None)."""

    gx: Array
    gf: Array
    gb: Array | None


class Conv:
    """Convolve inputs with a filter that the layer keeps: layer(x) is ``conv(x, f, bias, ...)``.

    A layer's result always follows from its filter at the moment of the call. With NumPy the layer
    keeps the transformed or packed filter that an algorithm needs, and the filter's memory is one
    that Python cannot write: changing it through `f`, its ``flags`` or its ``base`` raises
    ValueError. Arrays of other libraries can be written, and no transformed filter is kept.

    A copy (``copy.copy``, ``copy.deepcopy``, ``pickle``) has arrays of its own. It holds neither
    transformed filters, which it makes again, nor the input of the last `forward`.

    Any number of threads may call a layer at once. `forward` stores its input for `backward` in the
    layer, so several threads that train one layer pass x to `backward`.

    Parameters
    ----------
    f : array, shape (*K, C // groups, D)
        The filter, which the layer copies.
    bias : array, shape (D,), optional
        Added to every output position; the layer copies it.
    stride, padding, dilation, input_dilation, groups, padding_mode, fill : as in `conv`
        The hyperparameters.
    layout, flip, algorithm, accuracy, accumulate, batch_invariant : as in `conv`
        The same.
    max_workspace : int, optional
        As in `conv`. If it is given, no transformed filter is kept.

    Attributes
    ----------
    f, bias : array
        The layer's own arrays, read-only if the library has read-only arrays. Assign new arrays to
        change them: each is checked and copied, and the next call takes it.

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
    ) -> None:
        self._keywords = Keywords(
            stride, padding, dilation, input_dilation, groups, padding_mode, fill, layout, flip,
            algorithm, accuracy, accumulate, batch_invariant, max_workspace,
        )  # fmt: skip
        parse.for_json("Conv", self._keywords)
        self._x: Array | None = None
        array_checks.layer("Conv", f, bias, self._keywords)
        self._filter = _Filter.of(f)
        self._bias = None if bias is None else _private_copy(bias, "bias")

    def __repr__(self) -> str:
        """Name the filter, and every keyword that has not its default."""
        f = self._filter.f
        changed = (
            f"{name}={value!r}"
            for name, value in self._keywords._asdict().items()
            if value != Keywords._field_defaults[name]
        )
        bias = () if self._bias is None else (f"bias {tuple(self._bias.shape)}",)
        name = backends.of("Conv", ("f",), f).dtype_name(f)
        return f"<Conv {', '.join((f'f {tuple(f.shape)} {name}', *bias, *changed))}>"

    @property
    def f(self) -> Array:
        """The filter."""
        return _fresh_view(self._filter.f, "f")

    @f.setter
    def f(self, f: Array) -> None:
        array_checks.layer("Conv", f, self._bias, self._keywords)
        self._filter = _Filter.of(f)

    @property
    def bias(self) -> Array | None:
        """The bias, or None."""
        return None if self._bias is None else _fresh_view(self._bias, "bias")

    @bias.setter
    def bias(self, bias: Array | None) -> None:
        array_checks.layer("Conv", self._filter.f, bias, self._keywords)
        self._bias = None if bias is None else _private_copy(bias, "bias")

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy: all but the transformed filters and the last input."""
        return {**self.__dict__, "_filter": self._filter.f, "_x": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the state of a copy, which gets arrays of its own."""
        self.__dict__.update(state)
        self._filter = _Filter.of(state["_filter"])
        self._bias = None if state["_bias"] is None else _private_copy(state["_bias"], "bias")

    def __call__(self, x: Array, *, out: Array | None = None) -> Array:
        """Compute the output for x, without storing x for `backward`.

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
        """Compute the output for x, and store x itself, not a copy, for `backward`.

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
        """Compute the gradients of the input, the filter and the bias.

        Parameters
        ----------
        gy : array, shape (B, *O, D)
            The gradient of the output.
        x : array, shape (B, *S, C), optional
            The input; if left out, the input of the last `forward`.

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
        k = depthwise.of_layer(where, k, x, f)
        read = parse.checked
        gx = call_cache.call(
            where, "input_grad", gy, f, None, None, (*k, size), read, cache=None, kept=kept
        )
        gf = call_cache.call(
            where, "filter_grad", x, gy, None, None, (*k, kernel), read, cache=None
        )
        gb = None if bias is None else conv_bias_grad(gy, layout=k.layout)
        return Gradients(gx, gf, gb)


class _Filter(NamedTuple):
    """Hold a filter and its transforms, which are replaced together so that they always match."""

    f: Array
    kept: Prepared | None

    @classmethod
    def of(cls, f: Array) -> _Filter:
        """Copy a filter; its transforms are kept only if Python cannot write the copy."""
        frozen = backends.of("Conv", ("f",), f).frozen is not None
        return cls(_private_copy(f, "f"), Prepared() if frozen else None)


def _private_copy(a: Array, name: str) -> Array:
    """Copy an array, to memory that Python cannot write if the library has such memory."""
    b = backends.of("Conv", (name,), a)
    if b.frozen is not None:
        return b.frozen(a)
    if b.exchange is not None:
        return b.exchange.copy(a)
    with b.on(a):
        return b.xp.asarray(a, copy=True)


def _fresh_view(a: Array, name: str) -> Array:
    """Return a new view of a layer's array, since callers can set a read-only array's shape."""
    b = backends.of("Conv", (name,), a)
    if b.frozen is None or not b.traits.mutable:
        return a
    return b.xp.ndarray(a.shape, a.dtype, a.base, 0, a.strides)
