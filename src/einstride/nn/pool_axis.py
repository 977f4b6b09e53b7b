"""Geometry of pooling on one spatial axis: which elements of x each window covers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from einstride.nn.arrays import HostArray


@dataclass(frozen=True)
class Axis:
    """Windows on one spatial axis of x (B, *S, C).

    Attributes
    ----------
    number : int
        Index of the axis in x: 1 is the first spatial axis.
    size, out : int
        Length of x and of y on the axis.
    kernel, stride, padding, dilation : int
        Taps of a window; positions between windows; padding on either side; positions between taps.
    """

    number: int
    size: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    out: int

    def taps(self) -> Iterator[tuple[Any, ...]]:
        """Yield, for each tap, the index of padded x that selects this tap of all windows."""
        for k in range(self.kernel):
            first = k * self.dilation
            yield (
                *(slice(None),) * self.number,
                slice(first, first + (self.out - 1) * self.stride + 1, self.stride),
                ...,
            )

    def counts(self) -> HostArray:
        """Count the elements of x, without the padding, in each window on this axis."""
        first = np.arange(self.out)[:, None] * self.stride - self.padding
        positions = first + np.arange(self.kernel) * self.dilation
        counts: HostArray = np.sum((positions >= 0) & (positions < self.size), axis=1)
        return counts
