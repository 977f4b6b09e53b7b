"""Multiply the transformed tiles of a block and transform the sums back to outputs.

These are the second and the third step of Winograd's algorithm; see `tile_transforms`.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from einstride.algorithms.winograd.tile_transforms import column_slices, constant
from einstride.arrays.ops import ALL
from einstride.geometry.keywords import Shape
from einstride.geometry.tile_sizes import TileSizes

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend


def grouped(stack: Array, groups: int, b: Backend) -> Array:
    """Return (Q, p, C) as (Q, G, p, C // G), a view; unchanged for one group."""
    if groups == 1:
        return stack
    q, p, c = stack.shape
    return b.xp.permute_dims(b.xp.reshape(stack, (q, p, groups, c // groups)), (0, 2, 1, 3))


def shifted(v: Array, counts: Shape, taps: int, n: int, k: int, b: Backend) -> Array:
    """Return the tiles of v (Q, p, C) that tap k of the first axis reads in example n.

    `counts` are the result's tiles (n, *t); v has taps - 1 more tiles on the first axis.
    """
    q, _, c = v.shape
    deep = b.xp.reshape(v, (q, counts[0], counts[1] + taps - 1, prod(counts[2:]), c))
    return b.xp.reshape(deep[:, n, k : k + counts[1], :, :], (q, prod(counts[1:]), c))


def products(
    v: Array,
    u: Array,
    s: Any,
    term: Any,
    counts: Shape,
    groups: int,
    b: Backend,
) -> Array:
    """Compute s (Q, p, D): tiles times filter at each point, summed over the taps of a direct axis.

    `counts` are the result's tiles (n, *t); `term`, of the size of one example's s, is needed only
    for several taps.
    """
    taps = u.shape[0]
    if taps == 1:
        found = b.matmul(grouped(v, groups, b), grouped(u[0, ...], groups, b),
                         None if s is None else grouped(s, groups, b))  # fmt: skip
        return _ungrouped(found, groups, b) if s is None else s
    parts: list[Any] = []
    p = prod(counts[1:])
    for n in range(counts[0]):
        total: Any = None if s is None else s[:, n * p : (n + 1) * p, :]
        for k in range(taps):
            rows = grouped(shifted(v, counts, taps, n, k, b), groups, b)
            matrix = grouped(u[k, ...], groups, b)
            if s is None:
                found = _ungrouped(b.matmul(rows, matrix, None), groups, b)
                total = found if k == 0 else total + found
            elif k == 0:
                b.matmul(rows, matrix, grouped(total, groups, b))
            else:
                b.matmul(rows, matrix, grouped(term, groups, b))
                total += term
        parts.append(total)
    return s if s is not None else b.xp.concat(parts, axis=1)


def accumulate(
    sums: list[Any],
    v: Array,
    z: Array,
    total: Any,
    term: Any,
    counts: Shape,
    groups: int,
    b: Backend,
) -> None:
    """Add v^T z at each point to sums[k] (Q, C, D), or (Q, G, C // G, D // G), for each direct tap.

    A sum of None has no terms yet; its first term is written to total[k]. `term` (flat) is a buffer
    for the products of some points. Without `total`, sums are replaced by new arrays.
    """
    p = prod(counts[1:])
    runs = [(v, z, 0)]
    if len(sums) > 1:
        runs = [
            (shifted(v, counts, len(sums), n, k, b), z[:, n * p : (n + 1) * p, :], k)
            for k in range(len(sums))
            for n in range(counts[0])
        ]
    for rows, columns, k in runs:
        left, right = b.xp.matrix_transpose(grouped(rows, groups, b)), grouped(columns, groups, b)
        if total is None:
            found = b.matmul(left, right, None)
            sums[k] = found if sums[k] is None else sums[k] + found
        elif sums[k] is None:
            b.matmul(left, right, total[k])
            sums[k] = total[k]
        else:
            shape = total.shape[2:]
            step = max(term.shape[0] // prod(shape), 1)
            for q in range(0, left.shape[0], step):
                points = left[q : q + step, ...]
                product = b.xp.reshape(
                    term[: points.shape[0] * prod(shape)], (points.shape[0], *shape)
                )
                b.matmul(points, right[q : q + step, ...], product)
                total[k, q : q + step, ...] += product


def _ungrouped(stack: Array, groups: int, b: Backend) -> Array:
    """Return (Q, G, p, D // G) as (Q, p, D)."""
    if groups == 1:
        return stack
    q, g, p, d = stack.shape
    return b.xp.reshape(b.xp.permute_dims(stack, (0, 2, 1, 3)), (q, p, g * d))


def write_outputs(
    s: Array,
    tile_sizes: TileSizes,
    counts: Shape,
    y: Array | None,
    limits: Shape,
    bias: Array | None,
    buffer: Any,
    b: Backend,
) -> Array:
    """Transform s (Q, p, D), the sums of a box (n, *t) of tiles, to y (n, *o, D) with o = `limits`.

    `buffer` (flat) has space for the outputs of a slice twice.
    """
    matrix, m = constant(tile_sizes, "output", b.dtype_name(s), s, b), tile_sizes.m
    xp, width, n = b.xp, s.shape[-1], len(m)
    if y is None:
        found = b.matmul(matrix, xp.reshape(s, (s.shape[0], -1)), None)
        found = xp.reshape(found, (*m, *counts, width))
        order = (n, *(i for a in range(n) for i in (n + 1 + a, a)), 2 * n + 1)
        whole = (t * k for t, k in zip(counts[1:], m, strict=True))
        found = xp.reshape(xp.permute_dims(found, order), (counts[0], *whole, width))
        found = found[(ALL, *map(slice, limits), ALL)]
        return found if bias is None else found + bias
    order = (n, *(i for a in range(n) for i in (n + 1 + a, a)), 2 * n + 1)
    for box, at, p in column_slices(counts, width):
        rows = xp.reshape(s[:, at : at + p, :], (s.shape[0], p * width))
        size = prod(m) * p * width
        found = b.matmul(matrix, rows, xp.reshape(buffer[:size], (prod(m), p * width)))
        t = [hi - lo for lo, hi in box]
        found = xp.permute_dims(xp.reshape(found, (*m, *t, width)), order)
        if bias is not None:
            found += bias
        first = [lo * k for (lo, _), k in zip(box[1:], m, strict=True)]
        sides = [size * k for size, k in zip(t[1:], m, strict=True)]
        sizes = [min(size, o - at) for size, o, at in zip(sides, limits, first, strict=True)]
        destination = y[
            (slice(*box[0]), *(slice(at, at + o) for at, o in zip(first, sizes, strict=True)))
        ]
        if sizes == sides:  # whole tiles: splitting an axis is always a view
            xp.reshape(destination, found.shape)[...] = found
        else:
            whole = buffer[size : 2 * size]
            xp.reshape(whole, found.shape)[...] = found
            whole = xp.reshape(whole, (t[0], *sides, width))
            destination[...] = whole[(ALL, *map(slice, sizes))]
    return y
