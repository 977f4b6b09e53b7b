"""A small convolutional network and its gradients, written out.

Two convolutional layers with bias and ReLU, a dense layer, softmax and cross entropy. Everything
but the convolutions is plain array code in the array-API standard, so the same lines run on NumPy,
CuPy and array-api-strict; `xp` is the library's namespace.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

import einstride as es
from einstride.backends import Array

FILTER_1, STRIDE_1 = (3, 3, 1, 16), 1  # kernel height and width, channels in, channels out
FILTER_2, STRIDE_2 = (3, 3, 16, 32), 2  # halves the height and the width
DENSE = (4 * 4 * 32, 10)


class Parameters(NamedTuple):
    """What is learned. Their gradients come in the same form."""

    f1: Array  # filter of layer 1: FILTER_1
    b1: Array  # its bias: (16,)
    f2: Array  # filter of layer 2: FILTER_2
    b2: Array  # its bias: (32,)
    w: Array  # weights of the dense layer: DENSE
    b: Array  # its bias: (10,)


class Activations(NamedTuple):
    """What the network makes of some pictures."""

    h1: Array  # (B, 8, 8, 16)
    h2: Array  # (B, 4, 4, 32)
    scores: Array  # (B, 10)


def initial(rng: np.random.Generator, xp: Any) -> Parameters:
    """Zero biases and random filters, scaled so that signals keep their size (He et al., 2015)."""

    def draw(shape: tuple[int, ...]) -> Array:
        terms = math.prod(shape[:-1])  # products in each sum
        scaled = rng.standard_normal(shape) * math.sqrt(2 / terms)
        return xp.asarray(scaled.astype(np.float32))

    def zeros(shape: tuple[int, ...]) -> Array:
        return xp.asarray(np.zeros(shape[-1], np.float32))

    return Parameters(
        f1=draw(FILTER_1),
        b1=zeros(FILTER_1),
        f2=draw(FILTER_2),
        b2=zeros(FILTER_2),
        w=draw(DENSE),
        b=zeros(DENSE),
    )


def count(p: Parameters) -> int:
    """How many numbers are learned."""
    return sum(math.prod(array.shape) for array in p)


def forward(p: Parameters, x: Array, xp: Any) -> Activations:
    """The scores of the ten digits for pictures x (B, 8, 8, 1), and the feature maps on the way."""
    h1 = relu(es.conv(x, p.f1, p.b1, stride=STRIDE_1, padding="same"), xp)
    h2 = relu(es.conv(h1, p.f2, p.b2, stride=STRIDE_2, padding="same"), xp)
    scores = flat(h2, xp) @ p.w + p.b
    return Activations(h1, h2, scores)


def loss_and_gradients(
    p: Parameters, x: Array, targets: Array, xp: Any
) -> tuple[Array, Parameters]:
    """The mean cross entropy against one-hot targets (B, 10), and its gradient by the chain rule.

    A name starting with g is the gradient of the loss with respect to what follows.
    """
    h1, h2, scores = forward(p, x, xp)
    loss = cross_entropy(scores, targets, xp)

    gscores = (xp.exp(log_softmax(scores, xp)) - targets) / x.shape[0]
    gw = flat(h2, xp).T @ gscores
    gb = xp.sum(gscores, axis=0)

    gh2 = xp.reshape(gscores @ p.w.T, h2.shape)
    gy2 = where_positive(h2, gh2, xp)
    gf2 = es.conv_filter_grad(h1, gy2, FILTER_2[:2], stride=STRIDE_2, padding="same")
    gb2 = es.conv_bias_grad(gy2)

    gh1 = es.conv_input_grad(gy2, p.f2, h1.shape[1:3], stride=STRIDE_2, padding="same")
    gy1 = where_positive(h1, gh1, xp)
    gf1 = es.conv_filter_grad(x, gy1, FILTER_1[:2], stride=STRIDE_1, padding="same")
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


def cross_entropy(scores: Array, targets: Array, xp: Any) -> Array:
    """The mean of -log(probability of the right digit); a 0-dimensional array."""
    return -xp.sum(targets * log_softmax(scores, xp)) / scores.shape[0]


def log_softmax(scores: Array, xp: Any) -> Array:
    """The logarithms of the probabilities; subtracting the largest score avoids overflow."""
    shifted = scores - xp.max(scores, axis=1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))
