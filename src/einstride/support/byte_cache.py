"""Cache the results of functions, at most `LIMIT` bytes of them in a process.

``functools.lru_cache`` counts entries, and an entry may be a table as long as the caller's longest
axis. `kept` counts bytes instead, over all functions that it decorates, and drops the least
recently used results first.

A hit takes no lock: it reads a dictionary and stores one integer. A missing result is computed
outside of the lock, so that a cached function may call another one; two threads that miss at the
same time may both compute it. A forked process gets a lock of its own.
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
"""Bytes of all results together: six of the largest offset tables that an engine makes for one call
(8 MiB; see `TABLES` in `einstride.algorithms.direct`). With less, a network whose layers alternate
between long signals computes its tables in every step; with more, a process whose calls all have
new lengths holds more memory that it will not read again."""

ENTRY = 1 << 10
"""Bytes that each entry counts besides its arrays: an estimate of key, entry and Python's object
headers. It limits the number of entries that hold no arrays."""

P = ParamSpec("P")
R = TypeVar("R")


def size_of(value: Any) -> int:
    """Count the bytes of the arrays in a value; a view counts all memory that it keeps alive."""
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
    """Hold a value, its size in bytes, and the time of its last use, in ticks of the cache."""

    __slots__ = ("nbytes", "used", "value")

    def __init__(self, value: Any, nbytes: int, used: int) -> None:
        self.value, self.nbytes, self.used = value, nbytes, used


class ByteCache:
    """Cache the values of several functions, at most `limit` bytes of them together.

    Parameters
    ----------
    limit : int
        Most bytes. A value of more than half the limit is not kept, since it would displace all
        others.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._tables: list[dict[Any, Entry]] = []
        self._clock = count()
        self._estimate = 0  # bytes; wrong after an interrupt, until `_shrink` counts again
        self.renew_lock()

    def renew_lock(self) -> None:
        """Replace the lock: in a forked child, the thread that held the old one does not exist.

        The thread that holds it may take it again, in a signal handler that convolves.
        """
        self._lock = threading.RLock()

    def kept(self, function: Callable[P, R]) -> Kept[P, R]:
        """Decorate a function of hashable arguments so that its values are cached."""
        return Kept(self, function)

    def table(self) -> dict[Any, Entry]:
        """Add a dictionary whose entries count against the limit."""
        found: dict[Any, Entry] = {}
        self._tables.append(found)
        return found

    def tick(self) -> int:
        """Return the next number of a counter, the time of one use."""
        return next(self._clock)

    def put(self, table: dict[Any, Entry], key: Any, value: Any) -> None:
        """Store a value, and drop the least recently used ones if the limit is exceeded."""
        nbytes = size_of(value) + ENTRY
        if nbytes > self.limit // 2:
            return
        with self._lock:
            table[key] = Entry(value, nbytes, self.tick())
            self._estimate += nbytes
            if self._estimate > self.limit:
                self._shrink()

    def entries(self) -> int:
        """Count the values in the cache."""
        return sum(map(len, self._tables))

    def nbytes(self) -> int:
        """Count the bytes in the cache."""
        return sum(e.nbytes for table in self._tables for e in list(table.values()))

    def clear(self) -> None:
        """Drop all values."""
        for table in self._tables:
            table.clear()

    def _shrink(self) -> None:
        """Drop values down to three quarters of the limit, so that not every store has to sort."""
        entries = [(e.used, t, key, e) for t in self._tables for key, e in list(t.items())]
        entries.sort(key=lambda entry: entry[0])
        total = sum(e.nbytes for *_, e in entries)
        smaller = self.limit * 3 // 4 if total > self.limit else total
        for _, table, key, e in entries:
            if total <= smaller:
                break
            table.pop(key, None)
            total -= e.nbytes
        self._estimate = total


class Kept(Generic[P, R]):
    """Call a function, with its values cached in a `ByteCache`."""

    def __init__(self, cache: ByteCache, function: Callable[P, R]) -> None:
        self._cache, self._function = cache, function
        self._table = cache.table()
        self._tick = cache.tick
        update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the function's value, from the cache or computed."""
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
"""The byte cache of this process."""

register(f"{__name__}.CACHE", "results", CACHE.clear, CACHE.entries, CACHE.nbytes, LIMIT)

kept = CACHE.kept

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CACHE.renew_lock)
