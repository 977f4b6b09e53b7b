"""Register every cache of this process, so that all can be emptied and counted at once.

Each cache has a limit: `cached` limits the entries of one function, `byte_cache` the bytes of many
functions together. Both register their caches; a table of another kind calls `register` itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, ParamSpec, TypeVar, cast

P = ParamSpec("P")
R = TypeVar("R")

Kind = Literal["results", "process", "code"]
"""Kind of the contents of a cache.

- ``"results"``: values that follow from a function's arguments, such as geometries and plans.
- ``"process"``: properties of the process, such as its environment, its CPU, and the libraries that
  are installed.
- ``"code"``: compiled kernels and their LLVM IR, which take long to make and never change.
"""


@dataclass(frozen=True)
class Cache:
    """Hold the functions that empty and count one cache.

    Attributes
    ----------
    name : str
        The dotted name of the function whose results are cached, or of the table.
    kind : {"results", "process", "code"}
        The kind of the contents; see `Kind`.
    clear : callable
        ``clear()`` drops every entry.
    entries : callable
        ``entries()``: the current number of entries.
    nbytes : callable or None
        ``nbytes()``: the current bytes of the entries; None where only entries are counted.
    limit : int or None
        The most bytes of the entries, or the most entries where only entries are counted. None
        where there is one entry for each dtype, array type or kernel that the process has met.
    """

    name: str
    kind: Kind
    clear: Callable[[], object]
    entries: Callable[[], int]
    nbytes: Callable[[], int] | None = None
    limit: int | None = None

    @property
    def bound(self) -> str:
        """The limit, in words."""
        if self.limit is None:
            return "one entry for each that the process has met"
        if self.nbytes is None:
            return f"at most {self.limit:,} entries"
        return f"at most {self.limit:,} bytes"


REGISTRY: list[Cache] = []
"""All caches of the modules that were imported."""


def register(
    name: str,
    kind: Kind,
    clear: Callable[[], object],
    entries: Callable[[], int],
    nbytes: Callable[[], int] | None = None,
    limit: int | None = None,
) -> None:
    """Add a cache to the registry."""
    REGISTRY.append(Cache(name, kind, clear, entries, nbytes, limit))


def nbytes(*kinds: Kind) -> int:
    """Count the bytes in all caches of these kinds that count bytes."""
    counted = (c.nbytes for c in REGISTRY if c.kind in kinds and c.nbytes is not None)
    return sum(count() for count in counted)


def clear(*kinds: Kind) -> None:
    """Empty all caches of these kinds."""
    for cache in tuple(REGISTRY):
        if cache.kind in kinds:
            cache.clear()


def cached(entries: int, kind: Kind = "results") -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function of hashable arguments by a registered `functools.lru_cache`.

    Parameters
    ----------
    entries : int
        The most results that are kept; the least recently used one is dropped first. A function
        whose results are as long as the caller's axes takes `byte_cache.kept` instead.
    kind : {"results", "process", "code"}
        The kind of the contents; see `Kind`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        found = lru_cache(maxsize=entries)(function)
        name = f"{function.__module__}.{function.__qualname__}"
        register(name, kind, found.cache_clear, lambda: found.cache_info().currsize, limit=entries)
        return cast(Callable[P, R], found)

    return decorate
