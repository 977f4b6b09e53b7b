"""Compute blocks on a pool of threads, with NumPy's BLAS limited to one thread while they run.

`run` does not end before all threads have stopped writing and BLAS has its threads again, whatever
signal handlers raise in the caller, and however often. The caller itself cleans up only if nothing
was raised; otherwise one call into C makes another thread clean up (`workers.uninterrupted`).
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
    """Return the number of blocks that may run at once: BLAS's threads, at most one a core."""
    found, most = _blas.threads(), cores()
    return found if found < most else most


@cached(1, "process")
def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


class _Job:
    """Distribute the blocks of one call among the caller and its helper threads.

    A helper writes only between `_enter` and `_leave`, and holds the gate meanwhile, together with
    the other helpers. A thread that takes the gate and then sets `_over` therefore knows that no
    helper writes now or later.
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
        """Compute blocks until none is left, or until the job stops or the pool is `closed`."""
        if self._make is None:
            return
        compute = self._make()
        while not (self._stop or (closed is not None and closed())):
            with self._counter:
                i = next(self._numbers, None)
            if i is None:
                return
            compute(self._boxes[i])

    def help(self, closed: Callable[[], bool]) -> None:
        """Call `work` in a helper thread, and keep its error for the caller."""
        if closed() or not self._enter():
            return
        try:
            for change, _ in _blas.per_thread():
                change(1)  # not restored, since only this pool uses the thread
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
        """Wait for the helpers that began, let no other begin, and restore the threads of BLAS."""
        with self._gate:
            self._over = True
        self._make, self._boxes = None, ()  # a late helper may keep this object for long
        _blas.leave(self)
        self.done = True

    def end(self) -> None:
        """Call `finish` without waiting for the blocks that no thread has taken yet."""
        self._stop = True
        self.finish()

    def orphan(self) -> None:
        """Fail in a forked child if helpers, which do not exist there, had taken blocks."""
        lost, self._inside, self._mutex = self._inside, 0, threading.Lock()
        if self._gate.locked():
            self._gate.release()
        if lost:
            self._stop = True
            text = "the process forked during this call, whose helper threads are not here"
            self.errors.append(RuntimeError(text))


class _Pool:
    """Keep helper threads, at most one for each core, that wait for jobs in a queue.

    The queue is implemented in C, so that an interrupt cannot leave a lock of it taken.
    """

    def __init__(self) -> None:
        self._tickets: SimpleQueue[tuple[Context, _Job]] = SimpleQueue()
        self._lock = threading.Lock()
        self._helpers = self._idle = 0
        self._closed = False

    def submit(self, job: _Job, helpers: int) -> None:
        """Give a job to a number of helpers, each in a copy of the caller's context.

        NumPy keeps `errstate` in the context. A helper that begins too late does nothing.
        """
        for _ in range(0 if self._closed else helpers):
            if self._idle <= self._tickets.qsize() and self._helpers < cores():
                try:
                    workers.start(self._serve, ())
                except RuntimeError:  # no new threads at interpreter shutdown: fewer helpers work
                    if not self._helpers:
                        return
            self._tickets.put((copy_context(), job))

    def _serve(self) -> None:
        with self._lock:
            if self._helpers >= cores():  # several callers started helpers at once
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
        """True if helpers must take no more blocks."""
        return self._closed

    def close(self) -> None:
        """Wait until no helper computes a block, before the interpreter freezes its threads.

        From then on callers work alone.
        """
        self._closed = True
        until = time.monotonic() + CLOSE_TIMEOUT
        while self._idle < self._helpers and time.monotonic() < until:
            time.sleep(1e-3)


CLOSE_TIMEOUT = 10.0
"""Seconds that an exiting interpreter waits for helpers to end their blocks. A block takes
milliseconds; a longer wait would only delay the exit where a helper hangs."""

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


FORK_TIMEOUT = 10.0
"""Seconds that a fork waits for threads that change BLAS's number of threads, which takes
microseconds. An exiting interpreter may have frozen such a thread."""

if hasattr(os, "register_at_fork"):
    # C functions, where no signal handler can raise an exception between taking and releasing
    os.register_at_fork(
        before=partial(_blas.lock.acquire, True, FORK_TIMEOUT),
        after_in_parent=_blas.lock.release,
        after_in_child=_after_fork,
    )


def run(make: Make, boxes: Sequence[Any], threads: int) -> list[Any]:
    """Compute every block in place, by the calling thread and by helpers as far as they are free.

    A thread takes the next block when it has done one. If a block fails, or the caller is
    interrupted, no thread takes another block, `run` waits for all of them, and the first error is
    raised.
    """
    job, alone = _Job(make, boxes), workers.ending()
    helpers = 0 if alone else min(threads, len(boxes)) - 1
    own_numbers = _blas.per_thread()
    restore: Callable[[], Any] = partial(
        deque, map(call, [partial(change, n) for change, n in own_numbers]), 0
    )
    end = job.end if alone else workers.uninterrupted(job.end)
    try:
        try:
            _blas.enter(job)  # also for one thread, so that bits do not depend on other callers
            if helpers > 0:
                _pool.submit(job, helpers)
            for change, _ in own_numbers:
                change(1)
            job.work()
        finally:
            restore()  # one call into C, like `end`: no signal handler runs before it
        job.finish()
    except BaseException:
        try:
            end()
        except (RuntimeError, MemoryError):
            if job.done:  # a signal handler raised the error after the end of the job
                raise
            job.end()  # no new thread can be started
        raise
    if job.errors:
        raise job.errors.pop(0)
    return []
