"""Running a kernel on several threads: helpers that sleep on a lock until there is work."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

_idle: list[_Helper] = []


class _Helper:
    """A thread that runs one kernel at a time; two locks hand the work over and back."""

    def __init__(self) -> None:
        self._start, self._done = threading.Lock(), threading.Lock()
        self._start.acquire()
        self._done.acquire()
        self._work: tuple[Callable[[int, int], None], int, int] | None = None
        threading.Thread(target=self._loop, name="einstride-simd", daemon=True).start()

    def _loop(self) -> None:
        while True:
            self._start.acquire()
            if self._work is not None:
                function, block, number = self._work
                function(block, number)
            self._done.release()

    def begin(self, function: Callable[[int, int], None], block: int, number: int) -> None:
        """Hand work over."""
        self._work = (function, block, number)
        self._start.release()

    def wait(self) -> None:
        """Until it is done."""
        self._done.acquire()


def launch(function: Callable[[int, int], None], block: int, threads: int) -> None:
    """Run a kernel on so many threads, the caller's among them."""
    helpers: list[_Helper] = []
    for i in range(1, threads):
        try:
            helper = _idle.pop()
        except IndexError:
            helper = _Helper()
        helper.begin(function, block, i)
        helpers.append(helper)
    try:
        function(block, 0)
    finally:
        for helper in helpers:
            helper.wait()
            _idle.append(helper)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)
