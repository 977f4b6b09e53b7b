"""What a depthwise kernel is compiled for: dtypes, its register tile, and where its taps lie."""

from __future__ import annotations

from dataclasses import dataclass

from einstride.codegen.vector_formats import Format

NOWHERE = -(1 << 20)
"""In a pattern: the tap of this position meets no element."""

Pattern = tuple[tuple[int, ...], ...]
"""For each position of a tile or row and each tap, the element of x's row."""


@dataclass(frozen=True)
class Spec:
    """What a kernel is made for.

    Attributes
    ----------
    x, y : Format
        The numbers of the input and of the result.
    lanes, rank : int
        Numbers in a vector; spatial axes.
    rows, tile, taps : int
        R, P, and T: how many taps of a row are in registers at once.
    held : int
        Rows of taps, if they all stay in registers while a tile is summed; else 0.
    last : int
        Lanes of the last vector of channels, 0 where it is full.
    pattern : tuple of tuple of int
        Of the whole row, if `short`; else of P positions, counted from the first one's place.
    short : bool
        Are a row's tiles written out?
    group : int
        Positions that a long row's tiles may begin at are multiples of it.
    backwards : bool
        Do later taps lie further back, as in an input gradient?
    ahead : bool
        Are later positions fetched into the cache while a tile is summed?
    packed : int
        How many vectors' planes of x and taps are copied side by side at once, before they are
        summed; 0 if they are read where they lie.
    """

    x: Format
    y: Format
    lanes: int
    rank: int
    rows: int
    tile: int
    taps: int
    held: int
    last: int
    pattern: Pattern
    short: bool
    group: int
    backwards: bool
    ahead: bool
    packed: int
