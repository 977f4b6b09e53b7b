"""How work is cut so that there are chunks enough for the threads.

Threads take chunks from a counter, so the last ones to finish differ by one chunk at most: with
more chunks for each thread less time is lost at the end, but each chunk has its own start.
"""

from __future__ import annotations

from collections.abc import Callable

COARSE, EVEN, FINE = 2, 4, 8
"""Chunks for each thread: of chunks that are costly to begin, of most, and of rows of positions,
which cost nothing to begin. Chosen by timed layers on two threads; results do not depend on it."""


def enough(threads: int, each: int = EVEN) -> int:
    """The number of chunks that keeps the threads busy; one chunk will do for one thread."""
    return each * threads if threads > 1 else 1


def halved(size: int, unit: int, count: Callable[[int], int], wanted: int, least: int = 0) -> int:
    """The size of a chunk: halved, in whole units, until ``count(size)`` chunks are enough.

    No chunk of `least` or less, or of one unit, is halved.
    """
    while size > max(unit, least) and count(size) < wanted:
        size = -(-size // (2 * unit)) * unit
    return size
