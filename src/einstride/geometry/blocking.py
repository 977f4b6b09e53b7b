"""Split the positions of a result into blocks whose working set fits a given number of bytes.

A box is a (start, stop) range for the batch and for every spatial axis. Each box of a tiling holds
consecutive positions in row-major order, so that the blocks' results, concatenated, are the whole
result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import overload

from einstride.geometry.keywords import Shape

Box = tuple[tuple[int, int], ...]

SMALL = 1 << 21
"""Multiply-adds below which a call runs on one thread: some 10 microseconds of float32 products at
the calibrated rate, less than the 50 that a pool of threads takes. A lower value threads smaller
calls, at a loss; a higher one leaves cores idle in calls that would gain."""

FEWEST_ROWS = 64
"""Rows of a block below which `tile` takes fewer threads before it takes fewer rows: with few rows
a matrix product reads its other operand for little work. A lower value keeps more threads in a
tight limit, each with a slower product."""


@dataclass(frozen=True, slots=True)
class Boxes(Sequence[Box]):
    """List boxes of given sides in row-major order, making each box when it is indexed.

    A large array has so many small blocks that a list of them would take more memory than a block.

    Attributes
    ----------
    sizes : tuple of int
        Positions of the batch axis and of each spatial axis.
    lengths : tuple of int
        Positions of a box on each axis; the last box of an axis may have fewer.
    start, stop : int
        The numbers of the first box and of the one behind the last; -1 stands for all.
    """

    sizes: Shape
    lengths: Shape
    start: int = 0
    stop: int = -1

    def __post_init__(self) -> None:
        if self.stop < 0:
            count = prod(-(-s // n) for s, n in zip(self.sizes, self.lengths, strict=True))
            object.__setattr__(self, "stop", count)

    def __len__(self) -> int:
        return self.stop - self.start

    def part(self, start: int, stop: int) -> Boxes:
        """Return the boxes with numbers [start, stop)."""
        return Boxes(self.sizes, self.lengths, start, min(stop, self.stop))

    def first_position(self, box: Box) -> int:
        """Return the row-major index of the first position of a box."""
        index = 0
        for size, (lo, _) in zip(self.sizes, box, strict=True):
            index = index * size + lo
        return index

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
            i, along_axis = divmod(i, -(-size // n))
            box.append((along_axis * n, min(along_axis * n + n, size)))
        return tuple(reversed(box))


@dataclass(frozen=True, slots=True)
class Tiling:
    """Hold the blocks of a result, the threads that compute them, and the bytes that this takes.

    Attributes
    ----------
    boxes : Boxes
        The blocks in row-major order.
    lengths : tuple of int
        Positions of the largest box on each axis.
    threads : int
        Blocks that are computed at once.
    workspace : int
        Bytes of all threads together.
    """

    boxes: Boxes
    lengths: Shape
    threads: int
    workspace: int

    @property
    def rows(self) -> int:
        """Number of positions in the largest box."""
        return prod(self.lengths)


def tiles_of_phases(out: int, dilation: int, m: int) -> int:
    """Count the tiles of m outputs on an axis whose outputs are sorted by index modulo `dilation`.

    Tiles do not reach across phases. The count is a formula, without a loop over the phases.
    """
    phases = min(dilation, out)
    if phases < 1:
        return 0
    each, longer = divmod(out, phases)
    return longer * -(-(each + 1) // m) + (phases - longer) * -(-each // m)


def block_lengths(sizes: Shape, rows: int) -> Shape:
    """Return the sides of the largest block of at most `rows` consecutive positions.

    The sides are 1, ..., 1, n, full, ..., full, where n splits its axis as evenly as possible, so
    that no small remainder is left.
    """
    inner = 1
    for axis in reversed(range(len(sizes))):
        if inner * sizes[axis] > rows:
            blocks = -(-sizes[axis] // max(rows // inner, 1))
            return (1,) * axis + (-(-sizes[axis] // blocks),) + sizes[axis + 1 :]
        inner *= sizes[axis]
    return sizes


def tile(
    sizes: Shape,
    rows: int,
    threads: int,
    limit: int,
    bytes_of: Callable[[Shape], int],
    shared: int = 0,
) -> Tiling:
    """Choose the blocks of at most `rows` positions and the threads whose bytes stay below `limit`.

    ``bytes_of(lengths)`` is the workspace of one thread for a box of these sides; `shared` bytes
    are added once. Rows are halved down to `FEWEST_ROWS`, then threads are dropped, then rows are
    halved down to one. If even one row on one thread exceeds the limit, that tiling is returned
    nevertheless, and its `workspace` is the least possible.
    """
    positions = prod(sizes)
    for workers, fewest in [(n, FEWEST_ROWS) for n in range(max(threads, 1), 0, -1)] + [(1, 1)]:
        block_rows = max(min(rows, -(-positions // workers)), 1)
        while True:
            lengths = block_lengths(sizes, block_rows)
            need = shared + workers * bytes_of(lengths)
            if need <= limit or (fewest == 1 and block_rows == 1):
                return Tiling(Boxes(sizes, lengths), lengths, workers, need)
            if block_rows <= fewest:
                break
            block_rows = max(block_rows // 2, fewest)
    raise AssertionError("unreachable: the last pass ends at one row")
