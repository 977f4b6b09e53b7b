"""The three inner steps of Winograd's algorithm on a block of tiles, each by one product a slice.

A tile is `window` neighbouring elements per axis; the next one begins `step` further. With
P = prod(window), Q = the points of the transform, p tiles and C channels, the contracts are

    transform   x (B, *S, C) and a box of tiles  ->  v (Q, p, C) = matrix (Q, P) times the tiles
    products    v (Q, p, C), u (taps, Q, C // G, D)  ->  s (Q, p, D)
    place       s (Q, p, D)  ->  y (n, *o, D) = matrix (prod m, Q) times s, cut to o, plus the bias

v and s are dense, tiles in row-major order (n, *t). The matrices are Kronecker products of the
small ones of each axis, so that one BLAS product transforms all axes; it works on slices of about
`COLUMNS` columns, which stay in the second-level cache between being gathered and being multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from einstride.arrays.ops import ALL, box_index, conjugate, region, windows
from einstride.geometry.blocking import Box, Boxes, block_lengths
from einstride.geometry.keywords import Shape
from einstride.geometry.tile_sizes import Scheme
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend

COLUMNS = 2048
"""Columns of a transform's product: more leave the second-level cache, fewer are mostly calls."""


@cached(1024)
def cuts(counts: Shape, width: int) -> tuple[tuple[Box, int, int], ...]:
    """Runs of tiles with about `COLUMNS` columns: (box, first tile, number of tiles)."""
    boxes = Boxes(counts, block_lengths(counts, max(COLUMNS // width, 1)))
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
        What stands around the array: see `padding_modes`.
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


@cached(128)
def _kept(scheme: Scheme, which: str, dtype: str, device: str, library: str) -> list[Array]:
    return []


def constant(scheme: Scheme, which: str, dtype: str, like: Array, b: Backend) -> Array:
    """One of the scheme's matrices; kept where arrays are no part of somebody's tracing."""
    kept: list[Array] = []
    if b.traits.mutable:
        device = None if b.device is None else b.device(like)
        kept = _kept(scheme, which, dtype, str(device), b.traits.library)
    if not kept:
        dtype_of = b.empty((1,), dtype, like).dtype
        where = None if b.device is None else b.device(like)
        matrix = b.xp.asarray(scheme.matrix(which), dtype=dtype_of, device=where)
        kept.append(matrix)
    return kept[0]


class Transform:
    """One worker's buffers for transforming the tiles of x (B, *S, C).

    Parameters
    ----------
    x : array
        Canonical, of any memory order.
    frame : Frame
        Where the tiles lie.
    scheme, which : Scheme, str
        Whose matrix: "data" (B^T) or "output^T" (A).
    dtype : str
        Of the transform.
    slab, gather : int
        Elements that the two buffers must hold.
    conjugated : bool
        Transform the complex conjugate of x.
    """

    def __init__(
        self, x: Array, frame: Frame, scheme: Scheme, which: str, dtype: str, slab: int,
        gather: int, b: Backend, conjugated: bool = False,
    ) -> None:  # fmt: skip
        self._x, self._frame, self._b = x, frame, b
        self._matrix = constant(scheme, which, dtype, x, b)
        self._conjugated = conjugated
        self._slab: Array | None = None
        self._slab_size = slab
        self._dtype = dtype
        self._gather: Any = b.empty((gather,), self._dtype, x) if b.traits.mutable else None

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
            source = w[(*(ALL,) * n, *box_index(box))]
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
        stops = [start + (n - 1) * d + 1 for start, n, d in zip(starts, valid, steps, strict=True)]
        thinned = tuple(slice(None, None, d) for d in steps)
        inside = all(lo >= 0 and hi <= s for lo, hi, s in zip(starts, stops, size, strict=True))
        if inside:
            found = part[(ALL, *map(slice, starts, stops, steps), ...)]
            if valid == wanted:
                return found
        elif not b.traits.mutable:
            found = region(part, starts, stops, mode, b)[(ALL, *thinned, ...)]
            if valid == wanted:
                return found
        if not b.traits.mutable:
            return region(found, (0,) * len(wanted), wanted, "zeros", b)
        shape = (part.shape[0], *wanted, part.shape[-1])
        if self._slab is None:
            self._slab = b.empty((self._slab_size,), b.dtype_name(part), part)
        if not inside and mode != "zeros":  # behind the tiles: see `Frame.slab`
            beside = self._slab[prod(shape) :]
            found = region(part, starts, stops, mode, b, beside)[(ALL, *thinned, ...)]
            if valid == wanted:
                return found
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
