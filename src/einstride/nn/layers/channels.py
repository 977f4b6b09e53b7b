"""What every channel has over batch and positions: statistics, affine maps, sums; as array code."""

from __future__ import annotations

from math import prod

from einstride.arrays.backends import Array, Backend
from einstride.nn.arrays import into, wide
from einstride.nn.passes import column_dot, column_sum, dense, fold, result, sweep, tiled, total


def _rows(x: Array, b: Backend) -> tuple[Array, int]:
    """x (..., C) as a matrix of long rows, and how often each holds all channels."""
    rows, channels = prod(x.shape[:-1]), x.shape[-1]
    times = fold(rows, channels)
    return b.xp.reshape(dense(x, b), (rows // times, times * channels)), times


def statistics(x: Array, b: Backend) -> tuple[Array, Array, bool]:
    """Mean and (biased) variance of every channel, as float64; are all means near zero?

    "Near" means not above two standard deviations: then sum(x * x) loses nothing to cancellation,
    and x need not be centred, here and in the gradients. Libraries that would have to wait for the
    answer always centre.
    """
    matrix, times = _rows(x, b)
    channels, name = x.shape[-1], wide(b.dtype_name(x))
    n, rows = matrix.shape[0] * times, matrix.shape[0]

    def sums(lo: int, hi: int) -> Array:
        return column_sum(b.astype(matrix[lo:hi, :], name), channels, b)

    def squares(lo: int, hi: int) -> tuple[Array, Array]:
        block = b.astype(matrix[lo:hi, :], name)
        return column_sum(block, channels, b), column_dot(block, block, channels, b)

    if b.traits.on_host:
        parts = sweep(lambda: squares, rows, matrix.shape[1] * 4, b)
        mean = total([p for p, _ in parts], b) / n
        variance = total([q for _, q in parts], b) / n - mean * mean
        if (mean * mean <= 4 * variance).all():
            return mean, variance, True
    mean = total(sweep(lambda: sums, rows, matrix.shape[1] * 4, b), b) / n
    rounded = b.astype(mean, name)
    m = tiled(rounded, times, b)

    def centred(lo: int, hi: int) -> tuple[Array, Array]:
        off = b.astype(matrix[lo:hi, :], name) - m
        return column_sum(off, channels, b), column_dot(off, off, channels, b)

    parts = sweep(lambda: centred, rows, matrix.shape[1] * 4, b)
    rest = total([p for p, _ in parts], b) / n  # what the first sum and its rounding left
    variance = total([q for _, q in parts], b) / n - rest * rest
    return b.astype(rounded, "float64") + rest, variance, False


def affine(
    x: Array, mean: Array, vectors: tuple[Array, Array], near: bool, own: bool, b: Backend
) -> Array:
    """``(x - mean) * factor + constant`` of every channel."""
    matrix, times = _rows(x, b)
    given = b.dtype_name(x)
    name = wide(given)
    factor, constant = vectors
    m, rest = _centre(mean, near, times, name, b)
    f, c = (tiled(b.astype(v, name), times, b) for v in (factor, constant - rest * factor))
    out = _place(x, matrix, own, b)

    def one(lo: int, hi: int) -> Array:
        place = None if out is None else out[lo:hi, :]
        target = place if given == name else None
        y = b.astype(matrix[lo:hi, :], name)
        y = y if m is None else into(b.xp.subtract, y, m, out=target)
        y = into(b.xp.multiply, y, f, out=target)
        y = into(b.xp.add, y, c, out=target)
        return _written(y, place, b)

    found = sweep(lambda: one, matrix.shape[0], matrix.shape[1] * 4, b)
    return b.xp.reshape(found[0] if out is None else out, tuple(x.shape))


def _centre(
    mean: Array, near: bool, times: int, name: str, b: Backend
) -> tuple[Array | None, Array]:
    """What is subtracted from x in its own dtype (None: nothing), and the rest of the mean."""
    if near:
        return None, mean
    rounded = b.astype(mean, name)
    return tiled(rounded, times, b), mean - b.astype(rounded, "float64")


def gradient_sums(gy: Array, x: Array, mean: Array, near: bool, b: Backend) -> tuple[Array, Array]:
    """sum(gy) and sum(gy * (x - mean)) of every channel, as float64."""
    (g, times), (matrix, _) = _rows(gy, b), _rows(x, b)
    channels, name = x.shape[-1], wide(b.dtype_name(x))
    m, rest = _centre(mean, near, times, name, b)

    def one(lo: int, hi: int) -> tuple[Array, Array]:
        block, off = b.astype(g[lo:hi, :], name), b.astype(matrix[lo:hi, :], name)
        off = off if m is None else off - m
        return column_sum(block, channels, b), column_dot(block, off, channels, b)

    parts = sweep(lambda: one, g.shape[0], g.shape[1] * 4, b)
    sums, products = total([p for p, _ in parts], b), total([q for _, q in parts], b)
    return sums, products - rest * sums


def combine(
    gy: Array,
    x: Array,
    mean: Array,
    vectors: tuple[Array, Array, Array],
    near: bool,
    own: bool,
    b: Backend,
) -> Array:
    """``gy * factor + (x - mean) * slope + constant`` of every channel."""
    (g, times), (matrix, _) = _rows(gy, b), _rows(x, b)
    given = b.dtype_name(gy)
    name = wide(given)
    factor, slope, constant = vectors
    m, rest = _centre(mean, near, times, name, b)
    both = factor, slope, constant - rest * slope
    f, s, c = (tiled(b.astype(v, name), times, b) for v in both)
    out = _place(gy, g, own, b)

    def one(lo: int, hi: int) -> Array:
        place = None if out is None else out[lo:hi, :]
        target = place if given == name else None
        off = b.astype(matrix[lo:hi, :], name)
        off = off * s if m is None else (off - m) * s
        off = into(b.xp.add, off, c, out=_same(off, b))
        y = into(b.xp.multiply, b.astype(g[lo:hi, :], name), f, out=target)
        y = into(b.xp.add, y, off, out=target)
        return _written(y, place, b)

    found = sweep(lambda: one, g.shape[0], g.shape[1] * 4, b)
    return b.xp.reshape(found[0] if out is None else out, tuple(gy.shape))


def _same(a: Array, b: Backend) -> Array | None:
    """Our own array `a` as the place of a result, where results have places."""
    return a if b.traits.mutable else None


def _place(x: Array, matrix: Array, own: bool, b: Backend) -> Array | None:
    if own and b.traits.mutable and b.writeable(matrix):
        return matrix  # x itself, or a copy of it without gaps
    return result(tuple(matrix.shape), b.dtype_name(x), x, b)


def _written(y: Array, place: Array | None, b: Backend) -> Array:
    if place is not None and y is not place:
        place[...] = y
    return y
