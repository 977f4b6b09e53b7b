"""Compute the (low, high) padding of each axis from an int, a name such as "same", or pairs."""

from __future__ import annotations

from einstride.geometry.keywords import PADDING_NAMES, Frozen, Shape
from einstride.support.errors import bad_value, shown

Pads = tuple[tuple[int, int], ...]


def padding_pairs(where: str, padding: Frozen, size: Shape, extent: Shape, stride: Shape) -> Pads:
    """Return (low, high) for each axis, from an int, a name, or one int, name or pair per axis."""
    rank = len(size)
    entries = padding if isinstance(padding, tuple) else (padding,) * rank
    if len(entries) != rank:
        pair = rank == 1 and len(entries) == 2 and all(isinstance(p, int) for p in entries)
        remedy = (
            f"write padding=({entries},)"
            if pair
            else f"pass {rank} entries, e.g. {((1, 1),) * rank}"
        )
        raise bad_value(
            where, f"padding needs one entry for each of the {rank} spatial axes", entries, remedy
        )
    return tuple(
        padding_pair(where, p, n, e, s)
        for p, n, e, s in zip(entries, size, extent, stride, strict=True)
    )


def padding_pair(where: str, entry: Frozen, size: int, extent: int, stride: int) -> tuple[int, int]:
    """Return (low, high) for one axis, in positions."""
    if isinstance(entry, int):
        return entry, entry
    if isinstance(entry, tuple):
        return entry
    if entry == "valid":
        return 0, 0
    if entry == "full":
        return extent - 1, extent - 1
    if entry == "causal":
        return extent - 1, 0
    if entry in ("same", "same_lower"):
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
        less, more = total // 2, total - total // 2
        return (less, more) if entry == "same" else (more, less)
    raise bad_value(where, "padding is unknown", shown(entry), f"use one of {PADDING_NAMES}")


def check_border(where: str, mode: str, axis: int, size: int, border: int) -> None:
    """Refuse a border that is longer than an axis of `size` elements can fill in this mode.

    "reflect" does not repeat the edge element, "circular" goes around the axis once at most,
    "symmetric" mirrors it once at most, and "replicate" needs one element.
    """
    most = {
        "reflect": size - 1,
        "circular": size,
        "symmetric": size,
        "replicate": border if size else 0,
    }
    if border > max(most.get(mode, border), 0):
        raise bad_value(
            where,
            f'padding_mode="{mode}" can add at most {max(most[mode], 0)} elements on a side of '
            f"spatial axis {axis}",
            f"padding {border}, size {size}",
            "pad less or use another mode",
        )


def is_same(padding: Frozen, axis: int) -> bool:
    """True if the padding of an axis is "same" or "same_lower"."""
    name = padding[axis] if isinstance(padding, tuple) else padding
    return name in ("same", "same_lower")
