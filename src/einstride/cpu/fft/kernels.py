"""The six kernels of depthwise convolution by FFT.

- `spectrum`   filter -> its scaled spectrum
- `convolve`   x -> y, tile by tile: transform rows, then for each column transform, multiply and
               transform back while it is in registers and first cache, then transform rows back
- `gather`     x, gy -> the sum over tiles of X conj(G), a partial sum over some examples
- `finish`     sum of `gather` -> filter gradient
- `whole`      `spectrum` and `convolve` for one vector of channels after another, with the spectrum
               in the scratch; for filters that are used once or twice
- `reduce`     `gather` and `finish` likewise
"""

from __future__ import annotations

from einstride.codegen.function_builder import Pointer, Value
from einstride.cpu.fft.codelets import Complex, plus, product, product_conjugate, times
from einstride.cpu.fft.kernel import Kernel
from einstride.cpu.fft.lines import load, store
from einstride.cpu.fft.views import Operand, Plane, PlaneIndex


def spectrum(plane: Plane, f: Operand) -> str:
    """Generate the kernel that writes the spectra of a filter's channels."""
    kernel = Kernel("fourier_spectrum", plane, f)
    with kernel.code.chunks(kernel.code["chunks"]) as block:
        _transform_filter(kernel, f, block, kernel.spectra(block))
    return kernel.code.text()


def convolve(plane: Plane, x: Operand, y: Operand) -> str:
    """Generate the kernel that convolves; a chunk is one tile for one block of channels."""
    kernel = Kernel("fourier_convolve", plane, x, y)
    code = kernel.code
    tiles = code["down"] * code["across"]
    with code.chunks(code["chunks"]) as chunk:
        if x.tiled_lanes:
            block = code.number(0)
            index = PlaneIndex(chunk, block, block, block)
        else:  # blocks of one tile are consecutive chunks: they share cache lines
            remaining = chunk // code["blocks"]
            block = chunk % code["blocks"]
            index = _plane_index(kernel, remaining // tiles, block, remaining % tiles)
        _convolve_plane(kernel, x, y, index, kernel.spectra(block))
    return code.text()


def whole(plane: Plane, f: Operand, x: Operand, y: Operand) -> str:
    """Generate the kernel that does `spectrum` and `convolve`; a chunk is a block of channels."""
    kernel = Kernel("fourier_whole", plane, f, x, y)
    code = kernel.code
    spectra = kernel.buffer_after(max(f.rows, x.rows, y.rows))
    with code.chunks(code["chunks"]) as block:
        _transform_filter(kernel, f, block, spectra)
        tiles = code["down"] * code["across"]
        with code.loop(0, code["batch"]) as example, code.loop(0, tiles) as tile:
            _convolve_plane(kernel, x, y, _plane_index(kernel, example, block, tile), spectra)
    return code.text()


def gather(plane: Plane, x: Operand, gy: Operand) -> str:
    """Generate the kernel that sums X conj(G); a chunk is a block of channels of a partial sum."""
    kernel = Kernel("fourier_gather", plane, x, gy)
    code = kernel.code
    with code.chunks(code["chunks"]) as chunk:
        _sum_products(kernel, x, gy, chunk, kernel.spectra(chunk))
    return code.text()


def finish(plane: Plane, f: Operand) -> str:
    """Generate the kernel from sums of products to filter gradients; a chunk is a block of one."""
    kernel = Kernel("fourier_finish", plane, f)
    with kernel.code.chunks(kernel.code["chunks"]) as chunk:
        _transform_sums(kernel, f, chunk, kernel.spectra(chunk))
    return kernel.code.text()


def reduce(plane: Plane, x: Operand, gy: Operand, f: Operand) -> str:
    """Generate the kernel that does `gather` and `finish`, where each partial sum is a result."""
    kernel = Kernel("fourier_reduce", plane, x, gy, f)
    sums = kernel.buffer_after(max(x.rows + gy.rows, f.rows))
    with kernel.code.chunks(kernel.code["chunks"]) as chunk:
        _sum_products(kernel, x, gy, chunk, sums)
        _transform_sums(kernel, f, chunk, sums)
    return kernel.code.text()


def _plane_index(kernel: Kernel, example: Value, block: Value, tile: Value) -> PlaneIndex:
    across = kernel.code["across"]
    return PlaneIndex(example, kernel.channel(block), tile // across, tile % across)


def _transform_filter(kernel: Kernel, f: Operand, block: Value, spectra: Pointer) -> None:
    """Transform a block of a filter to its spectra; the table `slots` holds its rows."""
    code, line, plane = kernel.code, kernel.height, kernel.plane
    scale = 0.25 / (line.length * kernel.width.length)
    zero = code.number(0)
    kernel.rows_to_spectra(f, PlaneIndex(zero, kernel.channel(block), zero, zero), kernel.buffer)
    with code.loop(0, kernel.half) as k:
        destination = kernel.column(spectra, k)

        def get(position: Value, shift: int) -> Complex:
            return load(kernel.slot(kernel.buffer, k, position, shift, kernel.zeros), plane.lanes)

        def put(position: Value, shift: int, number: Complex) -> None:
            pointer = destination.at(position * kernel.size).at(shift * kernel.size)
            scaled = times(number[0], scale), times(number[1], scale)
            store(pointer, scaled, plane.dtype, plane.lanes)

        line.forward(get, put, line.length)


def _convolve_plane(
    kernel: Kernel, x: Operand, y: Operand, index: PlaneIndex, spectra: Pointer
) -> None:
    """Compute a plane of y from one of x."""
    plane, line = kernel.plane, kernel.height
    kernel.rows_to_spectra(x, index, kernel.buffer)
    with kernel.columns(x) as (row, k):
        column, buffer = kernel.column(spectra, k), kernel.row(kernel.buffer, row)

        def get(position: Value, shift: int) -> Complex:
            return load(kernel.pointer(buffer, k, position, shift), plane.lanes)

        def put(position: Value, shift: int, number: Complex) -> None:
            store(kernel.pointer(buffer, k, position, shift), number, plane.dtype, plane.lanes)

        def multiply(position: Value, shift: int, number: Complex) -> Complex:
            pointer = column.at(position * kernel.size).at(shift * kernel.size)
            return product(number, load(pointer, plane.lanes))

        line.round_trip(get, multiply, put, kernel.height_of(x), kernel.height_of(y))
    kernel.spectra_to_rows(y, index, kernel.bias(index, y.tiled_lanes))


def _sum_products(kernel: Kernel, x: Operand, gy: Operand, chunk: Value, sums: Pointer) -> None:
    """Sum the products of spectra over the examples of a partial sum, in order."""
    code, plane = kernel.code, kernel.plane
    block, partial = chunk % code["blocks"], chunk // code["blocks"]
    gy_buffer = kernel.buffer_after(x.rows)
    zero = code.zero(plane.dtype, plane.lanes)
    with code.loop(0, kernel.half * kernel.height.length * 2) as i:
        sums.at(i * plane.lanes).store(zero)
    start = partial * code["examples"]
    stop = (start + code["examples"]).minimum(code["batch"])
    tiles = code["down"] * code["across"]
    with code.loop(start, stop) as example, code.loop(0, tiles) as tile:
        index = _plane_index(kernel, example, block, tile)
        kernel.rows_to_spectra(x, index, kernel.buffer)
        kernel.rows_to_spectra(gy, index, gy_buffer)
        with kernel.columns(x) as (row, k):
            buffers = kernel.row(kernel.buffer, row), kernel.row(gy_buffer, row)
            _correlate_column(kernel, k, kernel.column(sums, k), *buffers, x, gy)


def _correlate_column(
    kernel: Kernel,
    k: Value,
    sums: Pointer,
    buffer: Pointer,
    gy_buffer: Pointer,
    x: Operand,
    gy: Operand,
) -> None:
    """Transform one column of both arrays and add their product to the sums."""
    lanes, dtype, size = kernel.plane.lanes, kernel.plane.dtype, kernel.size

    def get_x(position: Value, shift: int) -> Complex:
        return load(kernel.pointer(buffer, k, position, shift), lanes)

    def put_x(position: Value, shift: int, number: Complex) -> None:
        store(kernel.second.at(position * size).at(shift * size), number, dtype, lanes)

    def get_gy(position: Value, shift: int) -> Complex:
        return load(kernel.pointer(gy_buffer, k, position, shift), lanes)

    def put_gy(position: Value, shift: int, number: Complex) -> None:
        x_number = load(kernel.second.at(position * size).at(shift * size), lanes)
        pointer = sums.at(position * size).at(shift * size)
        store(
            pointer, plus(load(pointer, lanes), product_conjugate(x_number, number)), dtype, lanes
        )

    kernel.height.forward(get_x, put_x, kernel.height_of(x))
    kernel.height.forward(get_gy, put_gy, kernel.height_of(gy))


def _transform_sums(kernel: Kernel, f: Operand, chunk: Value, sums: Pointer) -> None:
    """Transform sums to the filter gradient of a block; the table `slots` holds its rows."""
    code, line, plane = kernel.code, kernel.height, kernel.plane
    scale = 0.25 / (line.length * kernel.width.length)
    with code.loop(0, kernel.half) as k:
        column = kernel.column(sums, k)

        def get(position: Value, shift: int) -> Complex:
            pointer = column.at(position * kernel.size).at(shift * kernel.size)
            real, imaginary = load(pointer, plane.lanes)
            return times(real, scale), times(imaginary, scale)

        def put(position: Value, shift: int, number: Complex) -> None:
            pointer = kernel.slot(kernel.buffer, k, position, shift, kernel.discarded)
            store(pointer, number, plane.dtype, plane.lanes)

        line.inverse(get, put, line.length)
    zero, blocks = code.number(0), code["blocks"]
    index = PlaneIndex(chunk // blocks, kernel.channel(chunk % blocks), zero, zero)
    kernel.spectra_to_rows(f, index, None)
