"""Describes changes of the sources: a definition, its old code and its new code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

_Place = TypeVar("_Place")


@dataclass(frozen=True)
class Change:
    """Replace `old` by `new` in one definition; an empty `new` removes `old`.

    A definition is a module, a class, a function or a constant, of Python or C. It is named by the
    last parts of its full name, as many as make the name unique, for instance ``FilterCache.get``.
    """

    definition: str
    old: str
    new: str


class NotThereError(LookupError):
    """Report that the old code of a change is not found in the sources, or more than once."""


@dataclass(frozen=True)
class Bound:
    """Hold the bindings of a pattern's names and placeholders to the code that matches the pattern.

    A name matches itself. A name in `lost`, which the definition no longer has, matches any name
    that no other name is bound to. Names are compared within a sort: a variable and an attribute
    may share a name.
    """

    lost: frozenset[tuple[str, str]] = frozenset()
    names: Mapping[tuple[str, str], str] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)

    def name(self, sort: str, old: str, here: str) -> Bound | None:
        """Bind the name `old` of the pattern to `here`; return None if it does not match."""
        known = self.names.get((sort, old))
        if known is not None:
            return self if known == here else None
        if old != here and (sort, old) not in self.lost:
            return None
        if any(kind == sort and name == here for (kind, _), name in self.names.items()):
            return None
        return replace(self, names={**self.names, (sort, old): here})

    def part(self, placeholder: str, code: Any) -> Bound:
        """Bind a placeholder to code."""
        return replace(self, parts={**self.parts, placeholder: code})


@dataclass(frozen=True)
class Match:
    """Hold the place where a pattern was found, and the bindings of its names."""

    place: Any
    bound: Bound


def places(definitions: Sequence[tuple[str, _Place]], name: str) -> list[_Place]:
    """List the places of definitions whose full names end with `name`; for "", the first place."""
    if not name:
        return [definitions[0][1]]
    return [p for full, p in definitions if full.endswith(name) and f".{full}".endswith(f".{name}")]
