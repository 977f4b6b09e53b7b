"""The windows of one block as the rows of a matrix, copied into a buffer that is used again.

This is im2col, a block at a time: the buffer holds what fits the cache, never the whole. Padding is
added to the block alone. Where the windows already are a matrix (1x1 filters) nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

from einstride.geometry import Geometry
from einstride.primitives import dense, merged, region, split_groups, windows
from einstride.settings import Shape
from einstride.tiling import Box

if TYPE_CHECKING:
    from einstride.backends import Array, Backend


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


def region_of(
    x: Array, g: Geometry, box: Box, taps: Sequence[tuple[int, int]], b: Backend,
    buffer: Array | None = None,
) -> Array:  # fmt: skip
    """The part of the padded x that a box of outputs reads through a box of taps."""
    batch, *spans = box
    starts, stops = [], []
    for (o0, o1), (k0, k1), s, d, (low, _) in zip(
        spans, taps, g.stride, g.dilation, g.padding, strict=True
    ):
        starts.append(o0 * s + k0 * d - low)
        stops.append((o1 - 1) * s + (k1 - 1) * d + 1 - low)
    return region(x[batch[0] : batch[1], ...], starts, stops, g.padding_mode, b, buffer)


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
        if b.traits.mutable:
            self._rows = b.empty((rows,), dtype, x)
            self._slab = b.empty((slab,), b.dtype_name(x), x) if slab else None
        if b.strides is not None:
            *_, last, channel = b.strides(x)
            self._positions_inner = abs(channel) > abs(last) > 0 and g.size[-1] > 1

    def of(
        self, box: Box, taps: Sequence[tuple[int, int]], channels: tuple[int, int] | None = None
    ) -> Array:
        """(p, K * C) for one group, else (G, p, K * C // G), of p positions and the chosen taps."""
        g, b = self._g, self._b
        x = self._x if channels is None else self._x[..., channels[0] : channels[1]]
        part = region_of(x, g, box, taps, b, self._slab)
        kernel = tuple(k1 - k0 for k0, k1 in taps)
        w = windows(part, kernel, g.stride, g.dilation, b)  # (n, *o, *k, c)
        lead = g.rank + 1
        if prod(kernel) == 1 and b.dtype_name(w) == self._dtype:
            point = merged(w[((slice(None),) * lead + (0,) * g.rank + (...,))], lead, b)
            if point is not None and dense(point, b):
                return point if g.groups == 1 else self._by_group(point)
        if g.groups > 1:
            w = split_groups(w, g.groups, b)  # (n, *o, *k, g, c)
        return self._copied(w, lead)

    def _by_group(self, point: Array) -> Array:
        return self._b.xp.permute_dims(split_groups(point, self._g.groups, self._b), (1, 0, 2))

    def _copied(self, w: Array, lead: int) -> Array:
        b, xp = self._b, self._b.xp
        positions = tuple(range(lead))
        taps = tuple(range(lead, 2 * lead - 1))
        channel = (w.ndim - 1,)
        group = (w.ndim - 2,) if self._g.groups > 1 else ()
        row = taps + channel if self._channels_inner else channel + taps
        order = group + (row + positions if self._positions_inner else positions + row)
        p, n = prod(w.shape[:lead]), prod(w.shape[i] for i in row)
        ends = (n, p) if self._positions_inner else (p, n)
        shape = ((w.shape[-2],) if group else ()) + ends
        ordered = xp.permute_dims(w, order)
        if self._rows is None:
            return xp.reshape(b.astype(ordered, self._dtype), shape)
        buffer = self._rows[: prod(shape)]
        xp.reshape(buffer, ordered.shape)[...] = ordered
        matrix = xp.reshape(buffer, shape)
        return xp.matrix_transpose(matrix) if self._positions_inner else matrix
