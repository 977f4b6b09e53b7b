"""Convolution of each channel with its own filter by products of spectra: four kernels.

- `spectrum`   filter -> its spectrum, scaled
- `convolve`   x -> y, a tile at a time: rows, then columns to the frequencies, there the product
               and back while a column is in registers and first cache, then rows
- `gather`     x, gy -> the sum over tiles of X conj(G), for some examples
- `finish`     that sum -> the filter's gradient

A worker's scratch holds a vector of zeros and one for what nobody wants, two lines, and buffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

from einstride.simd.code import Code, Place, Value
from einstride.simd.fourier_codelets import (
    Complex,
    Real,
    plus,
    product,
    product_conjugate,
    times,
)
from einstride.simd.fourier_lines import Line, load, store
from einstride.simd.fourier_planes import rows_in, rows_out
from einstride.simd.fourier_views import Here, Plane, Side, view_of

COMMON = (
    "counter", "chunks", "first", "channels", "examples", "down", "across",
    "down_tile", "across_tile", "scratch", "share", "by_height", "by_width", "pairs", "spectra", "slots", "bias",
)  # fmt: skip


def arguments(*sides: Side) -> tuple[str, ...]:
    """The words of a kernel on these arrays."""
    return (*COMMON, *(word for side in sides for word in side.words))


def lines(plane: Plane) -> int:
    """Numbers in the scratch before the buffers."""
    length = max(prod(plane.height), prod(plane.width), 1)
    return (4 + 4 * length) * plane.lanes


class _Kernel:
    """What all of them begin with."""

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
        self.buffer = scratch.at((4 + 4 * length) * lanes)

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

    def spectra(self, number: Value) -> Place:
        """A spectrum."""
        size = self.half * self.height.length * self.size
        return self.code.array("spectra", self.plane.dtype).at(number * size)

    def column(self, spectra: Place, k: Value) -> Place:
        """A column of one."""
        return spectra.at(k * (self.height.length * self.size))

    @contextmanager
    def columns(self, side: Side) -> Iterator[tuple[Value, Value]]:
        """Each column of the buffer; of rows that are tiles of their own, those of each."""
        with self.code.loop(0, side.rows if self.plane.flat else 1) as row:
            with self.code.loop(0, self.half) as k:
                yield row, k

    def height_of(self, side: Side) -> int:
        """Rows that are transformed together."""
        return 1 if self.plane.flat else side.rows

    def row(self, buffer: Place, row: Value) -> Place:
        """A row of the buffer."""
        return buffer.at(row * (self.plane.pitch * self.size))

    def rows_in(self, side: Side, here: Here, buffer: Place) -> None:
        view = view_of(self.code, self.plane, side, here, self.zeros)
        rows_in(self.code, self.width, self.pairs, view, buffer, self.plane.pitch)

    def rows_out(self, side: Side, here: Here, bias: Real) -> None:
        view = view_of(self.code, self.plane, side, here, self.waste)
        rows_out(self.code, self.width, self.pairs, view, self.buffer, self.plane.pitch, bias)

    def bias(self, here: Here, spread: bool) -> Value:
        """What is added to the results of a vector of channels; zeros for none."""
        code, lanes = self.code, self.plane.lanes
        added = code.array("bias", self.plane.dtype).at(here.channel)
        place = code["bias"].equals(0).pick_place(self.zeros, added)
        if spread:
            return code.splat(place.load(), lanes)
        mask = code.first_lanes(code["channels"], lanes) if self.plane.masked else None
        return place.load(lanes, mask)

    def place(self, buffer: Place, k: Value, at: Value, plus: int) -> Place:
        """A row of a column of the buffer."""
        step = self.plane.pitch * self.size
        return buffer.at(k * self.size).at(at * step).at(plus * step)

    def slot(self, buffer: Place, k: Value, at: Value, plus: int, page: Place) -> Place:
        """The same by a table; the page where that has none."""
        row = self.code.array("slots", "int64").at(at).at(plus).load()
        step = self.plane.pitch * self.size
        return (row < 0).pick_place(page, buffer.at(k * self.size).at(row * step))


def spectrum(plane: Plane, f: Side) -> str:
    """The spectra of a filter's channels; the slots of `slots` are its rows."""
    kernel = _Kernel("fourier_spectrum", plane, f)
    code, line, lanes = kernel.code, kernel.height, plane.lanes
    scale = 0.25 / (line.length * kernel.width.length)
    with code.chunks(code["chunks"]) as block:
        zero = code.number(0)
        kernel.rows_in(f, Here(zero, kernel.channel(block), zero, zero), kernel.buffer)
        spectra = kernel.spectra(block)
        with code.loop(0, kernel.half) as k:
            target = kernel.column(spectra, k)

            def get(at: Value, plus: int, k: Value = k) -> Complex:
                return load(kernel.slot(kernel.buffer, k, at, plus, kernel.zeros), lanes)

            def put(at: Value, plus: int, number: Complex, target: Place = target) -> None:
                place = target.at(at * kernel.size).at(plus * kernel.size)
                scaled = times(number[0], scale), times(number[1], scale)
                store(place, scaled, plane.dtype, lanes)

            line.forward(get, put, line.length)
    return code.text()


def _here(kernel: _Kernel, example: Value, block: Value, tile: Value) -> Here:
    across = kernel.code["across"]
    return Here(example, kernel.channel(block), tile // across, tile % across)


def convolve(plane: Plane, x: Side, y: Side) -> str:
    """Products with the spectra; a chunk is a tile of an example, for a vector of channels."""
    kernel = _Kernel("fourier_convolve", plane, x, y)
    code, line, lanes = kernel.code, kernel.height, plane.lanes
    tiles = code["down"] * code["across"]
    with code.chunks(code["chunks"]) as chunk:
        if x.spread:
            block = code.number(0)
            here = Here(chunk, block, block, block)
        else:
            rest = chunk // tiles
            block = rest % code["slots"]  # has no slots: the word counts the blocks
            here = _here(kernel, rest // code["slots"], block, chunk % tiles)
        kernel.rows_in(x, here, kernel.buffer)
        spectra = kernel.spectra(block)
        with kernel.columns(x) as (row, k):
            column, buffer = kernel.column(spectra, k), kernel.row(kernel.buffer, row)

            def get(at: Value, plus: int, k: Value = k, buffer: Place = buffer) -> Complex:
                return load(kernel.place(buffer, k, at, plus), lanes)

            def put(
                at: Value, plus: int, number: Complex, k: Value = k, buffer: Place = buffer
            ) -> None:
                store(kernel.place(buffer, k, at, plus), number, plane.dtype, lanes)

            def change(at: Value, plus: int, n: Complex, column: Place = column) -> Complex:
                place = column.at(at * kernel.size).at(plus * kernel.size)
                return product(n, load(place, lanes))

            line.through(get, change, put, kernel.height_of(x), kernel.height_of(y))
        kernel.rows_out(y, here, kernel.bias(here, y.spread))
    return code.text()


def gather(plane: Plane, x: Side, gy: Side) -> str:
    """X conj(G), summed over tiles and the examples of a unit; a chunk is a unit and a block."""
    kernel = _Kernel("fourier_gather", plane, x, gy)
    code, line, lanes = kernel.code, kernel.height, plane.lanes
    tiles = code["down"] * code["across"]
    other = kernel.buffer.at(x.rows * plane.pitch * kernel.size)
    blocks = code["bias"]  # has no bias: the word counts the blocks
    with code.chunks(code["chunks"]) as chunk:
        block, unit = chunk % blocks, chunk // blocks
        sums = kernel.spectra(chunk)
        zero = code.zero(plane.dtype, lanes)
        with code.loop(0, kernel.half * line.length * 2) as i:
            sums.at(i * lanes).store(zero)
        start = unit * code["examples"]
        stop = (start + code["examples"]).least(code["slots"])  # no slots: counts the examples
        with code.loop(start, stop) as example, code.loop(0, tiles) as tile:
            here = _here(kernel, example, block, tile)
            kernel.rows_in(x, here, kernel.buffer)
            kernel.rows_in(gy, here, other)
            with kernel.columns(x) as (row, k):
                buffers = kernel.row(kernel.buffer, row), kernel.row(other, row)
                _correlated(kernel, k, kernel.column(sums, k), *buffers, x, gy)
    return code.text()


def _correlated(
    kernel: _Kernel, k: Value, sums: Place, buffer: Place, other: Place, x: Side, gy: Side
) -> None:
    """One column of both arrays, multiplied and added to the sums."""
    lanes, dtype, size = kernel.plane.lanes, kernel.plane.dtype, kernel.size

    def get_x(at: Value, plus: int) -> Complex:
        return load(kernel.place(buffer, k, at, plus), lanes)

    def put_x(at: Value, plus: int, number: Complex) -> None:
        store(kernel.second.at(at * size).at(plus * size), number, dtype, lanes)

    def get_gy(at: Value, plus: int) -> Complex:
        return load(kernel.place(other, k, at, plus), lanes)

    def put_gy(at: Value, step: int, number: Complex) -> None:
        seen = load(kernel.second.at(at * size).at(step * size), lanes)
        place = sums.at(at * size).at(step * size)
        store(place, plus(load(place, lanes), product_conjugate(seen, number)), dtype, lanes)

    kernel.height.forward(get_x, put_x, kernel.height_of(x))
    kernel.height.forward(get_gy, put_gy, kernel.height_of(gy))


def finish(plane: Plane, f: Side) -> str:
    """The filter's gradient from the sums of products; a chunk is a block of one result."""
    kernel = _Kernel("fourier_finish", plane, f)
    code, line, lanes = kernel.code, kernel.height, plane.lanes
    scale = 0.25 / (line.length * kernel.width.length)
    blocks = code["bias"]
    with code.chunks(code["chunks"]) as chunk:
        sums = kernel.spectra(chunk)
        with code.loop(0, kernel.half) as k:
            column = kernel.column(sums, k)

            def get(at: Value, plus: int, column: Place = column) -> Complex:
                a, b = load(column.at(at * kernel.size).at(plus * kernel.size), lanes)
                return times(a, scale), times(b, scale)

            def put(at: Value, plus: int, number: Complex, k: Value = k) -> None:
                place = kernel.slot(kernel.buffer, k, at, plus, kernel.waste)
                store(place, number, plane.dtype, lanes)

            line.inverse(get, put, line.length)
        zero = code.number(0)
        here = Here(chunk // blocks, kernel.channel(chunk % blocks), zero, zero)
        kernel.rows_out(f, here, None)
    return code.text()
