"""The geometry of a pool on one axis: which elements of x each window covers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from einstride.nn.arrays import Host


@dataclass(frozen=True)
class Axis:
    """A spatial axis: its number in (B, *S, C), and the window's geometry on it."""

    number: int
    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    out: int

    def taps(self) -> Iterator[tuple[Any, ...]]:
        """Where the elements number 0, 1, ... of all windows are."""
        for k in range(self.kernel):
            first = k * self.dilation
            yield (
                *(slice(None),) * self.number,
                slice(first, first + (self.out - 1) * self.stride + 1, self.stride),
                ...,
            )

    def counts(self) -> Host:
        """How many elements of x, not of the padding, each window has on this axis."""
        first = np.arange(self.out)[:, None] * self.stride - self.padding
        at = first + np.arange(self.kernel) * self.dilation
        counts: Host = np.sum((at >= 0) & (at < self.size), axis=1)
        return counts
