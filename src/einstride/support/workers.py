"""Start threads, and wait for them in a way that signal handlers cannot interrupt.

Python runs signal handlers in the main thread, between any two calls or jumps of its bytecode. An
exception of a handler (Ctrl-C raises KeyboardInterrupt) ends the function that is running there,
even one that is cleaning up, and even `threading` and `concurrent.futures`, whose locks then stay
taken. Two facts about CPython make cleaning up certain, whatever is raised and however often:

- A handler never runs in another thread. Code that must run to its end runs there.
- A handler never runs inside one call into C, nor between an ``except`` or ``finally`` and the
  first call in it. `uninterrupted` makes starting a thread and waiting for its end one such call.

Threads are started by `_thread`, since `threading.Thread.start` can itself be interrupted. They end
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
"""``start(function, arguments)`` starts a thread without any of `threading`'s records."""

_NO_LOCK: AbstractContextManager[Any] = nullcontext()


def _functions() -> tuple[Any, ...]:
    """Return CPython's functions to make, take, release and free a lock, called without the GIL."""
    python = ctypes.CDLL(None, handle=ctypes.pythonapi._handle)
    python.PyThread_allocate_lock.restype = ctypes.c_void_p
    python.PyThread_acquire_lock.argtypes = [ctypes.c_void_p, ctypes.c_int]
    python.PyThread_release_lock.argtypes = python.PyThread_free_lock.argtypes = [ctypes.c_void_p]
    python.PyThread_release_lock.restype = python.PyThread_free_lock.restype = None
    names = ("allocate", "acquire", "release", "free")
    return tuple(getattr(python, f"PyThread_{name}_lock") for name in names)


_allocate, _acquire, _release, _free = _functions()


class NativeLock:
    """A lock that is acquired in one call into C, which no signal handler interrupts.

    Any thread may release it.

    Attributes
    ----------
    acquire : callable
        Wait until the lock is free, and take it.
    try_acquire : callable
        Take the lock if it is free; false if it is not.
    release : callable
        Release the lock, which must be taken.
    """

    def __init__(self) -> None:
        self._lock = _allocate()
        if not self._lock:
            raise MemoryError("no memory for a lock")
        self.acquire: Callable[[], Any] = partial(_acquire, self._lock, 1)
        self.try_acquire: Callable[[], Any] = partial(_acquire, self._lock, 0)
        self.release: Callable[[], Any] = partial(_release, self._lock)

    def __del__(self, free: Any = _free) -> None:
        free(self._lock)


class _Local(threading.local):
    """Hold the state of one thread.

    Attributes
    ----------
    lock : NativeLock or None
        The lock at which the thread waits.
    is_worker : bool
        True in a thread that `uninterrupted` started.
    """

    lock: NativeLock | None = None
    is_worker: bool = False


_local = _Local()


def ending() -> bool:
    """True if the interpreter is shutting down.

    Daemon threads are then frozen, with the locks that they hold, and no other thread runs.
    """
    return sys.is_finalizing()


def guard(lock: Any) -> AbstractContextManager[Any]:
    """Return a lock for a ``with`` statement, or no lock while the interpreter shuts down.

    A frozen thread may hold the lock then, and no other thread runs.
    """
    return _NO_LOCK if sys.is_finalizing() else lock


def uninterrupted(function: Callable[[], None]) -> Callable[[], object]:
    """Make a call into C that runs `function` in a new thread and waits until it has ended.

    The result may be called once. It raises RuntimeError or MemoryError, without having called
    `function`, if no thread can be started.
    """
    lock = _local.lock
    if lock is None:
        lock = _local.lock = NativeLock()
    begin = partial(start, _run, (function, lock.release))
    steps: tuple[Callable[[], Any], ...] = (lock.try_acquire, begin, lock.acquire)
    return partial(deque, map(call, steps), 0)


def _run(function: Callable[[], None], after: Callable[[], object]) -> None:
    try:
        _local.is_worker = True
        function()
    finally:
        after()


def in_worker(function: Callable[[], Result]) -> Result:
    """Call `function` in a new thread, which no signal handler interrupts, and return its result.

    The calling thread waits. It calls `function` itself if no thread can be started, as at
    interpreter shutdown.
    """
    if _local.is_worker or sys.is_finalizing():
        return function()
    results: list[Result] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    try:
        uninterrupted(work)()
    except RuntimeError:  # no new thread, unless a signal handler raised it after the end
        if results or errors:
            raise
        work()
    if errors:
        raise errors.pop()
    return results.pop()
