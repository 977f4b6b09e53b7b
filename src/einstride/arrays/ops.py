"""Pad, dilate, flip and window arrays of any backend `b`; nothing here knows an array library.

Arrays are canonical: a batch axis, spatial axes, then whatever follows (channels, or groups and
channels). Functions return views where the library has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from math import prod
from typing import TYPE_CHECKING, Any

from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.keywords import Shape
from einstride.geometry.padding import Pads
from einstride.geometry.padding_modes import Segment, segments
from einstride.support.caches import cached
from einstride.support.errors import bad_value

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend

ALL = slice(None)

PIECE = 1024
"""Bytes that NumPy may copy unasked."""


def windows(x: Array, kernel: Shape, stride: Shape, dilation: Shape, b: Backend) -> Array:
    """Every window of x (B, *S, ...) as (B, *O, *K, ...), with O = (S - extent) // stride + 1.

    Element [b, o, k] is x[b, o * stride + k * dilation]. This is the only place that makes strided
    views, and the bound is checked here once more: no view reaches past the last element of x.
    """
    if b.as_strided is None or b.strides is None:
        out = _fitting(x.shape[1 : len(kernel) + 1], kernel, stride, dilation)
        return _stacked_windows(x, out, kernel, stride, dilation, b)
    return b.as_strided(x, *_view(x.shape, b.strides(x), kernel, stride, dilation))


@cached(4096)
def _view(
    size: Shape, steps: Shape, kernel: Shape, stride: Shape, dilation: Shape
) -> tuple[Shape, Shape]:
    """Shape and steps of the windows of an array, proved to lie within it."""
    n = len(kernel)
    out = _fitting(size[1 : n + 1], kernel, stride, dilation)
    along = steps[1 : n + 1]
    moves = (*_scaled(along, stride, out), *_scaled(along, dilation, kernel))
    return (size[0], *out, *kernel, *size[n + 1 :]), (steps[0], *moves, *steps[n + 1 :])


def _scaled(steps: Shape, factors: Shape, lengths: Shape) -> Shape:
    """Strides times factors; an axis of one element needs none, and the product may be huge."""
    return tuple(t * s if n > 1 else 0 for t, s, n in zip(steps, factors, lengths, strict=True))


@cached(4096)
def _fitting(size: Shape, kernel: Shape, stride: Shape, dilation: Shape) -> Shape:
    """The number of windows on each axis, proved to lie within it."""
    out = tuple(
        (s - d * (k - 1) - 1) // step + 1
        for s, k, step, d in zip(size, kernel, stride, dilation, strict=True)
    )
    for axis, (o, k) in enumerate(zip(out, kernel, strict=True)):
        last = (o - 1) * stride[axis] + (k - 1) * dilation[axis]
        if o < 0 or k < 1 or (o > 0 and last >= size[axis]):
            raise bad_value(
                "windows",
                f"the dilated filter must fit into spatial axis {axis}",
                f"size {size}, kernel {kernel}, dilation {dilation}",
                "pad x first or use a smaller kernel",
            )
    return out


def _stacked_windows(
    x: Array, out: Shape, kernel: Shape, stride: Shape, dilation: Shape, b: Backend
) -> Array:
    n = len(kernel)
    taps = []
    for ks in product(*map(range, kernel)):
        first = [k * d for k, d in zip(ks, dilation, strict=True)]
        cut = tuple(
            slice(i, i + (o - 1) * s + 1 if o else i, s)
            for i, o, s in zip(first, out, stride, strict=True)
        )
        taps.append(x[(ALL, *cut, ...)])
    stacked = b.xp.stack(taps, axis=n + 1)
    return b.xp.reshape(stacked, (x.shape[0], *out, *kernel, *x.shape[n + 1 :]))


def region(
    x: Array,
    starts: Sequence[int],
    stops: Sequence[int],
    mode: str,
    b: Backend,
    buffer: Array | None = None,
) -> Array:
    """x on [start, stop) of each spatial axis, in zeros or in itself (see `padding_modes`).

    A view where the range lies inside x; otherwise a copy, in `buffer` (a flat array of the dtype
    of x, large enough) if one is given.
    """
    n = len(starts)
    axes = [
        segments(lo, hi, size, mode)
        for lo, hi, size in zip(starts, stops, x.shape[1 : n + 1], strict=True)
    ]
    if all(len(runs) == 1 and runs[0].step == 1 for runs in axes):
        return x[(ALL, *(runs[0].here for runs in axes), ...)]
    if not b.traits.mutable:
        for axis, runs in enumerate(axes, start=1):
            pieces = [_piece(x, axis, run, b) for run in runs]
            x = b.xp.concat(pieces, axis=axis) if len(pieces) > 1 else pieces[0]
        return x
    shape = (x.shape[0], *(hi - lo for lo, hi in zip(starts, stops, strict=True)))
    shape = (*shape, *x.shape[n + 1 :])
    if buffer is None:
        whole = b.empty(shape, b.dtype_name(x), x)
    else:
        whole = b.xp.reshape(buffer[: prod(shape)], shape)
    for axis, runs in enumerate(axes, start=1):  # zeros, once for each side
        for run in runs:
            if run.source < 0:
                whole[((ALL,) * axis + (run.there,))] = 0
    for cell in product(*axes):
        if all(run.source >= 0 for run in cell):
            part = x[(ALL, *(run.here for run in cell), ...)]
            back = tuple(axis for axis, run in enumerate(cell, start=1) if run.step == -1)
            part = b.xp.flip(part, axis=back) if back else part
            whole[(ALL, *(run.there for run in cell))] = part
    return whole


def _piece(x: Array, axis: int, run: Segment, b: Backend) -> Array:
    """What one run of an axis holds."""
    length = run.stop - run.start
    shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
    if run.source < 0:
        return b.zeros(shape, b.dtype_name(x), x)
    part = x[((ALL,) * axis + (run.here, ...))]
    if run.step == 0:
        return b.xp.broadcast_to(part, shape)
    return part if run.step == 1 else b.xp.flip(part, axis=axis)


def pad(x: Array, pads: Pads, mode: str, b: Backend) -> Array:
    """x with a border around it; negative numbers crop."""
    if not any(low or high for low, high in pads):
        return x
    size = x.shape[1 : len(pads) + 1]
    starts = [-low for low, _ in pads]
    stops = [s + high for s, (_, high) in zip(size, pads, strict=True)]
    return region(x, starts, stops, mode, b)


def fold(gx: Array, size: Shape, pads: Pads, mode: str, b: Backend) -> Array:
    """The adjoint of `pad`: what stands in the border is added where it came from."""
    for axis, (s, (low, high)) in enumerate(zip(size, pads, strict=True), start=1):
        if low or high:
            gx = _folded(gx, axis, s, (low, high), mode, b)
    return gx


def _folded(gx: Array, axis: int, s: int, pads: tuple[int, int], mode: str, b: Backend) -> Array:
    """One axis folded; in a function of its own, so that no view keeps the last axis' array."""
    shape = (*gx.shape[:axis], s, *gx.shape[axis + 1 :])
    total = b.zeros(shape, b.dtype_name(gx), gx)
    for run in segments(-pads[0], s + pads[1], s, mode):
        part = gx[((ALL,) * axis + (run.there, ...))]
        if run.step == 0:
            part = b.xp.sum(part, axis=axis, keepdims=True, dtype=part.dtype)
        elif run.step == -1:
            part = b.xp.flip(part, axis=axis)
        if b.traits.mutable:
            plus(total[((ALL,) * axis + (run.here,))], part, b)
        else:
            before = (*gx.shape[:axis], run.here.start, *gx.shape[axis + 1 :])
            after = (*gx.shape[:axis], s - run.here.stop, *gx.shape[axis + 1 :])
            name = b.dtype_name(gx)
            pieces = [b.zeros(before, name, gx), part, b.zeros(after, name, gx)]
            total = total + b.xp.concat(pieces, axis=axis)
    return total


def dilate(x: Array, step: Shape, b: Backend) -> Array:
    """x with step - 1 zeros between neighbours: size (S - 1) * step + 1 on each axis."""
    n = len(step)
    size = tuple(max((m - 1) * s + 1, 0) for m, s in zip(x.shape[1 : n + 1], step, strict=True))
    if size == x.shape[1 : n + 1]:
        return x
    if b.traits.mutable:
        whole = b.zeros((x.shape[0], *size, *x.shape[n + 1 :]), b.dtype_name(x), x)
        whole[(ALL, *(slice(None, None, s) for s in step))] = x
        return whole
    for axis, s in enumerate(step, start=1):
        m = x.shape[axis]
        if s == 1 or m <= 1:
            continue
        parts = [x] + [b.zeros(x.shape, b.dtype_name(x), x)] * (s - 1)
        spread = b.xp.stack(parts, axis=axis + 1)
        spread = b.xp.reshape(spread, (*x.shape[:axis], m * s, *x.shape[axis + 1 :]))
        x = spread[((ALL,) * axis + (slice(0, (m - 1) * s + 1), ...))]
    return x


def interleave(phases: dict[Shape, Array], step: Shape, shape: Shape, b: Backend) -> Array:
    """The array whose [b, r::step] is phases[r] (B, ..., C): the inverse of slicing."""
    first = next(iter(phases.values()))
    step = tuple(min(t, s) for t, s in zip(step, shape[1:-1], strict=True))
    longest = tuple(-(-s // t) for s, t in zip(shape[1:-1], step, strict=True))
    even = []
    for r in product(*map(range, step)):
        if r in phases:
            p = phases[r]
            even.append(region(p, [0] * len(step), longest, "zeros", b))
        else:
            even.append(b.zeros((shape[0], *longest, shape[-1]), b.dtype_name(first), first))
    n = len(step)
    stacked = b.xp.reshape(b.xp.stack(even, axis=0), (*step, shape[0], *longest, shape[-1]))
    order = (n, *(i for a in range(n) for i in (n + 1 + a, a)), 2 * n + 1)
    merged = b.xp.reshape(
        b.xp.permute_dims(stacked, order),
        (shape[0], *(m * s for m, s in zip(longest, step, strict=True)), shape[-1]),
    )
    return merged[(ALL, *(slice(0, s) for s in shape[1:-1]), ALL)]


def flip(f: Array, n: int, b: Backend, start: int = 0) -> Array:
    """f (*K, ...) with n axes reversed, from `start` on."""
    return b.xp.flip(f, axis=tuple(range(start, start + n)))


def split_groups(x: Array, groups: int, b: Backend) -> Array:
    """(..., C) as (..., G, C // G)."""
    return b.xp.reshape(x, (*x.shape[:-1], groups, x.shape[-1] // groups))


def by_group(matrix: Array, groups: int, b: Backend) -> Array:
    """(p, C) as (G, p, C // G); as it is for one group."""
    if groups == 1:
        return matrix
    return b.xp.permute_dims(split_groups(matrix, groups, b), (1, 0, 2))


def transpose_filter(f: Array, groups: int, b: Backend) -> Array:
    """f (*K, C // G, D) with the roles of its channels exchanged: (*K, D // G, C)."""
    n = f.ndim - 2
    kernel = tuple(range(n))
    if groups == 1:
        return b.xp.permute_dims(f, (*kernel, n + 1, n))
    split = b.xp.permute_dims(split_groups(f, groups, b), (*kernel, n + 2, n + 1, n))
    return b.xp.reshape(split, (*f.shape[:n], f.shape[-1] // groups, f.shape[-2] * groups))


def adjoint_filter(f: Array, groups: int, flipped: bool, b: Backend) -> Array:
    """The filter of an input gradient: channels exchanged, conjugated, its taps still in order.

    A copy if f is complex or has groups, a view otherwise.
    """
    f = conjugate(transpose_filter(f, groups, b), b)
    return flip(f, f.ndim - 2, b) if flipped else f


def plus(total: Array, term: Array, b: Backend) -> Array:
    """The sum, in the memory of `total` where the library lets it be written."""
    if not b.traits.mutable:
        return total + term
    if not b.traits.on_host:
        total += term
        return total
    _increased(total, term)
    return total


def _increased(total: Array, term: Array) -> None:
    """Add in place, in pieces where NumPy might copy the whole.

    NumPy copies an array that it changes unless it sees at once that no two of its elements share
    memory. It gives up where three axes or more have gaps between their rows.
    """
    order = sorted(range(total.ndim), key=lambda axis: -abs(total.strides[axis]))
    without_gaps = total.transpose(order).flags.c_contiguous
    if total.ndim < 3 or total.nbytes <= PIECE or without_gaps:
        total += term
        return
    for i, part in enumerate(total):
        _increased(part, term[i] if term.ndim == total.ndim else term)


def is_complex(name: str) -> bool:
    """Does a dtype name mean complex numbers?"""
    return name.startswith("complex")


def conjugate(x: Array, b: Backend) -> Array:
    """The complex conjugate; real arrays as they are."""
    return b.xp.conj(x) if is_complex(b.dtype_name(x)) else x


def merged(x: Array, count: int, b: Backend) -> Array | None:
    """x with its first `count` axes merged into one, as a view; None if that would be a copy."""
    if b.strides is None:
        return None
    steps = [(n, t) for n, t in zip(x.shape[:count], b.strides(x)[:count], strict=True) if n != 1]
    if any(t != n * u for (_, t), (n, u) in pairwise(steps)):
        return None
    return b.xp.reshape(x, (prod(x.shape[:count]), *x.shape[count:]))


def row_major(x: Array, name: str, b: Backend) -> Array:
    """A copy in another dtype and in row-major order; one, where a library lets it be written.

    A conversion keeps the memory order of x, so to reshape it afterwards may copy it once more.
    """
    if not b.traits.mutable:
        return b.astype(x, name)
    copy = b.empty(x.shape, name, x)
    copy[...] = x
    return copy


def dense(matrix: Array, b: Backend) -> bool:
    """Does one axis of a matrix lie without gaps, as BLAS asks?"""
    if b.strides is None:
        return True
    unit = ITEMSIZE[b.dtype_name(matrix)]
    (rows, columns), (down, across) = matrix.shape, b.strides(matrix)
    return (across == unit and (rows == 1 or down >= columns * unit)) or (
        down == unit and (columns == 1 or across >= rows * unit)
    )


def cells(box: Sequence[tuple[int, int]]) -> tuple[Any, ...]:
    """The index of a box of (start, stop) ranges on the first axes."""
    return (*(slice(lo, hi) for lo, hi in box), ...)
