"""The number of threads of NumPy's BLAS, held to one while blocks run, and given back.

How many threads there are is never a setting of ours: it is what the BLAS is allowed at the moment
of the call, so that OPENBLAS_NUM_THREADS, OMP_NUM_THREADS and `threadpoolctl.threadpool_limits` say
it for us too. The limit is put back as it was found when the last caller leaves.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import ThreadpoolController

from einstride.support import workers

Set = Callable[[int], object]


class _Library(NamedTuple):
    """A BLAS library.

    Attributes
    ----------
    read : callable
        Its number of threads; None if it does not say.
    set : callable
        Changes that number, from whichever thread.
    own : bool
        True if the number belongs to the thread that reads or sets it, as with OpenMP.
    """

    read: Callable[[], int | None]
    set: Set
    own: bool


class Blas:
    """NumPy's BLAS libraries and their numbers of threads.

    With OpenMP inside, the number belongs to each calling thread; otherwise the process has one,
    so the first caller to come in sets it and the last to leave puts it back. `enter` and `leave`
    may be cut short at any point and done again, by any thread: `leave` always has the last word.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shared: list[_Library] | None = None
        self._own: list[_Library] = []
        self._callers: dict[int, Any] = {}  # those who are inside, by id
        self._found: list[int | None] | None = None  # the numbers to put back, while limited
        self._changes = 0  # how often a limit was set

    def _find(self) -> list[_Library]:
        found = self._shared
        if found is None:
            every = ThreadpoolController().select(user_api="blas").lib_controllers
            root = os.path.dirname(os.path.dirname(np.__file__))
            ours = [c for c in every if c.filepath.startswith(os.path.join(root, "numpy"))]
            libraries = [_library(c) for c in ours or every]
            self._own = [c for c in libraries if c.own]
            found = self._shared = [c for c in libraries if not c.own]
        return found

    def threads(self) -> int:
        """The threads that BLAS may use outside our blocks; 1 if nobody can tell.

        No lock is taken: a number that was read while somebody set a limit is read again.
        """
        shared = self._find()
        while True:
            changes, found = self._changes, self._found
            if len(shared) == 1 and not self._own:  # as nearly always; asked in every call
                most = (shared[0].read() if found is None else found[0]) or 1
            else:
                every = [c.read() for c in shared] if found is None else found
                most = max([n for n in (*every, *(c.read() for c in self._own)) if n], default=1)
            if changes == self._changes:
                return most

    def callers(self) -> list[Any]:
        """Those who are inside."""
        return list(self._callers.values())

    def enter(self, caller: Any) -> None:
        """One thread for BLAS in the whole process, until `leave`. Callers may overlap."""
        with workers.guard(self._lock):
            shared = self._find()
            self._callers[id(caller)] = caller
            if self._found is None:
                self._found = [c.read() for c in shared]
            self._changes += 1  # before a limit is set, after it is known what to put back
            for c, n in zip(shared, self._found, strict=True):
                _limit(c, n, 1)

    def leave(self, caller: Any) -> None:
        """The caller is not inside any more; the numbers as they were found after the last."""
        with workers.guard(self._lock):
            self._callers.pop(id(caller), None)
            if not self._callers and self._found is not None:
                for c, n in zip(self._find(), self._found, strict=True):
                    _limit(c, 1, n)
                self._found = None

    def own(self) -> list[tuple[Set, int]]:
        """Of libraries that count for each thread: how to set the calling thread's number, and
        the number now, if that is not one."""
        self._find()
        if not self._own:
            return []
        return [(c.set, n) for c in self._own if (n := c.read() or 1) != 1]

    def after_fork(self) -> None:
        """In a forked child nobody is inside any more."""
        self._lock, self._callers = threading.Lock(), {}
        if self._found is not None:
            for c, n in zip(self._shared or [], self._found, strict=True):
                _limit(c, 1, n)
            self._found = None


def _limit(library: _Library, now: int | None, wanted: int | None) -> None:
    if now and wanted and now != wanted:
        library.set(wanted)


def _library(controller: Any) -> _Library:
    """A library as threadpoolctl knows it; its own functions, where they can be called directly.

    threadpoolctl >= 3.8 lets one thread at a time control a pool that the process shares; our
    list of callers is what keeps them from disturbing each other, so it is not asked.
    """
    own = getattr(controller, "threading_layer", None) == "openmp"
    symbol = getattr(controller, "_get_symbol", None)
    read: Callable[[], int | None] = partial(attrgetter("num_threads"), controller)
    if controller.internal_api == "openblas" and symbol is not None:
        if own:
            change = symbol("omp_set_num_threads")
        else:
            read = symbol("openblas_get_num_threads") or read
            change = symbol("openblas_set_num_threads")
        if change is not None:
            return _Library(read, change, own)
    return _Library(read, partial(_set, controller), own)


def _set(controller: Any, wanted: int) -> None:
    release = getattr(controller, "clear_controlling_thread", None)
    if release is not None:
        release(force=True)
    controller.set_num_threads(wanted)
    if release is not None:
        release(force=True)
