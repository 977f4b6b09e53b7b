"""Parse layouts: the permutations that bring the caller's axes of x, f and y into canonical order.

The canonical order is channels last: x (B, *S, C), f (*K, C // groups, D), y (B, *O, D).
"""

from __future__ import annotations

from dataclasses import dataclass

from einstride.geometry.keywords import Shape
from einstride.support.caches import cached
from einstride.support.errors import bad_type, bad_value, shown

_EXAMPLES = "use 'channels_last', 'channels_first' or a spec such as 'NCHW,OIHW->NHWC'"


@dataclass(frozen=True, slots=True)
class Layout:
    """Hold the permutations that bring x, f and y into canonical order: ``permute_dims(x, l.x)``.

    The identity is None, so that the common case costs no call.
    """

    x: Shape | None = None
    f: Shape | None = None
    y: Shape | None = None


def canonical(shape: Shape, order: Shape | None) -> Shape:
    """Return the shape after ``permute_dims(a, order)``."""
    return shape if order is None else tuple(shape[i] for i in order)


def inverse(order: Shape | None) -> Shape | None:
    """Return the inverse of a permutation."""
    return None if order is None else tuple(order.index(i) for i in range(len(order)))


@cached(256)
def parse(where: str, layout: str, rank: int) -> Layout:
    """Parse the name or the spec of a layout for `rank` spatial axes."""
    spatial = tuple(range(2, rank + 2))
    if layout == "channels_last":
        return Layout()
    if layout == "channels_first":
        return Layout(x=(0, *spatial, 1), f=(*spatial, 1, 0), y=(0, *spatial, 1))
    return _parse_spec(where, layout, rank)


def check(where: str, layout: object) -> str:
    """Return the layout, which must be a string; `parse` checks its contents."""
    if type(layout) is str:
        return layout
    raise bad_type(where, "layout must be a string", shown(layout), _EXAMPLES)


def _parse_spec(where: str, spec: str, rank: int) -> Layout:
    inputs, arrow, y = spec.replace(" ", "").partition("->")
    x, comma, f = inputs.partition(",")
    if not (arrow and comma and x.isalpha() and f.isalpha() and y.isalpha()):
        raise bad_value(where, "layout is unknown", shown(spec), _EXAMPLES)
    letters = [c for c in x if c not in "NC"]  # their order is that of tuples such as stride
    for part, name, roles in ((x, "x", "NC"), (f, "f", "IO"), (y, "y", "NC")):
        if sorted(part) != sorted([*roles, *letters]) or len(set(part)) != len(part):
            raise bad_value(
                where,
                f"a layout spec has {roles[0]} and {roles[1]} once in its part for {name}, and the "
                "same spatial letters once in all three parts",
                shown(spec),
                _EXAMPLES,
            )
    if len(letters) != rank:
        raise bad_value(
            where,
            f"the layout spec has {len(letters)} spatial letters but the arrays have {rank} "
            "spatial axes",
            shown(spec),
            "name every axis with one letter",
        )
    return Layout(
        x=_order(x, ["N", *letters, "C"]),
        f=_order(f, [*letters, "I", "O"]),
        y=_order(y, ["N", *letters, "C"]),
    )


def _order(part: str, wanted: list[str]) -> Shape | None:
    order = tuple(part.index(c) for c in wanted)
    return None if order == tuple(range(len(order))) else order
