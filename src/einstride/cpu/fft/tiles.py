"""Load and store the planes of a single channel, with one tile per lane of a vector."""

from __future__ import annotations

from einstride.codegen import vector_formats as vectors
from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.cpu.fft.views import Operand, Plane


class TileView:
    """Planes of a single channel, one per lane, numbered by example, tile row and tile column.

    Parameters
    ----------
    code, plane, operand :
        As for a `View`.
    rows, columns : Pointer
        The offsets of the rows, with those of the examples, and of the columns: one vector for each
        position. With one spatial axis there are only the offsets of the examples, and every row
        has columns of its own.
    """

    def __init__(
        self, code: Code, plane: Plane, operand: Operand, rows: Pointer, columns: Pointer
    ) -> None:
        self.code, self.plane, self.operand = code, plane, operand
        self.pointer = code.array(operand.name, operand.format.stored)
        self.rows, self.columns = rows, columns

    def row(self, slot: Value) -> TileRow:
        """Return the row `slot` of each plane."""
        lanes = self.plane.lanes
        if self.plane.flat:
            count = self.code[f"{self.operand.name}_column_count"]
            return TileRow(self, self.rows.load(lanes), self.columns.at(slot * count * lanes))
        return TileRow(self, self.rows.at(slot * lanes).load(lanes), self.columns)


class TileRow:
    """The same row of every lane's plane.

    Parameters
    ----------
    view : TileView
        The planes.
    offsets : Value
        The offset of each lane's row; negative if it is outside of the array.
    columns : Pointer
        The address of the offsets of its positions.
    """

    def __init__(self, view: TileView, offsets: Value, columns: Pointer) -> None:
        self.view, self.offsets, self.columns = view, offsets, columns

    def _offsets_and_bits(self, position: Value) -> tuple[Value, Value]:
        lanes = self.view.plane.lanes
        offsets = self.offsets + self.columns.at(position * lanes).load(lanes)
        return offsets, offsets >= 0

    def get(self, position: Value) -> Value:
        """Load the number at a position of each plane; zeros outside of the array."""
        offsets, inside = self._offsets_and_bits(position)
        return vectors.gather(self.view.pointer, self.view.operand.format, offsets, inside)

    def put(self, position: Value, value: Value) -> None:
        """Store the number at a position of each plane that is not outside of the array."""
        offsets, inside = self._offsets_and_bits(position)
        mask = self.view.code.mask(inside)
        vectors.scatter(self.view.pointer, value, self.view.operand.format, offsets, mask)
