"""Tables kept between calls: at most `LIMIT` bytes in a process, whatever shapes it meets.

``functools.lru_cache`` counts entries, and an entry may be a table as long as the caller's longest
axis. `kept` counts bytes instead, over all functions that it decorates. What is given up first is
the table that was not asked for longest.

A hit takes no lock: it reads a dictionary and stores one integer. What is missing is made outside
of the lock, so that a function may call another one that is kept; two threads that miss at the same
time may both make it. A process that was forked gets a lock of its own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import update_wrapper
from itertools import count
from typing import Any, Generic, ParamSpec, TypeVar

from einstride.support.caches import register

LIMIT = 48 << 20
"""Bytes of all tables together: six of the largest that an engine makes for one call (8 MiB; see
`TABLES` in `einstride.algorithms.direct`). With less, a network whose layers alternate between long
signals makes its tables anew in every step; with more, a process that meets ever new lengths holds
more memory that nobody will read again."""

ENTRY = 1 << 10
"""Bytes of an entry besides its arrays, about: key, entry, Python's own heads. It bounds the number
of entries that hold no arrays."""

P = ParamSpec("P")
R = TypeVar("R")


def size_of(value: Any) -> int:
    """Bytes of the arrays within a value; of a view, of all the memory that it keeps alive."""
    found = getattr(value, "nbytes", None)
    if isinstance(found, int):
        base = getattr(value, "base", None)
        while base is not None and isinstance(getattr(base, "nbytes", None), int):
            found, base = max(found, base.nbytes), getattr(base, "base", None)
        return found
    if isinstance(value, (tuple, list)):
        return sum(map(size_of, value))
    if is_dataclass(value) and not isinstance(value, type):
        return sum(size_of(getattr(value, f.name)) for f in fields(value))
    return 0


class Entry:
    """A value, its size in bytes, and when it was last asked for."""

    __slots__ = ("nbytes", "used", "value")

    def __init__(self, value: Any, nbytes: int, used: int) -> None:
        self.value, self.nbytes, self.used = value, nbytes, used


class ByteCache:
    """The values of some functions, at most `limit` bytes of them together.

    Parameters
    ----------
    limit : int
        Bytes. A value of more than half of it is made anew each time: it would drive out all else.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._tables: list[dict[Any, Entry]] = []
        self._clock = count()
        self._about = 0  # bytes; an interrupt may leave it wrong until `_shrink` counts anew
        self.renew_lock()

    def renew_lock(self) -> None:
        """A free lock: in a forked child, the thread that held the old one does not exist."""
        self._lock = threading.Lock()

    def kept(self, function: Callable[P, R]) -> Kept[P, R]:
        """The function, with its values kept. Decorate functions of hashable arguments."""
        return Kept(self, function)

    def table(self) -> dict[Any, Entry]:
        """A new dictionary whose entries count."""
        found: dict[Any, Entry] = {}
        self._tables.append(found)
        return found

    def tick(self) -> int:
        """A number greater than all before."""
        return next(self._clock)

    def put(self, table: dict[Any, Entry], key: Any, value: Any) -> None:
        """Keep a value, and give up others where there is too much."""
        nbytes = size_of(value) + ENTRY
        if nbytes > self.limit // 2:
            return
        with self._lock:
            table[key] = Entry(value, nbytes, self.tick())
            self._about += nbytes
            if self._about > self.limit:
                self._shrink()

    def entries(self) -> int:
        """The number of values that are kept now."""
        return sum(map(len, self._tables))

    def nbytes(self) -> int:
        """Bytes that are kept now."""
        return sum(e.nbytes for table in self._tables for e in list(table.values()))

    def clear(self) -> None:
        """Forget everything."""
        for table in self._tables:
            table.clear()

    def _shrink(self) -> None:
        """Down to three quarters of the limit, so that not every new value pays for a sort."""
        entries = [(e.used, t, key, e) for t in self._tables for key, e in list(t.items())]
        entries.sort(key=lambda entry: entry[0])
        self._about = sum(e.nbytes for *_, e in entries)
        if self._about <= self.limit:
            return
        for _, table, key, e in entries:
            if self._about <= self.limit * 3 // 4:
                break
            table.pop(key, None)
            self._about -= e.nbytes


class Kept(Generic[P, R]):
    """A function whose values are kept in a `ByteCache`, called by position."""

    def __init__(self, cache: ByteCache, function: Callable[P, R]) -> None:
        self._cache, self._function = cache, function
        self._table = cache.table()
        self._tick = cache.tick
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The value of the function."""
        key = (args, *kwargs.items()) if kwargs else args
        entry = self._table.get(key)
        if entry is not None:
            entry.used = self._tick()
            value: R = entry.value
            return value
        value = self._function(*args, **kwargs)
        self._cache.put(self._table, key, value)
        return value


CACHE = ByteCache(LIMIT)
"""The cache of this process."""

register(f"{__name__}.CACHE", "results", CACHE.clear, CACHE.entries, CACHE.nbytes)

kept = CACHE.kept

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CACHE.renew_lock)
