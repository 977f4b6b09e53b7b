"""Batch normalisation (Ioffe and Szegedy, 2015), as compiled kernels or array functions.

With n positions per channel, mean m and variance v of a channel, and s = 1 / sqrt(v + eps):

    y = gamma * (x - m) * s + beta
    gbeta = sum(gy);  ggamma = s * sum(gy * (x - m))
    gx = gamma * s * (gy - gbeta / n - (x - m) * s * ggamma / n)
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from einstride.arrays.backends import Array, Backend
from einstride.geometry import keywords as parse
from einstride.nn.arrays import Shape
from einstride.nn.cpu import calls
from einstride.nn.layer import Gradients, Layer, Maker, Run
from einstride.nn.layers.channels import affine, combine, gradient_sums, statistics
from einstride.support.errors import bad_value


class BatchNorm(Layer):
    """Normalises each channel over batch and positions to mean 0 and variance 1, then scales it.

    Training uses the statistics of the batch and updates the running statistics; inference uses
    the running statistics (mean 0 and variance 1 before training). The running variance is the
    unbiased one, as in PyTorch.

    Parameters
    ----------
    momentum : float
        Weight of the batch in each update of the running statistics.
    epsilon : float
        Added to the variance.
    layout : {"channels_last", "channels_first"}
        Layout of x and y.

    Examples
    --------
    >>> from einstride import nn
    >>> model = nn.Model(nn.Sequential(nn.BatchNorm()), (8, 8, 3))
    >>> sorted(model.parameters), sorted(model.state)
    (['0.beta', '0.gamma'], ['0.mean', '0.variance'])
    """

    def __init__(
        self, *, momentum: float = 0.1, epsilon: float = 1e-5, layout: str = "channels_last"
    ) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise bad_value("BatchNorm", "momentum must lie in [0, 1]", momentum, "e.g. 0.1")
        if not epsilon > 0:
            raise bad_value("BatchNorm", "epsilon must be positive", epsilon, "e.g. 1e-5")
        self.momentum, self.epsilon = float(momentum), float(epsilon)
        self.layout = parse.choice(
            "BatchNorm", "layout", layout, ("channels_last", "channels_first")
        )

    def _build(self, shape: Shape, maker: Maker) -> Shape:
        if not shape:
            raise bad_value("BatchNorm", "an example needs a channel axis", shape, "Reshape it")
        channels = shape[0] if self.layout == "channels_first" else shape[-1]
        # Statistics and the parameters that are combined with them are in float32 at least.
        self.parameters["gamma"] = maker.fill(np.ones(channels))
        self.parameters["beta"] = maker.fill(np.zeros(channels))
        self.state["mean"] = maker.fill(np.zeros(channels))
        self.state["variance"] = maker.fill(np.ones(channels))
        return shape

    def _forward(self, x: Array, run: Run, own: bool) -> tuple[Array, Any]:
        x = self._check_input(x, run)
        if run.training and self._can_compile(x, run):
            return self._forward_compiled(x, run, own, False)
        return self._forward_arrays(x, run, own)

    def _forward_relu(self, x: Array, run: Run, own: bool) -> tuple[Array, Any] | None:
        if not self._can_compile(x, run) or not run.training:
            return None
        return self._forward_compiled(self._check_input(x, run), run, own, True)

    def _check_input(self, x: Array, run: Run) -> Array:
        """Return x with its channels last; raise ValueError if it does not fit the layer."""
        p, x = self.parameters, self._channels_last(x, run.b)
        if x.shape[-1] != p["gamma"].shape[0]:
            raise bad_value(
                "BatchNorm", f"x must have {p['gamma'].shape[0]} channels", tuple(x.shape),
                "build the model for this shape",
            )  # fmt: skip
        if run.training and prod(x.shape[:-1]) < 2:
            raise bad_value(
                "BatchNorm", "training needs more than one value per channel", tuple(x.shape),
                "use a larger batch",
            )  # fmt: skip
        return x

    def _can_compile(self, x: Array, run: Run) -> bool:
        p = self.parameters
        last = self.layout == "channels_last"
        return last and calls.ready(run.b, x, p["gamma"], p["beta"])

    def _forward_compiled(self, x: Array, run: Run, own: bool, relu: bool) -> tuple[Array, Any]:
        """Run the compiled kernel; `relu`: with a fused ReLU."""
        from einstride.nn.cpu import norm

        b, p, x = run.b, self.parameters, calls.as_contiguous(x, run.b)
        y = calls.result_array(x.shape, x, x if own and not run.keep else None, b)
        gamma, beta = (calls.as_contiguous(p[k], b, x) for k in ("gamma", "beta"))
        kept = norm.forward(x, gamma, beta, self.epsilon, relu, y, b)
        n = prod(x.shape[:-1])
        self._update_statistics(kept.statistics[0], kept.statistics[1] * (n / (n - 1)), b)
        return y, (x, kept) if run.keep else None

    def _forward_arrays(self, x: Array, run: Run, own: bool) -> tuple[Array, Any]:
        b, p = run.b, self.parameters
        if run.training:
            n = prod(x.shape[:-1])
            mean, variance, small_mean = statistics(x, b)
            self._update_statistics(mean, variance * (n / (n - 1)), b)
        else:
            mean, variance = (b.astype(self.state[k], "float64") for k in ("mean", "variance"))
            small_mean = False
        scale = 1 / b.xp.sqrt(variance + self.epsilon)
        gamma, beta = (b.astype(p[k], "float64") for k in ("gamma", "beta"))
        factor = gamma * scale
        y = affine(x, mean, (factor, beta), small_mean, own and not run.keep, b)
        return self._to_layout(y, b), (x, mean, scale, small_mean) if run.keep else None

    def _backward(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        b = run.b
        if run.per_example:
            raise bad_value(
                "BatchNorm", "statistics of a batch mix its examples", "per_example=True",
                "leave BatchNorm out of a model whose gradients are wanted for each example",
            )  # fmt: skip
        gy = self._channels_last(gy, b)
        if len(kept) == 2:
            return self._backward_compiled(gy, kept, run, own, inner)
        x, mean, scale, small_mean = kept
        sums, products = gradient_sums(gy, x, mean, small_mean, b)
        ggamma = products * scale
        name = b.dtype_name(self.parameters["gamma"])
        gradients = {"gamma": b.astype(ggamma, name), "beta": b.astype(sums, name)}
        if not inner:
            return None, gradients
        factor = b.astype(self.parameters["gamma"], "float64") * scale
        if not run.training:
            zero = b.xp.zeros_like(factor)
            gx = affine(gy, zero, (factor, zero), True, own, b)
            return self._to_layout(gx, b), gradients
        n = prod(x.shape[:-1])
        slope, constant = -factor * scale * ggamma / n, -factor * sums / n
        gx = combine(gy, x, mean, (factor, slope, constant), small_mean, own, b)
        return self._to_layout(gx, b), gradients

    def _backward_compiled(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        from einstride.nn.cpu import norm

        b, (x, table) = run.b, kept
        name = b.dtype_name(x)
        g = calls.as_contiguous(gy, b, x)
        gamma = calls.as_contiguous(self.parameters["gamma"], b, x)
        gx = calls.result_array(g.shape, g, g if own else None, b) if inner else None
        sums, ggamma = norm.backward(g, x, gamma, table, gx, b)
        gradients = {"gamma": b.astype(ggamma, name), "beta": b.astype(sums, name)}
        return None if gx is None else b.astype(gx, b.dtype_name(gy)), gradients

    def _update_statistics(self, mean: Array, variance: Array, b: Backend) -> None:
        for key, new in (("mean", mean), ("variance", variance)):
            old = self.state[key]
            moved = (1 - self.momentum) * b.astype(old, "float64") + self.momentum * new
            self.state[key] = b.astype(moved, b.dtype_name(old))

    def _channels_last(self, x: Array, b: Backend) -> Array:
        if self.layout == "channels_last":
            return x
        return b.xp.permute_dims(x, (0, *range(2, x.ndim), 1))

    def _to_layout(self, y: Array, b: Backend) -> Array:
        if self.layout == "channels_last":
            return y
        return b.xp.permute_dims(y, (0, y.ndim - 1, *range(1, y.ndim - 1)))
