"""Check the attributes of ONNX's convolutions, and translate them to einstride's keywords."""

from __future__ import annotations

from collections.abc import Sequence

from einstride.arrays import backends
from einstride.arrays.backends import Array
from einstride.geometry import keywords as parse
from einstride.geometry.types import PaddingName
from einstride.support.errors import bad_type, bad_value, shown

AUTO_PADS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")

Numbers = Sequence[int]
Pairs = tuple[tuple[int, int], ...]


def rank(where: str, x: Array, w: Array, kernel_shape: Numbers | None) -> int:
    """Return the number of spatial axes, after a check that `kernel_shape` is that of w."""
    backends.of(where, ("x", "w"), x, w)
    kernel = tuple(w.shape[2:])
    given = numbers(where, "kernel_shape", kernel_shape)
    if given is not None and given != kernel:
        got = f"{given}, w {tuple(w.shape)}"
        raise bad_value(where, "kernel_shape must be that of w", got, "leave it out")
    return max(len(x.shape) - 2, 1)


def numbers(where: str, name: str, given: Numbers | None) -> tuple[int, ...] | None:
    """Convert an attribute to Python ints; None if it is not given."""
    found = None if given is None else parse.ints(where, name, given)
    if isinstance(found, int):
        raise bad_type(where, f"{name} must be a sequence of ints", found, f"pass {[found]}")
    return found


def ones(where: str, name: str, given: Numbers | None, rank: int) -> tuple[int, ...]:
    """Convert an attribute to Python ints; ones, one for each axis, if it is not given."""
    found = numbers(where, name, given)
    return (1,) * rank if found is None else found


def check_count(where: str, name: str, given: Numbers, n: int) -> None:
    """Refuse an attribute that has not n ints."""
    if len(given) != n:
        raise bad_value(where, f"{name} needs {n} ints", tuple(given), f"pass {n}")


def check_auto_pad(where: str, auto_pad: str, pads: Numbers | None) -> None:
    """Refuse an unknown auto_pad, and an auto_pad together with pads."""
    parse.choice(where, "auto_pad", auto_pad, AUTO_PADS)
    if auto_pad != "NOTSET" and pads is not None:
        got = f"auto_pad={auto_pad!r}, pads={shown(pads)}"
        raise bad_value(where, "auto_pad and pads exclude each other", got, "give one of them")


def padding(where: str, auto_pad: str, pads: Numbers | None, rank: int) -> PaddingName | Pairs:
    """Translate auto_pad and pads to the `padding` of `einstride.conv`."""
    check_auto_pad(where, auto_pad, pads)
    names: dict[str, PaddingName] = {
        "SAME_UPPER": "same",
        "SAME_LOWER": "same_lower",
        "VALID": "valid",
    }
    if auto_pad != "NOTSET":
        return names[auto_pad]
    if pads is None:
        return "valid"
    pads = numbers(where, "pads", pads) or ()
    check_count(where, "pads", pads, 2 * rank)
    return tuple(zip(pads[:rank], pads[rank:], strict=True))


def crops(total: int, auto_pad: str) -> tuple[int, int]:
    """Split the positions to crop on an axis into start and end; a negative total pads."""
    if total < 0:
        return 0, total
    less, more = total // 2, total - total // 2
    return (less, more) if auto_pad == "SAME_UPPER" else (more, less)
