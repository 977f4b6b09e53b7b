"""Transform the tiles of a block by one matrix product per slice: step one of Winograd's algorithm.

A tile is `window` neighbouring elements per axis; the next tile begins `step` elements further.
With P = prod(window), Q the points of the transform, p tiles and C channels, the three steps are

    transform   x (B, *S, C) and a box of tiles  ->  v (Q, p, C) = matrix (Q, P) times the tiles
    products    v (Q, p, C), u (taps, Q, C // G, D)  ->  s (Q, p, D)
    outputs     s (Q, p, D)  ->  y (n, *o, D) = matrix (prod m, Q) times s, cropped to o, plus bias

v and s are packed, tiles in row-major order (n, *t). The matrices are Kronecker products of the
matrices of each axis, so that one BLAS product transforms all axes. It works on slices of about
`COLUMNS` columns, which stay in the second-level cache from their gathering to their product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from einstride.arrays.ops import ALL, box_index, conjugate, region, windows
from einstride.geometry.blocking import Box, Boxes, block_lengths
from einstride.geometry.keywords import Shape
from einstride.geometry.tile_sizes import TileSizes
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend

COLUMNS = 2048
"""Columns of a transform's matrix product, about: more would leave the second-level cache, with
fewer the cost of calls would dominate."""


@cached(1024)
def column_slices(counts: Shape, width: int) -> tuple[tuple[Box, int, int], ...]:
    """Split tiles into slices of about `COLUMNS` columns: (box, first tile, number of tiles)."""
    boxes = Boxes(counts, block_lengths(counts, max(COLUMNS // width, 1)))
    return tuple((box, boxes.first_position(box), prod(hi - lo for lo, hi in box)) for box in boxes)


def slice_tiles(counts: Shape, width: int) -> int:
    """Return the most tiles of a slice, in a box of at most `counts` tiles."""
    return min(prod(counts), max(COLUMNS // width, 1))


@dataclass(frozen=True)
class Frame:
    """The size, distance and dilation of tiles in an array.

    Attributes
    ----------
    window, step : tuple of int
        Elements of a tile, and from one tile to the next, per axis.
    dilation : tuple of int
        The distance between neighbouring elements of a tile.
    mode : str
        The padding mode of the array's border: see `padding_modes`.
    """

    window: Shape
    step: Shape
    dilation: Shape
    mode: str = "zeros"

    def wanted(self, counts: Sequence[int]) -> Shape:
        """Return the number of elements per axis that `counts` tiles cover."""
        axes = zip(counts, self.step, self.window, strict=True)
        return tuple((t - 1) * s + w for t, s, w in axes)

    def slab(self, counts: Shape, channels: int) -> int:
        """Count the elements of the buffer for a box (n, *t) of tiles that reaches a border."""
        sides = self.wanted(counts[1:])
        total = prod(sides)
        if self.mode != "zeros" and max(self.dilation) > 1:
            total += prod((n - 1) * d + 1 for n, d in zip(sides, self.dilation, strict=True))
        elif self.mode != "zeros":
            total *= 2
        return counts[0] * channels * total


@cached(128)
def _cached_matrices(
    tile_sizes: TileSizes, which: str, dtype: str, device: str, library: str
) -> list[Array]:
    return []


def constant(tile_sizes: TileSizes, which: str, dtype: str, like: Array, b: Backend) -> Array:
    """Return a matrix of the tile sizes; cached unless arrays may be tracers of a compiler."""
    kept: list[Array] = []
    if b.traits.mutable:
        device = None if b.device is None else b.device(like)
        kept = _cached_matrices(tile_sizes, which, dtype, str(device), b.traits.library)
    if not kept:
        dtype_of = b.empty((1,), dtype, like).dtype
        where = None if b.device is None else b.device(like)
        matrix = b.xp.asarray(tile_sizes.matrix(which), dtype=dtype_of, device=where)
        kept.append(matrix)
    return kept[0]


class Transform:
    """One worker's buffers for transforming the tiles of x (B, *S, C).

    Parameters
    ----------
    x : array
        In canonical order, with any strides.
    frame : Frame
        The size and distance of the tiles.
    tile_sizes, which : TileSizes, str
        The sizes of tiles, and their matrix: "data" (B^T) or "output^T" (A).
    dtype : str
        The dtype of the transform.
    slab, gather : int
        Elements of the buffers for padded x and for the tiles of a slice.
    conjugated : bool
        True to transform the complex conjugate of x.
    """

    def __init__(
        self, x: Array, frame: Frame, tile_sizes: TileSizes, which: str, dtype: str, slab: int,
        gather: int, b: Backend, conjugated: bool = False,
    ) -> None:  # fmt: skip
        self._x, self._frame, self._b = x, frame, b
        self._matrix = constant(tile_sizes, which, dtype, x, b)
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
        """Return the transformed tiles of a box as v (Q, p, C).

        Parameters
        ----------
        batch : (int, int)
            The examples.
        starts : sequence of int
            The index in x of the first element of the first tile; negative in the border.
        limits : sequence of int
            The number of elements from `starts` on, one dilation apart; zeros follow.
        counts : tuple of int
            Tiles per axis.
        v : array or None
            The array to write to; None for libraries with immutable arrays.
        """
        b, xp, frame = self._b, self._b.xp, self._frame
        part = self._x[batch[0] : batch[1], ...]
        part = self._padded(part, starts, limits, frame.wanted(counts))
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
        for box, at, p in column_slices(w.shape[n:-1], channels):
            source = w[(*(ALL,) * n, *box_index(box))]
            tiles = self._gather[: inner * p * channels]
            xp.reshape(tiles, source.shape)[...] = source
            tiles = xp.reshape(tiles, (inner, p * channels))
            if self._conjugated:
                tiles[...] = conjugate(tiles, b)
            destination = v[:, at : at + p, :]
            b.matmul(self._matrix, tiles, xp.reshape(destination, (v.shape[0], p * channels)))
        return v

    def _padded(
        self, part: Array, starts: Sequence[int], limits: Sequence[int], wanted: Shape
    ) -> Array:
        """Return the elements of a box with its part of the border; a view if it has none."""
        b, frame = self._b, self._frame
        steps, mode = frame.dilation, frame.mode
        size = part.shape[1:-1]
        valid = tuple(map(min, limits, wanted))
        stops = [start + (n - 1) * d + 1 for start, n, d in zip(starts, valid, steps, strict=True)]
        every_dilation = tuple(slice(None, None, d) for d in steps)
        inside = all(lo >= 0 and hi <= s for lo, hi, s in zip(starts, stops, size, strict=True))
        if inside:
            found = part[(ALL, *map(slice, starts, stops, steps), ...)]
            if valid == wanted:
                return found
        elif not b.traits.mutable:
            found = region(part, starts, stops, mode, b)[(ALL, *every_dilation, ...)]
            if valid == wanted:
                return found
        if not b.traits.mutable:
            return region(found, (0,) * len(wanted), wanted, "zeros", b)
        shape = (part.shape[0], *wanted, part.shape[-1])
        if self._slab is None:
            self._slab = b.empty((self._slab_size,), b.dtype_name(part), part)
        if not inside and mode != "zeros":  # behind the tiles: see `Frame.slab`
            border_buffer = self._slab[prod(shape) :]
            found = region(part, starts, stops, mode, b, border_buffer)[(ALL, *every_dilation, ...)]
            if valid == wanted:
                return found
        whole = b.xp.reshape(self._slab[: prod(shape)], shape)
        if inside or mode != "zeros":
            in_slab = [(0, n) for n in valid]
        else:
            axes = zip(starts, valid, steps, size, strict=True)
            in_slab = [
                (min(max(-(start // d), 0), n), max(min(n, -((start - s) // d)), 0))
                for start, n, d, s in axes
            ]
            in_array = (
                slice(start + lo * d, max(start + (hi - 1) * d + 1, 0), d)
                for start, (lo, hi), d in zip(starts, in_slab, steps, strict=True)
            )
            if any(lo >= hi for lo, hi in in_slab):
                whole[...] = 0
                return whole
            found = part[(ALL, *in_array, ...)]
        for axis, ((lo, hi), n) in enumerate(zip(in_slab, wanted, strict=True), start=1):
            if lo > 0:
                whole[((ALL,) * axis + (slice(0, lo),))] = 0
            if hi < n:
                whole[((ALL,) * axis + (slice(hi, n),))] = 0
        whole[(ALL, *(slice(lo, hi) for lo, hi in in_slab))] = found
        return whole
