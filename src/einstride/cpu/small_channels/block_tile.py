"""What a kernel of `blocks` is compiled for, and what the tiles of one row of blocks share."""

from __future__ import annotations

from dataclasses import dataclass

from einstride.codegen.function_builder import Pointer, Value


@dataclass(frozen=True)
class BlockTile:
    """What a kernel is compiled for.

    Attributes
    ----------
    operand, compute, result : str
        The dtypes of gy, of the joined filter and the sums, and of gx.
    lanes : int
        Numbers in a vector.
    positions, vectors : int
        Blocks and vectors of columns in a tile.
    piece, pieces : int
        Neighbours in gx in a run, and runs in a panel.
    rank : int
        Spatial axes.
    forward : bool
        A forward pass: blocks of one output, whose columns are the output channels. Where all taps
        of the last axis stand in x they are one run of numbers, and one sum.
    stream : bool
        Whether results go to memory past the caches.
    """

    operand: str
    compute: str
    result: str
    lanes: int
    positions: int
    vectors: int
    piece: int
    pieces: int
    rank: int
    forward: bool = False
    stream: bool = False

    @property
    def width(self) -> int:
        """Columns in a panel, with those that fill up its last vector."""
        return self.lanes * self.vectors


@dataclass(frozen=True)
class Row:
    """What all tiles of a row share: where it reads and writes, and how much of each piece."""

    gy: Pointer
    gx: Pointer
    tables: list[Pointer]
    counts: list[Value]
    firsts: list[Value]
    places: list[Value]
