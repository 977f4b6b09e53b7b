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
from einstride.nn.passes import (
    column_dot,
    column_sum,
    dense,
    fold,
    result,
    sweep,
    tiled,
    total,
)


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
            mean, variance, near = statistics(x, b)
            self._move(mean, variance * (n / (n - 1)), b)
        else:
            mean, variance = (b.astype(self.state[k], "float64") for k in ("mean", "variance"))
            near = False
        scale = 1 / b.xp.sqrt(variance + self.epsilon)
        gamma, beta = (b.astype(p[k], "float64") for k in ("gamma", "beta"))
        factor = gamma * scale
        y = affine(x, mean, (factor, beta), near, own and not run.keep, b)
        return self._back(y, given, b), (x, mean, scale, near) if run.keep else None

    def _backward(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        b, (x, mean, scale, near) = run.b, kept
        if run.per_example:
            raise bad_value(
                "BatchNorm", "statistics of a batch mix its examples", "per_example=True",
                "leave BatchNorm out of a model whose gradients are wanted for each example",
            )  # fmt: skip
        given, gy = gy, self._last(gy, b)
        sums, products = gradient_sums(gy, x, mean, near, b)
        ggamma = products * scale
        name = b.dtype_name(self.parameters["gamma"])
        gradients = {"gamma": b.astype(ggamma, name), "beta": b.astype(sums, name)}
        if not inner:
            return None, gradients
        factor = b.astype(self.parameters["gamma"], "float64") * scale
        if not run.training:
            zero = b.xp.zeros_like(factor)
            gx = affine(gy, zero, (factor, zero), True, own, b)
            return self._back(gx, given, b), gradients
        n = prod(x.shape[:-1])
        slope, constant = -factor * scale * ggamma / n, -factor * sums / n
        gx = combine(gy, x, mean, (factor, slope, constant), near, own, b)
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


def statistics(x: Array, b: Backend) -> tuple[Array, Array, bool]:
    """Mean and (biased) variance of every channel, as float64; are all means near zero?

    "Near" means not above two standard deviations: then sum(x * x) loses nothing to cancellation,
    and x need not be centred, here and in the gradients. Libraries that would have to wait for the
    answer always centre.
    """
    matrix, times = _rows(x, b)
    channels, name = x.shape[-1], wide(b.dtype_name(x))
    n, rows = matrix.shape[0] * times, matrix.shape[0]

    def sums(lo: int, hi: int) -> Array:
        return column_sum(b.astype(matrix[lo:hi, :], name), channels, b)

    def squares(lo: int, hi: int) -> tuple[Array, Array]:
        block = b.astype(matrix[lo:hi, :], name)
        return column_sum(block, channels, b), column_dot(block, block, channels, b)

    if b.traits.library == "numpy":
        parts = sweep(lambda: squares, rows, matrix.shape[1] * 4, b)
        mean = total([p for p, _ in parts], b) / n
        variance = total([q for _, q in parts], b) / n - mean * mean
        if (mean * mean <= 4 * variance).all():
            return mean, variance, True
    mean = total(sweep(lambda: sums, rows, matrix.shape[1] * 4, b), b) / n
    rounded = b.astype(mean, name)
    m = tiled(rounded, times, b)

    def centred(lo: int, hi: int) -> tuple[Array, Array]:
        off = b.astype(matrix[lo:hi, :], name) - m
        return column_sum(off, channels, b), column_dot(off, off, channels, b)

    parts = sweep(lambda: centred, rows, matrix.shape[1] * 4, b)
    rest = total([p for p, _ in parts], b) / n  # what the first sum and its rounding left
    variance = total([q for _, q in parts], b) / n - rest * rest
    return b.astype(rounded, "float64") + rest, variance, False


def affine(
    x: Array, mean: Array, vectors: tuple[Array, Array], near: bool, own: bool, b: Backend
) -> Array:
    """``(x - mean) * factor + constant`` of every channel."""
    matrix, times = _rows(x, b)
    given = b.dtype_name(x)
    name = wide(given)
    factor, constant = vectors
    m, rest = _centre(mean, near, times, name, b)
    f, c = (tiled(b.astype(v, name), times, b) for v in (factor, constant - rest * factor))
    out = _place(x, matrix, own, b)

    def one(lo: int, hi: int) -> Array:
        place = None if out is None else out[lo:hi, :]
        target = place if given == name else None
        y = b.astype(matrix[lo:hi, :], name)
        y = y if m is None else into(b.xp.subtract, y, m, out=target)
        y = into(b.xp.multiply, y, f, out=target)
        y = into(b.xp.add, y, c, out=target)
        return _written(y, place, b)

    found = sweep(lambda: one, matrix.shape[0], matrix.shape[1] * 4, b)
    return b.xp.reshape(found[0] if out is None else out, tuple(x.shape))


def _centre(
    mean: Array, near: bool, times: int, name: str, b: Backend
) -> tuple[Array | None, Array]:
    """What is subtracted from x in its own dtype (None: nothing), and the rest of the mean."""
    if near:
        return None, mean
    rounded = b.astype(mean, name)
    return tiled(rounded, times, b), mean - b.astype(rounded, "float64")


def gradient_sums(gy: Array, x: Array, mean: Array, near: bool, b: Backend) -> tuple[Array, Array]:
    """sum(gy) and sum(gy * (x - mean)) of every channel, as float64."""
    (g, times), (matrix, _) = _rows(gy, b), _rows(x, b)
    channels, name = x.shape[-1], wide(b.dtype_name(x))
    m, rest = _centre(mean, near, times, name, b)

    def one(lo: int, hi: int) -> tuple[Array, Array]:
        block, off = b.astype(g[lo:hi, :], name), b.astype(matrix[lo:hi, :], name)
        off = off if m is None else off - m
        return column_sum(block, channels, b), column_dot(block, off, channels, b)

    parts = sweep(lambda: one, g.shape[0], g.shape[1] * 4, b)
    sums, products = total([p for p, _ in parts], b), total([q for _, q in parts], b)
    return sums, products - rest * sums


def combine(
    gy: Array,
    x: Array,
    mean: Array,
    vectors: tuple[Array, Array, Array],
    near: bool,
    own: bool,
    b: Backend,
) -> Array:
    """``gy * factor + (x - mean) * slope + constant`` of every channel."""
    (g, times), (matrix, _) = _rows(gy, b), _rows(x, b)
    given = b.dtype_name(gy)
    name = wide(given)
    factor, slope, constant = vectors
    m, rest = _centre(mean, near, times, name, b)
    both = factor, slope, constant - rest * slope
    f, s, c = (tiled(b.astype(v, name), times, b) for v in both)
    out = _place(gy, g, own, b)

    def one(lo: int, hi: int) -> Array:
        place = None if out is None else out[lo:hi, :]
        target = place if given == name else None
        off = b.astype(matrix[lo:hi, :], name)
        off = off * s if m is None else (off - m) * s
        off = into(b.xp.add, off, c, out=_same(off, b))
        y = into(b.xp.multiply, b.astype(g[lo:hi, :], name), f, out=target)
        y = into(b.xp.add, y, off, out=target)
        return _written(y, place, b)

    found = sweep(lambda: one, g.shape[0], g.shape[1] * 4, b)
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
