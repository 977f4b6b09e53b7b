"""Maximum and sum over the taps of windows on one axis, and the gradients of both."""

from __future__ import annotations

from typing import Any

from einstride.arrays import ops
from einstride.arrays.backends import Array, Backend
from einstride.nn.arrays import call_into
from einstride.nn.pool_axis import Axis


def pad(x: Array, axes: tuple[Axis, ...], value: float, b: Backend) -> Array:
    """Pad x on its spatial axes with a value."""
    if not any(a.padding for a in axes):
        return x
    name = b.dtype_name(x)
    if b.traits.mutable:
        sizes = (a.size + 2 * a.padding for a in axes)
        out = b.empty((x.shape[0], *sizes, x.shape[-1]), name, x)
        out[...] = value
        out[(slice(None), *(slice(a.padding, a.padding + a.size) for a in axes), ...)] = x
        return out
    for a in axes:
        if a.padding:
            shape = (*x.shape[: a.number], a.padding, *x.shape[a.number + 1 :])
            border = b.zeros(shape, name, x) + value
            x = b.xp.concat([border, x, border], axis=a.number)
    return x


def max_axis(x: Array, axis: Axis, b: Backend) -> Array:
    """Return the maximum over the taps of each window, NaN if one of them is NaN."""
    return _combine_taps(x, axis, b.xp.maximum, b)


def sum_axis(x: Array, axis: Axis, b: Backend) -> Array:
    """Return the sum over the taps of each window."""
    return _combine_taps(x, axis, b.xp.add, b)


def _combine_taps(x: Array, axis: Axis, function: Any, b: Backend) -> Array:
    taps = [x[tap] for tap in axis.taps()]
    y, reusable = taps[0], False
    for tap in taps[1:]:
        y = call_into(function, y, tap, out=y if reusable and b.traits.mutable else None)
        reusable = True
    return y


def max_axis_grad(x: Array, y: Array, gy: Array, axis: Axis, b: Backend) -> Array:
    """Scatter gy to the first tap that equals the maximum y, or to the last tap if none does."""
    parts, rest = [], gy
    for tap in list(axis.taps())[:-1]:
        hit = x[tap] == y
        # NumPy vectorises this product, but not `where`.
        taken = rest * hit if b.traits.on_host else b.xp.where(hit, rest, b.xp.zeros_like(rest))
        parts.append(taken)
        rest = rest - taken
    parts.append(rest)
    return _add_to_taps(parts, tuple(x.shape), axis, b)


def sum_axis_grad(gy: Array, axis: Axis, b: Backend) -> Array:
    """Scatter gy to every tap of its window: the adjoint of `sum_axis`."""
    shape = list(gy.shape)
    shape[axis.number] = axis.size + 2 * axis.padding
    return _add_to_taps([gy] * axis.kernel, tuple(shape), axis, b)


def _add_to_taps(parts: list[Array], shape: tuple[int, ...], axis: Axis, b: Backend) -> Array:
    """Add the gradients `parts` of each tap to the elements of x that these taps read."""
    name = b.dtype_name(parts[0])
    if b.traits.mutable:
        # The first `stride` taps together reach each element of the windows once, so these are
        # stored and the others added; the elements behind are set to zero.
        stored = axis.stride if axis.dilation == 1 and axis.kernel >= axis.stride else 0
        gx = b.empty(shape, name, parts[0])
        gx[(slice(None),) * axis.number + (slice(axis.out * stored, None), ...)] = 0
        for k, (part, tap) in enumerate(zip(parts, axis.taps(), strict=True)):
            if k < stored:
                gx[tap] = part
            else:
                gx[tap] += part
        return gx
    rank, i = len(shape) - 2, axis.number - 1
    dilation = tuple(axis.stride if j == i else 1 for j in range(rank))
    total = None
    for k, part in enumerate(parts):
        dilated = ops.dilate(part, dilation, b)
        low = k * axis.dilation
        pads = [(0, 0)] * rank
        pads[i] = (low, shape[axis.number] - low - dilated.shape[axis.number])
        term = ops.pad(dilated, tuple(pads), "zeros", b)
        total = term if total is None else total + term
    return total
