"""Load and store the planes of a single channel, with one tile per lane of a vector."""

from __future__ import annotations

from llvmlite import ir

from einstride.codegen import vector_formats as vectors
from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.ir_types import INT64
from einstride.cpu.fft.views import Operand, Plane, PlaneIndex, View


class TileView:
    """Planes of a single channel, one per lane, numbered by example, tile row and tile column.

    The offsets between lanes are the same at every position of a plane, so one vector of offsets
    and the address of a position give all addresses; rows and columns tell which lanes are outside.

    Parameters
    ----------
    code, plane, operand :
        As for a `View`.
    group : Value
        The number of the vector of planes.
    """

    def __init__(self, code: Code, plane: Plane, operand: Operand, group: Value) -> None:
        self.code, self.plane, self.operand = code, plane, operand
        self.pointer = code.array(operand.name, operand.format.stored)
        kind = ir.VectorType(INT64, plane.lanes)
        lanes = Value(code, ir.Constant(kind, list(range(plane.lanes))))
        plane_numbers = lanes + self.broadcast(group * plane.lanes)
        tiles = code["down"] * code["across"]
        self.mask = plane_numbers < self.broadcast(tiles * code["examples"])
        example, tile = (
            plane_numbers // self.broadcast(tiles),
            plane_numbers % self.broadcast(tiles),
        )
        down, across = tile // self.broadcast(code["across"]), tile % self.broadcast(code["across"])
        if plane.flat:  # one spatial axis: the rows of a plane are consecutive tiles
            down, across = across, down * self.broadcast(code.number(operand.rows))
        self.first_row = down * self.argument("down", "tile") + self.argument("down", "first")
        self.first_column = across * self.argument("across", "tile") + self.argument(
            "across", "first"
        )
        self.lane_offsets = (
            example * self.broadcast(code[f"{operand.name}_batch"])
            + self.first_row * self.argument("down", "step")
            + self.first_column * self.argument("across", "step")
        )

    def broadcast(self, number: Value) -> Value:
        """Return the number in every lane."""
        return self.code.splat(number, self.plane.lanes)

    def argument(self, axis: str, quantity: str) -> Value:
        """Return the kernel argument of an axis, in every lane."""
        name = f"{axis}_tile" if quantity == "tile" else f"{self.operand.name}_{axis}_{quantity}"
        return self.broadcast(self.code[name])

    def inside(self, axis: str, numbers: Value) -> Value:
        """True in lanes whose element of an axis exists; unsigned, negative numbers are large."""
        is_inside = self.code.builder.icmp_unsigned("<", numbers.ir, self.argument(axis, "size").ir)
        return Value(self.code, is_inside)

    def row(self, slot: Value) -> TileRow:
        """Return the row `slot` of each plane."""
        if self.plane.flat:
            column_shift = slot * self.code["across_tile"]
            return TileRow(self, self.mask, column_shift)
        mask = self.mask & self.inside("down", self.first_row + self.broadcast(slot))
        return TileRow(self, mask, None, slot * self.code[f"{self.operand.name}_down_step"])


class TileRow:
    """The same row of every lane's plane.

    Parameters
    ----------
    view : Tiles
        The planes.
    mask : Value
        The lanes whose planes have the row.
    column_shift : Value or None
        Positions to add to all columns.
    offset : Value or None
        The offset of the row.
    """

    def __init__(
        self, view: TileView, mask: Value, column_shift: Value | None, offset: Value | None = None
    ) -> None:
        self.view, self.mask, self.column_shift, self.offset = view, mask, column_shift, offset

    def _pointer_and_mask(self, position: Value, shift: int) -> tuple[Pointer, Value]:
        view = self.view
        column = (
            position + shift if self.column_shift is None else position + self.column_shift + shift
        )
        offset = column * view.code[f"{view.operand.name}_across_step"]
        pointer = view.pointer.at(offset if self.offset is None else offset + self.offset)
        return pointer, self.mask & view.inside(
            "across", view.first_column + view.broadcast(column)
        )

    def get(self, position: Value, shift: int) -> Value:
        """Load the number at a position of each plane; zeros outside of the array."""
        pointer, mask = self._pointer_and_mask(position, shift)
        return vectors.gather(pointer, self.view.operand.format, self.view.lane_offsets, mask)

    def put(self, position: Value, shift: int, value: Value) -> None:
        """Store the number at a position of each plane that is not outside of the array."""
        pointer, mask = self._pointer_and_mask(position, shift)
        lanes = self.view.code.mask(mask)
        vectors.scatter(pointer, value, self.view.operand.format, self.view.lane_offsets, lanes)


def view_of(
    code: Code, plane: Plane, operand: Operand, index: PlaneIndex, outside: Pointer
) -> View | TileView:
    """Return the view of the planes of a chunk of work."""
    if operand.tiled_lanes:
        return TileView(code, plane, operand, index.example)
    return View(code, plane, operand, index, outside)
