"""Check and read the shapes of plans for any batch, in which None is the batch.

None is the spelling of TensorFlow, Keras and ONNX for a size that is not known yet; -1 stands, in
NumPy, for a size that follows from others.
"""

from __future__ import annotations

from collections.abc import Sequence

from einstride.geometry import layout as layouts
from einstride.geometry.keywords import Shape
from einstride.support.errors import bad_value

Sizes = tuple[int | None, ...]


def check(where: str, direction: str, shapes: Sequence[Sizes], layout: object) -> None:
    """Raise unless None, if any, is the batch of each operand that has one."""
    if not any(None in s for s in shapes):
        return
    first, second = shapes
    wanted = [_batch(where, direction, i, len(s), layout) for i, s in enumerate(shapes)]
    allowed = [() if at is None else (at,) for at in wanted]
    found = [tuple(i for i, n in enumerate(s) if n is None) for s in shapes]
    if len(first) != len(second) or found != allowed:
        raise bad_value(
            where, "only a batch may be None, and the batch of both operands if both have one",
            f"shapes {first} and {second}", "write e.g. (None, 8, 8, 3)",
        )  # fmt: skip


def _batch(where: str, direction: str, operand: int, axes: int, layout: object) -> int | None:
    """Return the axis of an operand's batch, or None for a filter."""
    if operand == 1 and direction != "filter_grad":
        return None
    order = layouts.parse(where, layouts.check(where, layout), max(axes - 2, 1))
    is_x = (direction != "input_grad") == (operand == 0)
    part = order.x if is_x else order.y
    return 0 if part is None else part[0]


def of_one(shapes: Sequence[Sizes]) -> tuple[Shape, Shape]:
    """Return the shapes of a batch of one."""
    first, second = (tuple(1 if n is None else n for n in s) for s in shapes)
    return first, second


def opened(
    where: str, direction: str, shapes: Sequence[Sequence[int]], layout: object
) -> list[Sizes]:
    """Return shapes with None for the batch of each operand that has one."""
    wanted = [_batch(where, direction, i, len(s), layout) for i, s in enumerate(shapes)]
    return [
        tuple(None if a == at else n for a, n in enumerate(s))
        for s, at in zip(shapes, wanted, strict=True)
    ]


def filled(sizes: Sequence[int | None], shape: Sequence[int]) -> list[int | None]:
    """Return planned sizes with the batch of an array's shape, if it has as many axes."""
    if len(sizes) != len(shape):
        return list(sizes)
    return [n if size is None else size for size, n in zip(sizes, shape, strict=True)]
