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
from einstride.cpu.fft.codelets import Complex, plus, product, product_conjugate
from einstride.cpu.fft.kernel import Kernel
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
    with code.chunks(code["chunks"]) as block:
        _transform_filter(kernel, f, block, kernel.buffer_end)
        tiles = code["down"] * code["across"]
        with code.loop(0, code["batch"]) as example, code.loop(0, tiles) as tile:
            _convolve_plane(
                kernel, x, y, _plane_index(kernel, example, block, tile), kernel.buffer_end
            )
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
    with kernel.code.chunks(kernel.code["chunks"]) as chunk:
        _sum_products(kernel, x, gy, chunk, kernel.buffer_end)
        _transform_sums(kernel, f, chunk, kernel.buffer_end)
    return kernel.code.text()


def _plane_index(kernel: Kernel, example: Value, block: Value, tile: Value) -> PlaneIndex:
    across = kernel.code["across"]
    return PlaneIndex(example, kernel.channel(block), tile // across, tile % across)


def _transform_filter(kernel: Kernel, f: Operand, block: Value, spectra: Pointer) -> None:
    """Transform a block of a filter to its spectra; the table `slots` holds its rows."""
    code, line, zero = kernel.code, kernel.height, kernel.code.number(0)
    kernel.rows_to_spectra(f, PlaneIndex(zero, kernel.channel(block), zero, zero), kernel.buffer)
    with code.loop(0, kernel.half) as k:
        destination = kernel.column(spectra, k)
        with code.loop(0, line.length) as position:
            tap = kernel.load(kernel.slot(kernel.buffer, k, position, kernel.zeros))
            kernel.store(line.at(destination, position), kernel.scaled(tap))
        if not kernel.plane.flat:
            line.forward(destination)


def _convolve_plane(
    kernel: Kernel, x: Operand, y: Operand, index: PlaneIndex, spectra: Pointer
) -> None:
    """Compute a plane of y from one of x."""
    kernel.rows_to_spectra(x, index, kernel.buffer)
    if kernel.plane.flat:
        with kernel.frequencies(x) as (row, k):
            number = kernel.number(kernel.buffer, row, k)
            factor = kernel.load(kernel.column(spectra, k))
            kernel.store(number, product(kernel.load(number), factor))
    else:
        with kernel.code.loop(0, kernel.half) as k:
            kernel.load_column(kernel.buffer, k, x, kernel.line)
            kernel.height.round_trip(kernel.line, kernel.column(spectra, k))
            kernel.store_column(kernel.line, kernel.buffer, k, y)
    kernel.spectra_to_rows(y, index, kernel.bias(index, y.tiled_lanes))


def _sum_products(kernel: Kernel, x: Operand, gy: Operand, chunk: Value, sums: Pointer) -> None:
    """Sum the products of spectra over the examples of a partial sum, in order."""
    code, plane = kernel.code, kernel.plane
    block, partial = chunk % code["blocks"], chunk // code["blocks"]
    gy_buffer = kernel.gy_buffer
    zero = code.zero(plane.dtype, plane.lanes)
    with code.loop(0, kernel.half * kernel.height.length * 2) as i:
        sums.at(i * plane.lanes).store(zero)
    start = partial * code["share"]
    stop = (start + code["share"]).minimum(code["count"])
    tiles = code.number(1) if x.tiled_lanes else code["down"] * code["across"]
    with code.loop(start, stop) as example, code.loop(0, tiles) as tile:
        index = _plane_index(kernel, example, block, tile)
        kernel.rows_to_spectra(x, index, kernel.buffer)
        kernel.rows_to_spectra(gy, index, gy_buffer)
        if plane.flat:
            with kernel.frequencies(x) as (row, k):
                numbers = (
                    kernel.load(kernel.number(b, row, k)) for b in (kernel.buffer, gy_buffer)
                )
                _add_product(kernel, kernel.column(sums, k), *numbers)
        else:
            with code.loop(0, kernel.half) as k:
                _correlate_column(kernel, k, kernel.column(sums, k), gy_buffer, x, gy)


def _correlate_column(
    kernel: Kernel, k: Value, sums: Pointer, gy_buffer: Pointer, x: Operand, gy: Operand
) -> None:
    """Transform one column of both arrays and add their product to the sums."""
    line = kernel.height
    kernel.load_column(kernel.buffer, k, x, kernel.second)
    line.forward(kernel.second)
    kernel.load_column(gy_buffer, k, gy, kernel.line)
    line.forward(kernel.line)
    with kernel.code.loop(0, line.length) as position:
        numbers = (kernel.load(line.at(a, position)) for a in (kernel.second, kernel.line))
        _add_product(kernel, line.at(sums, position), *numbers)


def _add_product(kernel: Kernel, sums: Pointer, x: Complex, gy: Complex) -> None:
    kernel.store(sums, plus(kernel.load(sums), product_conjugate(x, gy)))


def _transform_sums(kernel: Kernel, f: Operand, chunk: Value, sums: Pointer) -> None:
    """Transform sums to the filter gradient of a block; the table `slots` holds its rows."""
    code, line, zero = kernel.code, kernel.height, kernel.code.number(0)
    with code.loop(0, kernel.half) as k:
        column = kernel.column(sums, k)
        if not kernel.plane.flat:
            line.inverse(column)
        with code.loop(0, line.length) as position:
            destination = kernel.slot(kernel.buffer, k, position, kernel.discarded)
            number = kernel.load(line.at(column, position))
            if kernel.plane.lanes_summed:
                number = kernel.sum_of_lanes(number)
            kernel.store(destination, kernel.scaled(number))
    blocks = code["blocks"]
    index = PlaneIndex(chunk // blocks, kernel.channel(chunk % blocks), zero, zero)
    kernel.spectra_to_rows(f, index, None)
