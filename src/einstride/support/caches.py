"""Every cache of this process in one registry, so that all can be emptied and counted at once.

Each cache has a bound: `cached` bounds the entries of one function, `byte_cache` the bytes of many
functions together. Both register what they make; a table of another kind is registered by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")

Kind = Literal["results", "process", "code"]
"""What a cache holds.

- ``"results"``: what follows from a function's arguments, such as geometries, plans and tables.
- ``"process"``: what was found out about the process, such as its environment, its CPU, and the
  libraries that are installed.
- ``"code"``: compiled kernels, and the texts that they are made of. They are costly to make, and
  follow from nothing that may change.
"""


@dataclass(frozen=True)
class Cache:
    """How to empty a cache, and how much it holds.

    Attributes
    ----------
    name : str
        The dotted name of the function whose results it keeps, or of the table.
    kind : {"results", "process", "code"}
        What it holds; see `Kind`.
    clear : callable
        ``clear()`` forgets every entry.
    entries : callable
        ``entries()``: the number of entries now.
    nbytes : callable or None
        ``nbytes()``: bytes of the entries now; None where only entries are counted.
    """

    name: str
    kind: Kind
    clear: Callable[[], object]
    entries: Callable[[], int]
    nbytes: Callable[[], int] | None = None


REGISTRY: list[Cache] = []
"""Every cache of the modules that were imported."""


def register(
    name: str,
    kind: Kind,
    clear: Callable[[], object],
    entries: Callable[[], int],
    nbytes: Callable[[], int] | None = None,
) -> None:
    """Add a cache to the registry."""
    REGISTRY.append(Cache(name, kind, clear, entries, nbytes))


def cached(entries: int, kind: Kind = "results") -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Keep the results of a function of hashable arguments: a decorator.

    A call costs what one through `functools.lru_cache` costs, which is what it is.

    Parameters
    ----------
    entries : int
        The number of results that are kept; the least recently used one goes first. A function
        whose results are as long as the caller's axes is one for `byte_cache.kept`.
    kind : {"results", "process", "code"}
        What the cache holds; see `Kind`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        found = lru_cache(maxsize=entries)(function)
        name = f"{function.__module__}.{function.__qualname__}"
        register(name, kind, found.cache_clear, lambda: found.cache_info().currsize)
        return cast(Callable[P, R], found)

    return decorate
