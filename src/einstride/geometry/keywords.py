"""Hyperparameters as users write them, frozen into ints, names and tuples.

Only *types* are judged here, so that what comes out can be hashed and used as the key of a cache:
``1``, ``1.0`` and ``True`` hash alike in Python, and a cache must never let the one stand for the
other. Whether the *values* make sense together is `Geometry`'s business.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from einstride.support.errors import bad_type, bad_value, shown

Frozen = int | str | tuple[Any, ...]
Shape = tuple[int, ...]

PADDING_NAMES = ("valid", "same", "same_lower", "full", "causal")
PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
LARGEST_INT = 2**63 - 1
"""Array libraries count in signed 64-bit integers."""
ACCURACIES = ("normwise", "elementwise", "tf32")


class Settings(NamedTuple):
    """The hyperparameters that decide a geometry, frozen."""

    stride: int | Shape = 1
    padding: Frozen = "valid"
    dilation: int | Shape = 1
    groups: int = 1
    flip: bool = False
    padding_mode: str = "zeros"
    input_dilation: int | Shape = 1


@dataclass(frozen=True, slots=True)  # not a tuple: no tuple of sizes must ever equal it
class Transposed:
    """What a transposed convolution knows of its output's size."""

    output_padding: int | Shape
    output_size: int | Shape | None


@dataclass(frozen=True, slots=True)
class PerExample:
    """The kernel size of a filter gradient that is wanted for each example."""

    kernel_size: int | Shape


class Keywords(NamedTuple):
    """The keywords that all convolutions share, as the caller wrote them."""

    stride: Any = 1
    padding: Any = "valid"
    dilation: Any = 1
    input_dilation: Any = 1
    groups: Any = 1
    padding_mode: Any = "zeros"
    layout: Any = "channels_last"
    flip: Any = False
    algorithm: Any = "auto"
    accuracy: Any = "normwise"
    accumulate: Any = None
    batch_invariant: Any = False
    max_workspace: Any = None


def settings(where: str, k: Keywords) -> Settings:
    """Settings from what the user wrote."""
    number = whole(where, "groups", k.groups)
    if number < 1:
        raise bad_value(where, "groups must be at least 1", number, "use groups=1 for none")
    return Settings(
        ints(where, "stride", k.stride),
        freeze_padding(where, k.padding),
        ints(where, "dilation", k.dilation),
        number,
        flag(where, "flip", k.flip),
        choice(where, "padding_mode", k.padding_mode, PADDING_MODES),
        ints(where, "input_dilation", k.input_dilation),
    )


def plain(where: str, k: Keywords) -> Keywords:
    """The keywords in Python's own ints, strings and tuples, which JSON holds."""
    s = settings(where, k)
    return k._replace(
        stride=s.stride, padding=s.padding, dilation=s.dilation, groups=s.groups,
        padding_mode=str(s.padding_mode), input_dilation=s.input_dilation,
        max_workspace=optional(where, "max_workspace", k.max_workspace, size_in_bytes),
    )  # fmt: skip


def whole(where: str, name: str, value: object) -> int:
    """`value` as a Python int of at most 64 bits; bool, float and all without ``__index__`` are
    refused."""
    number = _index(where, name, value)
    if -LARGEST_INT <= number <= LARGEST_INT:
        return number
    raise bad_value(
        where, f"{name} must fit into a signed 64-bit integer", shown(value), "use a smaller one"
    )


def _index(where: str, name: str, value: object) -> int:
    if type(value) is int:
        return value
    if isinstance(value, bool) or type(value).__name__ in ("bool_", "bool"):
        raise bad_type(
            where, f"{name} must be an int", shown(value), f"write {name}={int(bool(value))}"
        )
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise bad_type(
            where, f"{name} must be an int or ints", shown(value), "pass integers, e.g. 1"
        ) from None


def _entries(where: str, name: str, value: object) -> tuple[object, ...]:
    """The entries of a sequence. Bytes are no numbers, sets and mappings have no order, and what
    can be read once only would be gone when the call is made again."""
    sequence = isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray))
    if isinstance(value, memoryview) or not (sequence or getattr(value, "ndim", 0) > 0):
        raise bad_type(
            where,
            f"{name} must be an int or one int per axis",
            shown(value),
            f"pass e.g. {name}=1 or a tuple",
        )
    return tuple(value)  # type: ignore[arg-type]


def ints(where: str, name: str, value: object) -> int | Shape:
    """An int, or a tuple of ints."""
    if type(value) is int:
        return whole(where, name, value)
    if isinstance(value, str):
        raise bad_type(where, f"{name} must be an int or ints", shown(value), f"e.g. {name}=1")
    if _single(value):
        return whole(where, name, value)
    return tuple(whole(where, name, v) for v in _entries(where, name, value))


def _single(value: object) -> bool:
    """True for numbers; an array with axes is a sequence, though NumPy's have ``__index__``."""
    if getattr(value, "ndim", 0):
        return False
    return hasattr(value, "__index__") or isinstance(value, float)


def freeze_padding(where: str, value: object) -> Frozen:
    """An int, a name, or a tuple of ints, names and (low, high) pairs."""
    if isinstance(value, str):
        return str(value)
    if _single(value):
        return whole(where, "padding", value)
    return tuple(_padding_entry(where, v) for v in _entries(where, "padding", value))


def _padding_entry(where: str, value: object) -> Frozen:
    if isinstance(value, str):
        return str(value)
    if _single(value):
        return whole(where, "padding", value)
    pair = tuple(whole(where, "padding", v) for v in _entries(where, "padding", value))
    if len(pair) != 2:
        raise bad_value(
            where,
            "a padding entry is an int, a name or a (low, high) pair",
            shown(value),
            "give two numbers per axis, e.g. ((1, 2), (0, 0))",
        )
    return pair


def choice(where: str, name: str, value: object, allowed: tuple[str, ...]) -> str:
    """One of the allowed names."""
    if not isinstance(value, str):
        raise bad_type(where, f"{name} must be a name", shown(value), f"use one of {allowed}")
    if value not in allowed:
        raise bad_value(where, f"{name} is unknown", shown(value), f"use one of {allowed}")
    return value


def name(where: str, keyword: str, value: object) -> str:
    """A string; which ones are known is decided where they are used."""
    if type(value) is str:
        return value
    raise bad_type(where, f"{keyword} must be a name", shown(value), f"write {keyword}='...'")


def size_in_bytes(where: str, keyword: str, value: object) -> int:
    """A number of bytes, zero allowed."""
    number = _index(where, keyword, value)
    if number < 0:
        raise bad_value(where, f"{keyword} must not be negative", number, "give bytes, or None")
    return min(number, LARGEST_INT)


def path(where: str, keyword: str, value: object) -> str:
    """The name of a file."""
    name = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(name, str):
        raise bad_type(
            where, f"{keyword} must name a file", shown(value), "pass a string or a pathlib.Path"
        )
    if not name or "\0" in name:
        raise bad_value(
            where, f"{keyword} must be a name that files can have", shown(name), "rename it"
        )
    return name


def flag(where: str, name: str, value: object) -> bool:
    """True or False."""
    if value is True or value is False:
        return value
    raise bad_type(where, f"{name} must be True or False", shown(value), f"write {name}=True")


def optional(where: str, name: str, value: object, parse: Callable[[str, str, object], Any]) -> Any:
    """None, or what `parse` makes of the value."""
    return None if value is None else parse(where, name, value)


def per_axis(where: str, name: str, value: int | Shape, rank: int, least: int) -> Shape:
    """One int for each of `rank` axes, none below `least`."""
    full = (value,) * rank if isinstance(value, int) else value
    if len(full) != rank:
        raise bad_value(
            where,
            f"{name} must be one int or {rank} ints, one per spatial axis",
            value,
            f"pass e.g. {name}={(1,) * rank}",
        )
    if any(v < least for v in full):
        raise bad_value(
            where, f"{name} must be at least {least} on every axis", value, f"raise it to {least}"
        )
    return full
