"""Limit NumPy's BLAS to one thread while blocks run, and restore its number of threads afterwards.

einstride has no setting for the number of threads: it uses as many as the BLAS may use at the
moment of the call, so that OPENBLAS_NUM_THREADS, OMP_NUM_THREADS and
`threadpoolctl.threadpool_limits` apply to both. The number is restored when the last caller leaves.
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
    """Hold the functions that read and set the number of threads of one BLAS library.

    Attributes
    ----------
    read : callable
        Return the number of threads; None if the library does not tell.
    set : callable
        Change the number of threads, from any thread.
    per_thread : bool
        True if each calling thread has a number of its own, as with OpenMP.
    """

    read: Callable[[], int | None]
    set: Set
    per_thread: bool


class Blas:
    """Limit the threads of NumPy's BLAS libraries while callers compute blocks.

    A library that uses OpenMP has one number for each calling thread. Any other library has one
    number for the process: the first caller that enters sets it, and the last that leaves restores
    it. `enter` and `leave` may be interrupted at any point and called again, by any thread, also by
    a signal handler that convolves: the state after `leave` does not depend on how far an
    interrupted `enter` came.

    Attributes
    ----------
    lock : threading.RLock
        Held while numbers change, and during a fork: OpenBLAS has a lock of its own, which would
        stay taken in the child if another thread changed a number at the moment of the fork.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._shared: list[_Library] | None = None
        self._per_thread: list[_Library] = []
        self._callers: dict[int, Any] = {}  # callers between `enter` and `leave`, by id
        self._found: list[int | None] | None = None  # the numbers to restore, while limited
        self._changes = 0  # number of times that a limit was set

    def _find(self) -> list[_Library]:
        found = self._shared
        if found is None:
            every = ThreadpoolController().select(user_api="blas").lib_controllers
            root = os.path.dirname(os.path.dirname(np.__file__))
            of_numpy = [c for c in every if c.filepath.startswith(os.path.join(root, "numpy"))]
            libraries = [_library(c) for c in of_numpy or every]
            self._per_thread = [c for c in libraries if c.per_thread]
            found = self._shared = [c for c in libraries if not c.per_thread]
        return found

    def threads(self) -> int:
        """Return the number of threads that BLAS may use outside of blocks; 1 if it is unknown.

        No lock is taken: a number that was read while another thread set a limit is read again.
        """
        shared = self._find()
        while True:
            changes, found = self._changes, self._found
            if len(shared) == 1 and not self._per_thread:  # the usual case, kept short
                most = (shared[0].read() if found is None else found[0]) or 1
            else:
                every = [c.read() for c in shared] if found is None else found
                numbers = (*every, *(c.read() for c in self._per_thread))
                most = max([n for n in numbers if n], default=1)
            if changes == self._changes:
                return most

    def callers(self) -> list[Any]:
        """List the callers between `enter` and `leave`."""
        return list(self._callers.values())

    def enter(self, caller: Any) -> None:
        """Limit BLAS to one thread in the whole process until `leave`. Callers may overlap."""
        with workers.guard(self.lock):
            shared, key = self._find(), id(caller)
            numbers = [c.read() for c in shared]
            # No signal handler runs between these lines: one that convolved after the first would
            # find a caller, and leave the limit that it set.
            self._callers[key] = caller
            if self._found is None:
                self._found = numbers
            self._changes += 1  # after the numbers to restore are known, before a limit is set
            for c, n in zip(shared, self._found, strict=True):
                _limit(c, n, 1)

    def leave(self, caller: Any) -> None:
        """Remove a caller; after the last one, restore the numbers of threads."""
        with workers.guard(self.lock):
            self._callers.pop(id(caller), None)
            shared, found = self._find(), self._found
            if not self._callers and found is not None:
                for c, n in zip(shared, found, strict=True):
                    _limit(c, 1, n)
                self._found = None

    def per_thread(self) -> list[tuple[Set, int]]:
        """List setter and current number of each library that has a number for each thread.

        Libraries whose number for the calling thread is one already are left out.
        """
        self._find()
        if not self._per_thread:
            return []
        return [(c.set, n) for c in self._per_thread if (n := c.read() or 1) != 1]

    def after_fork(self) -> None:
        """Remove all callers in a forked child, where their threads do not exist."""
        self.lock._at_fork_reinit()  # type: ignore[attr-defined]  # free, whoever held it
        self._callers = {}
        if self._found is not None:
            for c, n in zip(self._shared or [], self._found, strict=True):
                _limit(c, 1, n)
            self._found = None


def _limit(library: _Library, now: int | None, wanted: int | None) -> None:
    if now and wanted and now != wanted:
        library.set(wanted)


def _library(controller: Any) -> _Library:
    """Return the functions of a library, called directly where possible, else by threadpoolctl.

    threadpoolctl >= 3.8 lets one thread at a time control a pool that the process shares. That
    check is skipped here, since the list of callers keeps callers from disturbing each other.
    """
    per_thread = getattr(controller, "threading_layer", None) == "openmp"
    symbol = getattr(controller, "_get_symbol", None)
    read: Callable[[], int | None] = partial(attrgetter("num_threads"), controller)
    if controller.internal_api == "openblas" and symbol is not None:
        if per_thread:
            change = symbol("omp_set_num_threads")
        else:
            read = symbol("openblas_get_num_threads") or read
            change = symbol("openblas_set_num_threads")
        if change is not None:
            return _Library(read, change, per_thread)
    return _Library(read, partial(_set, controller), per_thread)


def _set(controller: Any, wanted: int) -> None:
    release = getattr(controller, "clear_controlling_thread", None)
    if release is not None:
        release(force=True)
    controller.set_num_threads(wanted)
    if release is not None:
        release(force=True)
