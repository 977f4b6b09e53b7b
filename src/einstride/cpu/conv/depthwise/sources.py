"""List the elements that the taps of a depthwise layer meet, per axis: in x, or in gy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from einstride.cpu.runtime.offset_tables import padded_elements
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
    count, kernel : int
        Number of positions, and of taps.
    index_of : callable
        ``index_of(position, tap)``: the index into `padded` of the element that the tap reads,
        `NO_ELEMENT` if it meets none.
    padded : array
        The element at each index of the padded axis, negative in padding of zeros.
    first : int
        The index of element 0.
    advance, alignment : int
        Indices increase by `advance` when positions increase by `alignment`.
    """

    count: int
    kernel: int
    index_of: Callable[[Any, Any], Any]
    padded: Any
    first: int
    advance: int
    alignment: int

    def by_tap(self) -> Iterator[tuple[int, Any]]:
        """Enumerate the taps, each with the index into `padded` for every position."""
        for k in range(self.kernel):
            yield k, self.index_of(np.arange(self.count), k)

    def elements(self) -> Any:
        """Return (positions, taps) the element that a tap reads, negative in padding of zeros."""
        elements = np.empty((self.count, self.kernel), np.int64)
        for k, index in self.by_tap():
            is_outside = index == NO_ELEMENT
            elements[:, k] = np.where(is_outside, -1, self.padded[np.where(is_outside, 0, index)])
        return elements


def forward_sources(g: Geometry, a: int) -> Sources:
    """Forward pass: tap k of position o meets index o * stride + k * dilation of `padded`."""
    s, d = g.stride[a], g.dilation[a]
    return Sources(
        g.out[a], g.kernel[a], lambda o, k: o * s + k * d, padded_elements(g, a), g.padding[a][0],
        s, 1,
    )  # fmt: skip


def gradient_sources(g: Geometry, a: int) -> Sources:
    """Input gradient: tap k of position i meets element (i + low - k * dilation) / stride of gy.

    It meets none if the quotient is no integer.
    """
    s, d, low = g.stride[a], g.dilation[a], g.padding[a][0]
    elements_before = max(-((low - (g.kernel[a] - 1) * d) // s), 0)
    padded = np.arange(-elements_before, max((max(g.size[a] - 1, 0) + low) // s + 1, g.out[a]))
    padded = np.where((padded < 0) | (padded >= g.out[a]), -1, padded)

    def index_of(i: Any, k: Any) -> Any:
        quotient, remainder = np.divmod(i + low - k * d, s)
        return np.where(remainder == 0, quotient + elements_before, NO_ELEMENT)

    return Sources(g.size[a], g.kernel[a], index_of, padded, elements_before, 1, s)


def pattern_of(last: Sources, tile: int, unrolled: bool) -> Pattern:
    """List the elements that an unrolled row's taps meet, or the indices that a tile's meet."""
    if not unrolled:
        positions = np.arange(min(tile, last.count))[:, None]
        return tuple(map(tuple, last.index_of(positions, np.arange(last.kernel)).tolist()))
    elements = last.elements()
    return tuple(map(tuple, np.where(elements < 0, NO_ELEMENT, elements).tolist()))


def interior(last: Sources, size: int) -> tuple[int, int]:
    """Return the longest range of positions whose taps all meet elements of the array or none.

    Their addresses are computed from strides, without a table.
    """
    ends_outside = np.zeros(last.count, bool)  # a stride's phases end at different positions
    for _, index in last.by_tap():
        is_inside = (index >= last.first) & (index < last.first + size)
        ends_outside |= ~is_inside & (index != NO_ELEMENT)
    edges = np.concatenate([[-1], np.flatnonzero(ends_outside), [last.count]])
    longest = int(np.argmax(np.diff(edges)))
    return int(edges[longest]) + 1, int(edges[longest + 1])
