"""Compiled kernels on several threads: helpers that sleep on a lock until there is work.

A pool of futures takes 50 microseconds to start and to collect a helper, as long as many kernels
run; a lock handed over takes a few.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

Kernel = Callable[[int, int], None]


PATIENCE = 0.2
"""Seconds after which a caller looks whether its helper ever heard of the work."""


class _Helper:
    """A thread that runs one kernel at a time; two locks hand the work over and back.

    What counts is `_work`: it is there from the moment that it is given until it is done. The locks
    only wake; one release too many, or one lost to an interrupt, does no harm.
    """

    def __init__(self) -> None:
        self._start, self._done = threading.Lock(), threading.Lock()
        self._start.acquire()
        self._done.acquire()
        self._work: tuple[Kernel, int, int] | None = None
        threading.Thread(target=self._loop, name="einstride-kernels", daemon=True).start()

    def _loop(self) -> None:
        while True:
            self._start.acquire()
            if self._work is not None:
                kernel, block, number = self._work
                kernel(block, number)
                self._work = None
                _wake(self._done)

    def begin(self, kernel: Kernel, block: int, number: int) -> None:
        """Hand work over."""
        self._work = (kernel, block, number)
        _wake(self._start)

    def wait(self) -> None:
        """Until it is done."""
        while self._work is not None:
            if not self._done.acquire(timeout=PATIENCE):
                _wake(self._start)


def _wake(lock: threading.Lock) -> None:
    """Release a lock that somebody waits for; one that is free already needs nothing."""
    try:
        lock.release()
    except RuntimeError:
        return


_idle: list[_Helper] = []


def launch(function: Kernel, block: Any, threads: int) -> None:
    """A compiled kernel on so many threads, each with the same argument block and its number.

    They take chunks of the work from a counter in the block, so one that comes late costs nothing.
    """
    address = ctypes.addressof(block)
    busy: list[_Helper] = []
    try:
        for number in range(1, threads):
            helper = _borrowed()
            if helper is None:  # no new threads at interpreter shutdown: the caller does it all
                break
            busy.append(helper)
            helper.begin(function, address, number)
        function(address, 0)
    finally:
        _collect(busy)


def _borrowed() -> _Helper | None:
    try:
        return _idle.pop()
    except IndexError:
        pass
    try:
        return _Helper()
    except RuntimeError:
        return None


def _collect(busy: list[_Helper]) -> None:
    """Wait for all, whatever interrupts: nobody may write what the caller has back."""
    interrupt = None
    while True:
        try:
            for helper in busy:
                helper.wait()
            break
        except BaseException as error:
            interrupt = error
    _idle.extend(busy)
    if interrupt is not None:
        raise interrupt


if hasattr(os, "register_at_fork"):  # the parent's threads do not exist in the child
    os.register_at_fork(after_in_child=_idle.clear)
