"""Load and store the planes of an array, with one channel per lane of a vector.

Offset tables give the row and the column of the array for each position of a plane, so that every
padding mode is only another table: a negative offset loads zeros, or is not stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from einstride.codegen import vector_formats as vectors
from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.ir_types import INT64
from einstride.codegen.vector_formats import Format
from einstride.cpu.fft.lines import Radices

AXES = ("down", "across")


@dataclass(frozen=True)
class Operand:
    """How a kernel loads or stores one array, in planes.

    Attributes
    ----------
    name : str
        The prefix of its kernel arguments.
    format : Format
        The dtype in memory and the dtype of sums.
    contiguous : bool
        True if the channels of a vector are contiguous in memory.
    rows, columns : int
        Rows and columns of a plane that may hold elements; the rest holds zeros.
    whole : bool
        True if every position of these, in every plane, holds an element.
    tiled_lanes : bool
        True if lanes hold tiles of a single channel instead of channels.
    """

    name: str
    format: Format
    contiguous: bool
    rows: int
    columns: int
    all_inside: bool = False
    tiled_lanes: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of its kernel arguments: address, strides and offset tables.

        With tiled lanes, for each axis: its stride, the first element of the first tile, its size.
        """
        parts: tuple[str, ...] = (
            "",
            "_batch",
            "_channel",
            "_repeat",
            "_rows",
            "_row_columns",
            "_columns",
            "_pitch",
        )
        if self.tiled_lanes:
            parts = ("", "_batch", *(f"_{a}_{b}" for a in AXES for b in ("step", "first", "size")))
        return tuple(self.name + part for part in parts)


@dataclass(frozen=True)
class Plane:
    """The two-dimensional transform of a plane.

    Attributes
    ----------
    dtype : str
        The dtype of transforms and sums.
    lanes : int
        Lanes of a vector.
    masked : bool
        True if there are fewer channels than lanes.
    height, width : tuple of int
        The radices of the transforms along columns and along rows.
    pitch : int
        Complex vectors from one row of the buffer to the next.
    flat : bool
        True for one spatial axis: rows are tiles of it, and columns are not transformed.
    """

    dtype: str
    lanes: int
    masked: bool
    height: Radices
    width: Radices
    pitch: int
    flat: bool


@dataclass(frozen=True)
class PlaneIndex:
    """Which plane a kernel works on: example, first channel, tile row and tile column."""

    example: Value
    channel: Value
    down: Value
    across: Value


class View:
    """One plane of an array, with channels in the lanes.

    Parameters
    ----------
    code : Code
        The kernel.
    plane : Plane
        The transform.
    operand : Operand
        How the array is loaded or stored.
    index : PlaneIndex
        Which of its planes.
    outside : Pointer
        A vector that positions outside of the array load from (zeros) or are stored to.
    """

    def __init__(
        self, code: Code, plane: Plane, operand: Operand, index: PlaneIndex, outside: Pointer
    ) -> None:
        self.code, self.plane, self.operand = code, plane, operand
        name = operand.name
        pointer = code.array(name, operand.format.stored)
        self.outside = Pointer(code, outside.ir, pointer.element)
        self.pointer = pointer.at(index.example * code[f"{name}_batch"])
        self.mask = None
        if plane.masked:
            self.mask = code.first_lanes(code["channels"] - index.channel, plane.lanes)
        if operand.contiguous:
            self.pointer, self.lane_offsets = self.pointer.at(index.channel), None
        else:
            kind = ir.VectorType(INT64, plane.lanes)
            numbers = Value(code, ir.Constant(kind, list(range(plane.lanes))))
            channels = numbers + code.splat(index.channel, plane.lanes)
            channels = channels // code.splat(code[f"{name}_repeat"], plane.lanes)
            self.lane_offsets = channels * code.splat(code[f"{name}_channel"], plane.lanes)
        first = index.down * operand.rows
        self.rows = code.array(f"{name}_rows", "int64").at(first)
        self.row_columns = code.array(f"{name}_row_columns", "int64").at(first)
        self.columns = code.array(f"{name}_columns", "int64").at(
            index.across * code[f"{name}_pitch"]
        )

    def row(self, slot: Value) -> Row:
        """Return the row `slot` of the plane."""
        columns = self.columns.at(self.row_columns.at(slot).load())
        return Row(self, self.rows.at(slot).load(), columns)

    def mask_of(self, inside: Value) -> Mask:
        """Return the mask of the channels that exist, empty for a position outside of the array."""
        broadcast = self.code.every_lane(inside, self.plane.lanes)
        return broadcast if self.mask is None else broadcast & self.mask

    def pointer_of(self, offset: Value) -> Pointer:
        """Return the address of the vector at an offset; `outside` if the offset is negative."""
        pointer = self.pointer.at(offset)
        return (
            pointer
            if self.operand.all_inside
            else (offset < 0).select_pointer(self.outside, pointer)
        )


class Row:
    """One row of a plane.

    Parameters
    ----------
    view : View
        The plane.
    offset : Value
        The offset of the row; negative if it is outside of the array.
    columns : Pointer
        The address of the offsets of its positions.
    """

    def __init__(self, view: View, offset: Value, columns: Pointer) -> None:
        self.view, self.offset, self.columns = view, offset, columns

    def _offset_of(self, position: Value, shift: int) -> Value:
        return self.offset + self.columns.at(position).at(shift).load()

    def get(self, position: Value, shift: int) -> Value:
        """Load the vector at a position; zeros outside of the array."""
        view, offset = self.view, self._offset_of(position, shift)
        f = view.operand.format
        if view.lane_offsets is None:
            return vectors.load(view.pointer_of(offset), f, view.plane.lanes, view.mask, None)
        mask = view.mask_of(offset >= 0)
        return vectors.gather(view.pointer.at(offset), f, view.lane_offsets, mask)

    def put(self, position: Value, shift: int, value: Value) -> None:
        """Store the vector at a position, unless it is outside of the array."""
        view, offset = self.view, self._offset_of(position, shift)
        f = view.operand.format
        if view.lane_offsets is None:
            vectors.store(view.pointer_of(offset), value, f, view.mask, None)
        else:
            mask = view.mask_of(offset >= 0)
            vectors.scatter(view.pointer.at(offset), value, f, view.lane_offsets, mask)
