"""Blocks on a pool of threads, with NumPy's BLAS held to one thread while they run.

Whatever is raised in the caller, and however often, `run` is not left before nobody writes any
more and BLAS has its threads back: the caller itself cleans up only where nothing was raised, and
else one call into C lets another thread do it (`workers.unbroken`).
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextvars import Context, copy_context
from functools import partial
from operator import call
from queue import SimpleQueue
from typing import Any

from einstride.arrays.backends.blas_threads import Blas
from einstride.support import workers
from einstride.support.caches import cached

Make = Callable[[], Callable[[Any], Any]]

_blas = Blas()


def threads() -> int:
    """How many blocks may run at once: the threads BLAS may use, at most one a core."""
    found, most = _blas.threads(), _cores()
    return found if found < most else most


@cached(1, "process")
def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


class _Job:
    """The blocks of one call, for the caller and its helpers.

    A helper is inside between `_enter` and `_leave`. The gate is taken while somebody is; so
    whoever holds it and says that the job is over knows that nobody writes any more, nor ever will.
    """

    def __init__(self, make: Make, boxes: Sequence[Any]) -> None:
        self._make: Make | None = make
        self._boxes: Sequence[Any] = boxes
        self._numbers: Iterator[int] = iter(range(len(boxes)))
        self._counter, self._mutex, self._gate = (threading.Lock() for _ in range(3))
        self._inside = 0
        self._stop = self._over = self.done = False
        self.errors: list[BaseException] = []

    def work(self, closed: Callable[[], bool] | None = None) -> None:
        """Take blocks until there are none, or nobody is to take any more."""
        if self._make is None:
            return
        one = self._make()
        while not (self._stop or (closed is not None and closed())):
            with self._counter:
                i = next(self._numbers, None)
            if i is None:
                return
            one(self._boxes[i])

    def help(self, closed: Callable[[], bool]) -> None:
        """`work` in another thread; errors are kept for the caller."""
        if closed() or not self._enter():
            return
        try:
            for change, _ in _blas.own():
                change(1)  # for good: the thread is ours
            self.work(closed)
        except BaseException as error:
            self._stop = True
            self.errors.append(error)
        finally:
            self._leave()

    def _enter(self) -> bool:
        with self._mutex:
            if self._inside == 0:
                self._gate.acquire()
                if self._over:
                    self._gate.release()
                    return False
            self._inside += 1
            return True

    def _leave(self) -> None:
        with self._mutex:
            self._inside -= 1
            if self._inside == 0:
                self._gate.release()

    def finish(self) -> None:
        """Wait for the helpers that began; no other begins. BLAS has its threads again."""
        with self._gate:
            self._over = True
        self._make, self._boxes = None, ()  # a helper may come much later, and keep this object
        _blas.leave(self)
        self.done = True

    def end(self) -> None:
        """`finish` without the blocks that nobody has taken yet."""
        self._stop = True
        self.finish()

    def orphan(self) -> None:
        """In a forked child: the helpers do not exist, and blocks that they took are not done."""
        lost, self._inside, self._mutex = self._inside, 0, threading.Lock()
        if self._gate.locked():
            self._gate.release()
        if lost:
            self._stop = True
            text = "the process forked during this call, whose helper threads are not here"
            self.errors.append(RuntimeError(text))


class _Pool:
    """Helpers, at most one for each core, that wait for jobs. A queue in C needs no lock."""

    def __init__(self) -> None:
        self._tickets: SimpleQueue[tuple[Context, _Job]] = SimpleQueue()
        self._lock = threading.Lock()
        self._helpers = self._idle = 0
        self._closed = False

    def ask(self, job: _Job, helpers: int) -> None:
        """Give a job to so many helpers, each in a copy of the caller's context, where NumPy keeps
        `errstate`. One that comes when the job is over does nothing."""
        for _ in range(0 if self._closed else helpers):
            if self._idle <= self._tickets.qsize() and self._helpers < _cores():
                try:
                    workers.start(self._serve, ())
                except RuntimeError:  # no new threads at the interpreter's end: fewer do the work
                    if not self._helpers:
                        return
            self._tickets.put((copy_context(), job))

    def _serve(self) -> None:
        with self._lock:
            if self._helpers >= _cores():  # several were started at once
                return
            self._helpers += 1
        while True:
            with self._lock:
                self._idle += 1
            context, job = self._tickets.get()
            with self._lock:
                self._idle -= 1
            context.run(job.help, self.closed)
            del context, job

    def closed(self) -> bool:
        """True if helpers are to take no more blocks."""
        return self._closed

    def close(self) -> None:
        """No helper is in a block when the interpreter freezes its threads. Every caller does its
        own work from here on."""
        self._closed = True
        until = time.monotonic() + PATIENCE
        while self._idle < self._helpers and time.monotonic() < until:
            time.sleep(1e-3)


PATIENCE = 10.0
"""Seconds that an exiting interpreter waits for the blocks of threads it is going to freeze."""

_pool = _Pool()


def _close() -> None:
    _pool.close()


atexit.register(_close)


def _after_fork() -> None:
    global _pool
    _pool = _Pool()  # the parent's threads do not exist in the child
    for job in _blas.callers():
        job.orphan()
    _blas.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def run(make: Make, boxes: Sequence[Any], threads: int) -> list[Any]:
    """Do every block, in place; the calling thread works too: a busy pool only makes it slower.

    Workers take the next block when they are done with one. If one fails, or the caller is
    interrupted, nobody takes another block, all are waited for, and the first error is raised.
    """
    job, alone = _Job(make, boxes), workers.ending()
    helpers = 0 if alone else min(threads, len(boxes)) - 1
    own = _blas.own()
    restore: Callable[[], Any] = partial(
        deque, map(call, [partial(change, n) for change, n in own]), 0
    )
    end = job.end if alone else workers.unbroken(job.end)
    try:
        try:
            _blas.enter(job)  # also for one thread: the same bits whoever else is inside
            if helpers > 0:
                _pool.ask(job, helpers)
            for change, _ in own:
                change(1)
            job.work()
        finally:
            restore()  # one call into C, as the next is: nothing can be raised before it is made
        job.finish()
    except BaseException:
        try:
            end()
        except (RuntimeError, MemoryError):
            if job.done:  # a signal's handler raised it afterwards
                raise
            job.end()  # there is no new thread to be had
        raise
    if job.errors:
        raise job.errors.pop(0)
    return []
