"""Compute one more batch axis of the operands of a pass by one pass on larger axes.

Which axis of the pass takes the new axis V depends on the operands that have it:

    only the operand with the batch axis B      V joins B
    only one operand, without B in the result   V joins the channels that only it brings
    both                                        V joins the groups
    both, in a filter gradient of one example   V is the batch of a gradient per example

The operands are brought into channels-last order first, as views.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from einstride.arrays.backends.adapter import Array
from einstride.geometry import layout as layouts
from einstride.geometry.convolution import Direction
from einstride.geometry.keywords import Keywords, PerExample, Transposed

Call = Callable[[Array, Array, "Array | None", Keywords, Any], Array]


def batched(
    call: Call,
    direction: Direction,
    size: int,
    dims: tuple[int | None, int | None, int | None],
    arrays: tuple[Array, Array, Array | None],
    k: Keywords,
    extra: Any,
) -> Array:
    """Return the result of `call` with the new axis, of `size` elements, in front.

    `dims` are the new axes of the first operand, the second operand and the bias, or None.
    """
    first, second, bias = arrays
    rank = first.ndim - 2 - (dims[0] is not None)
    order = layouts.parse("vmap", k.layout, rank)
    orders = {
        "forward": (order.x, order.f, order.y),
        "input_grad": (order.y, order.f, order.x),
        "filter_grad": (order.x, order.y, order.f),
    }[direction]
    if isinstance(extra, Transposed):
        orders = (order.x, order.f, order.y)
    first = _canonical(first, dims[0], orders[0])
    second = _canonical(second, dims[1], orders[1])
    k = k._replace(layout="channels_last")
    late = None
    if bias is not None and (dims[1] is not None or dims[2] is not None):
        late = bias if dims[2] is None else bias.movedim(dims[2], 0)
        bias = None
    if dims[0] is None and dims[1] is None:  # only the bias has the new axis
        y = call(first, second, None, k, extra)
    else:
        make = {"forward": _forward, "input_grad": _input_grad, "filter_grad": _filter_grad}
        both = dims[0] is not None and dims[1] is not None
        y = make[direction](call, size, dims[0] is not None, both, first, second, bias, k, extra)
    if late is not None:
        y = y + (late if dims[2] is None else late.reshape(size, *(1,) * (rank + 1), -1))
    last = orders[2]
    if isinstance(extra, PerExample):
        last = None if last is None else (0, *(i + 1 for i in last))
    back = layouts.inverse(last)
    return y if back is None else y.permute(0, *(i + 1 for i in back))


def _canonical(t: Array, dim: int | None, order: Any) -> Array:
    """Move the new axis to the front, and bring the others into channels-last order."""
    if dim is None:
        return t if order is None else t.permute(order)
    t = t.movedim(dim, 0)
    return t if order is None else t.permute(0, *(i + 1 for i in order))


def _join_batch(t: Array) -> Array:
    return t.flatten(0, 1)


def _join_channels(t: Array, groups: int) -> Array:
    """(V, ..., G * C) -> (..., G * V * C)."""
    return t.unflatten(-1, (groups, t.shape[-1] // groups)).movedim(0, -2).flatten(-3)


def _split_channels(t: Array, groups: int, size: int) -> Array:
    """(..., G * V * C) -> (V, ..., G * C)."""
    shape = (groups, size, t.shape[-1] // (groups * size))
    return t.unflatten(-1, shape).movedim(-2, 0).flatten(-2)


def _join_groups(t: Array) -> Array:
    """(V, ..., C) -> (..., V * C)."""
    return t.movedim(0, -2).flatten(-2)


def _split_groups(t: Array, size: int) -> Array:
    """(..., V * C) -> (V, ..., C)."""
    return t.unflatten(-1, (size, t.shape[-1] // size)).movedim(-2, 0)


def _forward(
    call: Call, size: int, of_first: bool, both: bool, x: Array, f: Array, bias: Any, k: Any,
    extra: Any,
) -> Array:  # fmt: skip
    if both:
        more = k._replace(groups=k.groups * size)
        return _split_groups(call(_join_groups(x), _join_groups(f), None, more, extra), size)
    if of_first:
        return call(_join_batch(x), f, bias, k, extra).unflatten(0, (size, x.shape[1]))
    return _split_channels(call(x, _join_channels(f, k.groups), None, k, extra), k.groups, size)


def _input_grad(
    call: Call, size: int, of_first: bool, both: bool, gy: Array, f: Array, bias: Any, k: Any,
    extra: Any,
) -> Array:  # fmt: skip
    if both:
        more = k._replace(groups=k.groups * size)
        return _split_groups(call(_join_groups(gy), _join_groups(f), None, more, extra), size)
    if of_first:
        return call(_join_batch(gy), f, bias, k, extra).unflatten(0, (size, gy.shape[1]))
    wide = f.movedim(0, -3).flatten(-3, -2)  # (*K, V * C, D)
    return _split_channels(call(gy, wide, None, k, extra), k.groups, size)


def _filter_grad(
    call: Call, size: int, of_first: bool, both: bool, x: Array, gy: Array, bias: Any, k: Any,
    extra: Any,
) -> Array:  # fmt: skip
    if isinstance(extra, PerExample):
        if not both:
            x = x if of_first else x.expand(size, *x.shape)
            gy = gy.expand(size, *gy.shape) if of_first else gy
        found = call(_join_batch(x), _join_batch(gy), None, k, extra)
        return found.unflatten(0, (size, x.shape[1]))
    if both and x.shape[1] == 1:
        return call(x.squeeze(1), gy.squeeze(1), None, k, PerExample(extra))
    if both:
        more = k._replace(groups=k.groups * size)
        return _split_groups(call(_join_groups(x), _join_groups(gy), None, more, extra), size)
    if of_first:
        wide = call(_join_channels(x, k.groups), gy, None, k, extra)  # (*K, V * C, D)
        return wide.unflatten(-2, (size, wide.shape[-2] // size)).movedim(-3, 0)
    return _split_channels(call(x, _join_channels(gy, k.groups), None, k, extra), k.groups, size)
