"""Threads of this library's own, and how a caller waits for one without being cut short.

Python runs signal handlers in the main thread, between any two calls or jumps of its bytecode. What
a handler raises (Ctrl-C raises KeyboardInterrupt) ends the function that is running there: also
one that is cleaning up, also `threading` and `concurrent.futures`, which then keep their locks.
Two facts about CPython make cleaning up certain, whatever is raised and however often:

- A handler never runs in another thread. What must be done as a whole is done there.
- A handler never runs inside one call into C, nor between an ``except`` or ``finally`` and the
  first call in it. `unbroken` packs "start a thread, and wait until it is done" into one such call.

Threads are started by `_thread`, since `threading.Thread.start` can be cut short itself. They end
with the process, as daemon threads do.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from _thread import start_new_thread
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from operator import call
from typing import Any, TypeVar

Result = TypeVar("Result")

start = start_new_thread
"""``start(function, arguments)``: a thread as bare as can be."""

_NO_LOCK: AbstractContextManager[Any] = nullcontext()


def _functions() -> tuple[Any, ...]:
    """Python's own functions to make, take, release and free a lock, called without the GIL."""
    python = ctypes.CDLL(None, handle=ctypes.pythonapi._handle)
    python.PyThread_allocate_lock.restype = ctypes.c_void_p
    python.PyThread_acquire_lock.argtypes = [ctypes.c_void_p, ctypes.c_int]
    python.PyThread_release_lock.argtypes = python.PyThread_free_lock.argtypes = [ctypes.c_void_p]
    python.PyThread_release_lock.restype = python.PyThread_free_lock.restype = None
    names = ("allocate", "acquire", "release", "free")
    return tuple(getattr(python, f"PyThread_{name}_lock") for name in names)


_allocate, _acquire, _release, _free = _functions()


class Latch:
    """A lock whose waiting is one call into C that no signal ends.

    Attributes
    ----------
    wait : callable
        Take the lock, however long that lasts.
    shut : callable
        Take the lock if it is free.
    open : callable
        Release the lock, which must be taken.
    """

    def __init__(self) -> None:
        self._lock = _allocate()
        if not self._lock:
            raise MemoryError("no memory for a lock")
        self.wait: Callable[[], Any] = partial(_acquire, self._lock, 1)
        self.shut: Callable[[], Any] = partial(_acquire, self._lock, 0)
        self.open: Callable[[], Any] = partial(_release, self._lock)

    def __del__(self, free: Any = _free) -> None:
        free(self._lock)


class _Local(threading.local):
    """What each thread has for itself.

    Attributes
    ----------
    latch : Latch or None
        What the thread waits at.
    apart : bool
        True in a thread that `unbroken` started.
    """

    latch: Latch | None = None
    apart: bool = False


_local = _Local()


def ending() -> bool:
    """True if the interpreter is shutting down.

    Daemon threads are frozen then, with whatever locks they hold, and no other thread runs.
    """
    return sys.is_finalizing()


def guard(lock: Any) -> AbstractContextManager[Any]:
    """The lock, to be held in a ``with``; at the end of the interpreter, when it may never come
    free and nobody else runs, nothing."""
    return _NO_LOCK if sys.is_finalizing() else lock


def unbroken(function: Callable[[], None]) -> Callable[[], object]:
    """One call into C that runs `function` in a new thread and waits until it has ended.

    It may be called once. It raises RuntimeError or MemoryError, and has not called `function`, if
    no thread can be started.
    """
    latch = _local.latch
    if latch is None:
        latch = _local.latch = Latch()
    begin = partial(start, _run, (function, latch.open))
    steps: tuple[Callable[[], Any], ...] = (latch.shut, begin, latch.wait)
    return partial(deque, map(call, steps), 0)


def _run(function: Callable[[], None], after: Callable[[], object]) -> None:
    try:
        _local.apart = True
        function()
    finally:
        after()


def apart(function: Callable[[], Result]) -> Result:
    """``function()``, in a thread that no signal handler interrupts; the caller waits for its end.

    Without a new thread, at the end of the interpreter or of the system's means, it runs here.
    """
    if _local.apart or sys.is_finalizing():
        return function()
    results: list[Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    try:
        unbroken(work)()
    except RuntimeError:  # no new thread, unless a signal's handler raised it afterwards
        if results or errors:
            raise
        work()
    if errors:
        raise errors.pop()
    return results.pop()
