"""Describe what the kernel of `blocks` is compiled for, and what the tiles of a row share."""

from __future__ import annotations

from dataclasses import dataclass

from einstride.codegen.function_builder import Pointer, Value


@dataclass(frozen=True)
class BlockTile:
    """What the kernel is compiled for.

    Attributes
    ----------
    operand, compute, result : str
        The dtypes of gy, of the rearranged filter and the sums, and of gx.
    lanes : int
        Lanes of a vector.
    positions, vectors : int
        Blocks, and vectors of columns, per tile.
    span, spans : int
        Elements of gx per contiguous span, and spans per panel.
    rank : int
        Spatial axes.
    forward : bool
        True for a forward pass: gy and gx stand for x and y, a block is one output, and its columns
        are the output channels. Where all taps of the last axis meet x they form one contiguous sum
        with the input channels.
    stream : bool
        True if results are stored past the caches (non-temporal stores).
    """

    operand: str
    compute: str
    result: str
    lanes: int
    positions: int
    vectors: int
    span: int
    spans: int
    rank: int
    forward: bool = False
    stream: bool = False

    @property
    def width(self) -> int:
        """Columns per panel, with those that fill up its last vector."""
        return self.lanes * self.vectors


@dataclass(frozen=True)
class Row:
    """What all tiles of a row of blocks share: addresses in gy and gx, offset tables, spans.

    For each span of a panel: its length, 0 outside of gx; its first element; its offset in gx.
    """

    gy: Pointer
    gx: Pointer
    tables: list[Pointer]
    counts: list[Value]
    firsts: list[Value]
    offsets: list[Value]
