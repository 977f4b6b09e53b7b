"""A single channel as kernels see it: its tiles are the lanes of a vector."""

from __future__ import annotations

from llvmlite import ir

from einstride.codegen import vector_formats as vectors
from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.ir_types import INT64
from einstride.cpu.fft.views import Here, Plane, Side, View


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
        self.pointer = code.array(side.name, side.format.stored)
        kind = ir.VectorType(INT64, plane.lanes)
        lanes = Value(code, ir.Constant(kind, list(range(plane.lanes))))
        number = lanes + self.wide(group * plane.lanes)
        tiles = code["down"] * code["across"]
        self.exist = number < self.wide(tiles * code["examples"])
        example, rest = number // self.wide(tiles), number % self.wide(tiles)
        down, across = rest // self.wide(code["across"]), rest % self.wide(code["across"])
        if plane.flat:  # the rows of a plane are tiles that follow each other
            down, across = across, down * self.wide(code.number(side.rows))
        self.top = down * self.argument("down", "tile") + self.argument("down", "first")
        self.left = across * self.argument("across", "tile") + self.argument("across", "first")
        self.apart = (
            example * self.wide(code[f"{side.name}_batch"])
            + self.top * self.argument("down", "step")
            + self.left * self.argument("across", "step")
        )

    def wide(self, number: Value) -> Value:
        """In every lane."""
        return self.code.splat(number, self.plane.lanes)

    def argument(self, axis: str, what: str) -> Value:
        """A word of an axis, in every lane."""
        name = f"{axis}_tile" if what == "tile" else f"{self.side.name}_{axis}_{what}"
        return self.wide(self.code[name])

    def inside(self, axis: str, numbers: Value) -> Value:
        """Are these elements of an axis there? Negative numbers are large without a sign."""
        found = self.code.builder.icmp_unsigned("<", numbers.ir, self.argument(axis, "size").ir)
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

    def _at(self, at: Value, plus: int) -> tuple[Pointer, Value]:
        view = self.view
        column = at + plus if self.further is None else at + self.further + plus
        offset = column * view.code[f"{view.side.name}_across_step"]
        pointer = view.pointer.at(offset if self.offset is None else offset + self.offset)
        return pointer, self.mask & view.inside("across", view.left + view.wide(column))

    def get(self, at: Value, plus: int) -> Value:
        """The number at a position of each plane; zeros outside."""
        pointer, mask = self._at(at, plus)
        return vectors.gathered(pointer, self.view.side.format, self.view.apart, mask)

    def put(self, at: Value, plus: int, value: Value) -> None:
        """Write it, unless it is outside."""
        pointer, mask = self._at(at, plus)
        lanes = self.view.code.mask(mask)
        vectors.scattered(pointer, value, self.view.side.format, self.view.apart, lanes)


def view_of(code: Code, plane: Plane, side: Side, here: Here, page: Pointer) -> View | Tiles:
    """The planes of a chunk."""
    if side.spread:
        return Tiles(code, plane, side, here.example)
    return View(code, plane, side, here, page)
