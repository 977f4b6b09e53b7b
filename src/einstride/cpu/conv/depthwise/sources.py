"""List the elements that the taps of a depthwise layer meet, per axis: in x, or in gy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from einstride.cpu.runtime.offset_tables import LOOKUPS, padded_elements
from einstride.geometry.convolution import Geometry

NO_ELEMENT = -(1 << 20)
"""In a pattern: the tap of this position meets no element. No index is as negative."""

Pattern = tuple[tuple[int, ...], ...]
"""For each position of a tile or row and each tap: the element of x's row that it meets."""


@dataclass(frozen=True)
class Sources:
    """Tell which elements the taps of each position meet on one axis.

    Attributes
    ----------
    count : int
        Number of positions.
    indices_of : callable
        ``indices_of(positions)``: (positions, taps) the index into `padded` of the element that a
        tap reads, `NO_ELEMENT` if it meets none.
    padded : array
        The element at each index of the padded axis, negative in padding of zeros.
    first : int
        The index of element 0.
    advance, alignment : int
        Indices increase by `advance` when positions increase by `alignment`.
    """

    count: int
    indices_of: Callable[[Any], Any]
    padded: Any
    first: int
    advance: int
    alignment: int

    def indices(self, first: int, last: int) -> Any:
        """Return (positions, taps) the indices into `padded` from position `first` up to `last`."""
        return self.indices_of(np.arange(first, last)[:, None])

    def blocks(self) -> Iterator[tuple[slice, Any]]:
        """Enumerate (positions, indices), a few thousand indices at a time."""
        rows = max(LOOKUPS // max(self.indices(0, 1).size, 1), 1)
        for first in range(0, self.count, rows):
            last = min(first + rows, self.count)
            yield slice(first, last), self.indices(first, last)

    def elements(self) -> Any:
        """Return (positions, taps) the element that a tap reads, negative in padding of zeros."""
        elements = np.empty((self.count, self.indices(0, 1).shape[1]), np.int64)
        for positions, indices in self.blocks():
            is_outside = indices == NO_ELEMENT
            elements[positions] = np.where(
                is_outside, -1, self.padded[np.where(is_outside, 0, indices)]
            )
        return elements


def forward_sources(g: Geometry, a: int) -> Sources:
    """Forward pass: tap k of position o meets index o * stride + k * dilation of `padded`."""
    taps = np.arange(g.kernel[a]) * g.dilation[a]
    padded = padded_elements(g, a)
    return Sources(
        g.out[a], lambda o: o * g.stride[a] + taps, padded, g.padding[a][0], g.stride[a], 1
    )


def gradient_sources(g: Geometry, a: int) -> Sources:
    """Input gradient: tap k of position i meets element (i + low - k * dilation) / stride of gy.

    It meets none if the quotient is no integer.
    """
    s, d, low = g.stride[a], g.dilation[a], g.padding[a][0]
    taps = np.arange(g.kernel[a]) * d
    elements_before = max(-((low - (g.kernel[a] - 1) * d) // s), 0)
    padded = np.arange(-elements_before, max((max(g.size[a] - 1, 0) + low) // s + 1, g.out[a]))
    padded = np.where((padded < 0) | (padded >= g.out[a]), -1, padded)

    def indices_of(i: Any) -> Any:
        quotient, remainder = np.divmod(i + low - taps, s)
        return np.where(remainder == 0, quotient + elements_before, NO_ELEMENT)

    return Sources(g.size[a], indices_of, padded, elements_before, 1, s)


def pattern_of(last: Sources, tile: int, unrolled: bool) -> Pattern:
    """List the elements that an unrolled row's taps meet, or the indices that a tile's meet."""
    if not unrolled:
        return tuple(map(tuple, last.indices(0, min(tile, last.count)).tolist()))
    elements = last.elements()
    return tuple(map(tuple, np.where(elements < 0, NO_ELEMENT, elements).tolist()))


def interior(last: Sources, size: int) -> tuple[int, int]:
    """Return the longest range of positions whose taps all meet elements of the array or none.

    Their addresses are computed from strides, without a table.
    """
    ends_outside = np.empty(last.count, bool)  # a stride's phases end at different positions
    for positions, indices in last.blocks():
        inside = (indices >= last.first) & (indices < last.first + size)
        ends_outside[positions] = ~(inside | (indices == NO_ELEMENT)).all(axis=1)
    edges = np.concatenate([[-1], np.flatnonzero(ends_outside), [last.count]])
    longest = int(np.argmax(np.diff(edges)))
    return int(edges[longest]) + 1, int(edges[longest + 1])
