"""The demo's two networks, written with `einstride.nn`, and how they are trained.

`small` is the default. `twist` is the network from the README of twistml, the project that
einstride comes from, with the same numbers of channels, but for smaller pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from einstride import nn


class Recipe(NamedTuple):
    """A network with its loss, optimiser and learning rate schedule."""

    network: nn.Sequential
    loss: nn.Loss
    optimiser: nn.Optimiser
    schedule: Callable[[float], float] | None  # fraction done -> factor


def small() -> Recipe:
    """Make a network of two convolutional layers with bias and ReLU, and a dense layer."""
    network = nn.Sequential(
        nn.Conv(16, 3, padding="same"),
        nn.ReLU(),  # (B, 8, 8, 16)
        nn.Conv(32, 3, stride=2, padding="same"),
        nn.ReLU(),  # (B, 4, 4, 32)
        nn.Flatten(),
        nn.Dense(10),  # scores of the ten digits
    )
    return Recipe(network, nn.CrossEntropy(), nn.Adam(4e-3), lambda done: 1 - done)


def twist() -> Recipe:
    """Make a network of two convolutional layers, a dense layer and a softmax."""
    network = nn.Sequential(
        nn.Conv(3, 3),  # (B, 6, 6, 3)
        nn.Conv(1, 3),  # (B, 4, 4, 1)
        nn.Flatten(),
        nn.Dense(10),
        nn.Softmax(),  # probabilities of the ten digits
    )
    return Recipe(network, nn.CrossEntropy(from_logits=False), nn.Adam(3e-3), None)
