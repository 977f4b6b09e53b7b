"""Batch normalisation (Ioffe and Szegedy, 2015), with single passes over memory.

With n positions per channel, mean m and variance v of a channel, and s = 1 / sqrt(v + eps):

    y = gamma * (x - m) * s + beta
    gbeta = sum(gy);  ggamma = s * sum(gy * (x - m))
    gx = gamma * s * (gy - gbeta / n - (x - m) * s * ggamma / n)
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from einstride import settings as parse
from einstride._errors import bad_value
from einstride.backends import Array, Backend
from einstride.nn.arrays import Shape, into, wide
from einstride.nn.layer import Gradients, Layer, Maker, Run
from einstride.nn.passes import One, column_sum, dense, fold, result, sweep, tiled, total


class BatchNorm(Layer):
    """Every channel with mean zero and variance one over batch and positions, then an affine map.

    While training with the statistics of the batch, which also move the running ones; else with
    the running ones (mean 0, variance 1 before any training). The running variance is the unbiased
    one, as PyTorch's.

    Parameters
    ----------
    momentum : float
        The share of the batch in the running statistics.
    epsilon : float
        Added to the variance.
    layout : {"channels_last", "channels_first"}
        Where the channels are.

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
        # Statistics, and what meets them, are never kept in half precision.
        self.parameters["gamma"] = maker.fill(np.ones(channels))
        self.parameters["beta"] = maker.fill(np.zeros(channels))
        self.state["mean"] = maker.fill(np.zeros(channels))
        self.state["variance"] = maker.fill(np.ones(channels))
        return shape

    def _forward(self, x: Array, run: Run, own: bool) -> tuple[Array, Any]:
        b, p, given = run.b, self.parameters, x
        x = self._last(x, b)
        if x.shape[-1] != p["gamma"].shape[0]:
            raise bad_value(
                "BatchNorm", f"x must have {p['gamma'].shape[0]} channels", tuple(x.shape),
                "build the model for this shape",
            )  # fmt: skip
        if run.training:
            n = prod(x.shape[:-1])
            if n < 2:
                raise bad_value(
                    "BatchNorm", "training needs more than one value per channel", tuple(x.shape),
                    "use a larger batch",
                )  # fmt: skip
            mean, variance = statistics(x, b)
            self._move(mean, variance * (n / (n - 1)), b)
        else:
            mean, variance = (b.astype(self.state[k], "float64") for k in ("mean", "variance"))
        scale = 1 / b.xp.sqrt(variance + self.epsilon)
        gamma, beta = (b.astype(p[k], "float64") for k in ("gamma", "beta"))
        factor = gamma * scale
        y = affine(x, factor, beta - mean * factor, own and not run.keep, b)
        return self._back(y, given, b), (x, mean, scale) if run.keep else None

    def _backward(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        b, (x, mean, scale) = run.b, kept
        if run.per_example:
            raise bad_value(
                "BatchNorm", "statistics of a batch mix its examples", "per_example=True",
                "leave BatchNorm out of a model whose gradients are wanted for each example",
            )  # fmt: skip
        given, gy = gy, self._last(gy, b)
        sums, products = gradient_sums(gy, x, mean, b)
        ggamma = products * scale
        name = b.dtype_name(self.parameters["gamma"])
        gradients = {"gamma": b.astype(ggamma, name), "beta": b.astype(sums, name)}
        if not inner:
            return None, gradients
        factor = b.astype(self.parameters["gamma"], "float64") * scale
        if not run.training:
            zero = b.xp.zeros_like(factor)
            return self._back(affine(gy, factor, zero, own, b), given, b), gradients
        n = prod(x.shape[:-1])
        slope, constant = -factor * scale * ggamma / n, -factor * sums / n
        gx = combine(gy, x, mean, (factor, slope, constant), own, b)
        return self._back(gx, given, b), gradients

    def _move(self, mean: Array, variance: Array, b: Backend) -> None:
        for key, new in (("mean", mean), ("variance", variance)):
            old = self.state[key]
            moved = (1 - self.momentum) * b.astype(old, "float64") + self.momentum * new
            self.state[key] = b.astype(moved, b.dtype_name(old))

    def _last(self, x: Array, b: Backend) -> Array:
        if self.layout == "channels_last":
            return x
        return b.xp.permute_dims(x, (0, *range(2, x.ndim), 1))

    def _back(self, y: Array, like: Array, b: Backend) -> Array:
        if self.layout == "channels_last":
            return y
        return b.xp.permute_dims(y, (0, like.ndim - 1, *range(1, like.ndim - 1)))


def _rows(x: Array, b: Backend) -> tuple[Array, int]:
    """x (..., C) as a matrix of long rows, and how often each holds all channels."""
    rows, channels = prod(x.shape[:-1]), x.shape[-1]
    times = fold(rows, channels)
    return b.xp.reshape(dense(x, b), (rows // times, times * channels)), times


def statistics(x: Array, b: Backend) -> tuple[Array, Array]:
    """Mean and (biased) variance of every channel, as float64.

    Each block has its own mean and sum of squared deviations; they are joined in float64 (Chan,
    Golub and LeVeque, 1979), so that nothing cancels whatever the mean is.
    """
    matrix, times = _rows(x, b)
    channels, name = x.shape[-1], wide(b.dtype_name(x))

    def make() -> One:
        def one(lo: int, hi: int) -> tuple[int, Array, Array]:
            block = b.astype(matrix[lo:hi, :], name)
            n = (hi - lo) * times
            middle = column_sum(block, channels, b) / n
            off = block - tiled(b.astype(middle, name), times, b)
            rounding = column_sum(off, channels, b) / n  # middle was rounded to the dtype of x
            squares = column_sum(into(b.xp.multiply, off, off, out=_same(off, b)), channels, b)
            exact = b.astype(b.astype(middle, name), "float64") + rounding
            return n, exact, squares - n * rounding * rounding

        return one

    n = 0
    mean: Array = None
    squares: Array = None
    for count, m, s in sweep(make, matrix.shape[0], matrix.shape[1] * 4, b):
        if n == 0:
            n, mean, squares = count, m, s
            continue
        away = m - mean
        squares = squares + s + away * away * (n * count / (n + count))
        n, mean = n + count, mean + away * (count / (n + count))
    return mean, squares / n


def affine(x: Array, factor: Array, constant: Array, own: bool, b: Backend) -> Array:
    """``x * factor + constant`` of every channel."""
    matrix, times = _rows(x, b)
    given = b.dtype_name(x)
    name = wide(given)
    f, c = (tiled(b.astype(v, name), times, b) for v in (factor, constant))
    out = _place(x, matrix, own, b)

    def make() -> One:
        def one(lo: int, hi: int) -> Array:
            place = None if out is None else out[lo:hi, :]
            target = place if given == name else None
            y = into(b.xp.multiply, b.astype(matrix[lo:hi, :], name), f, out=target)
            y = into(b.xp.add, y, c, out=target)
            return _written(y, place, b)

        return one

    found = sweep(make, matrix.shape[0], matrix.shape[1] * 4, b)
    return b.xp.reshape(found[0] if out is None else out, tuple(x.shape))


def gradient_sums(gy: Array, x: Array, mean: Array, b: Backend) -> tuple[Array, Array]:
    """sum(gy) and sum(gy * (x - mean)) of every channel, as float64."""
    (g, times), (matrix, _) = _rows(gy, b), _rows(x, b)
    channels, name = x.shape[-1], wide(b.dtype_name(x))
    m = tiled(b.astype(mean, name), times, b)

    def make() -> One:
        def one(lo: int, hi: int) -> tuple[Array, Array]:
            block = b.astype(g[lo:hi, :], name)
            off = b.astype(matrix[lo:hi, :], name) - m
            product = into(b.xp.multiply, off, block, out=_same(off, b))
            return column_sum(block, channels, b), column_sum(product, channels, b)

        return one

    parts = sweep(make, g.shape[0], g.shape[1] * 4, b)
    return total([p for p, _ in parts], b), total([q for _, q in parts], b)


def combine(
    gy: Array, x: Array, mean: Array, vectors: tuple[Array, Array, Array], own: bool, b: Backend
) -> Array:
    """``gy * factor + (x - mean) * slope + constant`` of every channel."""
    (g, times), (matrix, _) = _rows(gy, b), _rows(x, b)
    given = b.dtype_name(gy)
    name = wide(given)
    m, f, s, c = (tiled(b.astype(v, name), times, b) for v in (mean, *vectors))
    out = _place(gy, g, own, b)

    def make() -> One:
        def one(lo: int, hi: int) -> Array:
            place = None if out is None else out[lo:hi, :]
            target = place if given == name else None
            off = b.astype(matrix[lo:hi, :], name) - m
            off = into(b.xp.multiply, off, s, out=_same(off, b))
            off = into(b.xp.add, off, c, out=_same(off, b))
            y = into(b.xp.multiply, b.astype(g[lo:hi, :], name), f, out=target)
            y = into(b.xp.add, y, off, out=target)
            return _written(y, place, b)

        return one

    found = sweep(make, g.shape[0], g.shape[1] * 4, b)
    return b.xp.reshape(found[0] if out is None else out, tuple(gy.shape))


def _same(a: Array, b: Backend) -> Array | None:
    """Our own array `a` as the place of a result, where results have places."""
    return a if b.traits.mutable else None


def _place(x: Array, matrix: Array, own: bool, b: Backend) -> Array | None:
    if own and b.traits.mutable and b.writeable(matrix):
        return matrix  # x itself, or a copy of it without gaps
    return result(tuple(matrix.shape), b.dtype_name(x), x, b)


def _written(y: Array, place: Array | None, b: Backend) -> Array:
    if place is not None and y is not place:
        place[...] = y
    return y
