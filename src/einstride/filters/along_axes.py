"""Correlate an array with a filter over some of its axes; the other axes are a batch.

The array is viewed as (batch, *axes, 1) with one channel. A filter over one axis reads the axes
behind it as channels, each with the same taps: a depthwise convolution, whose vectors hold
neighbouring elements of memory. If there are few of them, their axis and the filtered one are read
as one axis, on which the taps stand as far apart as neighbours of the filtered axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from einstride.arrays import backends, ops
from einstride.arrays.backends import Array, Backend
from einstride.dispatch import call_cache
from einstride.filters.operands import array_like
from einstride.geometry.arithmetic import COMPLEXES
from einstride.geometry.keywords import Keywords
from einstride.geometry.padding import Pads
from einstride.geometry.padding_modes import Number

FEW_CHANNELS = 32
"""Elements behind the filtered axis below which they are no channels: two vectors of AVX-512. From
1 to 64 of them a depthwise kernel was measured slower than one pass over both axes as one."""


MOST_PAIRS_OF_BORDER = 1 << 16
"""Pairs of a border's element and a tap from which the border is filled in a copy. Kernels have a
table of offsets for such pairs, and none for more than about four times as many."""

MOST_CHANNELS = 1 << 12
"""Channels whose taps are kept: 4096 times 17 taps of float32 are 272 KiB, the size of a cache."""

TAPS_OF_ROWS = 9
"""Taps from which rows are copied to staging buffers, to be channels of a depthwise kernel: 33 taps
then take half the time, 129 taps a tenth."""

MOST_PAIRS = 1 << 21
"""Pairs of output and tap in one call with several output channels. Kernels keep a table of offsets
of 16 bytes for each pair; for much longer signals they would write it anew in every call, which
took 20 times the time of the products."""


def correlate(
    where: str,
    x: Array,
    f: Array,
    axes: Sequence[int],
    pads: Pads,
    b: Backend,
    mode: str = "zeros",
    fill: Number = 0,
    **keywords: Any,
) -> Array:
    """Correlate x with f, an array of the same library with one axis for each of `axes`.

    The border of `pads` elements may be longer than x in every mode. `keywords` are those of
    `conv`: stride, input_dilation (numbers, for all axes), flip, accuracy, algorithm.
    """
    x, pads, mode = _with_long_border(x, axes, pads, mode, b)
    if len(axes) == 1:
        behind = prod(x.shape[axes[0] + 1 :])
        strided = keywords.get("stride", 1) != 1 or keywords.get("input_dilation", 1) != 1
        if behind >= FEW_CHANNELS:
            return _by_channels(where, x, f, axes[0], pads, b, mode, fill, keywords)
        if not strided and _has_rows(x, f, axes[0], b):
            return _by_rows(where, x, f, axes[0], pads, b, mode, fill, keywords)
        if _has_costly_border(x.shape[axes[0]], f.shape[0], pads[0]):
            x, pads = extended(x, axes[0], pads[0], mode, b, fill), ((0, 0),)
        if behind > 1 and not strided:
            return _as_one_axis(where, x, f, axes[0], pads, b, mode, fill, keywords)
    batch = [a for a in range(x.ndim) if a not in axes]
    order = (*batch, *axes)
    moved = x if order == tuple(range(x.ndim)) else b.xp.permute_dims(x, order)
    sizes = tuple(x.shape[a] for a in batch)
    moved = b.xp.reshape(moved, (prod(sizes), *(x.shape[a] for a in axes), 1))
    f = b.xp.reshape(f, (*f.shape, 1, 1))
    y = convolve(where, moved, f, padding=pads, padding_mode=mode, fill=fill, **keywords)
    y = b.xp.reshape(y, (*sizes, *y.shape[1:-1]))
    back = tuple(sorted(range(x.ndim), key=order.__getitem__))
    return y if order == tuple(range(x.ndim)) else b.xp.permute_dims(y, back)


def _by_channels(
    where: str, x: Array, f: Array, axis: int, pads: Pads, b: Backend, mode: str, fill: Number,
    keywords: dict[str, Any],
) -> Array:  # fmt: skip
    before, behind = x.shape[:axis], x.shape[axis + 1 :]
    count = prod(behind)
    if count > MOST_CHANNELS and behind[-1] >= FEW_CHANNELS:
        count = behind[-1]  # the other axes behind have one tap, and few channels' taps are kept
    rest = prod(behind) // count
    flat = b.xp.reshape(x, (prod(before), x.shape[axis], rest, count))
    wide = _repeated(f, count, b)
    column = b.xp.reshape(wide, (f.shape[0], 1, 1, count))
    first: dict[str, Any] = {
        n: (keywords[n], 1) for n in ("stride", "input_dilation") if n in keywords
    }
    y = convolve(
        where, flat, column, padding=(*pads, (0, 0)), padding_mode=mode, fill=fill, groups=count,
        **(keywords | first),
    )  # fmt: skip
    return b.xp.reshape(y, (*before, y.shape[1], *behind))


def _repeated(f: Array, count: int, b: Backend) -> Array:
    """Return the taps for each of `count` channels, (K, count), without strides of zero."""
    column = b.xp.reshape(f, (f.shape[0], 1))
    if not b.traits.mutable:
        return b.xp.broadcast_to(column, (f.shape[0], count))
    wide = b.empty((f.shape[0], count), b.dtype_name(f), f)
    wide[...] = column
    return wide


def _has_rows(x: Array, f: Array, axis: int, b: Backend) -> bool:
    """True if the rows before an axis are to be the channels of kernels, and there are enough."""
    return (
        backends.computing(b).traits.kernels == "cpu"
        and f.shape[0] >= TAPS_OF_ROWS
        and FEW_CHANNELS <= _rows(x, axis) <= MOST_CHANNELS
        and b.dtype_name(x) not in COMPLEXES
    )


def _rows(x: Array, axis: int) -> int:
    """Return how many rows are channels: those of one plane, or all if the planes are small."""
    one: int = x.shape[axis - 1] if axis else 0
    return one if one >= FEW_CHANNELS else prod(x.shape[:axis])


def _by_rows(
    where: str, x: Array, f: Array, axis: int, pads: Pads, b: Backend, mode: str, fill: Number,
    keywords: dict[str, Any],
) -> Array:  # fmt: skip
    """Filter the last axis, or the last but few elements, with its rows as channels.

    Kernels copy blocks of rows to a staging buffer in which their elements are neighbours.
    """
    count = _rows(x, axis)
    behind = prod(x.shape[axis + 1 :])
    planes = b.xp.reshape(x, (-1, count, x.shape[axis], behind))
    wide = b.xp.reshape(_repeated(f, count, b), (f.shape[0], 1, 1, count))
    y = convolve(
        where, planes, wide, padding=(*pads, (0, 0)), padding_mode=mode, fill=fill, groups=count,
        layout="NCHW,HWIO->NCHW", **keywords,
    )  # fmt: skip
    return b.xp.reshape(y, (*x.shape[:axis], y.shape[2], *x.shape[axis + 1 :]))


def _has_costly_border(size: int, taps: int, pads: tuple[int, int]) -> bool:
    """True if a copy of the axis with its border takes less time than outputs that the border
    enters, which kernels compute one by one."""
    return max(pads) * taps > MOST_PAIRS_OF_BORDER or (taps >= 32 and 16 * sum(pads) > size)


def _as_one_axis(
    where: str, x: Array, f: Array, axis: int, pads: Pads, b: Backend, mode: str, fill: Number,
    keywords: dict[str, Any],
) -> Array:  # fmt: skip
    before, behind = x.shape[:axis], x.shape[axis + 1 :]
    count = prod(behind)
    flat = b.xp.reshape(x, (prod(before), x.shape[axis], count))
    flat = ops.pad(flat, pads, mode, b, fill)
    flat = b.xp.reshape(flat, (flat.shape[0], flat.shape[1] * count, 1))
    y = convolve(where, flat, b.xp.reshape(f, (*f.shape, 1, 1)), dilation=count, **keywords)
    return b.xp.reshape(y, (*before, y.shape[1] // count, *behind))


def convolve(where: str, x: Array, f: Array, **keywords: Any) -> Array:
    """Call the forward pass under the name of another function."""
    return call_cache.call(where, "forward", x, f, None, None, Keywords(**keywords))


def by_parts(
    where: str, x: Array, f: Array, pads: tuple[int, int], stride: int, b: Backend, **keywords: Any
) -> Array:
    """Convolve signals (B, N, C) by f (K, C, D) as `convolve`, a part of the outputs at a time."""
    taps = f.shape[0]
    count = (x.shape[1] + sum(pads) - taps) // stride + 1
    if count * taps <= MOST_PAIRS:
        return convolve(where, x, f, padding=(pads,), stride=stride, **keywords)
    x = ops.pad(x, (pads,), "zeros", b)
    step = max(MOST_PAIRS // taps, 1)
    stops = [min(i + step, count) for i in range(0, count, step)]
    parts = [
        x[:, i * step * stride : (stop - 1) * stride + taps, :] for i, stop in enumerate(stops)
    ]
    return b.xp.concat([convolve(where, p, f, stride=stride, **keywords) for p in parts], axis=1)


def _with_long_border(
    x: Array, axes: Sequence[int], pads: Pads, mode: str, b: Backend
) -> tuple[Array, Pads, str]:
    """Return x with what one repetition of it cannot fill of its border, and the rest of the pads.

    A mirrored or wrapped axis continues: once its border is as long as it can be, the longer axis
    has the same continuation.
    """
    rest = list(pads)
    if mode in ("reflect", "symmetric", "circular"):
        for i, axis in enumerate(axes):
            if mode == "reflect" and x.shape[axis] == 1:  # one element has no other to mirror
                x, rest[i] = extended(x, axis, pads[i], "replicate", b), (0, 0)
                continue
            most = _longest(x.shape[axis], mode)
            if most and max(pads[i]) > most:
                x, rest[i] = extended(x, axis, pads[i], mode, b), (0, 0)
    return x, tuple(rest), mode


def _longest(size: int, mode: str) -> int:
    return size - 1 if mode == "reflect" else size


def extended(
    x: Array, axis: int, pads: tuple[int, int], mode: str, b: Backend, fill: Number = 0
) -> Array:
    """Return x with a border of any length on one axis."""
    low, high = pads
    if mode == "circular" and max(pads) > x.shape[axis]:  # a part of a period has other ends
        around = np.arange(-low, x.shape[axis] + high) % x.shape[axis]
        return b.xp.take(x, array_like(around, x, b), axis=axis)
    lead = (prod(x.shape[:axis]), *x.shape[axis:])
    whole = b.xp.reshape(x, (*lead, 1))
    repeats = mode in ("reflect", "symmetric", "circular")
    while low > 0 or high > 0:
        most = _longest(whole.shape[1], mode) if repeats else max(low, high)
        ends = min(low, most), min(high, most)
        whole = ops.pad(whole, (ends,), mode, b, fill)
        low, high = low - ends[0], high - ends[1]
    return b.xp.reshape(whole, (*x.shape[:axis], *whole.shape[1:-1]))
