"""Compiled kernels on several threads: helpers that watch for work a while, then sleep on a lock.

A pool of futures takes 50 microseconds to start and to collect a helper, as long as many kernels
run; waking one that sleeps takes 20 or more, one that watches takes one (`spin_handoff`).

A launch is one call into C, which no signal handler interrupts; before it nothing has begun, and
after it nobody writes any more. A helper lies in `_idle` or in a caller's list, and moves from one
to the other in one call into C too, so none gets lost.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Callable
from itertools import islice
from typing import Any

from einstride.support import workers
from einstride.support.caches import cached

Kernel = Callable[[int, int], None]

LOOKS = 4000
"""How often a helper looks for work before it sleeps: some 50 microseconds."""

MOMENT = 20
"""Microseconds that a caller sleeps between looks at a helper that takes longer than that."""

BIRTH = 1.0
"""Seconds that a caller waits for a new helper: a new thread takes a ten-thousandth."""


@cached(1, "code")
def _roles() -> tuple[Kernel, Kernel]:
    """What a helper and what a caller does."""
    from einstride.codegen import jit
    from einstride.cpu.runtime import spin_handoff

    machine = jit.machine()
    pause = spin_handoff.pause(machine.features)
    attend, launch = (
        jit.kernel(
            spin_handoff.NAME, spin_handoff.kernel, spin_handoff.Spec(role, pause), on=machine
        )
        for role in ("attend", "launch")
    )
    return attend, launch


@cached(1, "process")
def _sleep() -> tuple[int, int]:
    """The address of a function of the system's that sleeps, and what to pass it for a moment."""
    if sys.platform == "win32":
        return _address(ctypes.windll.kernel32.Sleep), 0  # milliseconds
    return _address(ctypes.CDLL(None).usleep), MOMENT


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


class _Helper:
    """A thread that runs one kernel at a time, which it finds in words of memory.

    The lock only wakes it; one release too many, or one lost to an interrupt, does no harm.
    """

    def __init__(self) -> None:
        self.start = threading.Lock()
        self.start.acquire()
        self.words = (ctypes.c_int64 * 4)()
        self.address = ctypes.addressof(self.words)

    def serve(self, attend: Kernel) -> None:
        """What the thread does."""
        while True:
            self.start.acquire()
            attend(self.address, LOOKS)

    def wake(self) -> None:
        """Let it look for work."""
        if not self.words[0]:
            _wake(self.start)


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
    if threads < 2:
        function(address, 0)
        return
    idle, mine = _idle, list[_Helper]()
    try:
        _borrow(idle, mine, threads - 1)
        if not mine:  # no new threads at interpreter shutdown: the caller does it all
            function(address, 0)
            return
        kernel = ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]
        team = (ctypes.c_int64 * (5 + len(mine)))(
            len(mine), kernel, address, *_sleep(), *(helper.address for helper in mine)
        )
        run = _roles()[1]
        for helper in mine:
            helper.wake()
        run(ctypes.addressof(team), LOOKS)
    finally:
        idle.extend(mine)


def _borrow(idle: list[_Helper], mine: list[_Helper], wanted: int) -> None:
    """Move helpers from one list to the other; new ones, where there are none."""
    for _ in range(wanted):
        try:
            mine.extend(islice(iter(idle.pop, None), wanted - len(mine)))  # one call into C
        except IndexError:
            if not _raise_another(idle):
                return
        if len(mine) == wanted:
            return


def _raise_another(idle: list[_Helper]) -> bool:
    """Start a helper, which joins those that are idle; False if that is impossible."""
    if workers.ending():
        return False
    born = threading.Lock()
    born.acquire()
    attend = _roles()[0]

    def serve() -> None:
        helper = _Helper()
        idle.append(helper)
        born.release()
        helper.serve(attend)

    try:
        workers.start(serve, ())
    except RuntimeError:
        return False
    return born.acquire(timeout=BIRTH)


def _after_fork() -> None:
    global _idle
    _idle = []  # the parent's threads do not exist in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
