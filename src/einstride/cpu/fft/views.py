"""Load and store the planes of an array, with one channel per lane of a vector.

Tables give the offset of the row and of the column for each position of a tile (see `positions`),
so that every padding mode is only another table: a negative offset loads zeros, or is not stored.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from einstride.codegen import vector_formats as vectors
from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.ir_types import INT64
from einstride.codegen.vector_formats import Format


@dataclass(frozen=True)
class Operand:
    """How a kernel loads or stores one array, in planes.

    Attributes
    ----------
    name : {"x", "y", "f"}
        The prefix of its kernel arguments. A filter has one tile, and the caller makes its tables.
    format : Format
        The dtype in memory and the dtype of sums.
    contiguous : bool
        True if the channels of a vector are contiguous in memory.
    tiled_lanes : bool
        True if lanes hold tiles of a single channel instead of channels.
    """

    name: str
    format: Format
    contiguous: bool
    tiled_lanes: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        """The names of its kernel arguments.

        They are its address, strides, the numbers of rows and columns of a plane that may hold
        elements, the offset of the first example (if lanes hold tiles, for no offset may be
        negative), the tables of offsets, and the descriptions of its axes.
        """
        parts = ["", "_batch", "_channel", "_repeat", "_row_count", "_column_count"]
        parts += ["_rows", "_columns"]
        if self.tiled_lanes:
            parts.append("_first_example")
        if self.name != "f":
            parts += ["_down", "_across"]
        return tuple(self.name + part for part in parts)


@dataclass(frozen=True)
class Plane:
    """The transforms of planes that a kernel is compiled for, whatever the lengths of their axes.

    Attributes
    ----------
    dtype : str
        The dtype of transforms and sums.
    lanes : int
        Lanes of a vector.
    masked : bool
        True if there are fewer channels than lanes.
    flat : bool
        True for one spatial axis: rows are tiles of it, and columns are not transformed.
    lanes_summed : bool
        True if the sums of a filter gradient hold other tiles in each lane, to be added up.
    """

    dtype: str
    lanes: int
    masked: bool
    flat: bool
    lanes_summed: bool = False


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
    rows, columns : Pointer
        The offsets of the rows and columns of the plane. With one spatial axis every row has
        columns of its own, one table behind the other.
    """

    def __init__(
        self, code: Code, plane: Plane, operand: Operand, index: PlaneIndex, outside: Pointer,
        rows: Pointer, columns: Pointer,
    ) -> None:  # fmt: skip
        self.code, self.plane, self.operand = code, plane, operand
        self.rows, self.columns = rows, columns
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

    def row(self, slot: Value) -> Row:
        """Return the row `slot` of the plane."""
        if self.plane.flat and self.operand.name != "f":
            columns = self.columns.at(slot * self.code[f"{self.operand.name}_column_count"])
            return Row(self, self.code.number(0), columns)
        return Row(self, self.rows.at(slot).load(), self.columns)

    def mask_of(self, inside: Value) -> Mask:
        """Return the mask of the channels that exist, empty for a position outside of the array."""
        broadcast = self.code.every_lane(inside, self.plane.lanes)
        return broadcast if self.mask is None else broadcast & self.mask

    def pointer_of(self, offset: Value) -> Pointer:
        """Return the address of the vector at an offset; `outside` if the offset is negative."""
        return (offset < 0).select_pointer(self.outside, self.pointer.at(offset))


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

    def get(self, position: Value) -> Value:
        """Load the vector at a position; zeros outside of the array."""
        view, offset = self.view, self.offset + self.columns.at(position).load()
        f = view.operand.format
        if view.lane_offsets is None:
            return vectors.load(view.pointer_of(offset), f, view.plane.lanes, view.mask, None)
        mask = view.mask_of(offset >= 0)
        return vectors.gather(view.pointer.at(offset), f, view.lane_offsets, mask)

    def put(self, position: Value, value: Value) -> None:
        """Store the vector at a position, unless it is outside of the array."""
        view, offset = self.view, self.offset + self.columns.at(position).load()
        f = view.operand.format
        if view.lane_offsets is None:
            vectors.store(view.pointer_of(offset), value, f, view.mask, None)
        else:
            mask = view.mask_of(offset >= 0)
            vectors.scatter(view.pointer.at(offset), value, f, view.lane_offsets, mask)
