"""Describe how a kernel computes its contraction: one record that can be read and printed.

A schedule does not change which products are summed. It says what lies in the lanes of a vector and
in the rows of the register tile, which loops run around the tile and in which order, how operands
reach the registers, what happens at the border, and how results leave the registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from einstride.codegen.function_builder import Code
from einstride.codegen.vector_formats import Format
from einstride.cpu.conv.register_tile import RegisterTile


@dataclass(frozen=True)
class Schedule:
    """What every schedule has; each family of kernels adds fields and the words of its class.

    Attributes
    ----------
    x : Format
        The dtypes in memory and of products of x, or of gy in an input gradient.
    y : Format
        The dtypes in memory and of sums of y, or of gx or gy in a gradient.
    lanes, rows, vectors : int
        Elements of a vector; rows of the register tile, and vectors of a row.
    in_lanes, in_rows : str
        The index that runs along the lanes of vectors, and along the rows of the register tile.
    loops : str
        The loops around the register tile, from the outermost to the innermost.
    operands : str
        How the two operands reach the registers.
    edges : str
        What happens where taps leave x.
    stores : str
        How sums leave the registers.
    """

    x: Format
    y: Format
    lanes: int
    rows: int
    vectors: int

    in_lanes: ClassVar[str]
    in_rows: ClassVar[str]
    loops: ClassVar[str]
    operands: ClassVar[str]
    edges: ClassVar[str]
    stores: ClassVar[str] = "once, rounded to the dtype of the result"

    @property
    def compute(self) -> str:
        """The dtype of products and sums."""
        return self.x.computed

    @property
    def width(self) -> int:
        """Elements of a row of the register tile, and so of a panel of packed columns."""
        return self.lanes * self.vectors

    def register_tile(self, code: Code) -> RegisterTile:
        """Write a register tile whose sums are zero."""
        return RegisterTile(code, self.compute, self.lanes, self.rows, self.vectors)

    @property
    def sides(self) -> dict[str, int]:
        """The lengths of the sides of the register tile, by name."""
        return {"lanes": self.lanes, "vectors": self.vectors, self.in_rows: self.rows}

    def describe(self) -> dict[str, str]:
        """Describe the schedule in words, for plans."""
        return {
            "lanes": self.in_lanes, "loops": self.loops, "operands": self.operands,
            "edges": self.edges, "stores": self.stores,
        }  # fmt: skip
