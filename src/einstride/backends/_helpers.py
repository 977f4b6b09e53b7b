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


class _Helper:
    """A thread that runs one kernel at a time; two locks hand the work over and back."""

    def __init__(self) -> None:
        self._start, self._done = threading.Lock(), threading.Lock()
        self._start.acquire()
        self._done.acquire()
        self._work: tuple[Kernel, int, int] | None = None
        self._busy = False
        threading.Thread(target=self._loop, name="einstride-kernels", daemon=True).start()

    def _loop(self) -> None:
        while True:
            self._start.acquire()
            if self._work is not None:
                kernel, block, number = self._work
                kernel(block, number)
            self._done.release()

    def begin(self, kernel: Kernel, block: int, number: int) -> None:
        """Hand work over."""
        self._work = (kernel, block, number)
        self._busy = True
        self._start.release()

    def wait(self) -> None:
        """Until it is done, whatever interrupts: nobody may write what the caller has back."""
        interrupt = None
        while self._busy:
            try:
                self._done.acquire()
                self._busy = False
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt


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
    interrupt = None
    for helper in busy:
        try:
            helper.wait()
        except BaseException as error:
            interrupt = error
        _idle.append(helper)
    if interrupt is not None:
        raise interrupt


if hasattr(os, "register_at_fork"):  # the parent's threads do not exist in the child
    os.register_at_fork(after_in_child=_idle.clear)
