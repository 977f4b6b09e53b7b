"""Time on a device: pairs of events around many launches, over buffers that outgrow the cache."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

# The arrays of all copies together: three times the last-level cache of the largest GPU.
ROTATION_BYTES = 150 * 10**6
MOST_COPIES = 64
ROUNDS = 7
ROUND_SECONDS = 0.05


class Clock(Protocol):
    """How a library measures time on its device."""

    def start(self) -> Any:
        """Mark the queue."""

    def stop(self, mark: Any) -> float:
        """Mark it again, wait, and give the milliseconds in between."""


@dataclass(frozen=True)
class Sample:
    """Milliseconds of a call on the device, and microseconds of the host to ask for it."""

    ms: float
    low: float  # first and third quartile of the rounds
    high: float
    host_us: float
    calls: int


def copies(bytes_of_one: int, small: bool) -> int:
    """How many sets of arrays a rotation needs."""
    if small:
        return 2
    return max(2, min(MOST_COPIES, -(-ROTATION_BYTES // max(bytes_of_one, 1))))


def sample(call: Callable[[int], Any], sets: int, clock: Clock, small: bool) -> Sample:
    """Time ``call(i)``, i going round the sets, until each round fills its slice."""
    for i in range(min(sets, 3)):
        call(i)  # compiles, plans, fills pools
    mark = clock.start()
    call(0)
    once = max(clock.stop(mark), 1e-3) / 1e3
    count = 2 if small else max(sets, min(2000, int(ROUND_SECONDS / once)))
    times, host = [], []
    for _ in range(2 if small else ROUNDS):
        mark, begin = clock.start(), time.perf_counter()
        for i in range(count):
            call(i % sets)
        host.append((time.perf_counter() - begin) / count * 1e6)
        times.append(clock.stop(mark) / count)
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return Sample(middle, low, high, min(host), count)


class WallClock:
    """For libraries without events: wait before and after."""

    def __init__(self, wait: Callable[[], Any] = lambda: None) -> None:
        self._wait = wait

    def start(self) -> float:
        """Wait for the queue, and look at the clock."""
        self._wait()
        return time.perf_counter()

    def stop(self, mark: float) -> float:
        """Wait again."""
        self._wait()
        return (time.perf_counter() - mark) * 1e3


class EventClock:
    """For CuPy and PyTorch, whose events differ in a name only."""

    def __init__(self, make: Callable[[], Any], elapsed: Callable[[Any, Any], float]) -> None:
        self._make, self._elapsed = make, elapsed

    def start(self) -> Any:
        """Record an event."""
        event = self._make()
        event.record()
        return event

    def stop(self, mark: Any) -> float:
        """Record another, and wait for it."""
        event = self._make()
        event.record()
        event.synchronize()
        return self._elapsed(mark, event)
