"""Blocks on a pool of threads, with NumPy's BLAS held to one thread while they run.

How many threads there are is never a setting of ours: it is what the BLAS is allowed at the moment
of the call, so that OPENBLAS_NUM_THREADS, OMP_NUM_THREADS and `threadpoolctl.threadpool_limits` say
it for us too. The limit is put back as it was found when the last caller leaves.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

Make = Callable[[], Callable[[Any], Any]]


class _Blas:
    """NumPy's BLAS libraries and their numbers of threads.

    With OpenMP inside, the number belongs to each calling thread; otherwise the process has one,
    so the first caller to come in sets it and the last to leave puts it back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shared: list[Any] | None = None
        self._own: list[Any] = []
        self._found: list[int] = []
        self._inside = 0

    def _find(self) -> list[Any]:
        if self._shared is None:
            every = ThreadpoolController().select(user_api="blas").lib_controllers
            root = os.path.dirname(os.path.dirname(np.__file__))
            ours = [c for c in every if c.filepath.startswith(os.path.join(root, "numpy"))]
            self._own = [c for c in ours or every if _per_thread(c)]
            self._shared = [c for c in ours or every if not _per_thread(c)]
        return self._shared

    def threads(self) -> int:
        """The threads that BLAS may use outside our blocks; 1 if nobody can tell."""
        with self._lock:
            shared = self._find()
            if len(shared) == 1 and not self._own:  # as nearly always; asked in every call
                return (self._found[0] if self._inside else shared[0].num_threads) or 1
            found = self._found if self._inside else [c.num_threads for c in shared]
            found = found + [c.num_threads for c in self._own]
        return max([n for n in found if n], default=1)

    @contextmanager
    def single(self) -> Iterator[None]:
        """One thread inside; as found afterwards. Callers may nest and overlap."""
        entered, before = False, []
        try:
            with self._lock:
                shared = self._find()
                if self._inside == 0:
                    self._found = [c.num_threads for c in shared]
                entered, self._inside = True, self._inside + 1
                for c, n in zip(shared, self._found, strict=True):
                    _limit(c, n, 1)
            before = [(c, c.num_threads) for c in self._own]
            for c, n in before:
                _limit(c, n, 1)
            yield
        finally:
            for c, n in before:
                _limit(c, 1, n)
            with self._lock:
                self._inside -= entered
                if entered and self._inside == 0:
                    for c, n in zip(self._find(), self._found, strict=True):
                        _limit(c, 1, n)

    def forget(self) -> None:
        """In a forked child nobody is inside any more."""
        self._lock = threading.Lock()
        if self._inside:
            self._inside = 0
            for c, n in zip(self._shared or [], self._found, strict=True):
                _limit(c, 1, n)


def _per_thread(controller: Any) -> bool:
    return getattr(controller, "threading_layer", None) == "openmp"


def _limit(controller: Any, now: int | None, wanted: int | None) -> None:
    """Set a library's number of threads, from whichever thread this is.

    threadpoolctl >= 3.6 lets one thread at a time control a pool that the process shares; our
    count of callers is what keeps them from disturbing each other, so control is given up at once.
    """
    if not now or not wanted or now == wanted:
        return
    release = getattr(controller, "clear_controlling_thread", None)
    if release is not None:
        release(force=True)
    controller.set_num_threads(wanted)
    if release is not None:
        release(force=True)


_blas = _Blas()
_pool: Any = None
_pool_lock = threading.Lock()


def threads() -> int:
    """How many blocks may run at once: the threads BLAS may use, at most one a core."""
    found, most = _blas.threads(), _cores()
    return found if found < most else most


@cache
def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _executor() -> Any:
    global _pool
    with _pool_lock:
        if _pool is None:
            from concurrent.futures import ThreadPoolExecutor  # impossible at interpreter shutdown

            _pool = ThreadPoolExecutor(max(_cores(), 1), thread_name_prefix="einstride")
        return _pool


def _after_fork() -> None:
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()  # the parent's threads do not exist in the child
    _blas.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def run(make: Make, boxes: Sequence[Any], threads: int) -> list[Any]:
    """Do every block, in place; the calling thread works too: a busy pool only makes it slower.

    Workers take the next block when they are done with one. If one fails, or the caller is
    interrupted, nobody takes another block, all are waited for, and the first error is raised.
    Each runs in a copy of the caller's context, where NumPy keeps `errstate`.
    """
    threads = min(threads, len(boxes))
    numbers = iter(range(len(boxes)))
    lock = threading.Lock()
    stop = False

    def work() -> None:
        nonlocal stop
        try:
            with _blas.single():  # also for one thread: the same bits whoever else is inside
                one = make()
                while not stop:
                    with lock:
                        i = next(numbers, None)
                    if i is None:
                        return
                    one(boxes[i])
        except BaseException:
            stop = True
            raise

    helpers: list[Future[None]] = []
    try:
        try:
            for _ in range(threads - 1):
                helpers.append(_executor().submit(copy_context().run, work))
        except RuntimeError:  # no new threads at interpreter shutdown: the caller does it all
            pass
        work()
    finally:

        def stopped() -> None:
            nonlocal stop
            stop = True

        _wait_for(helpers, stopped)
    for helper in helpers:
        if not helper.cancelled():
            helper.result()
    return []


def _wait_for(helpers: list[Future[None]], interrupted: Callable[[], None]) -> None:
    """Nobody may write the result any more when the caller has it, not even after an interrupt."""
    for helper in helpers:
        helper.cancel()  # one that never started: its blocks are done
    interrupt = None
    while not all(helper.done() for helper in helpers):
        try:
            wait(helpers)
        except BaseException as error:
            interrupted()
            interrupt = error
    if interrupt is not None:
        raise interrupt
