"""Convert users' keywords to hashable ints, strings and tuples, and refuse wrong types.

Only types are checked here, so that the results can be keys of caches: ``1``, ``1.0`` and ``True``
are equal keys in Python, and a cache must never take one for another. `Geometry` checks whether the
values fit together.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from einstride.geometry.padding_modes import OTHER_NAMES, PADDING_MODES, Number
from einstride.support.errors import bad_type, bad_value, shown

Frozen = int | str | tuple[Any, ...]
Shape = tuple[int, ...]

PADDING_NAMES = ("valid", "same", "same_lower", "full", "causal")
DEPTHWISE = "depthwise"
"""The value of `groups` that stands for the number of channels; `settings` takes numbers only."""
LARGEST_INT = 2**63 - 1
"""Largest integer that a keyword may hold: array libraries count in signed 64-bit integers."""
ACCURACIES = ("normwise", "elementwise", "tf32")


class Settings(NamedTuple):
    """Hold the checked hyperparameters that a geometry follows from."""

    stride: int | Shape = 1
    padding: Frozen = "valid"
    dilation: int | Shape = 1
    groups: int = 1
    flip: bool = False
    padding_mode: str | tuple[str, ...] = "zeros"
    input_dilation: int | Shape = 1
    fill: Number = 0


@dataclass(
    frozen=True, slots=True
)  # not a tuple, which could equal a tuple of sizes in a cache key
class Transposed:
    """Hold the keywords of a transposed convolution that determine its output size."""

    output_padding: int | Shape
    output_size: int | Shape | None


@dataclass(frozen=True, slots=True)
class PerExample:
    """Hold the kernel size of a filter gradient that is computed per example."""

    kernel_size: int | Shape


class Keywords(NamedTuple):
    """Hold the keywords that all convolutions share, unchecked, as the caller wrote them."""

    stride: Any = 1
    padding: Any = "valid"
    dilation: Any = 1
    input_dilation: Any = 1
    groups: Any = 1
    padding_mode: Any = "zeros"
    fill: Any = 0
    layout: Any = "channels_last"
    flip: Any = False
    algorithm: Any = "auto"
    accuracy: Any = "normwise"
    accumulate: Any = None
    batch_invariant: Any = False
    max_workspace: Any = None


KEYWORDS = len(Keywords._fields)
"""Number of keywords that every function has."""

GROUPS = Keywords._fields.index("groups")
"""Place of `groups` among them."""

Read = Callable[[str, tuple[Any, ...]], Any]
"""``read(where, own)`` checks the arguments that only one function has."""


def input_size(where: str, own: tuple[Any, ...]) -> Any:
    """Check the size of the input of an input gradient."""
    (size,) = own
    return ints(where, "input_size", size)


def kernel_size(where: str, own: tuple[Any, ...]) -> Any:
    """Check the kernel size of a filter gradient, and whether it is computed per example."""
    size, per_example = own
    size = ints(where, "kernel_size", size)
    return PerExample(size) if flag(where, "per_example", per_example) else size


def transposed(where: str, own: tuple[Any, ...]) -> Transposed:
    """Check the arguments that determine the size of a transposed convolution."""
    more, size = own
    return Transposed(
        ints(where, "output_padding", more), optional(where, "output_size", size, ints)
    )


def checked(where: str, own: tuple[Any, ...]) -> Any:
    """Return the argument of one direction, which was checked before."""
    (extra,) = own
    return extra


def settings(where: str, k: Keywords) -> Settings:
    """Check the hyperparameters among the caller's keywords, and return them as `Settings`."""
    groups = integer(where, "groups", k.groups)
    if groups < 1:
        raise bad_value(where, "groups must be at least 1", groups, "use groups=1 for none")
    return Settings(
        ints(where, "stride", k.stride),
        freeze_padding(where, k.padding),
        ints(where, "dilation", k.dilation),
        groups,
        flag(where, "flip", k.flip),
        padding_modes(where, k.padding_mode),
        ints(where, "input_dilation", k.input_dilation),
        number(where, "fill", k.fill),
    )


def plain(where: str, k: Keywords) -> Keywords:
    """Check the type of every keyword, and convert them to Python's own immutable types."""
    return for_json(where, k)._replace(
        layout=name(where, "layout", k.layout),
        algorithm=name(where, "algorithm", k.algorithm),
        accuracy=choice(where, "accuracy", k.accuracy, ACCURACIES),
        accumulate=optional(where, "accumulate", k.accumulate, name),
        batch_invariant=flag(where, "batch_invariant", k.batch_invariant),
    )


def for_json(where: str, k: Keywords) -> Keywords:
    """Convert the keywords to Python's own ints, strings and tuples, which JSON can represent."""
    named = isinstance(k.groups, str)
    s = settings(where, k._replace(groups=1) if named else k)
    return k._replace(
        stride=s.stride, padding=s.padding, dilation=s.dilation,
        groups=groups(where, k.groups) if named else s.groups,
        padding_mode=s.padding_mode, fill=s.fill, input_dilation=s.input_dilation,
        max_workspace=optional(where, "max_workspace", k.max_workspace, size_in_bytes),
    )  # fmt: skip


def groups(where: str, value: object) -> str:
    """Return the name that stands for the number of channels."""
    if value == DEPTHWISE:
        return DEPTHWISE
    raise bad_value(
        where, "groups must be a number or a name that is known", shown(value),
        f'write groups="{DEPTHWISE}" for as many groups as channels',
    )  # fmt: skip


def integer(where: str, name: str, value: object) -> int:
    """Convert a value with ``__index__`` to a Python int of at most 64 bits; refuse bool, float."""
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
    """Return the entries of a sequence or array; refuse other containers.

    Bytes hold no numbers, sets and mappings have no order, and an iterator that the first call
    reads would be empty in the next one.
    """
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
    """Convert an int, or a sequence of ints, to Python ints."""
    if type(value) is int:
        return integer(where, name, value)
    if isinstance(value, str):
        raise bad_type(where, f"{name} must be an int or ints", shown(value), f"e.g. {name}=1")
    if _is_number(value):
        return integer(where, name, value)
    return tuple(integer(where, name, v) for v in _entries(where, name, value))


def _is_number(value: object) -> bool:
    """True for a number; an array with axes is a sequence, even if it has ``__index__``."""
    if getattr(value, "ndim", 0):
        return False
    return hasattr(value, "__index__") or isinstance(value, float)


def freeze_padding(where: str, value: object) -> Frozen:
    """Convert a padding to an int, a name, or a tuple of ints, names and (low, high) pairs."""
    if isinstance(value, str):
        return str(value)
    if _is_number(value):
        return integer(where, "padding", value)
    return tuple(_padding_entry(where, v) for v in _entries(where, "padding", value))


def _padding_entry(where: str, value: object) -> Frozen:
    if isinstance(value, str):
        return str(value)
    if _is_number(value):
        return integer(where, "padding", value)
    pair = tuple(integer(where, "padding", v) for v in _entries(where, "padding", value))
    if len(pair) != 2:
        raise bad_value(
            where,
            "a padding entry is an int, a name or a (low, high) pair",
            shown(value),
            "give two numbers per axis, e.g. ((1, 2), (0, 0))",
        )
    return pair


def padding_modes(where: str, value: object) -> str | tuple[str, ...]:
    """Convert a padding mode, or one for each axis, to Python's own strings."""
    if isinstance(value, str):
        return _padding_mode(where, value)
    if not isinstance(value, Sequence) or isinstance(value, (bytes, bytearray, memoryview)):
        raise bad_type(
            where, "padding_mode must be a name or one name per axis", shown(value),
            f"use one of {PADDING_MODES}",
        )  # fmt: skip
    return tuple(_padding_mode(where, v) for v in value)


def _padding_mode(where: str, value: object) -> str:
    ours = OTHER_NAMES.get(value) if isinstance(value, str) else None
    if ours is None:
        return str(choice(where, "padding_mode", value, PADDING_MODES))
    raise bad_value(
        where, "padding_mode has other names here than in other libraries", shown(value),
        f'write padding_mode="{ours}"',
    )  # fmt: skip


def number(where: str, name: str, value: object) -> Number:
    """Convert a number to Python's int, float or complex; every NaN to one, so that it is a key."""
    plain: Any = value
    if isinstance(value, str | bytes) or getattr(plain, "ndim", None):
        raise bad_type(where, f"{name} must be a number", shown(value), f"write {name}=0")
    try:
        if hasattr(value, "__index__"):
            whole = operator.index(plain)
            return whole if whole.bit_length() <= 64 else float(whole)
        is_complex = getattr(getattr(value, "dtype", None), "kind", "") == "c"
        if hasattr(value, "__float__") and not is_complex:  # NumPy's would drop a part
            return math.nan if plain != plain else float(plain)
        return complex(plain)
    except OverflowError:
        raise bad_value(
            where, f"{name} must be a number that an array can hold", shown(value),
            f"write {name}=0",
        ) from None  # fmt: skip
    except (TypeError, ValueError):
        raise bad_type(where, f"{name} must be a number", shown(value), f"write {name}=0") from None


def choice(where: str, name: str, value: object, allowed: tuple[str, ...]) -> str:
    """Return a string that must be one of the allowed ones."""
    if not isinstance(value, str):
        raise bad_type(where, f"{name} must be a name", shown(value), f"use one of {allowed}")
    if value not in allowed:
        raise bad_value(where, f"{name} is unknown", shown(value), f"use one of {allowed}")
    return value


def name(where: str, keyword: str, value: object) -> str:
    """Return a string; its user checks whether it is a known name."""
    if type(value) is str:
        return value
    raise bad_type(where, f"{keyword} must be a name", shown(value), f"write {keyword}='...'")


def size_in_bytes(where: str, keyword: str, value: object) -> int:
    """Convert a number of bytes, which may be zero, to an int of at most `LARGEST_INT`."""
    number = _index(where, keyword, value)
    if number < 0:
        raise bad_value(where, f"{keyword} must not be negative", number, "give bytes, or None")
    return min(number, LARGEST_INT)


def path(where: str, keyword: str, value: object) -> str:
    """Convert a string or path-like object to the name of a file."""
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
    """Return a value that must be True or False."""
    if value is True or value is False:
        return value
    raise bad_type(where, f"{name} must be True or False", shown(value), f"write {name}=True")


def optional(where: str, name: str, value: object, parse: Callable[[str, str, object], Any]) -> Any:
    """Return None, or the value as `parse` converts it."""
    return None if value is None else parse(where, name, value)


def per_axis(where: str, name: str, value: int | Sequence[int], rank: int, least: int) -> Shape:
    """Return one int for each of `rank` axes, none of them below `least`."""
    full = (value,) * rank if isinstance(value, int) else tuple(value)
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


def modes_per_axis(where: str, value: str | tuple[str, ...], rank: int) -> tuple[str, ...]:
    """Return one padding mode for each of `rank` axes."""
    modes = (value,) * rank if isinstance(value, str) else value
    if len(modes) != rank:
        raise bad_value(
            where, f"padding_mode must be one name or {rank} names, one per spatial axis", value,
            f"pass e.g. padding_mode={('zeros',) * rank}",
        )  # fmt: skip
    return modes
