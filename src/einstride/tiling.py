"""Cutting the positions of a result into blocks whose working set has a given size. Whole numbers.

A box is a (start, stop) range for the batch and for every spatial axis. The boxes of a tiling are
runs of consecutive positions in row-major order, so that results laid end to end are the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import prod

from einstride.settings import Shape

Box = tuple[tuple[int, int], ...]

SMALLEST_SHARE = 64
"""Rows of a matrix product below which threads are given up before rows are."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """Blocks, the threads they run on, and the bytes all of that takes.

    Attributes
    ----------
    boxes : tuple of Box
        In row-major order.
    lengths : tuple of int
        The sides of the largest box.
    threads : int
        Blocks at once.
    workspace : int
        Bytes, all threads together.
    """

    boxes: tuple[Box, ...]
    lengths: Shape
    threads: int
    workspace: int

    @property
    def rows(self) -> int:
        """Positions in the largest box."""
        return prod(self.lengths)


def run_lengths(sizes: Shape, rows: int) -> Shape:
    """The sides of the largest run of at most `rows` positions: 1, ..., 1, n, full, ..., full.

    n divides its axis as evenly as it can, so that no small remainder is left.
    """
    inner = 1
    for axis in reversed(range(len(sizes))):
        if inner * sizes[axis] > rows:
            pieces = -(-sizes[axis] // max(rows // inner, 1))
            return (1,) * axis + (-(-sizes[axis] // pieces),) + sizes[axis + 1 :]
        inner *= sizes[axis]
    return sizes


def boxes_of(sizes: Shape, lengths: Shape) -> tuple[Box, ...]:
    """All boxes with these sides; those at the end of an axis are smaller."""
    ranges = [
        [(lo, min(lo + n, size)) for lo in range(0, size, n)]
        for size, n in zip(sizes, lengths, strict=True)
    ]
    return tuple(product(*ranges))


def tile(
    sizes: Shape,
    rows: int,
    threads: int,
    ceiling: int,
    bytes_of: Callable[[Shape], int],
    shared: int = 0,
) -> Tiling:
    """The tiling with at most `rows` positions a block that stays below the ceiling.

    ``bytes_of(lengths)`` is the workspace of one thread for a box of these sides; `shared` bytes
    come on top once. Rows are halved down to `SMALLEST_SHARE`, then threads are given up, then rows
    down to one: if even that is above the ceiling, it is returned all the same, and its `workspace`
    is the least there is.
    """
    positions = prod(sizes)
    for workers, floor in [(n, SMALLEST_SHARE) for n in range(max(threads, 1), 0, -1)] + [(1, 1)]:
        share = max(min(rows, -(-positions // workers)), 1)
        while True:
            lengths = run_lengths(sizes, share)
            need = shared + workers * bytes_of(lengths)
            if need <= ceiling or (floor == 1 and share == 1):
                return Tiling(boxes_of(sizes, lengths), lengths, workers, need)
            if share <= floor:
                break
            share = max(share // 2, floor)
    raise AssertionError("unreachable: the last pass ends at one row")
