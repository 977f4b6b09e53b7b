"""A small convolutional network and its gradients, written out.

Two convolutional layers with bias and ReLU, a dense layer, softmax and cross entropy. Everything
but the convolutions is plain array code in the array-API standard, so the same lines run on NumPy,
CuPy and array-api-strict; `xp` is the library's namespace.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import einstride as es
from einstride.backends import Array

KERNEL = 3
SIZE = 8  # of the pictures, and of the first layer's output: it has stride 1
STRIDE = 2  # of the second layer, which halves the pictures


class Parameters(NamedTuple):
    """What is learned. Gradients and the optimiser's averages have the same seven... shapes."""

    f1: Array  # (3, 3, 1, 16)   filter of layer 1
    b1: Array  # (16,)           its bias
    f2: Array  # (3, 3, 16, 32)  filter of layer 2
    b2: Array  # (32,)
    w: Array  # (512, 10)        dense layer
    b: Array  # (10,)


class Activations(NamedTuple):
    """What the network makes of some pictures."""

    h1: Array  # (B, 8, 8, 16)
    h2: Array  # (B, 4, 4, 32)
    scores: Array  # (B, 10)


def initial(rng: np.random.Generator, xp: Any, dtype: str = "float32") -> Parameters:
    """Random filters, scaled so that signals keep their size through ReLU (He et al., 2015)."""

    def draw(*shape: int) -> Array:
        fan_in = np.prod(shape[:-1])
        return xp.asarray((rng.standard_normal(shape) * np.sqrt(2 / fan_in)).astype(dtype))

    def zeros(n: int) -> Array:
        return xp.asarray(np.zeros(n, dtype))

    return Parameters(
        draw(KERNEL, KERNEL, 1, 16), zeros(16),
        draw(KERNEL, KERNEL, 16, 32), zeros(32),
        draw(4 * 4 * 32, 10), zeros(10),
    )  # fmt: skip


def forward(p: Parameters, x: Array, xp: Any) -> Activations:
    """The scores of the ten digits for pictures x (B, 8, 8, 1), and the feature maps on the way."""
    h1 = relu(es.conv(x, p.f1, p.b1, padding="same"), xp)
    h2 = relu(es.conv(h1, p.f2, p.b2, stride=STRIDE, padding="same"), xp)
    scores = flat(h2, xp) @ p.w + p.b
    return Activations(h1, h2, scores)


def loss_and_gradients(
    p: Parameters, x: Array, targets: Array, xp: Any
) -> tuple[Array, Parameters]:
    """The mean cross entropy against one-hot targets (B, 10), and its gradient by the chain rule.

    A name starting with g is the gradient of the loss with respect to what follows.
    """
    h1, h2, scores = forward(p, x, xp)
    log_p = log_softmax(scores, xp)
    loss = -xp.sum(log_p * targets) / x.shape[0]

    gscores = (xp.exp(log_p) - targets) / x.shape[0]
    gw = flat(h2, xp).T @ gscores
    gb = xp.sum(gscores, axis=0)

    gh2 = xp.reshape(gscores @ p.w.T, h2.shape)
    gy2 = where_positive(h2, gh2, xp)
    gf2 = es.conv_filter_grad(h1, gy2, KERNEL, stride=STRIDE, padding="same")
    gb2 = es.conv_bias_grad(gy2)

    gh1 = es.conv_input_grad(gy2, p.f2, SIZE, stride=STRIDE, padding="same")
    gy1 = where_positive(h1, gh1, xp)
    gf1 = es.conv_filter_grad(x, gy1, KERNEL, padding="same")
    gb1 = es.conv_bias_grad(gy1)
    return loss, Parameters(gf1, gb1, gf2, gb2, gw, gb)


def relu(y: Array, xp: Any) -> Array:
    """The positive part."""
    return where_positive(y, y, xp)


def where_positive(h: Array, gh: Array, xp: Any) -> Array:
    """The gradient of ReLU: gh where its result h is positive, else zero."""
    return xp.where(h > 0, gh, xp.zeros_like(gh))


def flat(h: Array, xp: Any) -> Array:
    """One row per picture."""
    return xp.reshape(h, (h.shape[0], -1))


def log_softmax(scores: Array, xp: Any) -> Array:
    """The logarithms of the probabilities; subtracting the largest score avoids overflow."""
    shifted = scores - xp.max(scores, axis=1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))
