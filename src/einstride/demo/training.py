"""Train a network of the demo, and keep losses and accuracy of each epoch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from einstride import nn
from einstride.demo.digits import Digits
from einstride.demo.libraries import Library
from einstride.demo.network import Recipe

BATCH_SIZE = 64


class Epoch(NamedTuple):
    """Mean losses per picture and accuracy after one pass over all pictures."""

    train_loss: float
    test_loss: float
    test_accuracy: float


class Result(NamedTuple):
    """The trained network, its learning curve, and its answers on the held-out digits."""

    model: nn.Model
    curve: list[Epoch]
    answers: NDArray[np.int64]


def train(digits: Digits, recipe: Recipe, library: Library, epochs: int, seed: int) -> Result:
    """Build the recipe's network and train it."""
    model = nn.Model(recipe.network, (8, 8, 1), library=library.module, seed=seed)
    history = model.fit(
        digits.train_images,
        digits.train_labels,
        recipe.loss,
        recipe.optimiser,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        validation=(digits.test_images, digits.test_labels),
        metrics=[nn.accuracy],
        schedule=recipe.schedule,
    )
    curve = [Epoch(e["loss"], e["val_loss"], e["val_accuracy"]) for e in history.epochs]
    scores = library.asnumpy(model.predict(digits.test_images))
    answers: NDArray[np.int64] = np.argmax(scores, axis=1)
    return Result(model, curve, answers)
