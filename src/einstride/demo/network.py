"""How a network is written with `einstride.nn`: two of them, and how they learn.

`small` is the demo's own. `twist` is the network from the README of twistml, the project that
einstride comes from: its layers have the same numbers of channels, on smaller pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from einstride import nn


class Recipe(NamedTuple):
    """A network and how it is trained."""

    network: nn.Sequential
    loss: nn.Loss
    optimiser: nn.Optimiser
    schedule: Callable[[float], float] | None  # of the share of steps done: the rate's factor


def small() -> Recipe:
    """Two convolutional layers with bias and ReLU, and a dense one."""
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
    """Two convolutional layers without anything between, a dense one, and a softmax."""
    network = nn.Sequential(
        nn.Conv(3, 3),  # (B, 6, 6, 3)
        nn.Conv(1, 3),  # (B, 4, 4, 1)
        nn.Flatten(),
        nn.Dense(10),
        nn.Softmax(),  # probabilities of the ten digits
    )
    return Recipe(network, nn.CrossEntropy(from_logits=False), nn.Adam(3e-3), None)
