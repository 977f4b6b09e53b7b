"""The windows of one block as the rows of a matrix, copied into a buffer that is used again.

This is im2col, a block at a time: the buffer holds what fits the cache, never the whole. Padding is
added to the block alone, or by index where the backend has a kernel for that. Where the windows
already are a matrix (1x1 filters) nothing is copied.
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
    """Elements of padded input under a box with these sides, for so many taps; 0 if a view does."""
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
    """Where in x the first tap of the first output lies on each axis; negative in the border."""
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
        Canonical; its memory order decides whether the buffer runs along channels or positions.
    g : Geometry
        Of the convolution.
    rows, slab : int
        Elements that the two buffers must hold.
    dtype : str
        Of the rows: what products are formed in.
    channels_inner : bool
        The order of a row: (K, C) if true, else (C, K).
    """

    def __init__(
        self, x: Array, g: Geometry, rows: int, slab: int, dtype: str, channels_inner: bool,
        b: Backend,
    ) -> None:  # fmt: skip
        self._x, self._g, self._b, self._dtype = x, g, b, dtype
        self._channels_inner = channels_inner
        self._positions_inner = False
        self._rows = self._slab = None
        self._zeroed: object = None
        self._slabs: dict[Shape, Array] = {}  # views that every block of one shape uses again
        self._seen: dict[tuple[Shape, Shape], Array] = {}
        self._targets: dict[Shape, tuple[Array, Array]] = {}
        self._slab_size = slab if b.traits.mutable else 0
        if b.traits.mutable:
            self._rows = b.empty((rows,), dtype, x)
        if b.strides is not None:
            *_, last, channel = b.strides(x)
            self._positions_inner = abs(channel) > abs(last) > 0 and g.size[-1] > 1

    def of(
        self, box: Box, taps: Sequence[tuple[int, int]], channels: tuple[int, int] | None = None
    ) -> Array:
        """(p, K * C) for one group, else (G, p, K * C // G), of p positions and the chosen taps."""
        g, b = self._g, self._b
        x = self._x if channels is None else self._x[..., channels[0] : channels[1]]
        kernel = tuple(k1 - k0 for k0, k1 in taps)
        if prod(kernel) > 1 or self._slab_size:
            found = self._gathered(x, box, taps)
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
            part = self._bordered(part, starts, stops)
            if g.padding_mode != "zeros":  # may be a view of x, not the slab
                ordered = self._windows(part, kernel)
            elif (part.shape, kernel) in self._seen:
                ordered = self._seen[part.shape, kernel]
            else:
                ordered = self._seen[part.shape, kernel] = self._windows(part, kernel)
            return self._copied(ordered, part.shape[0], spans, kernel)
        else:
            part = region(part, starts, stops, g.padding_mode, b)
        if prod(kernel) == 1:
            point = self._point(part)
            if point is not None:
                return point
        return self._copied(self._windows(part, kernel), part.shape[0], spans, kernel)

    def _bordered(self, part: Array, starts: list[int], stops: list[int]) -> Array:
        """The part of the padded x in the slab, which still has the last block's zeros."""
        g, b = self._g, self._b
        slab = self._slab
        if slab is None:
            slab = self._slab = b.empty((self._slab_size,), b.dtype_name(part), part)
        if g.padding_mode != "zeros":
            return region(part, starts, stops, g.padding_mode, b, slab)
        sides = [hi - lo for lo, hi in zip(starts, stops, strict=True)]
        shape = (part.shape[0], *sides, part.shape[-1])
        here = [
            (max(lo, 0), max(min(hi, n), 0))
            for lo, hi, n in zip(starts, stops, g.size, strict=True)
        ]
        there = [(a - lo, e - lo) for (a, e), lo in zip(here, starts, strict=True)]
        key = (shape, tuple(there))
        whole = self._slabs.get(shape)
        if whole is None:
            whole = self._slabs[shape] = b.xp.reshape(slab[: prod(shape)], shape)
        if any(a >= e for a, e in here):  # nothing but border
            whole[...] = 0
            self._zeroed = None
            return whole
        if key != self._zeroed:
            for axis, ((a, e), n) in enumerate(zip(there, sides, strict=True), start=1):
                if a > 0:
                    whole[((ALL,) * axis + (slice(0, a),))] = 0
                if e < n:
                    whole[((ALL,) * axis + (slice(e, n),))] = 0
            self._zeroed = key
        whole[(ALL, *(slice(a, e) for a, e in there))] = part[
            (ALL, *(slice(a, e) for a, e in here), ...)
        ]
        return whole

    def _windows(self, part: Array, kernel: Shape) -> Array:
        """The windows of a part, their axes in the order of the matrix in memory."""
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

    def _copied(
        self, ordered: Array, n: int, spans: Sequence[tuple[int, int]], kernel: Shape
    ) -> Array:
        """Ordered windows as a matrix: one copy, into the buffer where there is one."""
        b, xp = self._b, self._b.xp
        views = self._targets.get(ordered.shape)
        if views is None:
            p = n * prod(o1 - o0 for o0, o1 in spans)
            shape = self._shape(p, prod(ordered.shape) // p // self._g.groups)
            if self._rows is None:
                matrix = xp.reshape(b.astype(ordered, self._dtype), shape)
                return xp.matrix_transpose(matrix) if self._positions_inner else matrix
            buffer = self._rows[: prod(shape)]
            matrix = xp.reshape(buffer, shape)
            matrix = xp.matrix_transpose(matrix) if self._positions_inner else matrix
            views = self._targets[ordered.shape] = (xp.reshape(buffer, ordered.shape), matrix)
        views[0][...] = ordered
        return views[1]

    def _point(self, part: Array) -> Array | None:
        """A part seen through one tap, as a matrix without a copy; None if it does not lie so."""
        g, b = self._g, self._b
        if b.dtype_name(part) != self._dtype:
            return None
        steps = (slice(None, None, s) for s in g.stride)
        point = merged(part[(ALL, *steps, ...)], g.rank + 1, b)
        if point is None or not has_contiguous_axis(point, b):
            return None
        return groups_first(point, g.groups, b)

    def _gathered(self, x: Array, box: Box, taps: Sequence[tuple[int, int]]) -> Array | None:
        """The matrix by the backend's own kernel, straight from x; None if that cannot do it."""
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
        """Of the matrix as it lies in memory, for p positions and n elements a row."""
        ends = (n, p) if self._positions_inner else (p, n)
        return ends if self._g.groups == 1 else (self._g.groups, *ends)
