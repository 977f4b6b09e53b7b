"""What the FFT kernels share: kernel arguments, scratch memory, addresses in buffers.

A worker's scratch holds, in this order: a complex vector of zeros, one that discarded results are
stored to, tables of offsets, two lines, and the buffer of a plane. All sizes are kernel arguments:
a kernel does planes of any size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.vector_formats import shuffle
from einstride.cpu.fft.codelets import Complex, Real, add, mul
from einstride.cpu.fft.lines import Line, load, store
from einstride.cpu.fft.planes import rows_to_spectra, spectra_to_rows
from einstride.cpu.fft.positions import write_fill
from einstride.cpu.fft.tiles import TileView
from einstride.cpu.fft.views import Operand, Plane, PlaneIndex, View
from einstride.cpu.runtime.offset_tables import OUTSIDE

EMPTY = OUTSIDE
"""The offset of a plane that does not exist."""

NO_TILE = 1 << 40
"""A number that no tile has: its table is empty."""

LINES = tuple(axis + part for axis in ("height", "width") for part in Line.ARGUMENTS)

COMMON = (
    "counter", "chunks", "first", "blocks", "channels", "batch", "examples", "count", "share",
    "down", "across", "scratch", "worker_scratch", "line", "second", "buffer", "gy_buffer",
    "buffer_end", "pitch", *LINES, "transform", "scale",
    "pairs", "spectra", "slots", "bias", "tile_rows",
)  # fmt: skip
"""The arguments of every kernel: chunks of work, tiles, sizes and places in the scratch, tables."""


def arguments(*operands: Operand) -> tuple[str, ...]:
    """List the names of the arguments of a kernel with these operands."""
    return (*COMMON, *(argument for operand in operands for argument in operand.arguments))


class Kernel:
    """A kernel while it is generated: its arguments, scratch and transforms.

    Parameters
    ----------
    name : str
        The name of the kernel.
    plane : Plane
        The transform.
    *operands : Operand
        How its arrays are loaded and stored.
    """

    def __init__(self, name: str, plane: Plane, *operands: Operand) -> None:
        self.code = code = Code(name, arguments(*operands))
        self.plane = plane
        self.size = 2 * plane.lanes
        scratch = code.array("scratch", plane.dtype).at(code.worker * code["worker_scratch"])
        lanes = plane.lanes
        zero = code.zero(plane.dtype, lanes)
        scratch.store(zero)
        scratch.at(lanes).store(zero)
        self.zeros, self.discarded = scratch, scratch.at(2 * lanes)
        self.tables = code.pointer(scratch.at(4 * lanes).address, "int64")
        self.line, self.second = scratch.at(code["line"]), scratch.at(code["second"])
        self.buffer, self.gy_buffer, self.buffer_end = (
            scratch.at(code[name]) for name in ("buffer", "gy_buffer", "buffer_end")
        )
        self.scale = code.splat(code.array("scale", plane.dtype).load(), lanes)
        self.width, self.height = (
            Line(code, plane.dtype, lanes, axis) for axis in ("width", "height")
        )
        self.half = self.width.length // 2 + 1
        self.pairs = code.array("pairs", "int64")
        self.fill = write_fill(code)

    def channel(self, block: Value) -> Value:
        """Return the first channel of a block; the last block overlaps the one before."""
        code, lanes = self.code, self.plane.lanes
        if self.plane.masked:
            return code.number(0)
        return ((block + code["first"]) * lanes).minimum(code["channels"] - lanes)

    def spectra(self, number: Value) -> Pointer:
        """Return the address of the spectrum with this number."""
        size = self.half * self.height.length * self.size
        return self.code.array("spectra", self.plane.dtype).at(number * size)

    def column(self, spectra: Pointer, k: Value) -> Pointer:
        """Return the address of column k of a spectrum."""
        return spectra.at(k * (self.height.length * self.size))

    def number(self, buffer: Pointer, row: Value, k: Value) -> Pointer:
        """Return the address of frequency k of a row of the buffer."""
        return buffer.at((row * self.code["pitch"] + k) * self.size)

    def load(self, pointer: Pointer) -> Complex:
        """Load a complex vector."""
        return load(pointer, self.plane.lanes)

    def store(self, pointer: Pointer, number: Complex) -> None:
        """Store a complex vector."""
        store(pointer, number, self.plane.dtype, self.plane.lanes)

    def scaled(self, number: Complex) -> Complex:
        """Multiply a number by the inverse of the transforms' lengths and of four."""
        return mul(number[0], self.scale), mul(number[1], self.scale)

    def sum_of_lanes(self, number: Complex) -> Complex:
        """Add up the lanes of a complex vector: each lane holds the sum."""
        lanes, distance = self.plane.lanes, self.plane.lanes // 2
        real, imaginary = number
        while distance:
            order = [(i + distance) % lanes for i in range(lanes)]
            real, imaginary = (
                add(part, None if part is None else shuffle(part, order))
                for part in (real, imaginary)
            )
            distance //= 2
        return real, imaginary

    @contextmanager
    def frequencies(self, operand: Operand) -> Iterator[tuple[Value, Value]]:
        """Loop over the rows of one spatial axis, and over the frequencies of each."""
        rows = self.code[f"{operand.name}_row_count"]
        with self.code.loop(0, rows) as row, self.code.loop(0, self.half) as k:
            yield row, k

    def load_column(self, buffer: Pointer, k: Value, operand: Operand, line: Pointer) -> None:
        """Copy column k of the buffer to a line, with zeros behind it."""
        rows = self.code[f"{operand.name}_row_count"]
        with self.code.loop(0, rows) as row:
            self.store(self.height.at(line, row), self.load(self.number(buffer, row, k)))
        self.height.fill_zeros(line, rows)

    def store_column(self, line: Pointer, buffer: Pointer, k: Value, operand: Operand) -> None:
        """Copy the beginning of a line to column k of the buffer."""
        with self.code.loop(0, self.code[f"{operand.name}_row_count"]) as row:
            self.store(self.number(buffer, row, k), self.load(self.height.at(line, row)))

    def rows_to_spectra(self, operand: Operand, index: PlaneIndex, buffer: Pointer) -> None:
        """Transform the rows of a plane to spectra in the buffer."""
        view = self._view(operand, index, self.zeros)
        rows_to_spectra(self.width, self.line, self.pairs, view, buffer, self.code["pitch"])

    def spectra_to_rows(self, operand: Operand, index: PlaneIndex, bias: Real) -> None:
        """Transform spectra in the buffer to the rows of a plane."""
        view = self._view(operand, index, self.discarded)
        spectra_to_rows(
            self.width, self.line, self.pairs, view, self.buffer, self.code["pitch"], self.zeros,
            bias,
        )  # fmt: skip

    def _view(self, operand: Operand, index: PlaneIndex, outside: Pointer) -> View | TileView:
        """Return the view of a plane, or of a vector of planes, after its tables are filled."""
        code, name = self.code, operand.name
        if name == "f":
            tables = code.array("f_rows", "int64"), code.array("f_columns", "int64")
            return View(code, self.plane, operand, index, outside, *tables)
        rows, columns = (self.tables.at(code[f"{name}_{part}"]) for part in ("rows", "columns"))
        if operand.tiled_lanes:
            self._fill_lanes(operand, index.example, rows, columns)
            return TileView(code, self.plane, operand, rows, columns)
        one, zero = code.number(1), code.number(0)
        self._fill(operand, (index.down, index.across), rows, columns, one, zero)
        return View(code, self.plane, operand, index, outside, rows, columns)

    def _fill_lanes(self, operand: Operand, group: Value, rows: Pointer, columns: Pointer) -> None:
        """Fill the tables of a vector of planes, lane by lane; planes behind the last are empty."""
        code, lanes = self.code, self.plane.lanes
        tiles = code["down"] * code["across"]
        count = tiles * code["examples"]
        step = code.number(lanes)
        with code.loop(0, lanes) as lane:
            number = group * lanes + lane
            tile = number % tiles
            index = tile // code["across"], tile % code["across"]
            base = number // tiles * code[f"{operand.name}_batch"]
            base = base + code[f"{operand.name}_first_example"]
            base = (number < count).select(base, code.number(EMPTY))
            if self.plane.flat:
                rows.at(lane).store(base)
            self._fill(operand, index, rows.at(lane), columns.at(lane), step, base)

    def _fill(
        self, operand: Operand, tile: tuple[Value, Value], rows: Pointer, columns: Pointer,
        step: Value, base: Value,
    ) -> None:  # fmt: skip
        """Fill the tables of one tile, with the base added to each row's offset."""
        code, name = self.code, operand.name
        across, zero = code[f"{name}_across"], code.number(0)
        if self.plane.flat:
            first = tile[0] * code["tile_rows"]
            with code.loop(0, 2) as slot:
                place = columns.at(slot * code[f"{name}_column_count"] * step)
                number = (slot < code["tile_rows"]).select(first + slot, code.number(NO_TILE))
                self._call_fill(across, place, step, number, zero)
            return
        self._call_fill(code[f"{name}_down"], rows, step, tile[0], base)
        self._call_fill(across, columns, step, tile[1], zero)

    def _call_fill(
        self, description: Value, table: Pointer, step: Value, tile: Value, base: Value
    ) -> None:
        self.code.call_subroutine(self.fill, (description, table.address, step, tile, base))

    def bias(self, index: PlaneIndex, tiled_lanes: bool) -> Value:
        """Load the bias of a vector of channels; zeros if there is none."""
        code, lanes = self.code, self.plane.lanes
        bias = code.array("bias", self.plane.dtype).at(index.channel)
        pointer = code["bias"].equals(0).select_pointer(self.zeros, bias)
        if tiled_lanes:
            return code.splat(pointer.load(), lanes)
        mask = code.first_lanes(code["channels"], lanes) if self.plane.masked else None
        return pointer.load(lanes, mask)

    def slot(self, buffer: Pointer, k: Value, position: Value, outside: Pointer) -> Pointer:
        """Return the address, in column k, of the filter's row in the table `slots` at a position.

        It is `outside` where the filter has no row.
        """
        row = self.code.array("slots", "int64").at(position).load()
        return (row < 0).select_pointer(outside, self.number(buffer, row, k))
