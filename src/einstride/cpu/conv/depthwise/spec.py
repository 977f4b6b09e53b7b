"""What the depthwise kernel is compiled for: dtypes, register tile, and positions of its taps."""

from __future__ import annotations

from dataclasses import dataclass

from einstride.codegen.vector_formats import Format

NO_ELEMENT = -(1 << 20)
"""In a pattern: the tap of this position meets no element. No index is as negative."""

Pattern = tuple[tuple[int, ...], ...]
"""For each position of a tile or row and each tap: the element of x's row that it meets."""


@dataclass(frozen=True)
class Spec:
    """What the kernel is compiled for.

    Attributes
    ----------
    x, y : Format
        The formats of input and result.
    lanes, rank : int
        Lanes of a vector; spatial axes.
    rows, tile, taps : int
        R and P, rows and columns of the register tile, and T, taps of a row held in registers.
    resident : int
        Rows of taps if all taps stay in registers while a tile is summed, else 0.
    tail : int
        Channels in the last vector if it is not full, else 0.
    pattern : tuple of tuple of int
        For the whole row if `unrolled`; else for P positions, counted from the element that tap 0
        of the first one meets.
    unrolled : bool
        True if the tiles of a row are unrolled.
    alignment : int
        The tiles of a row that is not unrolled begin at multiples of it. An input gradient has its
        stride, since patterns repeat after as many positions; else 1.
    backwards : bool
        True if later taps meet earlier elements, as in an input gradient.
    prefetch : bool
        True if elements of later tiles are prefetched while a tile is summed.
    packed : int
        Vectors whose planes of x and taps are packed at once before they are summed; 0 if they are
        read in place.
    """

    x: Format
    y: Format
    lanes: int
    rank: int
    rows: int
    tile: int
    taps: int
    resident: int
    tail: int
    pattern: Pattern
    unrolled: bool
    alignment: int
    backwards: bool
    prefetch: bool
    packed: int
