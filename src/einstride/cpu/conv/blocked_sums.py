"""Add the sums of blocks of products in a tree: rounding errors hardly grow with the products.

One accumulator for n products of positive numbers loses up to n / 4 units in the last place. Here
it takes at most `BLOCK` products. Its sum is then added to a level of sums in memory, and every
`BRANCHES` sums of a level to one sum of the next:

    level 2      sums of 16 * 16 * 64 products and more
    level 1      sums of 16 * 64
    level 0      sums of 64
    registers    products of the current block

Where blocks end depends on the numbers of taps and channels alone, not on which taps of a tile lie
in a border and are skipped. So the bits of a result do not depend on the results beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from einstride.codegen.function_builder import Code, Value, Variable

BLOCK = 64
"""Products that one accumulator takes, at most."""

BRANCHES = 16
"""Sums of a level that one sum of the next level takes."""

LEVELS = 3


def needs_blocks(dtype: str, products: int) -> bool:
    """True if a sum of so many products is blocked: sums of float64 have digits to spare."""
    return dtype == "float32" and products > BLOCK


class BlockedSums:
    """The accumulators of a register tile, and the levels of sums above them.

    Parameters
    ----------
    code : Code
        The kernel that is being written.
    accumulators : sequence of Variable
        The vectors of sums, all of float32; they may hold a bias.
    lanes : int
        Elements of a vector.
    blocked : bool
        False if there is one block only: then nothing is written.
    """

    def __init__(
        self, code: Code, accumulators: Sequence[Variable], lanes: int, blocked: bool
    ) -> None:
        self.code, self.accumulators, self.lanes, self.blocked = code, accumulators, lanes, blocked
        if not blocked:
            return
        self._zero = code.zero("float32", lanes)
        self._level_size = len(accumulators) * lanes
        self._levels = code.scratch("float32", LEVELS * self._level_size)
        self._current = code.variable(code.number(0))
        self._clear(0, 1)
        with code.when(code["sum_blocks"] >= BRANCHES + 1):
            self._clear(1, LEVELS)

    def begin(self, number: Value) -> None:
        """Begin the block of this number; the products of a block follow each other."""
        if not self.blocked:
            return
        code, current = self.code, self._current.get()
        with code.when(number.equals(current) ^ 1):
            for i, accumulator in enumerate(self.accumulators):
                pointer = self._levels.at(i * self.lanes)
                pointer.store(pointer.load(self.lanes) + accumulator.get())
                accumulator.set(self._zero)
            self._current.set(number)
            self._carry(1, number // BRANCHES, current // BRANCHES)

    def begin_tap(self, tap: Value) -> None:
        """Begin the block of a tap, or of what `block_arguments` took for one."""
        if self.blocked:
            self.begin(self.block_of_tap(tap))

    @contextmanager
    def loop(self, count: Value, number: Value) -> Iterator[tuple[Value, Value]]:
        """Loop over the blocks of `count` products of each accumulator, numbered from `number`.

        Yields the first product of a block, and one past its last.
        """
        code = self.code
        if not self.blocked:
            yield code.number(0), count
            return
        with code.loop(0, count, BLOCK) as first:
            self.begin(number + first // BLOCK)
            yield first, (first + BLOCK).minimum(count)

    @contextmanager
    def loop_over_taps(self, first: Value, count: Value) -> Iterator[tuple[Value, Value]]:
        """Loop over the blocks of `count` taps, where a block holds 2**`sum_shift` taps.

        Yields the first tap of a block, counted from `first` on, and one past its last.
        """
        code = self.code
        if not self.blocked:
            yield code.number(0), count
            return
        shift, last = code["sum_shift"], first + count
        with code.loop(first >> shift, (last - 1 >> shift) + 1) as number:
            self.begin(number)
            begin = (number << shift).maximum(first)
            yield begin - first, (number + 1 << shift).minimum(last) - first

    def block_of_tap(self, tap: Value) -> Value:
        """Return the number of the first block of a tap."""
        if not self.blocked:
            return tap
        return tap * self.code["sum_tap_blocks"] >> self.code["sum_shift"]

    def finish(self) -> None:
        """Add the sums of all levels to the accumulators."""
        if not self.blocked:
            return
        code = self.code
        with code.when(code["sum_blocks"] >= BRANCHES + 1), code.loop(1, LEVELS) as level:
            self._add(level, code.number(0), clear=False)
        for i, accumulator in enumerate(self.accumulators):
            total = self._levels.at(i * self.lanes).load(self.lanes)
            accumulator.set(total + accumulator.get())

    def _carry(self, level: int, number: Value, current: Value) -> None:
        """Add a level to the next where a block of the next one ends."""
        if level == LEVELS:
            return
        with self.code.when(number.equals(current) ^ 1):
            self._add(self.code.number(level - 1), self.code.number(level), clear=True)
            self._carry(level + 1, number // BRANCHES, current // BRANCHES)

    def _add(self, source: Value, target: Value, clear: bool) -> None:
        """Add the sums of one level to those of another."""
        source, target = source * self._level_size, target * self._level_size
        with self.code.loop(0, self._level_size, self.lanes) as i:
            above, below = self._levels.at(target + i), self._levels.at(source + i)
            above.store(above.load(self.lanes) + below.load(self.lanes))
            if clear:
                below.store(self._zero)

    def _clear(self, first: int, last: int) -> None:
        """Set the sums of some levels to zero."""
        size = self._level_size
        with self.code.loop(first * size, last * size, self.lanes) as i:
            self._levels.at(i).store(self._zero)


def block_arguments(taps: int, channels: int) -> dict[str, int]:
    """List the arguments that number the blocks of sums over taps of so many channels.

    Either `sum_tap_blocks` blocks hold the channels of a tap, or a block holds 2**`sum_shift` taps.
    """
    tap_blocks = -(-channels // BLOCK)
    shift = max(BLOCK // max(channels, 1), 1).bit_length() - 1
    blocks = ((taps - 1) * tap_blocks >> shift) + tap_blocks
    return {"sum_tap_blocks": tap_blocks, "sum_shift": shift, "sum_blocks": blocks}

