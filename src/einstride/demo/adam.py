"""The Adam optimiser (Kingma and Ba, 2015, algorithm 1), for arrays that may be immutable."""

from __future__ import annotations

from typing import Any

from einstride.demo.network import Parameters

MEAN, SQUARE = 0.9, 0.999  # how much of the running averages is kept at each step
TINY = 1e-8


class Adam:
    """Steps along the average gradient, divided by the average size of each of its elements."""

    def __init__(self, parameters: Parameters, xp: Any) -> None:
        self._xp = xp
        self._steps = 0
        self._means = [xp.zeros_like(p) for p in parameters]
        self._squares = [xp.zeros_like(p) for p in parameters]

    def step(self, parameters: Parameters, gradients: Parameters, rate: float) -> Parameters:
        """The parameters after one step with this learning rate."""
        self._steps += 1
        self._means = [
            MEAN * m + (1 - MEAN) * g for m, g in zip(self._means, gradients, strict=True)
        ]
        self._squares = [
            SQUARE * s + (1 - SQUARE) * g * g for s, g in zip(self._squares, gradients, strict=True)
        ]
        # Both averages began at zero; these factors make up for it.
        mean_scale = 1 / (1 - MEAN**self._steps)
        square_scale = 1 / (1 - SQUARE**self._steps)
        return Parameters(
            *(
                p - rate * mean_scale * m / (self._xp.sqrt(square_scale * s) + TINY)
                for p, m, s in zip(parameters, self._means, self._squares, strict=True)
            )
        )
