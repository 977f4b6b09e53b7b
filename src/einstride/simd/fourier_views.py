"""Arrays as kernels see them: planes of positions, for the lanes of a vector.

Which row and column of an array stands at a position of a plane is looked up in tables, so that
every border is numbers: a negative offset reads zeros, or is not written.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from einstride.simd import lanes as vectors
from einstride.simd.code import Code, Place, Value
from einstride.simd.elements import WORD
from einstride.simd.fourier_lines import Radices
from einstride.simd.lanes import Format


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
        parts = ("", "_batch", "_channel", "_repeat", "_rows", "_kinds", "_columns", "_pitch")
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
    page : Place
        A vector of zeros to read from, or one to write to, for positions outside.
    """

    def __init__(self, code: Code, plane: Plane, side: Side, here: Here, page: Place) -> None:
        self.code, self.plane, self.side = code, plane, side
        name = side.name
        place = code.array(name, side.format.element)
        self.page = Place(code, page.ir, place.element)
        self.place = place.at(here.example * code[f"{name}_batch"])
        self.mask = None
        if plane.masked:
            self.mask = code.first_lanes(code["channels"] - here.channel, plane.lanes)
        if side.unit:
            self.place, self.apart = self.place.at(here.channel), None
        else:
            kind = ir.VectorType(WORD, plane.lanes)
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

    def mask_of(self, inside: Value) -> Value:
        """The channels that exist, if the position does."""
        wide = self.code.splat(inside, self.plane.lanes)
        return wide if self.mask is None else wide & self.mask

    def place_of(self, offset: Value) -> Place:
        """Where neighbouring channels lie, or the page."""
        place = self.place.at(offset)
        return place if self.side.whole else (offset < 0).pick_place(self.page, place)


class Row:
    """A row of a plane.

    Parameters
    ----------
    view : View
        The plane.
    offset : Value
        Of the row; negative if it is outside.
    columns : Place
        The offsets of its positions.
    """

    def __init__(self, view: View, offset: Value, columns: Place) -> None:
        self.view, self.offset, self.columns = view, offset, columns

    def _at(self, at: Value, plus: int) -> Value:
        return self.offset + self.columns.at(at).at(plus).load()

    def get(self, at: Value, plus: int) -> Value:
        """The vector at a position; zeros outside."""
        view, offset = self.view, self._at(at, plus)
        f = view.side.format
        if view.apart is None:
            return vectors.load(view.place_of(offset), f, view.plane.lanes, view.mask, None)
        mask = view.mask_of(offset >= 0)
        return vectors.gathered(view.place.at(offset), f, view.apart, mask)

    def put(self, at: Value, plus: int, value: Value) -> None:
        """Write the vector of a position, unless it is outside."""
        view, offset = self.view, self._at(at, plus)
        f = view.side.format
        if view.apart is None:
            vectors.store(view.place_of(offset), value, f, view.mask, None)
        else:
            mask = view.mask_of(offset >= 0)
            vectors.scattered(view.place.at(offset), value, f, view.apart, mask)


class Tiles:
    """Planes of a single channel, one for each lane: tiles side by side, rows and examples.

    The lanes lie apart by the same steps at every position, so that an address and one vector of
    offsets say where all of them are; which lie outside is seen from their rows and columns.

    Parameters
    ----------
    code, plane, side :
        As of a `View`.
    group : Value
        Which vector of planes.
    """

    def __init__(self, code: Code, plane: Plane, side: Side, group: Value) -> None:
        self.code, self.plane, self.side = code, plane, side
        self.place = code.array(side.name, side.format.element)
        kind = ir.VectorType(WORD, plane.lanes)
        lanes = Value(code, ir.Constant(kind, list(range(plane.lanes))))
        number = lanes + self.wide(group * plane.lanes)
        tiles = code["down"] * code["across"]
        self.exist = number < self.wide(tiles * code["examples"])
        example, rest = number // self.wide(tiles), number % self.wide(tiles)
        down, across = rest // self.wide(code["across"]), rest % self.wide(code["across"])
        if plane.flat:  # the rows of a plane are tiles that follow each other
            down, across = across, down * self.wide(code.number(side.rows))
        self.top = down * self.word("down", "tile") + self.word("down", "first")
        self.left = across * self.word("across", "tile") + self.word("across", "first")
        self.apart = (
            example * self.wide(code[f"{side.name}_batch"])
            + self.top * self.word("down", "step")
            + self.left * self.word("across", "step")
        )

    def wide(self, number: Value) -> Value:
        """In every lane."""
        return self.code.splat(number, self.plane.lanes)

    def word(self, axis: str, what: str) -> Value:
        """A word of an axis, in every lane."""
        name = f"{axis}_tile" if what == "tile" else f"{self.side.name}_{axis}_{what}"
        return self.wide(self.code[name])

    def inside(self, axis: str, numbers: Value) -> Value:
        """Are these elements of an axis there? Negative numbers are large without a sign."""
        found = self.code.builder.icmp_unsigned("<", numbers.ir, self.word(axis, "size").ir)
        return Value(self.code, found)

    def row(self, slot: Value) -> TileRow:
        """One row of each plane."""
        if self.plane.flat:
            further = slot * self.code["across_tile"]
            return TileRow(self, self.exist, further)
        mask = self.exist & self.inside("down", self.top + self.wide(slot))
        return TileRow(self, mask, None, slot * self.code[f"{self.side.name}_down_step"])


class TileRow:
    """A row of each lane's plane.

    Parameters
    ----------
    view : Tiles
        The planes.
    mask : Value
        Which of them have the row.
    further : Value or None
        Positions to add to all columns.
    offset : Value or None
        Of the row.
    """

    def __init__(
        self, view: Tiles, mask: Value, further: Value | None, offset: Value | None = None
    ) -> None:
        self.view, self.mask, self.further, self.offset = view, mask, further, offset

    def _at(self, at: Value, plus: int) -> tuple[Place, Value]:
        view = self.view
        column = at + plus if self.further is None else at + self.further + plus
        offset = column * view.code[f"{view.side.name}_across_step"]
        place = view.place.at(offset if self.offset is None else offset + self.offset)
        return place, self.mask & view.inside("across", view.left + view.wide(column))

    def get(self, at: Value, plus: int) -> Value:
        """The number at a position of each plane; zeros outside."""
        place, mask = self._at(at, plus)
        return vectors.gathered(place, self.view.side.format, self.view.apart, mask)

    def put(self, at: Value, plus: int, value: Value) -> None:
        """Write it, unless it is outside."""
        place, mask = self._at(at, plus)
        vectors.scattered(place, value, self.view.side.format, self.view.apart, mask)


def view_of(code: Code, plane: Plane, side: Side, here: Here, page: Place) -> View | Tiles:
    """The planes of a chunk."""
    if side.spread:
        return Tiles(code, plane, side, here.example)
    return View(code, plane, side, here, page)
