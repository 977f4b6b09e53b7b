"""Compiled kernels on several threads: helpers that watch for work a while, then sleep on a lock.

A pool of futures takes 50 microseconds to start and to collect a helper, as long as many kernels
run; waking one that sleeps takes 20 or more, one that watches takes one (`simd.handover`).
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

Kernel = Callable[[int, int], None]

LOOKS = 4000
"""How often a helper looks for work before it sleeps: some 50 microseconds."""

MOMENT = 2e-5
"""Seconds that a caller sleeps between looks at a helper that takes longer than that."""


@cache
def _roles() -> tuple[Kernel, Kernel, Kernel]:
    """How to give work, to attend to it and to see that it is finished."""
    from einstride.simd import compiler, handover

    machine = compiler.machine()
    pause = handover.pause(machine.features)
    give, attend, finish = (
        compiler.kernel(handover.NAME, handover.kernel, handover.Spec(role, pause), on=machine)
        for role in ("give", "attend", "finish")
    )
    return give, attend, finish


class _Helper:
    """A thread that runs one kernel at a time, which it finds in words of memory.

    The lock only wakes it; one release too many, or one lost to an interrupt, does no harm.
    """

    def __init__(self) -> None:
        self._start = threading.Lock()
        self._start.acquire()
        self._give, self._attend, self._finish = _roles()
        self._words = (ctypes.c_int64 * 8)()
        self._address = ctypes.addressof(self._words)
        threading.Thread(target=self._loop, name="einstride-kernels", daemon=True).start()

    def _loop(self) -> None:
        while True:
            self._start.acquire()
            self._attend(self._address, LOOKS)

    def begin(self, kernel: Kernel, block: int, number: int) -> None:
        """Hand work over."""
        words = self._words
        words[1] = ctypes.c_int64.from_buffer(kernel).value  # type: ignore[arg-type]
        words[2], words[3] = block, number
        self._give(self._address, 0)
        if words[4]:
            _wake(self._start)

    def wait(self) -> None:
        """Until it is done, or was taken back."""
        self._finish(self._address, LOOKS)
        while self._words[4]:
            time.sleep(MOMENT)
            self._finish(self._address, LOOKS)


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
        _roles()
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
