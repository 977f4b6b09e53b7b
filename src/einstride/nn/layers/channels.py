"""Statistics, sums and affine maps of each channel over batch and positions, as array functions."""

from __future__ import annotations

from math import prod

from einstride.arrays.backends import Array, Backend
from einstride.nn.arrays import call_into, sum_dtype
from einstride.nn.passes import (
    add_parts,
    as_contiguous,
    block_dots,
    block_sums,
    repeat_vector,
    result,
    rows_per_line,
    sweep,
)


def _rows(x: Array, b: Backend) -> tuple[Array, int]:
    """View x (..., C) as a matrix of long rows; also return how often a row holds all channels."""
    rows, channels = prod(x.shape[:-1]), x.shape[-1]
    times = rows_per_line(rows, channels)
    return b.xp.reshape(as_contiguous(x, b), (rows // times, times * channels)), times


def statistics(x: Array, b: Backend) -> tuple[Array, Array, bool]:
    """Compute mean and (biased) variance of each channel in float64, and whether means are small.

    The third result is True if no mean exceeds two standard deviations. Then sum(x * x) loses
    nothing to cancellation, and x need not be centred, here and in the gradients. With libraries
    for devices it is always False, because reading it would wait for the device.
    """
    matrix, times = _rows(x, b)
    channels, name = x.shape[-1], sum_dtype(b.dtype_name(x))
    n, rows = matrix.shape[0] * times, matrix.shape[0]

    def sums(lo: int, hi: int) -> Array:
        return block_sums(b.astype(matrix[lo:hi, :], name), channels, b)

    def squares(lo: int, hi: int) -> tuple[Array, Array]:
        block = b.astype(matrix[lo:hi, :], name)
        return block_sums(block, channels, b), block_dots(block, block, channels, b)

    if b.traits.on_host:
        parts = sweep(lambda: squares, rows, matrix.shape[1] * 4, b)
        mean = add_parts([p for p, _ in parts], b) / n
        variance = add_parts([q for _, q in parts], b) / n - mean * mean
        if (mean * mean <= 4 * variance).all():
            return mean, variance, True
    mean = add_parts(sweep(lambda: sums, rows, matrix.shape[1] * 4, b), b) / n
    rounded = b.astype(mean, name)
    m = repeat_vector(rounded, times, b)

    def centred(lo: int, hi: int) -> tuple[Array, Array]:
        deviation = b.astype(matrix[lo:hi, :], name) - m
        return block_sums(deviation, channels, b), block_dots(deviation, deviation, channels, b)

    parts = sweep(lambda: centred, rows, matrix.shape[1] * 4, b)
    remainder = add_parts([p for p, _ in parts], b) / n  # error of the first mean
    variance = add_parts([q for _, q in parts], b) / n - remainder * remainder
    return b.astype(rounded, "float64") + remainder, variance, False


def affine(
    x: Array, mean: Array, vectors: tuple[Array, Array], small_mean: bool, own: bool, b: Backend
) -> Array:
    """Compute ``(x - mean) * factor + constant`` of each channel; may overwrite x if `own`."""
    matrix, times = _rows(x, b)
    given = b.dtype_name(x)
    name = sum_dtype(given)
    factor, constant = vectors
    m, remainder = _centre(mean, small_mean, times, name, b)
    f, c = (
        repeat_vector(b.astype(v, name), times, b) for v in (factor, constant - remainder * factor)
    )
    out = _result(x, matrix, own, b)

    def compute(lo: int, hi: int) -> Array:
        block = None if out is None else out[lo:hi, :]
        destination = block if given == name else None
        y = b.astype(matrix[lo:hi, :], name)
        y = y if m is None else call_into(b.xp.subtract, y, m, out=destination)
        y = call_into(b.xp.multiply, y, f, out=destination)
        y = call_into(b.xp.add, y, c, out=destination)
        return _write(y, block)

    found = sweep(lambda: compute, matrix.shape[0], matrix.shape[1] * 4, b)
    return b.xp.reshape(found[0] if out is None else out, tuple(x.shape))


def _centre(
    mean: Array, small_mean: bool, times: int, name: str, b: Backend
) -> tuple[Array | None, Array]:
    """Split the mean into a part to subtract from x in its dtype (None: nothing) and the rest."""
    if small_mean:
        return None, mean
    rounded = b.astype(mean, name)
    return repeat_vector(rounded, times, b), mean - b.astype(rounded, "float64")


def gradient_sums(
    gy: Array, x: Array, mean: Array, small_mean: bool, b: Backend
) -> tuple[Array, Array]:
    """Compute sum(gy) and sum(gy * (x - mean)) of each channel in float64."""
    (g, times), (matrix, _) = _rows(gy, b), _rows(x, b)
    channels, name = x.shape[-1], sum_dtype(b.dtype_name(x))
    m, remainder = _centre(mean, small_mean, times, name, b)

    def compute(lo: int, hi: int) -> tuple[Array, Array]:
        block, deviation = b.astype(g[lo:hi, :], name), b.astype(matrix[lo:hi, :], name)
        deviation = deviation if m is None else deviation - m
        return block_sums(block, channels, b), block_dots(block, deviation, channels, b)

    parts = sweep(lambda: compute, g.shape[0], g.shape[1] * 4, b)
    sums, products = add_parts([p for p, _ in parts], b), add_parts([q for _, q in parts], b)
    return sums, products - remainder * sums


def combine(
    gy: Array,
    x: Array,
    mean: Array,
    vectors: tuple[Array, Array, Array],
    small_mean: bool,
    own: bool,
    b: Backend,
) -> Array:
    """Compute ``gy * factor + (x - mean) * slope + constant`` of each channel."""
    (g, times), (matrix, _) = _rows(gy, b), _rows(x, b)
    given = b.dtype_name(gy)
    name = sum_dtype(given)
    factor, slope, constant = vectors
    m, remainder = _centre(mean, small_mean, times, name, b)
    all_vectors = factor, slope, constant - remainder * slope
    f, s, c = (repeat_vector(b.astype(v, name), times, b) for v in all_vectors)
    out = _result(gy, g, own, b)

    def compute(lo: int, hi: int) -> Array:
        block = None if out is None else out[lo:hi, :]
        destination = block if given == name else None
        deviation = b.astype(matrix[lo:hi, :], name)
        deviation = deviation * s if m is None else (deviation - m) * s
        deviation = call_into(b.xp.add, deviation, c, out=_in_place(deviation, b))
        y = call_into(b.xp.multiply, b.astype(g[lo:hi, :], name), f, out=destination)
        y = call_into(b.xp.add, y, deviation, out=destination)
        return _write(y, block)

    found = sweep(lambda: compute, g.shape[0], g.shape[1] * 4, b)
    return b.xp.reshape(found[0] if out is None else out, tuple(gy.shape))


def _in_place(a: Array, b: Backend) -> Array | None:
    """Return the temporary array `a`, to be overwritten, if arrays are mutable, else None."""
    return a if b.traits.mutable else None


def _result(x: Array, matrix: Array, own: bool, b: Backend) -> Array | None:
    if own and b.traits.mutable and b.writeable(matrix):
        return matrix  # x itself, or a copy of it without gaps
    return result(tuple(matrix.shape), b.dtype_name(x), x, b)


def _write(y: Array, out: Array | None) -> Array:
    if out is not None and y is not out:
        out[...] = y
    return y
