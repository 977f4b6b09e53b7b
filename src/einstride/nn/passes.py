"""Run array functions over blocks of rows that fit a core's cache, on a pool of threads.

Each pass over memory is written once, as a function of a range of rows. With NumPy it is called for
block after block and writes in place; with other libraries it is called once, for all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from einstride.arrays.backends import Array, Backend
from einstride.nn.arrays import call_into, sum_dtype, to_sum_dtype
from einstride.nn.cpu import calls
from einstride.support.caches import cached

RangeFunction = Callable[[int, int], Any]
"""``function(start, stop)`` computes the rows from `start` up to `stop`."""

BLOCK_BYTES = 1 << 21
"""Bytes of each operand in a block. A function call in Python takes as long as arithmetic on 100
KiB, so smaller blocks are slower, although they would fit a smaller cache."""

POOLED = 1 << 24
"""Size of an operand in bytes from which blocks run on the pool of threads: for smaller ones,
threads wait longer for the interpreter's lock and to be woken than they compute."""

LINE_LENGTH = 2048
"""Elements that a row should have: in shorter inner loops NumPy's overhead per loop exceeds the
arithmetic."""


def sweep(
    make: Callable[[], RangeFunction], rows: int, row_bytes: int, b: Backend, pooled: int = POOLED
) -> list[Any]:
    """Call ``make()`` for a function and apply it to blocks of rows; return the results in order.

    Operands of at least `pooled` bytes run on the pool of threads: each thread calls ``make()``.
    """
    step = max(min(BLOCK_BYTES, pooled) // max(row_bytes, 1), 1)
    if not b.traits.on_host or rows <= step:
        return [make()(0, rows)]
    count = -(-rows // step)
    if rows * row_bytes < pooled:
        compute = make()
        return [compute(rows * i // count, rows * (i + 1) // count) for i in range(count)]
    threads = b.threads()
    count = -(-count // threads) * threads  # equally many blocks for each thread
    edges = [rows * i // count for i in range(count + 1)]
    results: list[Any] = [None] * count

    def worker() -> Callable[[int], None]:
        compute = make()

        def work(i: int) -> None:
            if edges[i] < edges[i + 1]:
                results[i] = compute(edges[i], edges[i + 1])

        return work

    b.run(worker, range(count), threads)
    return [r for r, lo, hi in zip(results, edges[:-1], edges[1:], strict=True) if lo < hi]


def result(shape: tuple[int, ...], name: str, like: Array, b: Backend) -> Array | None:
    """Allocate the result of a pass; None for libraries whose arrays are immutable."""
    return b.empty(shape, name, like) if b.traits.mutable else None


def as_contiguous(x: Array, b: Backend) -> Array:
    """Return x in row-major order without gaps, copied if need be, so that a reshape is a view."""
    return np.ascontiguousarray(x) if b.traits.on_host else x


def elementwise(
    function: Any, b: Backend, name: str, out: Array | None, *operands: Array,
    kernel: str | None = None,
) -> Array:  # fmt: skip
    """Apply ``function(out_block, *blocks)`` to blocks of operands of one shape.

    The result goes to `out`, which may be one of the operands, or if that is None to a new array
    of dtype `name`. The function may write to ``out_block`` unless it is None. `kernel` names the
    compiled kernel for it in `einstride.nn.cpu.elementwise`, if there is one.
    """
    if kernel is not None and b.dtype_name(operands[0]) == name and calls.ready(b, *operands):
        return calls.apply(kernel, out, b, *operands)
    shape = tuple(operands[0].shape)
    flat = [b.xp.reshape(as_contiguous(o, b), (-1,)) for o in operands]
    if out is None or not (
        b.traits.mutable and tuple(out.shape) == shape and _is_contiguous(out, b)
    ):
        out = result(shape, name, operands[0], b)
    flat_out = None if out is None else b.xp.reshape(out, (-1,))

    def make() -> RangeFunction:
        def compute(lo: int, hi: int) -> Array:
            block = None if flat_out is None else flat_out[lo:hi]
            return function(block, *(f[lo:hi] for f in flat))

        return compute

    itemsize = 8 if name == "float64" else 4
    found = sweep(make, prod(shape), itemsize, b)
    return out if out is not None else b.astype(b.xp.reshape(found[0], shape), name)


def _is_contiguous(x: Array, b: Backend) -> bool:
    if b.traits.on_host:
        return bool(x.flags.c_contiguous and x.flags.writeable)
    return bool(x.flags.c_contiguous) if hasattr(x, "flags") else False


def add(total: Array, term: Array, own: bool, b: Backend) -> Array:
    """Return the sum of two arrays, in the memory of `total` if `own` is True."""
    name = b.dtype_name(total)
    return elementwise(
        lambda out, p, q: call_into(b.xp.add, p, q, out=out), b, name, total if own else None,
        total, term, kernel="add",
    )  # fmt: skip


def relu_gradient(g: Array, y: Array, own: bool, b: Backend) -> Array:
    """Return the gradient of a ReLU's input, from the gradient g of its output and the output y.

    The result is written to the memory of g if `own` is True.
    """
    return elementwise(
        lambda out, p, q: mask_gradient(to_sum_dtype(q, b), to_sum_dtype(p, b), out, b), b,
        b.dtype_name(g), g if own else None, g, y, kernel="relu_gradient",
    )  # fmt: skip


@cached(256)
def rows_per_line(rows: int, channels: int) -> int:
    """Return how many rows of channels to view as one row, for long inner loops: divides `rows`."""
    most = max(LINE_LENGTH // max(channels, 1), 1)
    return next(n for n in range(min(most, rows), 0, -1) if rows % n == 0) if rows else 1


def repeat_vector(v: Array, times: int, b: Backend) -> Array:
    """Repeat a vector of channels, to match rows that hold all channels `times` times."""
    if times == 1:
        return v
    return b.xp.reshape(b.xp.broadcast_to(v, (times, v.shape[0])), (-1,))


def column_sums(x: Array, b: Backend) -> Array:
    """Sum x (..., C) over all axes but the last, into the dtype of its sums."""
    channels = x.shape[-1]
    rows = prod(x.shape[:-1])
    times = rows_per_line(rows, channels)
    name = sum_dtype(b.dtype_name(x))
    matrix = b.xp.reshape(as_contiguous(x, b), (rows // times, times * channels))

    def make() -> RangeFunction:
        def compute(lo: int, hi: int) -> Array:
            return block_sums(b.astype(matrix[lo:hi, :], name), channels, b)

        return compute

    parts = sweep(make, rows // times, times * channels * 4, b)
    return b.astype(add_parts(parts, b), name)


def block_sums(block: Array, channels: int, b: Backend) -> Array:
    """Sum each channel over one block, whose rows hold all channels one or more times.

    The result is float64, like all sums of this module. A BLAS product with a row of ones is
    faster in isolation, but BLAS's threads spin after it and take cores from the next function.
    """
    return _sum_repeats(b.xp.sum(block, axis=0), channels, b)


def block_dots(p: Array, q: Array, channels: int, b: Backend) -> Array:
    """Sum p * q of each channel over two blocks, as `block_sums` does, without storing p * q."""
    if b.traits.on_host:
        return _sum_repeats(np.einsum("ij,ij->j", p, q), channels, b)
    return _sum_repeats(b.xp.sum(p * q, axis=0), channels, b)


def _sum_repeats(sums: Array, channels: int, b: Backend) -> Array:
    return b.xp.sum(b.astype(b.xp.reshape(sums, (-1, channels)), "float64"), axis=0)


def add_parts(parts: list[Array], b: Backend) -> Array:
    """Add the results of blocks in their order, so that rounding does not depend on threads."""
    summed = parts[0]
    for part in parts[1:]:
        summed = summed + part
    return summed


def mask_gradient(y: Array, g: Array, out: Array | None, b: Backend) -> Array:
    """Return g where the output y of a ReLU is positive, else zero; y is never negative."""
    name = b.dtype_name(g)
    if out is None or not b.traits.on_host or b.dtype_name(out) != name:
        found = b.xp.where(y > 0, g, b.xp.zeros_like(g))
        if out is None:
            return found
        out[...] = found
        return out
    # The sign bit of -y, shifted over the whole word, is a mask; NumPy vectorises these integer
    # operations, but not `where`.
    integer = f"i{g.dtype.itemsize}"
    mask = np.negative(y.view(integer))
    np.right_shift(mask, 8 * g.dtype.itemsize - 1, out=mask)
    np.bitwise_and(g.view(integer), mask, out=out.view(integer))
    return out


def relu(x: Array, out: Array | None, b: Backend) -> Array:
    """Return ``maximum(x, 0)`` of a flat array, written to `out` unless that is None."""
    name = b.dtype_name(x)
    if out is None or not b.traits.on_host or b.dtype_name(out) != name:
        found = b.xp.maximum(x, b.xp.zeros_like(x))
        if out is None:
            return found
        out[...] = found
        return out
    # NumPy compares with a row of zeros in vector instructions, but with a scalar 0 it does not.
    end = x.shape[0] // LINE_LENGTH * LINE_LENGTH
    zeros = _zeros(name)
    shape = (-1, LINE_LENGTH)
    np.maximum(x[:end].reshape(shape), zeros, out=out[:end].reshape(shape))
    np.maximum(x[end:], zeros[: x.shape[0] - end], out=out[end:])
    return out


@cached(8)
def _zeros(name: str) -> Array:
    return np.zeros(LINE_LENGTH, name)
