"""Run a compiled kernel on several threads, with helper threads that spin before they sleep.

Many kernels run for less than 50 microseconds, the time that a pool of futures takes to start a
helper and collect its result. A sleeping helper takes 20 microseconds or more to wake, a spinning
one takes one (`spin_handoff`). So a helper polls for work for a while, then sleeps on a lock.

A launch is one call into C, which no signal handler interrupts: before it no thread has begun, and
after it no thread writes. A helper is in `_idle` or in a caller's list, and moves between the two
in one call into C, so that an interrupt loses none.
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

POLLS = 4000
"""Number of times that a helper polls for work before it sleeps, and a caller polls for a helper's
end: some 50 microseconds. With fewer, calls in a row wake helpers from sleep; with more, helpers
take time from other processes."""

SLEEP_MICROSECONDS = 20
"""Microseconds that a caller sleeps between polls of a helper that has not ended after `POLLS`."""

LAUNCH_ARGUMENT_COUNT = 7
"""Number of arguments of `launch` before the helpers' addresses: the length of
`spin_handoff.LAUNCH_ARGUMENTS`, which is imported where kernels are compiled."""

START_TIMEOUT = 1.0
"""Seconds that a caller waits for a new helper thread, ten thousand times what its start takes.
After that the caller works without the helper."""


@cached(1, "code")
def _functions() -> tuple[Kernel, Kernel]:
    """Compile the functions of a helper thread and of a caller."""
    from einstride.codegen import jit
    from einstride.cpu.runtime import spin_handoff

    target = jit.host_target()
    pause = spin_handoff.pause_intrinsic(target.features)
    serve_kernels, launch = (
        jit.kernel(
            spin_handoff.NAME, spin_handoff.kernel, spin_handoff.Spec(name, pause), target=target
        )
        for name in ("serve", "launch")
    )
    return serve_kernels, launch


@cached(1, "process")
def _sleep() -> tuple[int, int]:
    """Return the address of the system's function that sleeps, and its argument."""
    if sys.platform == "win32":
        return _address(ctypes.windll.kernel32.Sleep), 0  # milliseconds
    return _address(ctypes.CDLL(None).usleep), SLEEP_MICROSECONDS


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


class _Helper:
    """Run one kernel at a time on a thread of its own, which polls four integers in memory.

    The lock only wakes the thread; a surplus release, or one lost to an interrupt, does no harm.
    The arguments of `launch` lie in memory of the first helper that a caller borrows: making a
    ctypes array takes two microseconds.
    """

    def __init__(self) -> None:
        self.start = threading.Lock()
        self.start.acquire()
        self.mailbox = (ctypes.c_int64 * 4)()
        self.address = ctypes.addressof(self.mailbox)
        self._arguments = _arguments(1)

    def arguments(self, kernel: int, block: int, helpers: list[_Helper]) -> int:
        """Write the arguments of `launch` to this helper's memory; return their address.

        They are `spin_handoff.LAUNCH_ARGUMENTS`, then the address of each helper's mailbox.
        """
        if len(self._arguments) != LAUNCH_ARGUMENT_COUNT + len(helpers):
            self._arguments = _arguments(len(helpers))
        arguments = self._arguments
        arguments[0], arguments[1], arguments[2] = len(helpers), kernel, block
        for i, helper in enumerate(helpers, LAUNCH_ARGUMENT_COUNT):
            arguments[i] = helper.address
        return ctypes.addressof(arguments)

    def serve(self, serve_kernels: Kernel) -> None:
        """Wait for kernels and run them, without end."""
        while True:
            self.start.acquire()
            serve_kernels(self.address, POLLS)

    def wake(self) -> None:
        """Make the thread poll for work."""
        if not self.mailbox[0]:
            _wake(self.start)


def _arguments(helpers: int) -> ctypes.Array[ctypes.c_int64]:
    values = (0, 0, 0, POLLS, *_sleep(), _address(_functions()[1]))
    return (ctypes.c_int64 * (LAUNCH_ARGUMENT_COUNT + helpers))(*values)


def _wake(lock: threading.Lock) -> None:
    """Release a lock, unless it is free already."""
    try:
        lock.release()
    except RuntimeError:
        return


_idle: list[_Helper] = []


def launch(function: Kernel, block: Any, threads: int) -> None:
    """Run a compiled kernel on `threads` threads, which share an argument block.

    Each thread gets its own number. The threads take chunks of the work from a counter in the
    block, so a thread that begins late delays nobody.
    """
    address = ctypes.addressof(block)
    if threads < 2:
        function(address, 0)
        return
    idle, borrowed = _idle, list[_Helper]()
    try:
        _borrow(idle, borrowed, threads - 1)
        if not borrowed:  # no new threads at interpreter shutdown: the caller works alone
            function(address, 0)
            return
        kernel = ctypes.c_int64.from_buffer(function).value  # type: ignore[arg-type]
        arguments = borrowed[0].arguments(kernel, address, borrowed)
        run = _functions()[1]
        for helper in borrowed:
            helper.wake()
        run(arguments, 0)
    finally:
        idle.extend(borrowed)


def launch_program(function: Callable[..., None], block: int, threads: int, *arrays: Any) -> None:
    """Call the C function ``function(block, arguments, *arrays)``, which runs kernels on threads.

    `arguments` is the address of the arguments of `launch`, with `threads` - 1 helpers or fewer; it
    is 0 if there are none.
    """
    idle, borrowed = _idle, list[_Helper]()
    try:
        _borrow(idle, borrowed, threads - 1)
        arguments = borrowed[0].arguments(0, 0, borrowed) if borrowed else 0
        for helper in borrowed:
            helper.wake()
        function(block, arguments, *arrays)
    finally:
        idle.extend(borrowed)


def _borrow(idle: list[_Helper], borrowed: list[_Helper], wanted: int) -> None:
    """Move `wanted` helpers from `idle` to `borrowed`, and start new ones where `idle` is empty."""
    for _ in range(wanted):
        try:
            borrowed.extend(islice(iter(idle.pop, None), wanted - len(borrowed)))  # one call into C
        except IndexError:
            if not _start_helper(idle):
                return
        if len(borrowed) == wanted:
            return


def _start_helper(idle: list[_Helper]) -> bool:
    """Start a helper, which adds itself to `idle`; return False if no thread can be started."""
    if workers.ending():
        return False
    started = threading.Lock()
    started.acquire()
    serve_kernels = _functions()[0]

    def serve() -> None:
        helper = _Helper()
        idle.append(helper)
        started.release()
        helper.serve(serve_kernels)

    try:
        workers.start(serve, ())
    except RuntimeError:
        return False
    return started.acquire(timeout=START_TIMEOUT)


def _after_fork() -> None:
    global _idle
    _idle = []  # the parent's threads do not exist in the child


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
