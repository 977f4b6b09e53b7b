"""Training: batches, epochs, and what is measured after each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from einstride.backends import Array
from einstride.demo import network
from einstride.demo.adam import Adam
from einstride.demo.digits import CLASSES, Digits
from einstride.demo.libraries import Library
from einstride.demo.network import Parameters
from einstride.demo.progress import Progress

BATCH = 64
RATE = 0.004  # Adam's learning rate at the start; it falls to zero in a straight line


class Epoch(NamedTuple):
    """After one pass over all pictures; losses are means per picture."""

    train_loss: float
    test_loss: float
    test_accuracy: float


class Result(NamedTuple):
    """The trained network, how it got there, and its answers on the held-out digits."""

    parameters: Parameters
    curve: list[Epoch]
    answers: NDArray[np.int64]


def train(digits: Digits, library: Library, epochs: int, seed: int) -> Result:
    """Train a new network. All random numbers are NumPy's, so every library gets the same ones."""
    xp = library.xp
    rng = np.random.default_rng(seed)
    p = network.initial(rng, xp)
    adam = Adam(p, xp)
    images, targets = xp.asarray(digits.train_images), one_hot(digits.train_labels, xp)
    count = len(digits.train_labels)
    steps, step = epochs * -(-count // BATCH), 0
    curve, answers = [], np.zeros(0, np.int64)
    with Progress(steps) as progress:
        for epoch in range(epochs):
            total = 0.0
            for chosen in batches(count, rng):
                at = xp.asarray(chosen)
                x, t = xp.take(images, at, axis=0), xp.take(targets, at, axis=0)
                loss, gradients = network.loss_and_gradients(p, x, t, xp)
                p = adam.step(p, gradients, RATE * (1 - step / steps))
                total = total + loss * len(chosen)  # stays on the device: no wait for a GPU
                step += 1
                progress.step()
            test_loss, answers = test(p, digits, library)
            accuracy = float(np.mean(answers == digits.test_labels))
            curve.append(Epoch(float(total) / count, test_loss, accuracy))
            progress.say(f"epoch {epoch + 1}/{epochs}: loss {curve[-1].train_loss:.4f}, "
                         f"accuracy {accuracy:.1%}")  # fmt: skip
    return Result(p, curve, answers)


def test(p: Parameters, digits: Digits, library: Library) -> tuple[float, NDArray[np.int64]]:
    """The loss on the held-out digits, and the network's answers."""
    xp = library.xp
    scores = network.forward(p, xp.asarray(digits.test_images), xp).scores
    loss = network.cross_entropy(scores, one_hot(digits.test_labels, xp), xp)
    answers: NDArray[np.int64] = library.asnumpy(xp.argmax(scores, axis=1))
    return float(loss), answers


def batches(count: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """The numbers of the pictures in random order, BATCH at a time."""
    order = rng.permutation(count)
    for start in range(0, count, BATCH):
        yield order[start : start + BATCH]


def one_hot(labels: NDArray[np.int64], xp: Any) -> Array:
    """A row per label: 1 at the digit's place, else 0."""
    return xp.asarray(np.eye(CLASSES, dtype=np.float32)[labels])
