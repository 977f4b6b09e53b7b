"""Arrays as kernels see them: planes of positions, for the lanes of a vector.

Which row and column of an array stands at a position of a plane is looked up in tables, so that
every border is numbers: a negative offset reads zeros, or is not written.
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
class Side:
    """An array as a kernel sees it, in planes.

    Attributes
    ----------
    name : str
        The prefix of its words.
    format : Format
        Its numbers.
    unit : bool
        Are the channels of a vector neighbours in memory?
    rows, columns : int
        The positions of a plane that may hold something, counted from its corner.
    whole : bool
        Do all of them, in every plane?
    spread : bool
        Are the lanes tiles of a single channel, instead of channels?
    """

    name: str
    format: Format
    unit: bool
    rows: int
    columns: int
    whole: bool = False
    spread: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """Its words: address, steps, and tables of rows, of columns, and of which columns.

        With spread lanes: of both axes the step, the first element of the first tile, the size.
        """
        parts: tuple[str, ...] = (
            "",
            "_batch",
            "_channel",
            "_repeat",
            "_rows",
            "_kinds",
            "_columns",
            "_pitch",
        )
        if self.spread:
            parts = ("", "_batch", *(f"_{a}_{b}" for a in AXES for b in ("step", "first", "size")))
        return tuple(self.name + part for part in parts)


@dataclass(frozen=True)
class Plane:
    """The transform.

    Attributes
    ----------
    dtype : str
        Of the sums.
    lanes : int
        Channels in a vector.
    masked : bool
        Are there fewer channels than that?
    height, width : tuple of int
        The stages of its two lengths.
    pitch : int
        Complex vectors in a row of the buffer.
    flat : bool
        Are rows tiles of their own, without a transform down the columns?
    """

    dtype: str
    lanes: int
    masked: bool
    height: Radices
    width: Radices
    pitch: int
    flat: bool


@dataclass(frozen=True)
class Here:
    """Where a chunk of work is: example, first channel, and the plane's row and column of tiles."""

    example: Value
    channel: Value
    down: Value
    across: Value


class View:
    """One plane of an array, for vectors of channels.

    Parameters
    ----------
    code : Code
        The kernel.
    plane : Plane
        The transform.
    side : Side
        The array.
    here : Here
        Which of its planes.
    page : Pointer
        A vector of zeros to read from, or one to write to, for positions outside.
    """

    def __init__(self, code: Code, plane: Plane, side: Side, here: Here, page: Pointer) -> None:
        self.code, self.plane, self.side = code, plane, side
        name = side.name
        pointer = code.array(name, side.format.stored)
        self.page = Pointer(code, page.ir, pointer.element)
        self.pointer = pointer.at(here.example * code[f"{name}_batch"])
        self.mask = None
        if plane.masked:
            self.mask = code.first_lanes(code["channels"] - here.channel, plane.lanes)
        if side.unit:
            self.pointer, self.apart = self.pointer.at(here.channel), None
        else:
            kind = ir.VectorType(INT64, plane.lanes)
            numbers = Value(code, ir.Constant(kind, list(range(plane.lanes))))
            channels = numbers + code.splat(here.channel, plane.lanes)
            channels = channels // code.splat(code[f"{name}_repeat"], plane.lanes)
            self.apart = channels * code.splat(code[f"{name}_channel"], plane.lanes)
        first = here.down * side.rows
        self.rows = code.array(f"{name}_rows", "int64").at(first)
        self.kinds = code.array(f"{name}_kinds", "int64").at(first)
        self.columns = code.array(f"{name}_columns", "int64").at(
            here.across * code[f"{name}_pitch"]
        )

    def row(self, slot: Value) -> Row:
        """One of its rows."""
        columns = self.columns.at(self.kinds.at(slot).load())
        return Row(self, self.rows.at(slot).load(), columns)

    def mask_of(self, inside: Value) -> Mask:
        """The channels that exist, if the position does."""
        wide = self.code.every_lane(inside, self.plane.lanes)
        return wide if self.mask is None else wide & self.mask

    def pointer_of(self, offset: Value) -> Pointer:
        """Where neighbouring channels lie, or the page."""
        pointer = self.pointer.at(offset)
        return pointer if self.side.whole else (offset < 0).pick_pointer(self.page, pointer)


class Row:
    """A row of a plane.

    Parameters
    ----------
    view : View
        The plane.
    offset : Value
        Of the row; negative if it is outside.
    columns : Pointer
        The offsets of its positions.
    """

    def __init__(self, view: View, offset: Value, columns: Pointer) -> None:
        self.view, self.offset, self.columns = view, offset, columns

    def _at(self, at: Value, plus: int) -> Value:
        return self.offset + self.columns.at(at).at(plus).load()

    def get(self, at: Value, plus: int) -> Value:
        """The vector at a position; zeros outside."""
        view, offset = self.view, self._at(at, plus)
        f = view.side.format
        if view.apart is None:
            return vectors.load(view.pointer_of(offset), f, view.plane.lanes, view.mask, None)
        mask = view.mask_of(offset >= 0)
        return vectors.gathered(view.pointer.at(offset), f, view.apart, mask)

    def put(self, at: Value, plus: int, value: Value) -> None:
        """Write the vector of a position, unless it is outside."""
        view, offset = self.view, self._at(at, plus)
        f = view.side.format
        if view.apart is None:
            vectors.store(view.pointer_of(offset), value, f, view.mask, None)
        else:
            mask = view.mask_of(offset >= 0)
            vectors.scattered(view.pointer.at(offset), value, f, view.apart, mask)
