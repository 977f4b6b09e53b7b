"""Add the sums of blocks of products in a tree: rounding errors hardly grow with the products.

One accumulator for n products of positive numbers loses up to n / 4 units in the last place. Here
it takes a block of n = 64 or 128 products. Its sum is then added to a level of sums in memory, and
every `BRANCHES` sums of a level to one sum of the next:

    level 2      sums of 16 * 16 * n products and more
    level 1      sums of 16 * n
    level 0      sums of n
    registers    products of the current block

Where blocks end depends on the numbers of taps and channels alone, not on which taps of a tile lie
in a border and are skipped. So the bits of a result do not depend on the results beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod

from einstride.codegen.function_builder import Code, Value, Variable

BRANCHES = 16
"""Sums of a level that one sum of the next level takes."""

LEVELS = 3

LEAST_BLOCK = 64
"""Products of a block where vectors are narrow."""

LANE_PRODUCTS = 8
"""Products of a block for each lane of a vector: a vector of 64 bytes takes as long to store as two
of 32, so blocks of 64 products cost 3 to 5% there, and blocks of 128 products 1 to 2%."""

ROW, TAP, CHANNEL = "row", "tap", "channel"


def products_in_block(lanes: int) -> int:
    """Return the products that one accumulator takes, at most, in vectors of so many lanes."""
    return max(LEAST_BLOCK, LANE_PRODUCTS * lanes)


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
    unit : str
        Where blocks may begin, as `block_unit` chooses it. Without blocks nothing is written.
    """

    def __init__(self, code: Code, accumulators: Sequence[Variable], lanes: int, unit: str) -> None:
        self.code, self.accumulators, self.lanes, self.unit = code, accumulators, lanes, unit
        if not unit:
            return
        self._zero = code.zero("float32", lanes)
        self._level_size = len(accumulators) * lanes
        self._levels = code.scratch("float32", LEVELS * self._level_size)
        self._current = code.variable(code.number(0))
        self._clear(0, 1)
        with code.when(code["sum_blocks"] >= BRANCHES + 1):
            self._clear(1, LEVELS)

    def begin_row(self, row: Value) -> None:
        """Begin the block of a row of taps, of this number."""
        if self.unit == ROW:
            self._begin(row >> self.code["sum_shift"])

    def begin_tap(self, tap: Value) -> None:
        """Begin the block of a tap, of this number."""
        if self.unit == TAP:
            self._begin(tap >> self.code["sum_shift"])

    @contextmanager
    def loop_over_row(self, row: Value, taps: Value) -> Iterator[tuple[Value, Value]]:
        """Loop over the blocks of a row of taps whose channels are not divided.

        Yields the first tap of a block, counted from the first of the row, and one past its last.
        """
        code = self.code
        if self.unit != TAP:
            self.begin_row(row)
            yield code.number(0), taps
            return
        first, shift = row * taps, code["sum_shift"]
        last = first + taps
        with code.loop(first >> shift, ((last - 1) >> shift) + 1) as number:
            self._begin(number)
            begin = (number << shift).maximum(first)
            yield begin - first, ((number + 1) << shift).minimum(last) - first

    @contextmanager
    def loop_over_channels(self, tap: Value, channels: Value) -> Iterator[tuple[Value, Value]]:
        """Loop over the blocks of the channels of a tap, of this number.

        Yields the first channel of a block, and one past its last.
        """
        code = self.code
        if self.unit != CHANNEL:
            self.begin_tap(tap)
            yield code.number(0), channels
            return
        number = tap * code["sum_tap_blocks"]
        size = products_in_block(self.lanes)
        with code.loop(0, channels, size) as first:
            self._begin(number + first // size)
            yield first, (first + size).minimum(channels)

    def finish(self) -> None:
        """Add the sums of all levels to the accumulators."""
        if not self.unit:
            return
        code = self.code
        with code.when(code["sum_blocks"] >= BRANCHES + 1), code.loop(1, LEVELS) as level:
            self._add(level, code.number(0), clear=False)
        for i, accumulator in enumerate(self.accumulators):
            total = self._levels.at(i * self.lanes).load(self.lanes)
            accumulator.set(total + accumulator.get())

    def _begin(self, number: Value) -> None:
        """Begin the block of this number; the products of a block follow each other."""
        code, current = self.code, self._current.get()
        with code.when(number.equals(current) ^ 1):
            for i, accumulator in enumerate(self.accumulators):
                pointer = self._levels.at(i * self.lanes)
                pointer.store(pointer.load(self.lanes) + accumulator.get())
                accumulator.set(self._zero)
            self._current.set(number)
            self._carry(1, number // BRANCHES, current // BRANCHES)

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


def block_unit(
    dtype: str, lanes: int, kernel: Sequence[int], channels: int, rows: bool = True
) -> str:
    """Choose where blocks begin in a sum over the taps of a kernel and so many channels.

    "row", "tap" or "channel": at a row of taps of the last axis if one fits a block (and `rows` are
    allowed), else at a tap, or at a channel; "" if there is one block: where products are few, or
    sums are float64, which have digits to spare.
    """
    size = products_in_block(lanes)
    if dtype != "float32" or prod(kernel) * channels <= size + size // 2:
        return ""
    if rows and kernel[-1] * channels <= size:
        return ROW
    return TAP if channels <= size else CHANNEL


def block_arguments(unit: str, lanes: int, kernel: Sequence[int], channels: int) -> dict[str, int]:
    """List the arguments that number the blocks: a block holds 2**`sum_shift` rows, or taps."""
    if not unit:
        return {}
    size = products_in_block(lanes)
    products = {ROW: kernel[-1] * channels, TAP: channels, CHANNEL: size}[unit]
    units = {ROW: prod(kernel[:-1]), TAP: prod(kernel), CHANNEL: prod(kernel)}[unit]
    shift = max(size // max(products, 1), 1).bit_length() - 1
    tap_blocks = -(-channels // size)
    blocks = units * tap_blocks if unit == CHANNEL else ((units - 1) >> shift) + 1
    return {"sum_tap_blocks": tap_blocks, "sum_shift": shift, "sum_blocks": blocks}
