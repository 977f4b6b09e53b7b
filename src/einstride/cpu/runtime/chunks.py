"""Choose the number and the size of the chunks that threads take.

Threads take chunks from a counter, so they finish at most one chunk apart. More chunks leave less
idle time at the end, but every chunk costs time to begin.
"""

from __future__ import annotations

from collections.abc import Callable

COARSE, EVEN, FINE = 2, 4, 8
"""Chunks for each thread: `COARSE` if chunks are costly to begin, `FINE` for rows of positions,
which cost nothing to begin, `EVEN` for others. Chosen by timed layers on two threads; results do
not depend on them."""


def block_size(count: int, most: int) -> int:
    """Return the size of the fewest blocks, equal but for the last, of at most `most` items."""
    return -(-count // -(-count // most))


def chunk_count(threads: int, per_thread: int = EVEN) -> int:
    """Return the number of chunks that keeps all threads busy; one for a single thread."""
    return per_thread * threads if threads > 1 else 1


def chunk_size(
    size: int, unit: int, count: Callable[[int], int], min_chunks: int, minimum: int = 0
) -> int:
    """Halve a chunk, in multiples of `unit`, until ``count(size) >= min_chunks``; return its size.

    A chunk of at most `minimum`, or of one unit, is not halved.
    """
    while size > max(unit, minimum) and count(size) < min_chunks:
        size = -(-size // (2 * unit)) * unit
    return size
