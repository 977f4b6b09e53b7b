"""Marks methods as the handlers of CuPy's functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


def provides(*names: str) -> Callable[[F], F]:
    """Mark the decorated method as the handler of the functions of these names."""

    def mark(method: F) -> F:
        method.provided_names = names  # type: ignore[attr-defined]
        return method

    return mark


def provided(owner: object) -> dict[str, Callable[..., object]]:
    """Return {name of a CuPy function: bound method of `owner` that is its handler}."""
    found = {}
    for attribute in dir(type(owner)):
        for name in getattr(getattr(type(owner), attribute), "provided_names", ()):
            found[name] = getattr(owner, attribute)
    return found
