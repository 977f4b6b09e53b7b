"""Convolution of each channel with its own filter by products of spectra: six kernels.

- `spectrum`   filter -> its spectrum, scaled
- `convolve`   x -> y, a tile at a time: rows, then columns to the frequencies, there the product
               and back while a column is in registers and first cache, then rows
- `gather`     x, gy -> the sum over tiles of X conj(G), for a unit of examples
- `finish`     that sum -> the filter's gradient
- `whole`      the first two for one vector of channels after another, with its spectrum in the
               scratch: where a filter is used once or twice
- `reduce`     the same of `gather` and `finish`
"""

from __future__ import annotations

from einstride.codegen.function_builder import Pointer, Value
from einstride.cpu.fft.codelets import Complex, plus, product, product_conjugate, times
from einstride.cpu.fft.kernel import Kernel
from einstride.cpu.fft.lines import load, store
from einstride.cpu.fft.views import Here, Plane, Side


def spectrum(plane: Plane, f: Side) -> str:
    """The spectra of a filter's channels."""
    kernel = Kernel("fourier_spectrum", plane, f)
    with kernel.code.chunks(kernel.code["chunks"]) as block:
        _transform(kernel, f, block, kernel.spectra(block))
    return kernel.code.text()


def convolve(plane: Plane, x: Side, y: Side) -> str:
    """Products with the spectra; a chunk is a tile of an example, for a vector of channels."""
    kernel = Kernel("fourier_convolve", plane, x, y)
    code = kernel.code
    tiles = code["down"] * code["across"]
    with code.chunks(code["chunks"]) as chunk:
        if x.spread:
            block = code.number(0)
            here = Here(chunk, block, block, block)
        else:  # blocks of one tile follow each other: they share lines of memory
            rest = chunk // code["blocks"]
            block = chunk % code["blocks"]
            here = _here(kernel, rest // tiles, block, rest % tiles)
        _multiply(kernel, x, y, here, kernel.spectra(block))
    return code.text()


def whole(plane: Plane, f: Side, x: Side, y: Side) -> str:
    """`spectrum` and `convolve`; a chunk is a vector of channels."""
    kernel = Kernel("fourier_whole", plane, f, x, y)
    code = kernel.code
    spectra = kernel.after(max(f.rows, x.rows, y.rows))
    with code.chunks(code["chunks"]) as block:
        _transform(kernel, f, block, spectra)
        tiles = code["down"] * code["across"]
        with code.loop(0, code["batch"]) as example, code.loop(0, tiles) as tile:
            _multiply(kernel, x, y, _here(kernel, example, block, tile), spectra)
    return code.text()


def gather(plane: Plane, x: Side, gy: Side) -> str:
    """X conj(G), summed over tiles and the examples of a unit; a chunk is a unit and a block."""
    kernel = Kernel("fourier_gather", plane, x, gy)
    code = kernel.code
    with code.chunks(code["chunks"]) as chunk:
        _sum(kernel, x, gy, chunk, kernel.spectra(chunk))
    return code.text()


def finish(plane: Plane, f: Side) -> str:
    """The filter's gradient from the sums of products; a chunk is a block of one result."""
    kernel = Kernel("fourier_finish", plane, f)
    with kernel.code.chunks(kernel.code["chunks"]) as chunk:
        _back(kernel, f, chunk, kernel.spectra(chunk))
    return kernel.code.text()


def reduce(plane: Plane, x: Side, gy: Side, f: Side) -> str:
    """`gather` and `finish`, where a unit has a result of its own."""
    kernel = Kernel("fourier_reduce", plane, x, gy, f)
    sums = kernel.after(max(x.rows + gy.rows, f.rows))
    with kernel.code.chunks(kernel.code["chunks"]) as chunk:
        _sum(kernel, x, gy, chunk, sums)
        _back(kernel, f, chunk, sums)
    return kernel.code.text()


def _here(kernel: Kernel, example: Value, block: Value, tile: Value) -> Here:
    across = kernel.code["across"]
    return Here(example, kernel.channel(block), tile // across, tile % across)


def _transform(kernel: Kernel, f: Side, block: Value, spectra: Pointer) -> None:
    """The spectrum of a filter; the slots of `slots` are its rows."""
    code, line, plane = kernel.code, kernel.height, kernel.plane
    scale = 0.25 / (line.length * kernel.width.length)
    zero = code.number(0)
    kernel.rows_in(f, Here(zero, kernel.channel(block), zero, zero), kernel.buffer)
    with code.loop(0, kernel.half) as k:
        target = kernel.column(spectra, k)

        def get(at: Value, plus: int) -> Complex:
            return load(kernel.slot(kernel.buffer, k, at, plus, kernel.zeros), plane.lanes)

        def put(at: Value, plus: int, number: Complex) -> None:
            pointer = target.at(at * kernel.size).at(plus * kernel.size)
            scaled = times(number[0], scale), times(number[1], scale)
            store(pointer, scaled, plane.dtype, plane.lanes)

        line.forward(get, put, line.length)


def _multiply(kernel: Kernel, x: Side, y: Side, here: Here, spectra: Pointer) -> None:
    """A plane of y from one of x."""
    plane, line = kernel.plane, kernel.height
    kernel.rows_in(x, here, kernel.buffer)
    with kernel.columns(x) as (row, k):
        column, buffer = kernel.column(spectra, k), kernel.row(kernel.buffer, row)

        def get(at: Value, plus: int) -> Complex:
            return load(kernel.pointer(buffer, k, at, plus), plane.lanes)

        def put(at: Value, plus: int, number: Complex) -> None:
            store(kernel.pointer(buffer, k, at, plus), number, plane.dtype, plane.lanes)

        def change(at: Value, plus: int, number: Complex) -> Complex:
            pointer = column.at(at * kernel.size).at(plus * kernel.size)
            return product(number, load(pointer, plane.lanes))

        line.through(get, change, put, kernel.height_of(x), kernel.height_of(y))
    kernel.rows_out(y, here, kernel.bias(here, y.spread))


def _sum(kernel: Kernel, x: Side, gy: Side, chunk: Value, sums: Pointer) -> None:
    """The products of a unit's examples, in order."""
    code, plane = kernel.code, kernel.plane
    block, unit = chunk % code["blocks"], chunk // code["blocks"]
    other = kernel.after(x.rows)
    zero = code.zero(plane.dtype, plane.lanes)
    with code.loop(0, kernel.half * kernel.height.length * 2) as i:
        sums.at(i * plane.lanes).store(zero)
    start = unit * code["examples"]
    stop = (start + code["examples"]).least(code["batch"])
    tiles = code["down"] * code["across"]
    with code.loop(start, stop) as example, code.loop(0, tiles) as tile:
        here = _here(kernel, example, block, tile)
        kernel.rows_in(x, here, kernel.buffer)
        kernel.rows_in(gy, here, other)
        with kernel.columns(x) as (row, k):
            buffers = kernel.row(kernel.buffer, row), kernel.row(other, row)
            _correlate(kernel, k, kernel.column(sums, k), *buffers, x, gy)


def _correlate(
    kernel: Kernel, k: Value, sums: Pointer, buffer: Pointer, other: Pointer, x: Side, gy: Side
) -> None:
    """One column of both arrays, multiplied and added to the sums."""
    lanes, dtype, size = kernel.plane.lanes, kernel.plane.dtype, kernel.size

    def get_x(at: Value, plus: int) -> Complex:
        return load(kernel.pointer(buffer, k, at, plus), lanes)

    def put_x(at: Value, plus: int, number: Complex) -> None:
        store(kernel.second.at(at * size).at(plus * size), number, dtype, lanes)

    def get_gy(at: Value, plus: int) -> Complex:
        return load(kernel.pointer(other, k, at, plus), lanes)

    def put_gy(at: Value, step: int, number: Complex) -> None:
        seen = load(kernel.second.at(at * size).at(step * size), lanes)
        pointer = sums.at(at * size).at(step * size)
        store(pointer, plus(load(pointer, lanes), product_conjugate(seen, number)), dtype, lanes)

    kernel.height.forward(get_x, put_x, kernel.height_of(x))
    kernel.height.forward(get_gy, put_gy, kernel.height_of(gy))


def _back(kernel: Kernel, f: Side, chunk: Value, sums: Pointer) -> None:
    """The gradient of a vector of channels from its sums; its taps lie in the slots."""
    code, line, plane = kernel.code, kernel.height, kernel.plane
    scale = 0.25 / (line.length * kernel.width.length)
    with code.loop(0, kernel.half) as k:
        column = kernel.column(sums, k)

        def get(at: Value, plus: int) -> Complex:
            pointer = column.at(at * kernel.size).at(plus * kernel.size)
            real, imaginary = load(pointer, plane.lanes)
            return times(real, scale), times(imaginary, scale)

        def put(at: Value, plus: int, number: Complex) -> None:
            pointer = kernel.slot(kernel.buffer, k, at, plus, kernel.waste)
            store(pointer, number, plane.dtype, plane.lanes)

        line.inverse(get, put, line.length)
    zero, blocks = code.number(0), code["blocks"]
    here = Here(chunk // blocks, kernel.channel(chunk % blocks), zero, zero)
    kernel.rows_out(f, here, None)
