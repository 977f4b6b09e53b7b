"""List the elements that the taps of a depthwise layer meet, per axis: in x, or in gy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from einstride.cpu.depthwise.spec import NO_ELEMENT, Pattern
from einstride.cpu.runtime.offset_tables import at_taps
from einstride.cpu.runtime.offset_tables import padded_elements as padded_sources
from einstride.geometry.convolution import Geometry


@dataclass(frozen=True)
class Sources:
    """The elements that the taps of each position meet on one axis.

    Attributes
    ----------
    elements : array
        (positions, taps) the element that the tap reads, negative in padding of zeros.
    indices : array
        (positions, taps) the index into `padded` of that element, `NO_ELEMENT` if a tap meets none.
    padded : array
        The element at each index of the padded axis, negative in padding of zeros.
    first : int
        The index of element 0.
    advance, alignment : int
        Indices increase by `advance` when positions increase by `alignment`.
    """

    elements: Any
    indices: Any
    padded: Any
    first: int
    advance: int
    alignment: int


def forward_sources(g: Geometry, a: int) -> Sources:
    """Forward pass: tap k of position o meets index o * stride + k * dilation of `padded`."""
    padded = padded_sources(g, a)
    o, k = np.arange(g.out[a])[:, None], np.arange(g.kernel[a])
    indices = o * g.stride[a] + k * g.dilation[a]
    return Sources(at_taps(padded, g, a), indices, padded, g.padding[a][0], g.stride[a], 1)


def gradient_sources(g: Geometry, a: int) -> Sources:
    """Input gradient: tap k of position i meets element (i + low - k * dilation) / stride of gy.

    It meets none if the quotient is no integer.
    """
    s, d, low = g.stride[a], g.dilation[a], g.padding[a][0]
    wide = np.arange(g.size[a])[:, None] + low - np.arange(g.kernel[a]) * d
    found, left = np.divmod(wide, s)
    before = max(-int(found.min(initial=0)), 0)
    padded = np.arange(-before, max(int(found.max(initial=0)) + 1, g.out[a]))
    padded = np.where((padded < 0) | (padded >= g.out[a]), -1, padded)
    indices = np.where(left == 0, found + before, NO_ELEMENT)
    elements = np.where(left == 0, padded[found + before], -1)
    return Sources(elements, indices, padded, before, 1, s)


def pattern_of(last: Sources, tile: int, unrolled: bool) -> Pattern:
    """The elements that the taps of an unrolled row meet, or indices that a tile's taps meet."""
    found = (
        np.where(last.elements < 0, NO_ELEMENT, last.elements) if unrolled else last.indices[:tile]
    )
    return tuple(map(tuple, found.tolist()))


def interior(last: Sources, size: int) -> tuple[int, int]:
    """The longest range of positions whose taps all meet elements of the array or none.

    Their addresses are computed from strides, without a table.
    """
    meets = last.indices != NO_ELEMENT
    inside = (last.indices >= last.first) & (last.indices < last.first + size)
    border = np.flatnonzero(~(inside | ~meets).all(axis=1))  # a stride's phases end differently
    edges = np.concatenate([[-1], border, [len(meets)]])
    longest = int(np.argmax(np.diff(edges)))
    return int(edges[longest]) + 1, int(edges[longest + 1])
