"""Resolve ``groups="depthwise"``: as many groups as channels, whose filters may be one filter.

A filter (*K, 1, 1) is read as (*K, 1, C), by a stride of zero. Its gradient is the sum over all
channels, which one pass computes: x and gy are viewed as arrays of one channel with one more
spatial axis, which holds the channels and on which the filter has one tap.
"""

from __future__ import annotations

from string import ascii_lowercase
from typing import Any, NamedTuple

from einstride.arrays import backends
from einstride.arrays.backends import Array
from einstride.geometry import keywords as parse
from einstride.geometry import layout as layouts
from einstride.geometry.convolution import Direction
from einstride.geometry.keywords import KEYWORDS, Keywords, PerExample, Shape, Transposed
from einstride.planning import select
from einstride.support.errors import bad_value


class Resolved(NamedTuple):
    """Hold a call without the word "depthwise": keywords, shapes of the two operands, and `extra`.

    `result` is the shape of the gradient of one filter in the caller's layout, else None.
    """

    k: Keywords
    shapes: tuple[Shape, Shape]
    extra: Any
    result: Shape | None = None


def resolve(
    where: str, direction: Direction, shapes: tuple[Shape, Shape], k: Keywords, extra: Any
) -> Resolved:
    """Return the call that computes a call with ``groups="depthwise"``."""
    parse.groups(where, k.groups)
    first, second = shapes
    if len(first) != len(second) or len(first) < 3:
        return Resolved(k._replace(groups=1), shapes, extra)  # whose geometry raises the error
    order = _layout(where, k.layout, len(first) - 2)
    is_x = direction != "input_grad" or isinstance(extra, Transposed)
    channels = int(first[_last(order.x if is_x else order.y)])
    if channels < 1:
        raise bad_value(
            where, 'groups="depthwise" needs at least one channel', f"shapes {first} and {second}",
            "pass arrays with channels",
        )  # fmt: skip
    k = k._replace(groups=channels)
    if direction == "filter_grad":
        return _gradient_of_one_filter(where, shapes, k, extra, order)
    inner, outer = (-2, -1) if order.f is None else order.f[-2:]
    if second[inner] != 1:
        raise bad_value(
            where, 'f must have one input channel where groups is "depthwise"', f"f {second}",
            "give it shape (*K, 1, 1), one filter for every channel, or (*K, 1, D)",
        )  # fmt: skip
    if second[outer] == 1:
        wide = list(second)
        wide[outer] = channels
        second = tuple(wide)
    return Resolved(k, (first, second), extra)


def _layout(where: str, layout: object, rank: int) -> layouts.Layout:
    return layouts.parse(where, layouts.check(where, layout), rank)


# PyTorch's compiler then calls the function instead of tracing it: `assume_constant_result`.
_layout._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _last(order: Shape | None) -> int:
    return -1 if order is None else order[-1]


def _gradient_of_one_filter(
    where: str, shapes: tuple[Shape, Shape], k: Keywords, extra: Any, order: layouts.Layout
) -> Resolved:
    """Return the pass over x and gy of one channel, with the channels on a spatial axis."""
    channels, made = k.groups, shapes[1][_last(order.y)]
    if made != channels:
        raise bad_value(
            where, "one filter for every channel makes as many channels as x has",
            f"x {shapes[0]}, gy {shapes[1]}",
            f"for the gradient of a filter for each output channel pass groups={channels}",
        )  # fmt: skip
    s = parse.settings(where, k)
    g = select.geometry(where, "filter_grad", shapes, extra, s, order)
    per_example = isinstance(extra, PerExample)
    batch = (g.batch,) if per_example else ()
    back = layouts.inverse(select.orders("filter_grad", order, extra)[2])
    result = layouts.canonical((*batch, *g.kernel, 1, 1), back)
    spec, at = _with_channels_as_axis(k.layout, g.rank)

    def more(value: Any, entry: Any) -> tuple[Any, ...]:
        full = value if isinstance(value, tuple) else (value,) * g.rank
        return (*full[:at], entry, *full[at:])

    modes = s.padding_mode
    k = k._replace(
        groups=1, layout=spec, stride=more(s.stride, 1), padding=more(s.padding, 0),
        dilation=more(s.dilation, 1), input_dilation=more(s.input_dilation, 1),
        padding_mode=modes if isinstance(modes, str) else more(modes, modes[0]),
    )  # fmt: skip
    kernel = more(g.kernel, 1)
    extra = PerExample(kernel) if per_example else kernel
    return Resolved(k, ((*shapes[0], 1), (*shapes[1], 1)), extra, result)


def _with_channels_as_axis(layout: str, rank: int) -> tuple[str, int]:
    """Return the layout in which C is a spatial axis, and that axis's place among the spatial ones.

    The new axis of one channel is the last one of x and of y, and the new axis of f.
    """
    letters = ascii_lowercase[:rank]
    named = {
        "channels_last": f"N{letters}C,{letters}IO->N{letters}C",
        "channels_first": f"NC{letters},OI{letters}->NC{letters}",
    }
    x, f, y = named.get(layout, layout).replace(" ", "").replace("->", ",").split(",")
    new = next(c for c in ascii_lowercase[::-1] if c not in x)
    place = x.replace("N", "").index("C")
    x, y = (part.replace("C", new) + "C" for part in (x, y))
    return f"{x},{f}{new}->{y}", place


def operands(
    where: str, direction: Direction, first: Array, second: Array, k: Keywords, extra: Any
) -> tuple[Array, Array, Resolved]:
    """Return the arrays that compute a call with ``groups="depthwise"``, and the call itself."""
    names = "gy" if direction == "input_grad" else "x", "gy" if direction == "filter_grad" else "f"
    one, other = (
        backends.of(where, (name,), array)
        for name, array in zip(names, (first, second), strict=True)
    )
    found = resolve(where, direction, (tuple(first.shape), tuple(second.shape)), k, extra)
    if found.result is not None:
        first = one.xp.expand_dims(first, axis=-1)
        second = other.xp.expand_dims(second, axis=-1)
    elif found.shapes[1] != tuple(second.shape):
        second = other.xp.broadcast_to(second, found.shapes[1])
    return first, second, found


def call(
    compute: Any,
    where: str,
    direction: Direction,
    first: Array,
    second: Array,
    bias: Array | None,
    out: Array | None,
    given: tuple[Any, ...],
    read: parse.Read | None,
    *more: Any,
) -> Array:
    """Compute a call with ``groups="depthwise"`` by `compute`, which is `call_cache.call`."""
    k = Keywords._make(given[:KEYWORDS])
    extra = None if read is None else read(where, given[KEYWORDS:])
    first, second, found = operands(where, direction, first, second, k, extra)
    given = (*found.k, found.extra)
    if found.result is None:
        return compute(where, direction, first, second, bias, out, given, parse.checked, *more)
    b = backends.of(where, ("x", "out"), first, out)
    if out is None:
        y = compute(where, direction, first, second, None, None, given, parse.checked, *more)
        return b.xp.reshape(y, found.result)
    if tuple(out.shape) != found.result:
        raise bad_value(
            where, "out must have the shape of the result", f"out {tuple(out.shape)}",
            f"allocate {found.result}",
        )  # fmt: skip
    wide = b.xp.expand_dims(out, axis=-1)
    compute(where, direction, first, second, None, wide, given, parse.checked, *more)
    return out


def of_layer(where: str, k: Keywords, x: Array, f: Array) -> Keywords:
    """Return a layer's keywords for its gradients, whose filters may be one for each channel."""
    if not isinstance(k.groups, str):
        return k
    order = layouts.parse(where, k.layout, max(len(x.shape) - 2, 1))
    if f.shape[_last(order.f)] == 1:
        return k
    return k._replace(groups=int(x.shape[_last(order.x)]))
