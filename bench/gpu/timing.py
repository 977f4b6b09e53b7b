"""Times calls on a device: events around many launches, on buffers larger than the cache."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

# Bytes of the arrays of all sets: three times the last-level cache of the largest GPU.
ROTATION_BYTES = 150 * 10**6
MOST_COPIES = 64
ROUNDS = 7
ROUND_SECONDS = 0.05


class Clock(Protocol):
    """Describe how a library measures time on its device."""

    def start(self) -> Any:
        """Put a start mark into the queue."""

    def stop(self, mark: Any) -> float:
        """Put an end mark into the queue, wait, and return the milliseconds between the marks."""


@dataclass(frozen=True)
class Sample:
    """Hold the milliseconds of a call on the device, and the microseconds to start it on the
    host."""

    ms: float
    low: float  # first and third quartile of the rounds
    high: float
    host_us: float
    calls: int


def copies(bytes_of_one: int, small: bool) -> int:
    """Return the number of sets of arrays that together exceed the cache."""
    if small:
        return 2
    return max(2, min(MOST_COPIES, -(-ROTATION_BYTES // max(bytes_of_one, 1))))


def sample(call: Callable[[int], Any], sets: int, clock: Clock, small: bool) -> Sample:
    """Time ``call(i)``, with i cycling through the sets, until each round fills its slice."""
    for i in range(min(sets, 3)):
        call(i)  # compiles, plans and fills memory pools
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
    """Time by the host's clock and waits, for libraries without events."""

    def __init__(self, wait: Callable[[], Any] = lambda: None) -> None:
        self._wait = wait

    def start(self) -> float:
        """Wait for the queue, and return the time."""
        self._wait()
        return time.perf_counter()

    def stop(self, mark: float) -> float:
        """Wait for the queue, and return the milliseconds since `mark`."""
        self._wait()
        return (time.perf_counter() - mark) * 1e3


class EventClock:
    """Time by the events of CuPy or PyTorch."""

    def __init__(self, make: Callable[[], Any], elapsed: Callable[[Any, Any], float]) -> None:
        self._make, self._elapsed = make, elapsed

    def start(self) -> Any:
        """Record an event."""
        event = self._make()
        event.record()
        return event

    def stop(self, mark: Any) -> float:
        """Record a second event, wait for it, and return the milliseconds between both."""
        event = self._make()
        event.record()
        event.synchronize()
        return self._elapsed(mark, event)
