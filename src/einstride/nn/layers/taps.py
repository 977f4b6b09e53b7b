"""The maximum and the sum of a pool's taps on one axis, and the gradients of both."""

from __future__ import annotations

from typing import Any

from einstride.arrays import ops
from einstride.arrays.backends import Array, Backend
from einstride.nn.arrays import into
from einstride.nn.pool_axis import Axis


def padded(x: Array, axes: tuple[Axis, ...], value: float, b: Backend) -> Array:
    """x with a border of this value."""
    if not any(a.padding for a in axes):
        return x
    name = b.dtype_name(x)
    if b.traits.mutable:
        sizes = (a.size + 2 * a.padding for a in axes)
        whole = b.empty((x.shape[0], *sizes, x.shape[-1]), name, x)
        whole[...] = value
        whole[(slice(None), *(slice(a.padding, a.padding + a.size) for a in axes), ...)] = x
        return whole
    for a in axes:
        if a.padding:
            shape = (*x.shape[: a.number], a.padding, *x.shape[a.number + 1 :])
            border = b.zeros(shape, name, x) + value
            x = b.xp.concat([border, x, border], axis=a.number)
    return x


def max_axis(x: Array, axis: Axis, b: Backend) -> Array:
    """The maximum of the taps; a NaN wins."""
    return _joined(x, axis, b.xp.maximum, b)


def added(x: Array, axis: Axis, b: Backend) -> Array:
    """The sum of the taps."""
    return _joined(x, axis, b.xp.add, b)


def _joined(x: Array, axis: Axis, function: Any, b: Backend) -> Array:
    taps = [x[tap] for tap in axis.taps()]
    y, mine = taps[0], False
    for tap in taps[1:]:
        y = into(function, y, tap, out=y if mine and b.traits.mutable else None)
        mine = True
    return y


def max_axis_grad(x: Array, y: Array, gy: Array, axis: Axis, b: Backend) -> Array:
    """gy brought to the first tap that is the maximum y; the last takes what nobody took."""
    parts, rest = [], gy
    for tap in list(axis.taps())[:-1]:
        hit = x[tap] == y
        # NumPy selects number by number, and multiplies by vectors.
        taken = rest * hit if b.traits.on_host else b.xp.where(hit, rest, b.xp.zeros_like(rest))
        parts.append(taken)
        rest = rest - taken
    parts.append(rest)
    return _placed(parts, tuple(x.shape), axis, b)


def spread_axis(gy: Array, axis: Axis, b: Backend) -> Array:
    """gy brought to every tap: the adjoint of `added`."""
    shape = list(gy.shape)
    shape[axis.number] = axis.size + 2 * axis.padding
    return _placed([gy] * axis.kernel, tuple(shape), axis, b)


def _placed(parts: list[Array], shape: tuple[int, ...], axis: Axis, b: Backend) -> Array:
    """The sum of what each tap has, where it belongs."""
    name = b.dtype_name(parts[0])
    if b.traits.mutable:
        # The first taps, as many as the step, meet every element once, up to the last window.
        first = axis.stride if axis.dilation == 1 and axis.kernel >= axis.stride else 0
        gx = b.empty(shape, name, parts[0])
        gx[(slice(None),) * axis.number + (slice(axis.out * first, None), ...)] = 0
        for k, (part, tap) in enumerate(zip(parts, axis.taps(), strict=True)):
            if k < first:
                gx[tap] = part
            else:
                gx[tap] += part
        return gx
    rank, i = len(shape) - 2, axis.number - 1
    step = tuple(axis.stride if j == i else 1 for j in range(rank))
    total = None
    for k, part in enumerate(parts):
        spread = ops.dilate(part, step, b)
        low = k * axis.dilation
        pads = [(0, 0)] * rank
        pads[i] = (low, shape[axis.number] - low - spread.shape[axis.number])
        term = ops.pad(spread, tuple(pads), "zeros", b)
        total = term if total is None else total + term
    return total
