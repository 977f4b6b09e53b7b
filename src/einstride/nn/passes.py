"""Passes over memory: blocks that stay in a core's cache, on the library's own pool of threads.

A pass is written once, as a function of a range of rows. NumPy calls it for one block after the
other and writes in place; the other libraries call it once, for all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from einstride.arrays.backends import Array, Backend
from einstride.nn.arrays import into, wide, widened
from einstride.nn.cpu import calls
from einstride.support.caches import cached

One = Callable[[int, int], Any]

BLOCK_BYTES = 1 << 21
"""Of each operand in a block. A function call in Python costs as much as 100 KiB of arithmetic, so
that smaller blocks, though closer to the core, are slower."""

POOLED = 1 << 24
"""Bytes of an operand from which blocks go to the pool: below, threads wait longer for each other
(for the interpreter's lock, and to wake up) than they compute."""

WIDE = 2048
"""Elements that a row should have: shorter inner loops cost more than their arithmetic."""


def sweep(
    make: Callable[[], One], rows: int, row_bytes: int, b: Backend, pooled: int = POOLED
) -> list[Any]:
    """The results of ``make()(start, stop)`` over ranges that together are all rows, in order.

    From `pooled` bytes of an operand on, blocks run on the pool of threads.
    """
    step = max(min(BLOCK_BYTES, pooled) // max(row_bytes, 1), 1)
    if not b.traits.on_host or rows <= step:
        return [make()(0, rows)]
    count = -(-rows // step)
    if rows * row_bytes < pooled:
        one = make()
        return [one(rows * i // count, rows * (i + 1) // count) for i in range(count)]
    threads = b.threads()
    count = -(-count // threads) * threads  # an odd block would leave threads waiting
    edges = [rows * i // count for i in range(count + 1)]
    results: list[Any] = [None] * count

    def worker() -> Callable[[int], None]:
        one = make()

        def work(i: int) -> None:
            if edges[i] < edges[i + 1]:
                results[i] = one(edges[i], edges[i + 1])

        return work

    b.run(worker, range(count), threads)
    return [r for r, lo, hi in zip(results, edges[:-1], edges[1:], strict=True) if lo < hi]


def result(shape: tuple[int, ...], name: str, like: Array, b: Backend) -> Array | None:
    """Where a pass writes; None for libraries that do not write in place."""
    return b.empty(shape, name, like) if b.traits.mutable else None


def dense(x: Array, b: Backend) -> Array:
    """x without gaps, in row-major order, so that a reshape is a view."""
    return np.ascontiguousarray(x) if b.traits.on_host else x


def elementwise(
    function: Any, b: Backend, name: str, out: Array | None, *operands: Array,
    kernel: str | None = None,
) -> Array:  # fmt: skip
    """``function(place, *blocks)`` over operands of one shape; `place` is where it may write.

    `out` may be one of the operands. Without it a new array of dtype `name` is made. `kernel` is
    the name of the same function in `einstride.nn.cpu.elementwise`.
    """
    if kernel is not None and b.dtype_name(operands[0]) == name and calls.ready(b, *operands):
        return calls.apply(kernel, out, b, *operands)
    shape = tuple(operands[0].shape)
    flat = [b.xp.reshape(dense(o, b), (-1,)) for o in operands]
    if out is None or not (b.traits.mutable and tuple(out.shape) == shape and _dense(out, b)):
        out = result(shape, name, operands[0], b)
    place = None if out is None else b.xp.reshape(out, (-1,))

    def make() -> One:
        def one(lo: int, hi: int) -> Array:
            target = None if place is None else place[lo:hi]
            return function(target, *(f[lo:hi] for f in flat))

        return one

    itemsize = 8 if name == "float64" else 4
    found = sweep(make, prod(shape), itemsize, b)
    return out if out is not None else b.astype(b.xp.reshape(found[0], shape), name)


def _dense(x: Array, b: Backend) -> bool:
    if b.traits.on_host:
        return bool(x.flags.c_contiguous and x.flags.writeable)
    return bool(x.flags.c_contiguous) if hasattr(x, "flags") else False


def add(total: Array, term: Array, own: bool, b: Backend) -> Array:
    """The sum, in the memory of `total` if that is ours."""
    name = b.dtype_name(total)
    return elementwise(
        lambda place, p, q: into(b.xp.add, p, q, out=place), b, name, total if own else None,
        total, term, kernel="add",
    )  # fmt: skip


def relu_gradient(g: Array, y: Array, own: bool, b: Backend) -> Array:
    """The gradient of a ReLU's input, from its output y."""
    return elementwise(
        lambda place, p, q: where_positive(widened(q, b), widened(p, b), place, b), b,
        b.dtype_name(g), g if own else None, g, y, kernel="relu_gradient",
    )  # fmt: skip


@cached(256)
def fold(rows: int, channels: int) -> int:
    """How many rows are laid end to end, so that inner loops are long: a divisor of rows."""
    most = max(WIDE // max(channels, 1), 1)
    return next(n for n in range(min(most, rows), 0, -1) if rows % n == 0) if rows else 1


def tiled(v: Array, times: int, b: Backend) -> Array:
    """A vector repeated, to meet rows laid end to end."""
    if times == 1:
        return v
    return b.xp.reshape(b.xp.broadcast_to(v, (times, v.shape[0])), (-1,))


def column_sums(x: Array, b: Backend) -> Array:
    """The sum of x (..., C) over all axes but the last, in the dtype of its sums."""
    channels = x.shape[-1]
    rows = prod(x.shape[:-1])
    times = fold(rows, channels)
    name = wide(b.dtype_name(x))
    matrix = b.xp.reshape(dense(x, b), (rows // times, times * channels))

    def make() -> One:
        def one(lo: int, hi: int) -> Array:
            return column_sum(b.astype(matrix[lo:hi, :], name), channels, b)

        return one

    parts = sweep(make, rows // times, times * channels * 4, b)
    return b.astype(total(parts, b), name)


def column_sum(block: Array, channels: int, b: Backend) -> Array:
    """The sums over the rows of one block, of which each holds several times the channels.

    As float64, like all sums of this module. BLAS's product with a row of ones is quicker by
    itself, but its threads go on spinning and take the cores from what follows.
    """
    return _gathered(b.xp.sum(block, axis=0), channels, b)


def column_dot(p: Array, q: Array, channels: int, b: Backend) -> Array:
    """The same of the product of two blocks, without making it."""
    if b.traits.on_host:
        return _gathered(np.einsum("ij,ij->j", p, q), channels, b)
    return _gathered(b.xp.sum(p * q, axis=0), channels, b)


def _gathered(sums: Array, channels: int, b: Backend) -> Array:
    return b.xp.sum(b.astype(b.xp.reshape(sums, (-1, channels)), "float64"), axis=0)


def total(parts: list[Array], b: Backend) -> Array:
    """The sum of what the blocks gave, always in the same order."""
    summed = parts[0]
    for part in parts[1:]:
        summed = summed + part
    return summed


def where_positive(y: Array, g: Array, place: Array | None, b: Backend) -> Array:
    """g where y is positive, else zero; y is never negative."""
    name = b.dtype_name(g)
    if place is None or not b.traits.on_host or b.dtype_name(place) != name:
        found = b.xp.where(y > 0, g, b.xp.zeros_like(g))
        if place is None:
            return found
        place[...] = found
        return place
    # The sign of -y as a mask of bits: whole vectors at a time, where a select goes one by one.
    integer = f"i{g.dtype.itemsize}"
    mask = np.negative(y.view(integer))
    np.right_shift(mask, 8 * g.dtype.itemsize - 1, out=mask)
    np.bitwise_and(g.view(integer), mask, out=place.view(integer))
    return place


def positive(x: Array, place: Array | None, b: Backend) -> Array:
    """``maximum(x, 0)`` of a flat array."""
    name = b.dtype_name(x)
    if place is None or not b.traits.on_host or b.dtype_name(place) != name:
        found = b.xp.maximum(x, b.xp.zeros_like(x))
        if place is None:
            return found
        place[...] = found
        return place
    # NumPy meets a row of zeros with vector instructions, and the number 0 without.
    whole = x.shape[0] // WIDE * WIDE
    zeros = _zeros(name)
    np.maximum(x[:whole].reshape(-1, WIDE), zeros, out=place[:whole].reshape(-1, WIDE))
    np.maximum(x[whole:], zeros[: x.shape[0] - whole], out=place[whole:])
    return place


@cached(8)
def _zeros(name: str) -> Array:
    return np.zeros(WIDE, name)
