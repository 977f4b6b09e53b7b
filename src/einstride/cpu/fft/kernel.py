"""What the kernels of `kernels` share: their words, their scratch, places in buffers.

A worker's scratch holds a vector of zeros and one for what nobody wants, two lines, and buffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.cpu.fft.codelets import Real
from einstride.cpu.fft.lines import Line
from einstride.cpu.fft.planes import rows_in, rows_out
from einstride.cpu.fft.tiles import view_of
from einstride.cpu.fft.views import Here, Plane, Side

COMMON = (
    "counter", "chunks", "first", "blocks", "channels", "batch", "examples", "down", "across",
    "down_tile", "across_tile", "scratch", "share", "by_height", "by_width", "pairs", "spectra",
    "slots", "bias",
)  # fmt: skip
"""The words of every kernel: chunks of work, what an array is cut into, tables."""


def arguments(*sides: Side) -> tuple[str, ...]:
    """The words of a kernel on these arrays."""
    return (*COMMON, *(argument for side in sides for argument in side.words))


def lines(plane: Plane) -> int:
    """Numbers in the scratch before the buffers."""
    length = max(prod(plane.height), prod(plane.width), 1)
    return (4 + 4 * length) * plane.lanes


class Kernel:
    """What all kernels begin with.

    Parameters
    ----------
    name : str
        Of the kernel.
    plane : Plane
        The transform.
    *sides : Side
        The arrays.
    """

    def __init__(self, name: str, plane: Plane, *sides: Side) -> None:
        self.code = code = Code(name, arguments(*sides))
        self.plane = plane
        self.size = 2 * plane.lanes
        scratch = code.array("scratch", plane.dtype).at(code.worker * code["share"])
        lanes = plane.lanes
        zero = code.zero(plane.dtype, lanes)
        scratch.store(zero)
        scratch.at(lanes).store(zero)
        self.zeros, self.waste = scratch, scratch.at(2 * lanes)
        first = scratch.at(4 * lanes)
        length = max(prod(plane.height), prod(plane.width), 1)
        self.second = first.at(length * self.size)
        self.buffer = scratch.at(lines(plane))

        def line(stages: tuple[int, ...], factors: str) -> Line:
            table = code.array(factors, plane.dtype)
            return Line(code, stages, plane.dtype, lanes, table, first)

        self.height, self.width = line(plane.height, "by_height"), line(plane.width, "by_width")
        self.half = self.width.length // 2 + 1
        self.pairs = code.array("pairs", "int64")

    def channel(self, block: Value) -> Value:
        """The first channel of a block; the last block overlaps the one before."""
        code, lanes = self.code, self.plane.lanes
        if self.plane.masked:
            return code.number(0)
        return ((block + code["first"]) * lanes).least(code["channels"] - lanes)

    def spectra(self, number: Value) -> Pointer:
        """A spectrum."""
        size = self.half * self.height.length * self.size
        return self.code.array("spectra", self.plane.dtype).at(number * size)

    def after(self, rows: int) -> Pointer:
        """The scratch behind so many rows of the buffer."""
        return self.buffer.at(rows * self.plane.pitch * self.size)

    def column(self, spectra: Pointer, k: Value) -> Pointer:
        """A column of one."""
        return spectra.at(k * (self.height.length * self.size))

    @contextmanager
    def columns(self, side: Side) -> Iterator[tuple[Value, Value]]:
        """Each column of the buffer; of rows that are tiles of their own, those of each."""
        rows = side.rows if self.plane.flat else 1
        with self.code.loop(0, rows) as row, self.code.loop(0, self.half) as k:
            yield row, k

    def height_of(self, side: Side) -> int:
        """Rows that are transformed together."""
        return 1 if self.plane.flat else side.rows

    def row(self, buffer: Pointer, row: Value) -> Pointer:
        """A row of the buffer."""
        return buffer.at(row * (self.plane.pitch * self.size))

    def rows_in(self, side: Side, here: Here, buffer: Pointer) -> None:
        """The spectra of a plane's rows."""
        view = view_of(self.code, self.plane, side, here, self.zeros)
        rows_in(self.code, self.width, self.pairs, view, buffer, self.plane.pitch)

    def rows_out(self, side: Side, here: Here, bias: Real) -> None:
        """A plane's rows from their spectra."""
        view = view_of(self.code, self.plane, side, here, self.waste)
        rows_out(self.code, self.width, self.pairs, view, self.buffer, self.plane.pitch, bias)

    def bias(self, here: Here, spread: bool) -> Value:
        """What is added to the results of a vector of channels; zeros for none."""
        code, lanes = self.code, self.plane.lanes
        added = code.array("bias", self.plane.dtype).at(here.channel)
        pointer = code["bias"].equals(0).pick_pointer(self.zeros, added)
        if spread:
            return code.splat(pointer.load(), lanes)
        mask = code.first_lanes(code["channels"], lanes) if self.plane.masked else None
        return pointer.load(lanes, mask)

    def pointer(self, buffer: Pointer, k: Value, at: Value, plus: int) -> Pointer:
        """A row of a column of the buffer."""
        step = self.plane.pitch * self.size
        return buffer.at(k * self.size).at(at * step).at(plus * step)

    def slot(self, buffer: Pointer, k: Value, at: Value, plus: int, page: Pointer) -> Pointer:
        """The same by a table; the page where that has none."""
        row = self.code.array("slots", "int64").at(at).at(plus).load()
        step = self.plane.pitch * self.size
        return (row < 0).pick_pointer(page, buffer.at(k * self.size).at(row * step))
