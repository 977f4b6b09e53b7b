"""The three inner steps of Winograd's algorithm on a block of tiles, each by one product a slice.

A tile is `window` neighbouring elements per axis; the next one begins `step` further. With
P = prod(window), Q = the points of the transform, p tiles and C channels, the contracts are

    transform   x (B, *S, C) and a box of tiles  ->  v (Q, p, C) = matrix (Q, P) times the tiles
    products    v (Q, p, C), u (taps, Q, C // G, D)  ->  s (Q, p, D)
    place       s (Q, p, D)  ->  y (n, *o, D) = matrix (prod m, Q) times s, cut to o, plus the bias

v and s are dense, tiles in row-major order (n, *t). The matrices are Kronecker products of the
small ones of each axis, so that one BLAS product transforms all axes; it works on slices of about
`COLUMNS` columns, which stay in the second-level cache between being gathered and being multiplied.

Compiled kernels may take the place of a step: see `einstride.backends.Fused`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING

from einstride.primitives import ALL, cells, conjugate, region, windows
from einstride.settings import Shape
from einstride.tiling import Box, Boxes, run_lengths

if TYPE_CHECKING:
    from einstride.backends import Array, Backend

COLUMNS = 2048
"""Columns of a transform's product: more leave the second-level cache, fewer are mostly calls."""


@lru_cache(maxsize=1024)
def cuts(counts: Shape, width: int) -> tuple[tuple[Box, int, int], ...]:
    """Runs of tiles with about `COLUMNS` columns: (box, first tile, number of tiles)."""
    boxes = Boxes(counts, run_lengths(counts, max(COLUMNS // width, 1)))
    return tuple((box, boxes.first_position(box), prod(hi - lo for lo, hi in box)) for box in boxes)


def slice_tiles(counts: Shape, width: int) -> int:
    """The most tiles in one of these runs, of a box of `counts` or of fewer tiles."""
    return min(prod(counts), max(COLUMNS // width, 1))


@dataclass(frozen=True)
class Frame:
    """How tiles lie in an array.

    Attributes
    ----------
    window, step : tuple of int
        Elements of a tile, and from one tile to the next, per axis.
    dilation : tuple of int
        The distance between the elements of a tile.
    mode : str
        What stands around the array: see `borders`.
    """

    window: Shape
    step: Shape
    dilation: Shape
    mode: str = "zeros"

    def wanted(self, counts: Sequence[int]) -> Shape:
        """Elements under so many tiles, per axis."""
        axes = zip(counts, self.step, self.window, strict=True)
        return tuple((t - 1) * s + w for t, s, w in axes)

    def slab(self, counts: Shape, channels: int) -> int:
        """Elements that a box (n, *t) of tiles needs beside its array where it meets a border."""
        sides = self.wanted(counts[1:])
        total = prod(sides)
        if self.mode != "zeros" and max(self.dilation) > 1:
            total += prod((n - 1) * d + 1 for n, d in zip(sides, self.dilation, strict=True))
        elif self.mode != "zeros":
            total *= 2
        return counts[0] * channels * total


class Transform:
    """One worker's buffers for transforming the tiles of x (B, *S, C).

    Parameters
    ----------
    x : array
        Canonical, of any memory order.
    frame : Frame
        Where the tiles lie.
    matrix : array
        (Q, P), in the dtype of the transform.
    slab, gather : int
        Elements that the two buffers must hold.
    conjugated : bool
        Transform the complex conjugate of x.
    """

    def __init__(
        self, x: Array, frame: Frame, matrix: Array, slab: int, gather: int, b: Backend,
        conjugated: bool = False,
    ) -> None:  # fmt: skip
        self._x, self._frame, self._matrix, self._b = x, frame, matrix, b
        self._conjugated = conjugated
        self._slab: Array | None = None
        self._slab_size = slab
        self._dtype = b.dtype_name(matrix)
        self._gather = b.empty((gather,), self._dtype, x) if b.traits.mutable else None

    def of(
        self,
        batch: tuple[int, int],
        starts: Sequence[int],
        limits: Sequence[int],
        counts: Shape,
        v: Array | None,
    ) -> Array:
        """The transformed tiles of a box as v (Q, p, C).

        Parameters
        ----------
        batch : (int, int)
            The examples.
        starts : sequence of int
            The place in x of the first element of the first tile; negative in the border.
        limits : sequence of int
            How many elements (in steps of the dilation) follow from there; beyond are zeros.
        counts : tuple of int
            Tiles per axis.
        v : array or None
            Where to put them; None for libraries with immutable arrays.
        """
        b, xp, frame = self._b, self._b.xp, self._frame
        part = self._x[batch[0] : batch[1], ...]
        part = self._bordered(part, starts, limits, frame.wanted(counts))
        n = len(counts)
        w = windows(part, frame.window, frame.step, (1,) * n, b)  # (n, *t, *window, C)
        w = xp.permute_dims(w, (*range(n + 1, 2 * n + 1), *range(n + 1), 2 * n + 1))
        inner, channels = prod(frame.window), w.shape[-1]
        if v is None:
            tiles = xp.reshape(b.astype(w, self._dtype), (inner, prod(w.shape[n:])))
            tiles = conjugate(tiles, b) if self._conjugated else tiles
            return xp.reshape(
                b.matmul(self._matrix, tiles, None), (-1, *(prod(w.shape[n:-1]), channels))
            )
        for box, at, p in cuts(w.shape[n:-1], channels):
            source = w[(*(ALL,) * n, *cells(box))]
            tiles = self._gather[: inner * p * channels]
            xp.reshape(tiles, source.shape)[...] = source
            tiles = xp.reshape(tiles, (inner, p * channels))
            if self._conjugated:
                tiles[...] = conjugate(tiles, b)
            place = v[:, at : at + p, :]
            b.matmul(self._matrix, tiles, xp.reshape(place, (v.shape[0], p * channels)))
        return v

    def _bordered(
        self, part: Array, starts: Sequence[int], limits: Sequence[int], wanted: Shape
    ) -> Array:
        """The elements of a box with all the border that it meets; a view where it meets none."""
        b, frame = self._b, self._frame
        steps, mode = frame.dilation, frame.mode
        size = part.shape[1:-1]
        valid = tuple(map(min, limits, wanted))
        axes = zip(starts, valid, steps, strict=True)
        stops = [start + (n - 1) * d + 1 for start, n, d in axes]
        thinned = tuple(slice(None, None, d) for d in steps)
        inside = all(lo >= 0 and hi <= s for lo, hi, s in zip(starts, stops, size, strict=True))
        if inside:
            found = part[(ALL, *map(slice, starts, stops, steps), ...)]
            if valid == wanted:
                return found
        elif mode != "zeros" or not b.traits.mutable:
            found = region(part, starts, stops, mode, b)[(ALL, *thinned, ...)]
            if valid == wanted:
                return found
        if not b.traits.mutable:
            return region(found, (0,) * len(wanted), wanted, "zeros", b)
        shape = (part.shape[0], *wanted, part.shape[-1])
        if self._slab is None:
            self._slab = b.empty((self._slab_size,), b.dtype_name(part), part)
        whole = b.xp.reshape(self._slab[: prod(shape)], shape)
        if inside or mode != "zeros":
            there = [(0, n) for n in valid]
        else:
            axes = zip(starts, valid, steps, size, strict=True)
            there = [
                (min(max(-(start // d), 0), n), max(min(n, -((start - s) // d)), 0))
                for start, n, d, s in axes
            ]
            here = (
                slice(start + lo * d, max(start + (hi - 1) * d + 1, 0), d)
                for start, (lo, hi), d in zip(starts, there, steps, strict=True)
            )
            if any(lo >= hi for lo, hi in there):
                whole[...] = 0
                return whole
            found = part[(ALL, *here, ...)]
        for axis, ((lo, hi), n) in enumerate(zip(there, wanted, strict=True), start=1):
            if lo > 0:
                whole[((ALL,) * axis + (slice(0, lo),))] = 0
            if hi < n:
                whole[((ALL,) * axis + (slice(hi, n),))] = 0
        whole[(ALL, *(slice(lo, hi) for lo, hi in there))] = found
        return whole


def grouped(stack: Array, groups: int, b: Backend) -> Array:
    """(Q, p, C) as (Q, G, p, C // G), a view; as it is for one group."""
    if groups == 1:
        return stack
    q, p, c = stack.shape
    return b.xp.permute_dims(b.xp.reshape(stack, (q, p, groups, c // groups)), (0, 2, 1, 3))


def shifted(v: Array, counts: Shape, taps: int, n: int, k: int, b: Backend) -> Array:
    """Of the tiles (n, *t) of v (Q, p, C) those of example n which tap k of the first axis meets.

    v has taps - 1 more tiles on that axis than `counts`.
    """
    q, _, c = v.shape
    deep = b.xp.reshape(v, (q, counts[0], counts[1] + taps - 1, prod(counts[2:]), c))
    return b.xp.reshape(deep[:, n, k : k + counts[1], :, :], (q, prod(counts[1:]), c))


def products(
    v: Array,
    u: Array,
    s: Array | None,
    term: Array | None,
    counts: Shape,
    groups: int,
    b: Backend,
) -> Array:
    """s (Q, p, D): at each point, tiles times filter; the taps of a direct first axis are summed.

    `counts` are the result's tiles (n, *t); `term`, of the size of one example's s, is needed only
    for several taps.
    """
    taps = u.shape[0]
    if taps == 1:
        found = b.matmul(grouped(v, groups, b), grouped(u[0, ...], groups, b),
                         None if s is None else grouped(s, groups, b))  # fmt: skip
        return _ungrouped(found, groups, b) if s is None else s
    parts = []
    p = prod(counts[1:])
    for n in range(counts[0]):
        total = None if s is None else s[:, n * p : (n + 1) * p, :]
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
    sums: list[Array | None],
    v: Array,
    z: Array,
    total: Array | None,
    term: Array | None,
    counts: Shape,
    groups: int,
    b: Backend,
) -> None:
    """sums[k] (Q, C, D), or (Q, G, C // G, D // G), += v^T z at each point, for each direct tap.

    None stands for a sum without terms, which is begun in total[k]; `term` (flat) holds the
    products of some points on their way there. Without `total` sums are replaced.
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
            some = max(term.shape[0] // prod(shape), 1)
            for q in range(0, left.shape[0], some):
                several = left[q : q + some, ...]
                place = b.xp.reshape(
                    term[: several.shape[0] * prod(shape)], (several.shape[0], *shape)
                )
                b.matmul(several, right[q : q + some, ...], place)
                total[k, q : q + some, ...] += place


def _ungrouped(stack: Array, groups: int, b: Backend) -> Array:
    """(Q, G, p, D // G) as (Q, p, D)."""
    if groups == 1:
        return stack
    q, g, p, d = stack.shape
    return b.xp.reshape(b.xp.permute_dims(stack, (0, 2, 1, 3)), (q, p, g * d))


def place(
    s: Array,
    matrix: Array,
    m: Shape,
    counts: Shape,
    y: Array | None,
    limits: Shape,
    bias: Array | None,
    buffer: Array | None,
    b: Backend,
) -> Array:
    """y (n, *o, D) with o = `limits` from s (Q, p, D), a box (n, *t) of tiles with m outputs each.

    `buffer` (flat) holds the outputs of a slice twice, on their way into y.
    """
    xp, width = b.xp, s.shape[-1]
    n = len(m)
    if y is None:
        found = b.matmul(matrix, xp.reshape(s, (s.shape[0], -1)), None)
        found = xp.reshape(found, (*m, *counts, width))
        order = (n, *(i for a in range(n) for i in (n + 1 + a, a)), 2 * n + 1)
        sides = (t * k for t, k in zip(counts[1:], m, strict=True))
        found = xp.reshape(xp.permute_dims(found, order), (counts[0], *sides, width))
        found = found[(ALL, *map(slice, limits), ALL)]
        return found if bias is None else found + bias
    order = (n, *(i for a in range(n) for i in (n + 1 + a, a)), 2 * n + 1)
    for box, at, p in cuts(counts, width):
        rows = xp.reshape(s[:, at : at + p, :], (s.shape[0], p * width))
        size = prod(m) * p * width
        found = b.matmul(matrix, rows, xp.reshape(buffer[:size], (prod(m), p * width)))
        t = [hi - lo for lo, hi in box]
        found = xp.permute_dims(xp.reshape(found, (*m, *t, width)), order)
        if bias is not None:
            found += bias
        first = [lo * k for (lo, _), k in zip(box[1:], m, strict=True)]
        sides = [size * k for size, k in zip(t[1:], m, strict=True)]
        room = [min(size, o - at) for size, o, at in zip(sides, limits, first, strict=True)]
        target = y[
            (slice(*box[0]), *(slice(at, at + o) for at, o in zip(first, room, strict=True)))
        ]
        if room == sides:  # whole tiles: splitting an axis is always a view
            xp.reshape(target, found.shape)[...] = found
        else:
            whole = buffer[size : 2 * size]
            xp.reshape(whole, found.shape)[...] = found
            whole = xp.reshape(whole, (t[0], *sides, width))
            target[...] = whole[(ALL, *map(slice, room))]
    return y
