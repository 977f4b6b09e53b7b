"""Shrinks a failing call, one field at a time, to a minimal one with a problem of the same kind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from .cases import Call, Case
from .memory import Memory

FindProblems = Callable[[Case, Call], list[tuple[str, str]]]
"""A function that returns the (kind, text) of each problem of a call."""

RELATED = ({"written beyond", "crash", "wrong", "other bits", "threads"},)
"""Kinds of problems that one fault can cause in turn, by chance."""


def shrink(
    case: Case, call: Call, kind: str, find_problems: FindProblems, seconds: float = 40.0
) -> tuple[Case, Call]:
    """Return the smallest case and call that still have a problem of this kind."""
    end = time.monotonic() + seconds
    found = True
    while found and time.monotonic() < end:
        found = False
        for smaller in _smaller(case, call):
            if time.monotonic() > end:
                break
            if smaller != (case, call) and fails(*smaller, kind, find_problems):
                case, call = smaller
                found = True
                break
    return case, call


def fails(case: Case, call: Call, kind: str, find_problems: FindProblems) -> bool:
    """True if the call has a problem of this kind."""
    try:
        if not case.valid or not case.batch + 1:
            return False
    except (IndexError, ValueError):
        return False
    kinds = {k for k, _ in find_problems(case, call)}
    return kind in kinds or (kind == "crash" and bool(kinds & {"crash"}))


def _smaller(case: Case, call: Call) -> Iterator[tuple[Case, Call]]:
    """Yield simpler pairs of case and call, the largest simplifications first."""
    for changes in _calls(call):
        yield case, replace(call, **changes)
    for changes in _cases(case):
        yield replace(case, **changes), call
    if call.layout in ("channels_last", "channels_first"):
        for axis in range(len(case.size)):
            if len(case.size) > 1:
                yield _without(case, axis), call


PLAIN = Memory()


def _calls(c: Call) -> Iterator[dict[str, Any]]:
    if c.how not in ("function", "copied layer", "pickled layer", "backward"):
        yield {"how": "function"}
    for key, value in (
        ("threads", 1), ("layout", "channels_last"), ("bias", False), ("out", None),
        ("workspace", ""), ("accuracy", "normwise"), ("batch_invariant", False),
        ("per_example", False), ("spelling", 0), ("repeat", 1), ("algorithm", "auto"),
    ):  # fmt: skip
        if getattr(c, key) != value:
            yield {key: value}
    for i, memory in enumerate(c.memory):
        for simpler in _memories(memory):
            yield {"memory": (*c.memory[:i], simpler, *c.memory[i + 1 :])}
    if c.out is not None:
        for simpler in _memories(c.out):
            yield {"out": simpler}


def _memories(m: Memory) -> Iterator[Memory]:
    if m != PLAIN:
        yield PLAIN
    if m.swapped:
        yield replace(m, swapped=False)
    if m.readonly:
        yield replace(m, readonly=False)
    if m.kind not in ("c", "misaligned"):
        yield replace(m, kind="c")


def _cases(c: Case) -> Iterator[dict[str, Any]]:
    rank = len(c.size)
    one = (1,) * rank
    for key, value in (
        ("values", 0), ("flip", False), ("mode", "zeros"), ("input_dilation", one),
        ("dilation", one), ("stride", one), ("padding", (0,) * rank),
        ("accumulate", None), ("repeats", ()),
        ("hankel", ()), ("extreme", False), ("batch", 1), ("groups", 1),
    ):  # fmt: skip
        if getattr(c, key) != value:
            yield {key: value}
    for simpler in ((c.dtypes[0],) * 4, ("float32",) * 4):
        if c.dtypes != simpler:
            yield {"dtypes": simpler}
    for i, name in enumerate(c.dtypes):
        if name != "float32":
            yield {"dtypes": (*c.dtypes[:i], "float32", *c.dtypes[i + 1 :])}
    if c.groups > 1 and c.channels == c.groups and c.filters % c.groups == 0:
        for n in _numbers(c.groups, 1):
            yield {"groups": n, "channels": n, "filters": n * (c.filters // c.groups)}
    for key in ("channels", "filters"):
        for n in _numbers(getattr(c, key) // c.groups, 1):
            yield {key: n * c.groups}
    yield from ({"batch": n} for n in _numbers(c.batch, 1))
    for key, least in (
        ("size", 1), ("kernel", 1), ("stride", 1), ("dilation", 1), ("input_dilation", 1)
    ):  # fmt: skip
        values = getattr(c, key)
        for axis, value in enumerate(values):
            for n in _numbers(value, least):
                yield {key: (*values[:axis], n, *values[axis + 1 :])}
    for axis, entry in enumerate(c.padding):
        if entry != 0:
            yield {"padding": (*c.padding[:axis], 0, *c.padding[axis + 1 :])}


def _numbers(value: int, least: int) -> Iterator[int]:
    """Yield some smaller numbers, the least first."""
    for n in dict.fromkeys((least, value // 2, value - 1)):
        if least <= n < value:
            yield n


def _without(c: Case, axis: int) -> Case:
    keys = ("size", "kernel", "stride", "dilation", "input_dilation", "padding")
    found: dict[str, Any] = {k: getattr(c, k)[:axis] + getattr(c, k)[axis + 1 :] for k in keys}
    return replace(c, **found, repeats=(), hankel=())
