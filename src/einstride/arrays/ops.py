"""Pad, dilate, flip and window arrays of any backend `b`.

Arrays are canonical: a batch axis, spatial axes, then the remaining axes (channels, or groups and
channels). Functions return views where the library has views.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextvars import copy_context
from itertools import pairwise, product
from math import prod
from operator import iadd
from typing import TYPE_CHECKING, Any

from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.keywords import Shape
from einstride.geometry.padding import Pads
from einstride.geometry.padding_modes import Number, Segment, segments
from einstride.support.caches import cached
from einstride.support.errors import bad_value

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend

ALL = slice(None)

COPY_LIMIT = 1024
"""Bytes of an array that `_add_in_place` lets NumPy copy: less than one small allocation. A higher
limit takes workspace that plans do not count; a lower one takes more calls."""

BUFFER = 64
"""Numbers of a bias that NumPy converts at once, 1 KiB of complex128. More take workspace that no
plan counts; fewer take longer: rows of 20,000 take 1.5 times as long as by NumPy's own 8,192."""


def windows(x: Array, kernel: Shape, stride: Shape, dilation: Shape, b: Backend) -> Array:
    """Return all windows of x (B, *S, ...) as (B, *O, *K, ...), O = (S - extent) // stride + 1.

    Element [b, o, k] is x[b, o * stride + k * dilation]. Only this function makes strided views. It
    checks the bounds once more, so that no view reaches past the last element of x.
    """
    if b.as_strided is None or b.strides is None:
        out = _window_counts(x.shape[1 : len(kernel) + 1], kernel, stride, dilation)
        return _stacked_windows(x, out, kernel, stride, dilation, b)
    return b.as_strided(x, *_window_view(x.shape, b.strides(x), kernel, stride, dilation))


@cached(4096)
def _window_view(
    size: Shape, strides: Shape, kernel: Shape, stride: Shape, dilation: Shape
) -> tuple[Shape, Shape]:
    """Return shape and strides of the windows of an array, after a check of their bounds."""
    n = len(kernel)
    out = _window_counts(size[1 : n + 1], kernel, stride, dilation)
    spatial = strides[1 : n + 1]
    moves = (*_scaled(spatial, stride, out), *_scaled(spatial, dilation, kernel))
    return (size[0], *out, *kernel, *size[n + 1 :]), (strides[0], *moves, *strides[n + 1 :])


def _scaled(strides: Shape, factors: Shape, lengths: Shape) -> Shape:
    """Multiply strides by factors, except on axes of length 1, where the product might overflow."""
    return tuple(t * s if n > 1 else 0 for t, s, n in zip(strides, factors, lengths, strict=True))


@cached(4096)
def _window_counts(size: Shape, kernel: Shape, stride: Shape, dilation: Shape) -> Shape:
    """Return the number of windows on each axis, after a check that each lies within the axis."""
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
        positions = tuple(
            slice(i, i + (o - 1) * s + 1 if o else i, s)
            for i, o, s in zip(first, out, stride, strict=True)
        )
        taps.append(x[(ALL, *positions, ...)])
    stacked = b.xp.stack(taps, axis=n + 1)
    return b.xp.reshape(stacked, (x.shape[0], *out, *kernel, *x.shape[n + 1 :]))


def region(
    x: Array,
    starts: Sequence[int],
    stops: Sequence[int],
    mode: str | Sequence[str],
    b: Backend,
    buffer: Array | None = None,
    fill: Number = 0,
) -> Array:
    """Return positions [start, stop) of each spatial axis of x and its border (`padding_modes`).

    `mode` is one for all axes, or one for each; `fill` is the number in a border of mode
    "constant". Where the borders of two axes meet, a constant of the last of them remains.

    The result is a view if the range lies inside x, and otherwise a copy. The copy is made in
    `buffer`, if given: a flat array of the dtype of x that is large enough.
    """
    n = len(starts)
    modes = (mode,) * n if isinstance(mode, str) else tuple(mode)
    axes = [
        segments(lo, hi, size, mode)
        for lo, hi, size, mode in zip(starts, stops, x.shape[1 : n + 1], modes, strict=True)
    ]
    if all(len(spans) == 1 and spans[0].step == 1 for spans in axes):
        return x[(ALL, *(spans[0].elements for spans in axes), ...)]
    if not b.traits.mutable:
        for axis, spans in enumerate(axes, start=1):
            constant = fill if modes[axis - 1] == "constant" else 0
            parts = [_contents(x, axis, span, b, constant) for span in spans]
            x = b.xp.concat(parts, axis=axis) if len(parts) > 1 else parts[0]
        return x
    shape = (x.shape[0], *(hi - lo for lo, hi in zip(starts, stops, strict=True)))
    shape = (*shape, *x.shape[n + 1 :])
    if buffer is None:
        whole = b.empty(shape, b.dtype_name(x), x)
    else:
        whole = b.xp.reshape(buffer[: prod(shape)], shape)
    for axis, spans in enumerate(axes, start=1):  # a constant, once for each side
        for span in spans:
            if span.source < 0:
                constant = fill if modes[axis - 1] == "constant" else 0
                whole[((ALL,) * axis + (span.positions,))] = constant
    for cell in product(*axes):
        if all(span.source >= 0 for span in cell):
            part = x[(ALL, *(span.elements for span in cell), ...)]
            reversed_axes = tuple(i for i, span in enumerate(cell, start=1) if span.step == -1)
            part = b.xp.flip(part, axis=reversed_axes) if reversed_axes else part
            whole[(ALL, *(span.positions for span in cell))] = part
    return whole


def _contents(x: Array, axis: int, span: Segment, b: Backend, constant: Number) -> Array:
    """Return the contents of one segment of an axis."""
    length = span.stop - span.start
    shape = (*x.shape[:axis], length, *x.shape[axis + 1 :])
    if span.source < 0:
        zeros = b.zeros(shape, b.dtype_name(x), x)
        return zeros if constant == 0 else b.xp.full_like(zeros, constant)
    part = x[((ALL,) * axis + (span.elements, ...))]
    if span.step == 0:
        return b.xp.broadcast_to(part, shape)
    return part if span.step == 1 else b.xp.flip(part, axis=axis)


def pad(x: Array, pads: Pads, mode: str | Sequence[str], b: Backend, fill: Number = 0) -> Array:
    """Add a border to the spatial axes of x, by `region`; negative padding crops."""
    if not any(low or high for low, high in pads):
        return x
    size = x.shape[1 : len(pads) + 1]
    starts = [-low for low, _ in pads]
    stops = [s + high for s, (_, high) in zip(size, pads, strict=True)]
    return region(x, starts, stops, mode, b, None, fill)


def fold(gx: Array, size: Shape, pads: Pads, modes: Sequence[str], b: Backend) -> Array:
    """Add the border of a gradient to the elements that `pad` copied it from: the adjoint of `pad`.

    Negative padding is filled with zeros. Otherwise the border is added within `gx`, if the
    library's arrays are mutable: what is returned is a view of `gx`, which is no copy.
    """
    axes = zip(size, pads, modes, strict=True)
    for axis, (s, (low, high), mode) in enumerate(axes, start=1):
        if low or high:
            in_place = b.traits.mutable and min(low, high) >= 0
            gx = (_folded_in_place if in_place else _folded)(gx, axis, s, (low, high), mode, b)
    return gx


def _part_to_fold(gx: Array, axis: int, span: Segment, b: Backend) -> Array:
    """Return a segment of the gradient as it is added to the elements that it was copied from."""
    part = gx[((ALL,) * axis + (span.positions, ...))]
    if span.step == 0:
        return b.xp.sum(part, axis=axis, keepdims=True, dtype=part.dtype)
    return b.xp.flip(part, axis=axis) if span.step == -1 else part


def _folded_in_place(
    gx: Array, axis: int, s: int, pads: tuple[int, int], mode: str, b: Backend
) -> Array:
    """Add the border of one axis to the elements inside, and return the view of these."""
    inside = gx[((ALL,) * axis + (slice(pads[0], pads[0] + s),))]
    for span in segments(-pads[0], s + pads[1], s, mode):
        # A constant has no gradient, and the elements inside are where they belong.
        if span.source < 0 or span.start == pads[0]:
            continue
        part = _part_to_fold(gx, axis, span, b)
        add(inside[((ALL,) * axis + (span.elements,))], part, b)
    return inside


def _folded(gx: Array, axis: int, s: int, pads: tuple[int, int], mode: str, b: Backend) -> Array:
    """Fold one axis, in a function of its own, so that no view keeps the previous axis' array."""
    shape = (*gx.shape[:axis], s, *gx.shape[axis + 1 :])
    total = b.zeros(shape, b.dtype_name(gx), gx)
    for span in segments(-pads[0], s + pads[1], s, mode):
        if span.source < 0:  # a constant has no gradient
            continue
        part = _part_to_fold(gx, axis, span, b)
        if b.traits.mutable:
            add(total[((ALL,) * axis + (span.elements,))], part, b)
        else:
            before = (*gx.shape[:axis], span.elements.start, *gx.shape[axis + 1 :])
            after = (*gx.shape[:axis], s - span.elements.stop, *gx.shape[axis + 1 :])
            name = b.dtype_name(gx)
            parts = [b.zeros(before, name, gx), part, b.zeros(after, name, gx)]
            total = total + b.xp.concat(parts, axis=axis)
    return total


def dilate(x: Array, factors: Shape, b: Backend) -> Array:
    """Insert factor - 1 zeros between the elements of x: (S - 1) * factor + 1 on each axis."""
    n = len(factors)
    size = tuple(max((m - 1) * t + 1, 0) for m, t in zip(x.shape[1 : n + 1], factors, strict=True))
    if size == x.shape[1 : n + 1]:
        return x
    if b.traits.mutable:
        whole = b.zeros((x.shape[0], *size, *x.shape[n + 1 :]), b.dtype_name(x), x)
        whole[(ALL, *(slice(None, None, t) for t in factors))] = x
        return whole
    for axis, t in enumerate(factors, start=1):
        m = x.shape[axis]
        if t == 1 or m <= 1:
            continue
        parts = [x] + [b.zeros(x.shape, b.dtype_name(x), x)] * (t - 1)
        dilated = b.xp.stack(parts, axis=axis + 1)
        dilated = b.xp.reshape(dilated, (*x.shape[:axis], m * t, *x.shape[axis + 1 :]))
        x = dilated[((ALL,) * axis + (slice(0, (m - 1) * t + 1), ...))]
    return x


def interleave(phases: dict[Shape, Array], stride: Shape, shape: Shape, b: Backend) -> Array:
    """Build the array y whose y[b, r::stride] is phases[r], of shape (B, ..., C), for each r."""
    first = next(iter(phases.values()))
    stride = tuple(min(t, s) for t, s in zip(stride, shape[1:-1], strict=True))
    longest = tuple(-(-s // t) for s, t in zip(shape[1:-1], stride, strict=True))
    extended = []  # all phases, in one length: zeros at the end, or everywhere if there is none
    for r in product(*map(range, stride)):
        if r in phases:
            p = phases[r]
            extended.append(region(p, [0] * len(stride), longest, "zeros", b))
        else:
            extended.append(b.zeros((shape[0], *longest, shape[-1]), b.dtype_name(first), first))
    n = len(stride)
    stacked = b.xp.reshape(b.xp.stack(extended, axis=0), (*stride, shape[0], *longest, shape[-1]))
    order = (n, *(i for a in range(n) for i in (n + 1 + a, a)), 2 * n + 1)
    merged = b.xp.reshape(
        b.xp.permute_dims(stacked, order),
        (shape[0], *(m * t for m, t in zip(longest, stride, strict=True)), shape[-1]),
    )
    return merged[(ALL, *(slice(0, s) for s in shape[1:-1]), ALL)]


def flip(f: Array, n: int, b: Backend, start: int = 0) -> Array:
    """Reverse n axes of f (*K, ...), from axis `start` on."""
    return b.xp.flip(f, axis=tuple(range(start, start + n)))


def split_groups(x: Array, groups: int, b: Backend) -> Array:
    """Reshape (..., C) to (..., G, C // G)."""
    return b.xp.reshape(x, (*x.shape[:-1], groups, x.shape[-1] // groups))


def groups_first(matrix: Array, groups: int, b: Backend) -> Array:
    """Rearrange (p, C) to (G, p, C // G); one group leaves the matrix as it is."""
    if groups == 1:
        return matrix
    return b.xp.permute_dims(split_groups(matrix, groups, b), (1, 0, 2))


def transpose_filter(f: Array, groups: int, b: Backend) -> Array:
    """Exchange the input and output channels of f (*K, C // G, D), giving (*K, D // G, C)."""
    n = f.ndim - 2
    kernel = tuple(range(n))
    if groups == 1:
        return b.xp.permute_dims(f, (*kernel, n + 1, n))
    split = b.xp.permute_dims(split_groups(f, groups, b), (*kernel, n + 2, n + 1, n))
    return b.xp.reshape(split, (*f.shape[:n], f.shape[-1] // groups, f.shape[-2] * groups))


def adjoint_filter(f: Array, groups: int, flipped: bool, b: Backend) -> Array:
    """Return the filter of an input gradient: channels exchanged, conjugated, taps not reversed.

    The result is a copy if f is complex or has groups, and otherwise a view. `flipped` reverses the
    taps.
    """
    f = conjugate(transpose_filter(f, groups, b), b)
    return flip(f, f.ndim - 2, b) if flipped else f


def add(total: Array, term: Array, b: Backend) -> Array:
    """Add `term` to `total`, in the memory of `total` if the library's arrays are mutable."""
    if not b.traits.mutable:
        return total + term
    if not b.traits.on_host:
        total += term
        return total
    _add_in_place(total, term)
    return total


def add_bias(total: Array, bias: Array, b: Backend) -> Array:
    """Add one number to each channel, the last axis of `total`, as `add` does.

    NumPy converts a bias of another dtype, or one that is not aligned, through a buffer of `BUFFER`
    numbers, by default of 8,192; for complex128, 128 KiB, it allocates one in any case. A filter of
    one tap may have as few numbers as its bias, and `max_workspace=0` leaves no memory for a copy.
    """
    by_numpy = b.traits.mutable and b.traits.on_host
    needs_buffer = by_numpy and not (
        bias.dtype == total.dtype
        and bias.flags.aligned
        and total.flags.aligned
        and total.itemsize <= 8
    )
    if not needs_buffer:
        return add(total, b.astype(bias, b.dtype_name(total)), b)
    copy_context().run(_add_converted, total, bias)  # the size of the buffer is a context's
    return total


def _add_converted(total: Array, bias: Array) -> None:
    import numpy

    def convert_and_add(total: Array, bias: Array) -> None:
        numpy.add(total, bias, out=total, dtype=total.dtype, casting="unsafe")

    numpy.setbufsize(BUFFER)
    _add_in_place(total, bias, convert_and_add)


def _add_in_place(total: Array, term: Array, add: Callable[[Any, Any], Any] = iadd) -> None:
    """Add in place, one slice of the first axis after another where NumPy might copy `total`.

    NumPy copies an array before it changes it, unless a quick test shows that no two of its
    elements share memory. The test gives up on arrays of three or more axes with gaps between rows.
    """
    order = sorted(range(total.ndim), key=lambda axis: -abs(total.strides[axis]))
    without_gaps = total.transpose(order).flags.c_contiguous
    if total.ndim < 3 or total.nbytes <= COPY_LIMIT or without_gaps:
        add(total, term)
        return
    for i, part in enumerate(total):
        _add_in_place(part, term[i] if term.ndim == total.ndim else term, add)


def is_complex(name: str) -> bool:
    """True if a dtype's name is that of complex numbers."""
    return name.startswith("complex")


def conjugate(x: Array, b: Backend) -> Array:
    """Return the complex conjugate of x; a real x is returned itself."""
    return b.xp.conj(x) if is_complex(b.dtype_name(x)) else x


def merged(x: Array, count: int, b: Backend) -> Array | None:
    """Merge the first `count` axes of x into one, as a view; None if that would take a copy."""
    if b.strides is None:
        return None
    axes = [(n, t) for n, t in zip(x.shape[:count], b.strides(x)[:count], strict=True) if n != 1]
    if any(t != n * u for (_, t), (n, u) in pairwise(axes)):
        return None
    return b.xp.reshape(x, (prod(x.shape[:count]), *x.shape[count:]))


def row_major(x: Array, name: str, b: Backend) -> Array:
    """Copy x to another dtype and row-major order, in one copy if the library's arrays are mutable.

    The library's own conversion keeps the memory order of x, and a later reshape may copy again.
    """
    if not b.traits.mutable:
        return b.astype(x, name)
    copy = b.empty(x.shape, name, x)
    copy[...] = x
    return copy


def has_contiguous_axis(matrix: Array, b: Backend) -> bool:
    """True if one axis of a matrix is contiguous, as BLAS requires."""
    if b.strides is None:
        return True
    unit = ITEMSIZE[b.dtype_name(matrix)]
    (rows, columns), (down, across) = matrix.shape, b.strides(matrix)
    return (across == unit and (rows == 1 or down >= columns * unit)) or (
        down == unit and (columns == 1 or across >= rows * unit)
    )


def box_index(box: Sequence[tuple[int, int]]) -> tuple[Any, ...]:
    """Return the index of a box of (start, stop) ranges on the first axes."""
    return (*(slice(lo, hi) for lo, hi in box), ...)
