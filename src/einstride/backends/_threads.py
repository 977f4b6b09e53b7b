"""Blocks on a pool of threads, with NumPy's BLAS held to one thread while they run.

How many threads there are is never a setting of ours: it is what the BLAS is allowed at the moment
of the call, so that OPENBLAS_NUM_THREADS, OMP_NUM_THREADS and `threadpoolctl.threadpool_limits` say
it for us too. The limit is put back as it was found when the last caller leaves.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

Make = Callable[[], Callable[[Any], Any]]


class _Blas:
    """NumPy's BLAS and its number of threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._libraries: list[Any] | None = None
        self._found: list[int] = []
        self._inside = 0

    def _find(self) -> list[Any]:
        if self._libraries is None:
            every = ThreadpoolController().select(user_api="blas").lib_controllers
            root = os.path.dirname(os.path.dirname(np.__file__))
            own = [c for c in every if c.filepath.startswith(os.path.join(root, "numpy"))]
            self._libraries = own or every
        return self._libraries

    def threads(self) -> int:
        """The threads that BLAS may use outside our blocks; 1 if nobody can tell."""
        with self._lock:
            found = self._found if self._inside else [c.num_threads for c in self._find()]
        return max([n for n in found if n], default=1)

    @contextmanager
    def single(self) -> Iterator[None]:
        """One thread inside; as found afterwards. Callers may nest and overlap."""
        with self._lock:
            if self._inside == 0:
                self._found = [c.num_threads for c in self._find()]
            self._inside += 1
        try:
            if any(n != 1 for n in self._found):
                for library in self._find():
                    library.set_num_threads(1)
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if self._inside == 0:
                    for library, n in zip(self._find(), self._found, strict=True):
                        if n and n != 1:
                            library.set_num_threads(n)

    def forget(self) -> None:
        """In a forked child nobody is inside any more."""
        self._lock = threading.Lock()
        if self._inside:
            self._inside = 0
            for library, n in zip(self._libraries or [], self._found, strict=True):
                library.set_num_threads(n)


_blas = _Blas()
_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


def threads() -> int:
    """How many blocks may run at once: the threads BLAS may use, at most one a core."""
    return min(_blas.threads(), _cores())


@cache
def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _executor() -> ThreadPoolExecutor:
    global _pool
    with _pool_lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(max(_cores(), 1), thread_name_prefix="einstride")
        return _pool


def _after_fork() -> None:
    global _pool, _pool_lock
    _pool, _pool_lock = None, threading.Lock()  # the parent's threads do not exist in the child
    _blas.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def run(make: Make, boxes: Sequence[Any], threads: int) -> list[Any]:
    """Do every block; the calling thread works too, so a busy pool only makes it slower.

    Workers take the next block when they are done with one. If one fails, or the caller is
    interrupted, nobody takes another block, all are waited for, and the first error is raised.
    """
    threads = min(threads, len(boxes))
    if threads <= 1:
        one = make()
        return [one(box) for box in boxes]
    results: list[Any] = [None] * len(boxes)
    numbers = iter(range(len(boxes)))
    lock = threading.Lock()
    stop = False

    def work() -> None:
        nonlocal stop
        try:
            one = make()
            while not stop:
                with lock:
                    i = next(numbers, None)
                if i is None:
                    return
                results[i] = one(boxes[i])
        except BaseException:
            stop = True
            raise

    helpers: list[Future[None]] = []
    with _blas.single():
        try:
            helpers = [_executor().submit(work) for _ in range(threads - 1)]
            work()
        finally:
            for helper in helpers:
                helper.cancel()  # one that never started: its blocks are done
            wait(helpers)
    for helper in helpers:
        if not helper.cancelled():
            helper.result()
    return results
