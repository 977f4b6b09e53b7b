"""Where the taps of a depthwise layer lie, axis by axis, for the passes that read x or gy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from einstride.cpu.depthwise.spec import NOWHERE, Pattern
from einstride.cpu.runtime.offset_tables import at_taps
from einstride.cpu.runtime.offset_tables import padded_elements as padded_sources
from einstride.geometry.convolution import Geometry


@dataclass(frozen=True)
class Sources:
    """Where the taps of the positions of an axis lie.

    Attributes
    ----------
    table : array
        (positions, taps) the element of the array that is read, negative outside.
    places : array
        (positions, taps) the same counted in `padded`, `NOWHERE` where a tap meets none.
    padded : array
        The element at each place of the axis with its border, negative outside.
    first : int
        The place of element 0.
    move, group : int
        So many places further for so many positions further.
    """

    table: Any
    places: Any
    padded: Any
    first: int
    move: int
    group: int


def forward_sources(g: Geometry, a: int) -> Sources:
    """Position o meets places o * stride + k * dilation of the padded axis."""
    padded = padded_sources(g, a)
    o, k = np.arange(g.out[a])[:, None], np.arange(g.kernel[a])
    places = o * g.stride[a] + k * g.dilation[a]
    return Sources(at_taps(padded, g, a), places, padded, g.padding[a][0], g.stride[a], 1)


def gradient_sources(g: Geometry, a: int) -> Sources:
    """Position i meets gy at (i + low - k * dilation) / stride, where that is an integer."""
    s, d, low = g.stride[a], g.dilation[a], g.padding[a][0]
    wide = np.arange(g.size[a])[:, None] + low - np.arange(g.kernel[a]) * d
    found, left = np.divmod(wide, s)
    before = max(-int(found.min(initial=0)), 0)
    padded = np.arange(-before, max(int(found.max(initial=0)) + 1, g.out[a]))
    padded = np.where((padded < 0) | (padded >= g.out[a]), -1, padded)
    places = np.where(left == 0, found + before, NOWHERE)
    table = np.where(left == 0, padded[found + before], -1)
    return Sources(table, places, padded, before, 1, s)


def pattern_of(last: Sources, tile: int, short: bool) -> Pattern:
    """The elements under the taps of a short row, or the places under those of a tile."""
    found = np.where(last.table < 0, NOWHERE, last.table) if short else last.places[:tile]
    return tuple(map(tuple, found.tolist()))


def interior(last: Sources, size: int) -> tuple[int, int]:
    """The longest range of positions whose taps all meet elements, as they lie in memory."""
    meets = last.places != NOWHERE
    inside = (last.places >= last.first) & (last.places < last.first + size)
    border = np.flatnonzero(~(inside | ~meets).all(axis=1))  # a stride's phases end differently
    edges = np.concatenate([[-1], border, [len(meets)]])
    longest = int(np.argmax(np.diff(edges)))
    return int(edges[longest]) + 1, int(edges[longest + 1])
