"""Planes of an array, and their spectra in a buffer that stays in a core's cache.

Two rows of real numbers are the real and the imaginary parts of one complex line. Of its spectrum
Z, with W(k) = Z(-k), the spectra of the rows are

    2 X(k) = Z(k) + conj W(k)        2 X'(k) = -i (Z(k) - conj W(k))

and only half of each is kept. A buffer holds, row by row, the first width // 2 + 1 frequencies;
the transforms down its columns follow in `fourier_kernels`. The factor 2 is left to the filter.

Which row and column of an array stands at a position of a plane is looked up in tables, so that
every border is numbers: a negative offset reads zeros, or is not written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from einstride.simd import lanes as vectors
from einstride.simd.code import Code, Place, Value
from einstride.simd.elements import WORD
from einstride.simd.fourier_codelets import Complex, Real, add, sub
from einstride.simd.fourier_lines import Line, Radices, load, store
from einstride.simd.lanes import Format


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
    """

    name: str
    format: Format
    unit: bool
    rows: int
    columns: int
    whole: bool = False

    @property
    def words(self) -> tuple[str, ...]:
        """Its words: address, steps, and tables of rows, of columns, and of which columns."""
        parts = ("", "_batch", "_channel", "_repeat", "_rows", "_kinds", "_columns", "_pitch")
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
        self.code, self.plane, self.side, self.page = code, plane, side, page
        name = side.name
        place = code.array(name, side.format.element)
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

    def row(self, slot: Value) -> tuple[Value, Place]:
        """The offset of a row, and the table of its columns."""
        return self.rows.at(slot).load(), self.columns.at(self.kinds.at(slot).load())

    def _mask(self, inside: Value) -> Value:
        kind = ir.VectorType(ir.IntType(1), self.plane.lanes)
        wide = self.code.splat(inside, self.plane.lanes)
        if self.mask is not None:
            wide = wide & self.mask
        assert wide.ir.type == kind
        return wide

    def get(self, offset: Value) -> Value:
        """The vector at an offset; zeros if that is negative."""
        f, lanes = self.side.format, self.plane.lanes
        place = self.place.at(offset)
        if self.apart is None:
            if not self.side.whole:
                place = (offset < 0).pick_place(self.page, place)
            return vectors.load(place, f, lanes, self.mask, None)
        return vectors.gathered(place, f, self.apart, self._mask(offset >= 0))

    def put(self, offset: Value, value: Value) -> None:
        """Write the vector at an offset, unless that is negative."""
        f = self.side.format
        place = self.place.at(offset)
        if self.apart is None:
            if not self.side.whole:
                place = (offset < 0).pick_place(self.page, place)
            vectors.store(place, value, f, self.mask, None)
            return
        found, mask = vectors.narrowed(value, f), self._mask(offset >= 0)
        kind = found.ir.type
        size = vectors._size(place)
        name = f"llvm.masked.scatter.{vectors._suffix(kind)}.v{kind.count}p0"
        given = [found, vectors.at(place, self.apart), size, mask]
        self.code.intrinsic(name, ir.VoidType(), given)


def in_pairs(code: Code, rows: int, step: Callable[[Value, int], None]) -> None:
    """Two rows at a time; the last one alone if their number is odd."""
    if rows > 1:
        with code.loop(0, rows - 1, 2) as slot:
            step(slot, 2)
    if rows % 2:
        step(code.number(rows - 1), 1)


def rows_in(code: Code, line: Line, pairs: Place, view: View, buffer: Place, pitch: int) -> None:
    """The spectra of an array's rows, into the buffer."""
    size, half = 2 * line.lanes, line.length // 2 + 1

    def step(slot: Value, count: int) -> None:
        found = [view.row(slot + i) for i in range(count)]

        def get(at: Value, plus: int) -> Complex:
            numbers: list[Real] = [
                view.get(row + columns.at(at).at(plus).load()) for row, columns in found
            ]
            return numbers[0], numbers[1] if count > 1 else None

        line.forward(get, line.put, view.side.columns)
        target = buffer.at(slot * (pitch * size))
        with code.loop(0, half) as k:
            z = line.get(pairs.at(k * 2).load(), 0)
            w = line.get(pairs.at(k * 2 + 1).load(), 0)
            place = target.at(k * size)
            store(place, (add(z[0], w[0]), sub(z[1], w[1])), line.dtype, line.lanes)
            if count > 1:
                other = add(z[1], w[1]), sub(w[0], z[0])
                store(place.at(pitch * size), other, line.dtype, line.lanes)

    in_pairs(code, view.side.rows, step)


def rows_out(
    code: Code, line: Line, pairs: Place, view: View, buffer: Place, pitch: int, bias: Real
) -> None:
    """The rows of an array from their spectra in the buffer, which `rows_in` would make of them."""
    size, half = 2 * line.lanes, line.length // 2 + 1

    def step(slot: Value, count: int) -> None:
        found = [view.row(slot + i) for i in range(count)]
        source = buffer.at(slot * (pitch * size))
        with code.loop(0, half) as k:
            place = source.at(k * size)
            a, b = load(place, line.lanes)
            c, d = load(place.at(pitch * size), line.lanes) if count > 1 else (None, None)
            line.put(pairs.at(k * 2 + 1).load(), 0, (add(a, d), sub(c, b)))
            line.put(pairs.at(k * 2).load(), 0, (sub(a, d), add(b, c)))

        def put(at: Value, plus: int, number: Complex) -> None:
            for (row, columns), part in zip(found, number, strict=False):
                value = add(part, bias)
                if value is not None:
                    view.put(row + columns.at(at).at(plus).load(), value)

        line.inverse(line.get, put, view.side.columns)

    in_pairs(code, view.side.rows, step)
