"""Activations: functions of single elements, and the softmax over the last axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from einstride.arrays.backends import Array, Backend
from einstride.geometry import keywords as parse
from einstride.nn.arrays import widened
from einstride.nn.layer import Gradients, Layer, Run
from einstride.nn.layers.erf import normal_cdf
from einstride.nn.passes import elementwise, positive, where_positive
from einstride.support.errors import bad_value

Function = Callable[..., Array]


class _Elementwise(Layer):
    """y = value(x); gx = slope(gy, kept), where kept is x or y."""

    keeps_output = True
    kernels: tuple[str | None, str | None] = (None, None)  # the same, compiled

    def _forward(self, x: Array, run: Run, own: bool) -> tuple[Array, Any]:
        b, name = run.b, run.b.dtype_name(x)
        free = own and (self.keeps_output or not run.keep)  # x itself is not needed again
        y = elementwise(
            lambda place, p: self._value(widened(p, b), place, b), b, name, x if free else None, x,
            kernel=self.kernels[0],
        )  # fmt: skip
        return y, (y if self.keeps_output else x) if run.keep else None

    def _backward(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        if not inner:
            return None, {}
        b, name = run.b, run.b.dtype_name(gy)
        gx = elementwise(
            lambda place, g, k: self._slope(widened(g, b), widened(k, b), place, b),
            b, name, gy if own else None, gy, kept, kernel=self.kernels[1],
        )  # fmt: skip
        return gx, {}

    def _value(self, x: Array, place: Array | None, b: Backend) -> Array:
        raise TypeError("an activation defines _value")

    def _slope(self, g: Array, k: Array, place: Array | None, b: Backend) -> Array:
        raise TypeError("an activation defines _slope")


def _give(found: Array, place: Array | None) -> Array:
    """`found`, in its place if it has one."""
    if place is None:
        return found
    place[...] = found
    return place


class ReLU(_Elementwise):
    """The positive part: ``maximum(x, 0)``; its gradient at zero is zero.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.Model(nn.Sequential(nn.ReLU()), (3,), dtype="float64")(np.array([[-1.0, 0, 2]]))
    array([[0., 0., 2.]])
    """

    kernels = ("relu", "relu_gradient")

    def _value(self, x: Array, place: Array | None, b: Backend) -> Array:
        return positive(x, place, b)

    def _slope(self, g: Array, k: Array, place: Array | None, b: Backend) -> Array:
        return where_positive(k, g, place, b)


class LeakyReLU(_Elementwise):
    """The positive part of x, and ``slope * x`` elsewhere.

    Parameters
    ----------
    slope : float
        In (0, 1).

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> net = nn.Sequential(nn.LeakyReLU(0.5))
    >>> nn.Model(net, (3,), dtype="float64")(np.array([[-1.0, 0, 2]]))
    array([[-0.5,  0. ,  2. ]])
    """

    def __init__(self, slope: float = 0.01) -> None:
        super().__init__()
        if not 0 < slope < 1:
            raise bad_value("LeakyReLU", "slope must lie between 0 and 1", slope, "e.g. 0.01")
        self.slope = float(slope)

    def _value(self, x: Array, place: Array | None, b: Backend) -> Array:
        return _give(b.xp.maximum(x, self.slope * x), place)

    def _slope(self, g: Array, k: Array, place: Array | None, b: Backend) -> Array:
        return _give(b.xp.where(k > 0, g, self.slope * g), place)


class Sigmoid(_Elementwise):
    """``1 / (1 + exp(-x))``, without overflow.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.Model(nn.Sequential(nn.Sigmoid()), (2,), dtype="float64")(np.array([[0.0, -1e4]]))
    array([[0.5, 0. ]])
    """

    def _value(self, x: Array, place: Array | None, b: Backend) -> Array:
        small = b.xp.exp(-b.xp.abs(x))
        return _give(b.xp.where(x >= 0, b.xp.ones_like(x), small) / (1 + small), place)

    def _slope(self, g: Array, k: Array, place: Array | None, b: Backend) -> Array:
        return _give(g * k * (1 - k), place)


class Tanh(_Elementwise):
    """The hyperbolic tangent.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.Model(nn.Sequential(nn.Tanh()), (1,), dtype="float64")(np.array([[0.0]]))
    array([[0.]])
    """

    def _value(self, x: Array, place: Array | None, b: Backend) -> Array:
        return _give(b.xp.tanh(x), place)

    def _slope(self, g: Array, k: Array, place: Array | None, b: Backend) -> Array:
        return _give(g * (1 - k * k), place)


class GELU(_Elementwise):
    r"""``x * Phi(x)``, with the distribution function of the normal law.

    Parameters
    ----------
    approximate : bool
        True: :math:`\frac{x}{2} (1 + \tanh(\sqrt{2 / \pi} (x + 0.044715 x^3)))`, which is faster.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.Model(nn.Sequential(nn.GELU()), (2,), dtype="float64")(np.array([[0.0, 1]])).round(4)
    array([[0.    , 0.8413]])
    """

    keeps_output = False

    def __init__(self, approximate: bool = False) -> None:
        super().__init__()
        self.approximate = parse.flag("GELU", "approximate", approximate)

    def _value(self, x: Array, place: Array | None, b: Backend) -> Array:
        if self.approximate:
            return _give(0.5 * x * (1 + b.xp.tanh(_INNER * (x + _CUBE * x * x * x))), place)
        return _give(x * normal_cdf(x, b), place)

    def _slope(self, g: Array, k: Array, place: Array | None, b: Backend) -> Array:
        if self.approximate:
            t = b.xp.tanh(_INNER * (k + _CUBE * k * k * k))
            inner = _INNER * (1 + 3 * _CUBE * k * k)
            return _give(g * 0.5 * (1 + t + k * (1 - t * t) * inner), place)
        density = b.xp.exp(-0.5 * k * k) / math.sqrt(2 * math.pi)
        return _give(g * (normal_cdf(k, b) + k * density), place)


_INNER, _CUBE = math.sqrt(2 / math.pi), 0.044715


class Softmax(Layer):
    """Exponentials of the last axis, scaled so that they sum to one.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.Model(nn.Sequential(nn.Softmax()), (2,), dtype="float64")(np.array([[1e4, 1e4]]))
    array([[0.5, 0.5]])
    """

    keeps_output = True

    def _forward(self, x: Array, run: Run, own: bool) -> tuple[Array, Any]:
        b, xp = run.b, run.b.xp
        given = widened(x, b)
        powers = xp.exp(given - xp.max(given, axis=-1, keepdims=True))
        y = b.astype(powers / xp.sum(powers, axis=-1, keepdims=True), b.dtype_name(x))
        return y, y if run.keep else None

    def _backward(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        b = run.b
        g, y = widened(gy, b), widened(kept, b)
        gx = y * (g - b.xp.sum(g * y, axis=-1, keepdims=True))
        return b.astype(gx, b.dtype_name(gy)), {}
