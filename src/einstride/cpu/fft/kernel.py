"""What the FFT kernels share: kernel arguments, scratch memory, addresses in buffers.

A worker's scratch holds, in this order: a complex vector of zeros, one that discarded results are
stored to, two lines, and the buffer of a plane.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.cpu.fft.codelets import Real
from einstride.cpu.fft.lines import Line
from einstride.cpu.fft.planes import rows_to_spectra, spectra_to_rows
from einstride.cpu.fft.tiles import view_of
from einstride.cpu.fft.views import Operand, Plane, PlaneIndex

COMMON = (
    "counter", "chunks", "first", "blocks", "channels", "batch", "examples", "down", "across",
    "down_tile", "across_tile", "scratch", "worker_scratch", "by_height", "by_width", "pairs",
    "spectra", "slots", "bias",
)  # fmt: skip
"""The arguments of every kernel: chunks of work, tiles of an array, tables."""


def arguments(*operands: Operand) -> tuple[str, ...]:
    """List the names of the arguments of a kernel with these operands."""
    return (*COMMON, *(argument for operand in operands for argument in operand.arguments))


def lines(plane: Plane) -> int:
    """Count the elements of the scratch before the buffer."""
    length = max(prod(plane.height), prod(plane.width), 1)
    return (4 + 4 * length) * plane.lanes


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
        """Return the first channel of a block; the last block overlaps the one before."""
        code, lanes = self.code, self.plane.lanes
        if self.plane.masked:
            return code.number(0)
        return ((block + code["first"]) * lanes).minimum(code["channels"] - lanes)

    def spectra(self, number: Value) -> Pointer:
        """Return the address of the spectrum with this number."""
        size = self.half * self.height.length * self.size
        return self.code.array("spectra", self.plane.dtype).at(number * size)

    def buffer_after(self, rows: int) -> Pointer:
        """Return the address in the scratch behind `rows` rows of the buffer."""
        return self.buffer.at(rows * self.plane.pitch * self.size)

    def column(self, spectra: Pointer, k: Value) -> Pointer:
        """Return the address of column k of a spectrum."""
        return spectra.at(k * (self.height.length * self.size))

    @contextmanager
    def columns(self, operand: Operand) -> Iterator[tuple[Value, Value]]:
        """Loop over the columns of the buffer; for one spatial axis, over those of each row."""
        rows = operand.rows if self.plane.flat else 1
        with self.code.loop(0, rows) as row, self.code.loop(0, self.half) as k:
            yield row, k

    def height_of(self, operand: Operand) -> int:
        """Return the rows that the transform of a column spans."""
        return 1 if self.plane.flat else operand.rows

    def row(self, buffer: Pointer, row: Value) -> Pointer:
        """Return the address of a row of the buffer."""
        return buffer.at(row * (self.plane.pitch * self.size))

    def rows_to_spectra(self, operand: Operand, index: PlaneIndex, buffer: Pointer) -> None:
        """Transform the rows of a plane to spectra in the buffer."""
        view = view_of(self.code, self.plane, operand, index, self.zeros)
        rows_to_spectra(self.code, self.width, self.pairs, view, buffer, self.plane.pitch)

    def spectra_to_rows(self, operand: Operand, index: PlaneIndex, bias: Real) -> None:
        """Transform spectra in the buffer to the rows of a plane."""
        view = view_of(self.code, self.plane, operand, index, self.discarded)
        spectra_to_rows(
            self.code, self.width, self.pairs, view, self.buffer, self.plane.pitch, bias
        )

    def bias(self, index: PlaneIndex, tiled_lanes: bool) -> Value:
        """Load the bias of a vector of channels; zeros if there is none."""
        code, lanes = self.code, self.plane.lanes
        bias = code.array("bias", self.plane.dtype).at(index.channel)
        pointer = code["bias"].equals(0).select_pointer(self.zeros, bias)
        if tiled_lanes:
            return code.splat(pointer.load(), lanes)
        mask = code.first_lanes(code["channels"], lanes) if self.plane.masked else None
        return pointer.load(lanes, mask)

    def pointer(self, buffer: Pointer, k: Value, position: Value, shift: int) -> Pointer:
        """Return the address of row position + shift in column k of the buffer."""
        row_stride = self.plane.pitch * self.size
        return buffer.at(k * self.size).at(position * row_stride).at(shift * row_stride)

    def slot(
        self, buffer: Pointer, k: Value, position: Value, shift: int, outside: Pointer
    ) -> Pointer:
        """Return the address, in column k, of the filter's row in the table `slots` at a position.

        It is `outside` where the filter has no row.
        """
        row = self.code.array("slots", "int64").at(position).at(shift).load()
        row_stride = self.plane.pitch * self.size
        return (row < 0).select_pointer(outside, buffer.at(k * self.size).at(row * row_stride))
