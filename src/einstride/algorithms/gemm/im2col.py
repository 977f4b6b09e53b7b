"""Copy the windows of one block into the rows of a matrix: im2col, one block at a time.

The buffer of a block fits the cache and is used again for the next block. Padding is added to the
block alone (in a second buffer, the slab), or by index where the backend has a kernel for that.
Where the windows already are a matrix (1x1 filters) nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from einstride.arrays.ops import (
    ALL,
    groups_first,
    has_contiguous_axis,
    merged,
    region,
    split_groups,
    windows,
)
from einstride.geometry.blocking import Box
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Shape

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend


def slab_elements(g: Geometry, lengths: Shape, taps: Shape) -> int:
    """Count the elements of padded input that a box of outputs reads; 0 if nothing is padded.

    `lengths` are the sides of the box, `taps` the taps per axis.
    """
    if all(low <= 0 and high <= 0 for low, high in g.padding):
        return 0
    return (
        lengths[0]
        * g.channels
        * prod(
            (n - 1) * s + (k - 1) * d + 1
            for n, s, k, d in zip(lengths[1:], g.stride, taps, g.dilation, strict=True)
        )
    )


def window_starts(
    g: Geometry, spans: Sequence[tuple[int, int]], taps: Sequence[tuple[int, int]]
) -> list[int]:
    """Return the index in x that the first tap of the first output reads, per axis.

    It is negative in the border.
    """
    return [
        o0 * s + k0 * d - low
        for (o0, _), (k0, _), s, d, (low, _) in zip(
            spans, taps, g.stride, g.dilation, g.padding, strict=True
        )
    ]


class Rows:
    """One worker's buffers for the windows of x (B, *S, C).

    Parameters
    ----------
    x : array
        In canonical order; its memory order decides whether channels or positions are contiguous
        in the buffer.
    g : Geometry
        The convolution.
    rows, slab : int
        Elements of the buffers for rows and for a block of padded input.
    dtype : str
        The dtype of the rows, that of the products.
    channels_inner : bool
        True if a row is ordered (K, C), else (C, K).
    """

    def __init__(
        self, x: Array, g: Geometry, rows: int, slab: int, dtype: str, channels_inner: bool,
        b: Backend,
    ) -> None:  # fmt: skip
        self._x, self._g, self._b, self._dtype = x, g, b, dtype
        self._channels_inner = channels_inner
        self._positions_inner = False
        self._rows = self._slab = None
        self._zeroed_border: object = None
        self._slab_views: dict[Shape, Array] = {}  # views for all blocks of one shape
        self._window_views: dict[tuple[Shape, Shape], Array] = {}
        self._row_views: dict[Shape, tuple[Array, Array]] = {}
        self._slab_size = slab if b.traits.mutable else 0
        if b.traits.mutable:
            self._rows = b.empty((rows,), dtype, x)
        if b.strides is not None:
            *_, last, channel = b.strides(x)
            self._positions_inner = abs(channel) > abs(last) > 0 and g.size[-1] > 1

    def of(
        self, box: Box, taps: Sequence[tuple[int, int]], channels: tuple[int, int] | None = None
    ) -> Array:
        """Return the rows of a box of p positions for some taps and channels.

        (p, K * C) for one group, else (G, p, K * C // G).
        """
        g, b = self._g, self._b
        x = self._x if channels is None else self._x[..., channels[0] : channels[1]]
        kernel = tuple(k1 - k0 for k0, k1 in taps)
        if prod(kernel) > 1 or self._slab_size:
            found = self._gather(x, box, taps)
            if found is not None:
                return found
        batch, *spans = box
        starts = window_starts(g, spans, taps)
        stops = [
            start + (o1 - 1 - o0) * s + (k - 1) * d + 1
            for start, (o0, o1), k, s, d in zip(
                starts, spans, kernel, g.stride, g.dilation, strict=True
            )
        ]
        part = x[batch[0] : batch[1], ...]
        if all(lo >= 0 and hi <= n for lo, hi, n in zip(starts, stops, g.size, strict=True)):
            part = part[(ALL, *map(slice, starts, stops), ...)]
        elif self._slab_size:
            part = self._padded(part, starts, stops)
            if g.padding_mode != "zeros":  # may be a view of x, not the slab
                ordered = self._windows(part, kernel)
            elif (part.shape, kernel) in self._window_views:
                ordered = self._window_views[part.shape, kernel]
            else:
                ordered = self._window_views[part.shape, kernel] = self._windows(part, kernel)
            return self._copy_rows(ordered, part.shape[0], spans, kernel)
        else:
            part = region(part, starts, stops, g.padding_mode, b)
        if prod(kernel) == 1:
            matrix = self._as_matrix(part)
            if matrix is not None:
                return matrix
        return self._copy_rows(self._windows(part, kernel), part.shape[0], spans, kernel)

    def _padded(self, part: Array, starts: list[int], stops: list[int]) -> Array:
        """Copy a part of the padded x into the slab, which may still hold the zeros it needs."""
        g, b = self._g, self._b
        slab = self._slab
        if slab is None:
            slab = self._slab = b.empty((self._slab_size,), b.dtype_name(part), part)
        if g.padding_mode != "zeros":
            return region(part, starts, stops, g.padding_mode, b, slab)
        sides = [hi - lo for lo, hi in zip(starts, stops, strict=True)]
        shape = (part.shape[0], *sides, part.shape[-1])
        inside = [
            (max(lo, 0), max(min(hi, n), 0))
            for lo, hi, n in zip(starts, stops, g.size, strict=True)
        ]
        in_slab = [(a - lo, e - lo) for (a, e), lo in zip(inside, starts, strict=True)]
        key = (shape, tuple(in_slab))
        whole = self._slab_views.get(shape)
        if whole is None:
            whole = self._slab_views[shape] = b.xp.reshape(slab[: prod(shape)], shape)
        if any(a >= e for a, e in inside):  # nothing but border
            whole[...] = 0
            self._zeroed_border = None
            return whole
        if key != self._zeroed_border:
            for axis, ((a, e), n) in enumerate(zip(in_slab, sides, strict=True), start=1):
                if a > 0:
                    whole[((ALL,) * axis + (slice(0, a),))] = 0
                if e < n:
                    whole[((ALL,) * axis + (slice(e, n),))] = 0
            self._zeroed_border = key
        whole[(ALL, *(slice(a, e) for a, e in in_slab))] = part[
            (ALL, *(slice(a, e) for a, e in inside), ...)
        ]
        return whole

    def _windows(self, part: Array, kernel: Shape) -> Array:
        """Return the windows of a part, with axes in the order of the matrix in memory."""
        g, b = self._g, self._b
        w = windows(part, kernel, g.stride, g.dilation, b)  # (n, *o, *k, c)
        if g.groups > 1:
            w = split_groups(w, g.groups, b)  # (n, *o, *k, g, c)
        positions = tuple(range(g.rank + 1))
        taps = tuple(range(g.rank + 1, 2 * g.rank + 1))
        channel = (w.ndim - 1,)
        group = (w.ndim - 2,) if g.groups > 1 else ()
        row = taps + channel if self._channels_inner else channel + taps
        order = group + (row + positions if self._positions_inner else positions + row)
        return b.xp.permute_dims(w, order)

    def _copy_rows(
        self, ordered: Array, n: int, spans: Sequence[tuple[int, int]], kernel: Shape
    ) -> Array:
        """Copy ordered windows into a matrix, in the buffer if there is one."""
        b, xp = self._b, self._b.xp
        row_views = self._row_views.get(ordered.shape)
        if row_views is None:
            p = n * prod(o1 - o0 for o0, o1 in spans)
            shape = self._shape(p, prod(ordered.shape) // p // self._g.groups)
            if self._rows is None:
                matrix = xp.reshape(b.astype(ordered, self._dtype), shape)
                return xp.matrix_transpose(matrix) if self._positions_inner else matrix
            buffer = self._rows[: prod(shape)]
            matrix = xp.reshape(buffer, shape)
            matrix = xp.matrix_transpose(matrix) if self._positions_inner else matrix
            row_views = self._row_views[ordered.shape] = (xp.reshape(buffer, ordered.shape), matrix)
        row_views[0][...] = ordered
        return row_views[1]

    def _as_matrix(self, part: Array) -> Array | None:
        """Return the elements that one tap reads as a matrix, a view; None if strides forbid it."""
        g, b = self._g, self._b
        if b.dtype_name(part) != self._dtype:
            return None
        steps = (slice(None, None, s) for s in g.stride)
        matrix = merged(part[(ALL, *steps, ...)], g.rank + 1, b)
        if matrix is None or not has_contiguous_axis(matrix, b):
            return None
        return groups_first(matrix, g.groups, b)

    def _gather(self, x: Array, box: Box, taps: Sequence[tuple[int, int]]) -> Array | None:
        """Copy rows by the backend's own kernel, without a slab; None if that cannot do it."""
        g, b = self._g, self._b
        if b.copy_rows is None or self._rows is None:
            return None
        (first, last), *spans = box
        starts, out = window_starts(g, spans, taps), [o1 - o0 for o0, o1 in spans]
        kernel = [k1 - k0 for k0, k1 in taps]
        positions = (last - first) * prod(out)
        shape = self._shape(positions, prod(kernel) * x.shape[-1] // g.groups)
        matrix = self._rows[: prod(shape)]
        if not b.copy_rows(
            x[first:last, ...], matrix, starts, out, kernel, g.stride, g.dilation,
            g.padding_mode, g.groups, self._channels_inner, self._positions_inner,
        ):  # fmt: skip
            return None
        matrix = b.xp.reshape(matrix, shape)
        return b.xp.matrix_transpose(matrix) if self._positions_inner else matrix

    def _shape(self, p: int, n: int) -> Shape:
        """Return the matrix's shape in memory order, for p positions and n elements per row."""
        ends = (n, p) if self._positions_inner else (p, n)
        return ends if self._g.groups == 1 else (self._g.groups, *ends)
