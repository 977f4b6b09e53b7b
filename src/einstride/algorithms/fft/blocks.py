"""Copy tiles of x and gy into a worker's memory, and tiles of a result to the output."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import TYPE_CHECKING, Any

from einstride.algorithms.fft.axes import Axis
from einstride.algorithms.fft.planes import planes_of_array, to_array, write_planes
from einstride.algorithms.fft.scratch import Scratch
from einstride.arrays.ops import ALL, box_index, pad, region, windows
from einstride.geometry.blocking import Box
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Shape

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend


def tiles_of_x(
    x: Array, g: Geometry, axes: tuple[Axis, ...], box: Box, channels: tuple[int, int],
    dtype: str, scratch: Scratch, b: Backend,
) -> Array:  # fmt: skip
    """Return the tiles of a box of x as planes (u, *positions, n * c) of the dtype."""
    batch, *spans = box
    x = x[batch[0] : batch[1], ..., channels[0] : channels[1]]
    starts = [a.origin + t0 * a.step + a.first for a, (t0, _) in zip(axes, spans, strict=True)]
    stops = [
        s + (t1 - t0 - 1) * a.step + a.inputs
        for s, a, (t0, t1) in zip(starts, axes, spans, strict=True)
    ]
    slab = _slab(x, g, starts, stops, b)
    tiles = tuple(t1 - t0 for t0, t1 in spans)
    inputs = tuple(a.inputs for a in axes)
    views = _tile_views(slab, tiles, inputs, tuple(a.step for a in axes), b)
    destination = scratch.take("load", (scratch.planes, *views.shape), b)
    return planes_of_array(views, scratch.planes, dtype, destination, b)


def _slab(x: Array, g: Geometry, starts: list[int], stops: list[int], b: Backend) -> Array:
    """Return x on a range with its border; beyond the last tile's border zeros suffice."""
    if g.padding_mode == "zeros":
        return region(x, starts, stops, "zeros", b)
    ends = [n + max(high, 0) for n, (_, high) in zip(g.size, g.padding, strict=True)]
    inner = [min(hi, max(end, lo + 1)) for lo, hi, end in zip(starts, stops, ends, strict=True)]
    part = region(x, starts, inner, g.padding_mode, b)
    over = tuple((0, hi - end) for hi, end in zip(stops, inner, strict=True))
    return pad(part, over, "zeros", b)


def tiles_of_y(
    gy: Array, axes: tuple[Axis, ...], box: Box, channels: tuple[int, int], conjugated: bool,
    dtype: str, scratch: Scratch, b: Backend, name: str,
) -> Array:  # fmt: skip
    """Return the tiles of gy as planes (u, *positions, n * d), with zeros after the last output."""
    batch, *spans = box
    gy = gy[batch[0] : batch[1], ..., channels[0] : channels[1]]
    outputs = tuple(a.outputs for a in axes)
    starts = [t0 * a.outputs for a, (t0, _) in zip(axes, spans, strict=True)]
    stops = [t1 * a.outputs for a, (_, t1) in zip(axes, spans, strict=True)]
    slab = region(gy, starts, stops, "zeros", b)
    tiles = tuple(t1 - t0 for t0, t1 in spans)
    views = _tile_views(slab, tiles, outputs, outputs, b)
    destination = scratch.take(name, (scratch.planes, *views.shape), b)
    return planes_of_array(views, scratch.planes, dtype, destination, b, conjugated)


def _tile_views(slab: Array, tiles: Shape, inputs: Shape, steps: Shape, b: Backend) -> Array:
    """Return (nb, *S, C) as (*positions, nb, *tiles, C), a view if the library has views."""
    rank = len(tiles)
    if b.traits.views:
        w = windows(slab, inputs, steps, (1,) * rank, b)
    elif prod(tiles) == 1:
        w = b.xp.reshape(slab, (slab.shape[0], *tiles, *slab.shape[1:]))
    else:
        stacked = [
            slab[(ALL, *_spans(at, steps, inputs), ALL)] for at in product(*map(range, tiles))
        ]
        w = b.xp.stack(stacked, axis=1)
        w = b.xp.reshape(w, (slab.shape[0], *tiles, *inputs, slab.shape[-1]))
    order = (*range(rank + 1, 2 * rank + 1), *range(rank + 1), 2 * rank + 1)
    return b.xp.permute_dims(w, order)


def _spans(at: Shape, steps: Shape, lengths: Shape) -> list[slice]:
    return [slice(t * s, t * s + n) for t, s, n in zip(at, steps, lengths, strict=True)]


def outputs(
    y: Array, g: Geometry, axes: tuple[Axis, ...], box: Box, result: str, out: Array | None,
    b: Backend,
) -> Array | None:  # fmt: skip
    """Write the planes (u, *T, nb * tiles * d) of a box to `out`, or return them as a block."""
    xp, rank = b.xp, len(axes)
    batch, *spans = box
    tiles = [t1 - t0 for t0, t1 in spans]
    nb = batch[1] - batch[0]
    u, sides = y.shape[0], y.shape[1 : rank + 1]
    d = y.shape[-1] // (nb * prod(tiles))
    y = xp.reshape(y, (u, *sides, nb, *tiles, d))
    pairs = (i for a in range(rank) for i in (rank + 2 + a, 1 + a))
    y = xp.permute_dims(y, (0, rank + 1, *pairs, 2 * rank + 2))  # (u, nb, t, T, t, T, d)
    lows = [t0 * a.outputs for a, (t0, _) in zip(axes, spans, strict=True)]
    highs = [min(t1 * a.outputs, o) for a, (_, t1), o in zip(axes, spans, g.out, strict=True)]
    whole_tiles = all(
        hi - lo == t * a.outputs for lo, hi, t, a in zip(lows, highs, tiles, axes, strict=True)
    )
    destination: Any = None
    if out is not None:
        destination = out[box_index([batch, *zip(lows, highs, strict=True)])]
        if whole_tiles:
            write_planes(y, xp.reshape(destination, y.shape[1:]))
            return None
    shape = (u, nb, *(t * n for t, n in zip(tiles, sides, strict=True)), d)
    y = xp.reshape(y, shape)
    y = y[(ALL, ALL, *(slice(0, hi - lo) for lo, hi in zip(lows, highs, strict=True)), ALL)]
    if out is None:
        return to_array(y, result, b)
    write_planes(y, destination)
    return None


def assemble(blocks: list[Array], sizes: Shape, b: Backend, first: int = 0) -> Array:
    """Concatenate blocks in row-major order, `sizes` of them per axis, to one array."""
    if not sizes:
        return blocks[0]
    step = prod(sizes[1:])
    parts = [
        assemble(blocks[i * step : (i + 1) * step], sizes[1:], b, first + 1)
        for i in range(sizes[0])
    ]
    return parts[0] if len(parts) == 1 else b.xp.concat(parts, axis=first)
