"""Cutting the positions of a result into blocks whose working set has a given size. Integers.

A box is a (start, stop) range for the batch and for every spatial axis. The boxes of a tiling are
runs of consecutive positions in row-major order, so that results laid end to end are the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import overload

from einstride.geometry.keywords import Shape

Box = tuple[tuple[int, int], ...]

SMALL = 1 << 21
"""Multiply-adds below which handing blocks to a pool of threads costs more than it brings."""

SMALLEST_SHARE = 64
"""Rows of a matrix product below which threads are given up before rows are."""


@dataclass(frozen=True, slots=True)
class Boxes(Sequence[Box]):
    """Boxes of given sides in row-major order, each made when it is asked for.

    Small blocks of a large array are many; to list them would take more memory than the blocks.
    """

    sizes: Shape
    lengths: Shape
    start: int = 0
    stop: int = -1

    def __post_init__(self) -> None:
        if self.stop < 0:
            every = prod(-(-s // n) for s, n in zip(self.sizes, self.lengths, strict=True))
            object.__setattr__(self, "stop", every)

    def __len__(self) -> int:
        return self.stop - self.start

    def part(self, start: int, stop: int) -> Boxes:
        """The boxes [start, stop) of these."""
        return Boxes(self.sizes, self.lengths, start, min(stop, self.stop))

    def first_position(self, box: Box) -> int:
        """Where a box begins in the run of all positions."""
        at = 0
        for size, (lo, _) in zip(self.sizes, box, strict=True):
            at = at * size + lo
        return at

    @overload
    def __getitem__(self, i: int) -> Box: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Box]: ...
    def __getitem__(self, i: int | slice) -> Box | Sequence[Box]:
        if isinstance(i, slice):
            return [self[j] for j in range(len(self))[i]]
        if not 0 <= i < len(self):
            raise IndexError(i)
        i += self.start
        box = []
        for size, n in zip(reversed(self.sizes), reversed(self.lengths), strict=True):
            i, place = divmod(i, -(-size // n))
            box.append((place * n, min(place * n + n, size)))
        return tuple(reversed(box))


@dataclass(frozen=True, slots=True)
class Tiling:
    """Blocks, the threads they run on, and the bytes all of that takes.

    Attributes
    ----------
    boxes : Boxes
        In row-major order.
    lengths : tuple of int
        The sides of the largest box.
    threads : int
        Blocks at once.
    workspace : int
        Bytes, all threads together.
    """

    boxes: Boxes
    lengths: Shape
    threads: int
    workspace: int

    @property
    def rows(self) -> int:
        """Positions in the largest box."""
        return prod(self.lengths)


def tiles_of_phases(out: int, dilation: int, m: int) -> int:
    """Tiles of m outputs that an axis has, its outputs sorted by their residue: by formula."""
    phases = min(dilation, out)
    if phases < 1:
        return 0
    each, longer = divmod(out, phases)
    return longer * -(-(each + 1) // m) + (phases - longer) * -(-each // m)


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
                return Tiling(Boxes(sizes, lengths), lengths, workers, need)
            if share <= floor:
                break
            share = max(share // 2, floor)
    raise AssertionError("unreachable: the last pass ends at one row")
