"""Describe a change of the sources: a definition in them, its old code and its new code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

_Place = TypeVar("_Place")


@dataclass(frozen=True)
class Change:
    """Replace `old` by `new` in one definition; an empty `new` removes `old`.

    A definition is a module, a class, a function or a constant, of Python or of C. Its name is as
    much of the end of its full name as is needed, for instance ``FilterCache.get``.
    """

    definition: str
    old: str
    new: str


class NotThereError(LookupError):
    """Report that the code of a change is nowhere in the sources, or there more than once."""


@dataclass(frozen=True)
class Bound:
    """Hold what the names and placeholders of a pattern stand for where the pattern is found.

    A name stands for itself, but one of `lost`, which the definition no longer has, for any that
    no other stands for. Names are of a sort: a variable and an attribute may have the same name.
    """

    lost: frozenset[tuple[str, str]] = frozenset()
    names: Mapping[tuple[str, str], str] = field(default_factory=dict)
    parts: Mapping[str, Any] = field(default_factory=dict)

    def name(self, sort: str, old: str, here: str) -> Bound | None:
        """Let `old` of the pattern stand for `here`; return None if it cannot."""
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
    """Hold where a pattern is found, and what its names stand for there."""

    place: Any
    bound: Bound


def places(definitions: Sequence[tuple[str, _Place]], name: str) -> list[_Place]:
    """List the places of definitions whose full names end with a name; the first of all for ""."""
    if not name:
        return [definitions[0][1]]
    return [p for full, p in definitions if full.endswith(name) and f".{full}".endswith(f".{name}")]
