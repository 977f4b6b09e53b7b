"""Activation layers: elementwise functions, and the softmax over the last axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from einstride.arrays.backends import Array, Backend
from einstride.geometry import keywords as parse
from einstride.nn.arrays import to_sum_dtype
from einstride.nn.layer import Gradients, Layer, Run
from einstride.nn.layers.erf import normal_cdf
from einstride.nn.passes import elementwise, mask_gradient, relu
from einstride.support.errors import bad_value

Function = Callable[..., Array]


class _Elementwise(Layer):
    """Base class of elementwise layers: y = _value(x) and gx = _gradient(gy, x or y)."""

    keeps_output = True
    kernels: tuple[str | None, str | None] = (None, None)  # names in `nn.cpu.elementwise`

    def _forward(self, x: Array, run: Run, own: bool) -> tuple[Array, Any]:
        b, name = run.b, run.b.dtype_name(x)
        x_is_free = own and (self.keeps_output or not run.keep)  # not needed again
        y = elementwise(
            lambda out, p: self._value(to_sum_dtype(p, b), out, b),
            b, name, x if x_is_free else None, x, kernel=self.kernels[0],
        )  # fmt: skip
        return y, (y if self.keeps_output else x) if run.keep else None

    def _backward(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        if not inner:
            return None, {}
        b, name = run.b, run.b.dtype_name(gy)
        gx = elementwise(
            lambda out, g, k: self._gradient(to_sum_dtype(g, b), to_sum_dtype(k, b), out, b),
            b, name, gy if own else None, gy, kept, kernel=self.kernels[1],
        )  # fmt: skip
        return gx, {}

    def _value(self, x: Array, out: Array | None, b: Backend) -> Array:
        raise TypeError("an activation defines _value")

    def _gradient(self, g: Array, k: Array, out: Array | None, b: Backend) -> Array:
        raise TypeError("an activation defines _slope")


def _write(result: Array, out: Array | None) -> Array:
    """Copy `result` to `out` and return that, or return `result` itself if `out` is None."""
    if out is None:
        return result
    out[...] = result
    return out


class ReLU(_Elementwise):
    """Rectified linear unit ``maximum(x, 0)``; its gradient at zero is zero.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.Model(nn.Sequential(nn.ReLU()), (3,), dtype="float64")(np.array([[-1.0, 0, 2]]))
    array([[0., 0., 2.]])
    """

    kernels = ("relu", "relu_gradient")

    def _value(self, x: Array, out: Array | None, b: Backend) -> Array:
        return relu(x, out, b)

    def _gradient(self, g: Array, k: Array, out: Array | None, b: Backend) -> Array:
        return mask_gradient(k, g, out, b)


class LeakyReLU(_Elementwise):
    """Leaky rectified linear unit: x where it is positive, and ``slope * x`` elsewhere.

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

    def _value(self, x: Array, out: Array | None, b: Backend) -> Array:
        return _write(b.xp.maximum(x, self.slope * x), out)

    def _gradient(self, g: Array, k: Array, out: Array | None, b: Backend) -> Array:
        return _write(b.xp.where(k > 0, g, self.slope * g), out)


class Sigmoid(_Elementwise):
    """Logistic function ``1 / (1 + exp(-x))``, computed without overflow.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.Model(nn.Sequential(nn.Sigmoid()), (2,), dtype="float64")(np.array([[0.0, -1e4]]))
    array([[0.5, 0. ]])
    """

    def _value(self, x: Array, out: Array | None, b: Backend) -> Array:
        small = b.xp.exp(-b.xp.abs(x))
        return _write(b.xp.where(x >= 0, b.xp.ones_like(x), small) / (1 + small), out)

    def _gradient(self, g: Array, k: Array, out: Array | None, b: Backend) -> Array:
        return _write(g * k * (1 - k), out)


class Tanh(_Elementwise):
    """Hyperbolic tangent.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.Model(nn.Sequential(nn.Tanh()), (1,), dtype="float64")(np.array([[0.0]]))
    array([[0.]])
    """

    def _value(self, x: Array, out: Array | None, b: Backend) -> Array:
        return _write(b.xp.tanh(x), out)

    def _gradient(self, g: Array, k: Array, out: Array | None, b: Backend) -> Array:
        return _write(g * (1 - k * k), out)


class GELU(_Elementwise):
    r"""Gaussian error linear unit ``x * Phi(x)``, Phi the standard normal distribution function.

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

    def _value(self, x: Array, out: Array | None, b: Backend) -> Array:
        if self.approximate:
            return _write(
                0.5 * x * (1 + b.xp.tanh(_TANH_FACTOR * (x + _CUBIC_FACTOR * x * x * x))), out
            )
        return _write(x * normal_cdf(x, b), out)

    def _gradient(self, g: Array, k: Array, out: Array | None, b: Backend) -> Array:
        if self.approximate:
            t = b.xp.tanh(_TANH_FACTOR * (k + _CUBIC_FACTOR * k * k * k))
            inner = _TANH_FACTOR * (1 + 3 * _CUBIC_FACTOR * k * k)
            return _write(g * 0.5 * (1 + t + k * (1 - t * t) * inner), out)
        density = b.xp.exp(-0.5 * k * k) / math.sqrt(2 * math.pi)
        return _write(g * (normal_cdf(k, b) + k * density), out)


_TANH_FACTOR, _CUBIC_FACTOR = math.sqrt(2 / math.pi), 0.044715


class Softmax(Layer):
    """Softmax: exponentials over the last axis, scaled to sum to one.

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
        given = to_sum_dtype(x, b)
        powers = xp.exp(given - xp.max(given, axis=-1, keepdims=True))
        y = b.astype(powers / xp.sum(powers, axis=-1, keepdims=True), b.dtype_name(x))
        return y, y if run.keep else None

    def _backward(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        b = run.b
        g, y = to_sum_dtype(gy, b), to_sum_dtype(kept, b)
        gx = y * (g - b.xp.sum(g * y, axis=-1, keepdims=True))
        return b.astype(gx, b.dtype_name(gy)), {}
