"""Keep a tile of results in registers while products are added to it.

                     vectors
                   v = 0   v = 1              acc[p, v] += left[p] * right[v]
    rows    p = 0 |lanes| |lanes|
            p = 1 |lanes| |lanes|             left: one number, broadcast to every lane, or a vector
            p = 2 |lanes| |lanes|             right: one vector for each v

Every kernel of direct convolution adds its products here, so this is the only multiply-add of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable


class RegisterTile:
    """The accumulators of a register tile, rows x vectors, all zero at first.

    Parameters
    ----------
    code : Code
        The kernel that is being written.
    dtype : str
        The dtype of the sums.
    lanes, rows, vectors : int
        Elements of a vector; rows; vectors of a row.
    """

    def __init__(self, code: Code, dtype: str, lanes: int, rows: int, vectors: int) -> None:
        self.code, self.dtype, self.lanes = code, dtype, lanes
        self.rows, self.vectors = rows, vectors
        zero = code.zero(dtype, lanes)
        self.accumulators = [code.variable(zero) for _ in range(rows * vectors)]

    def row(self, p: int) -> list[Variable]:
        """Return the accumulators of a row."""
        return self.accumulators[p * self.vectors : (p + 1) * self.vectors]

    def set_rows(self, initial: Callable[[int], Value]) -> None:
        """Set vector v of every row to ``initial(v)``, as a bias."""
        for v in range(self.vectors):
            value = initial(v)
            for p in range(self.rows):
                self.row(p)[v].set(value)

    def add_products(self, p: int, left: Value, right: Iterable[Value]) -> None:
        """Add left * right[v] to every vector of row p."""
        for accumulator, vector in zip(self.row(p), right, strict=True):
            accumulator.set(left.multiply_add(vector, accumulator.get()))

    def add(self, p: int, memory: Pointer, masks: Sequence[Mask | None]) -> None:
        """Add contiguous sums in memory to row p."""
        for v, (accumulator, mask) in enumerate(zip(self.row(p), masks, strict=True)):
            sums = memory.at(v * self.lanes).load(self.lanes, mask)
            accumulator.set(sums + accumulator.get())

    def store(self, p: int, memory: Pointer, masks: Sequence[Mask | None], dtype: str) -> None:
        """Store row p to contiguous results, rounded to their dtype."""
        for v, (accumulator, mask) in enumerate(zip(self.row(p), masks, strict=True)):
            result = self.code.convert(accumulator.get(), self.dtype, dtype)
            memory.at(v * self.lanes).store(result, mask)

    def add_to(
        self, p: int, memory: Pointer, masks: Sequence[Mask | None], is_first: Value
    ) -> None:
        """Add row p to contiguous sums in memory; the first accumulation stores it."""
        for v, (accumulator, mask) in enumerate(zip(self.row(p), masks, strict=True)):
            pointer = memory.at(v * self.lanes)
            with self.code.when(is_first ^ 1):
                accumulator.set(accumulator.get() + pointer.load(self.lanes, mask))
            pointer.store(accumulator.get(), mask)


def vector_masks(code: Code, count: Value, lanes: int, vectors: int) -> list[Mask]:
    """Make the masks of vectors that hold `count` elements together."""
    return [code.first_lanes(count - v * lanes, lanes) for v in range(vectors)]


def multiply_add(accumulator: Variable, left: Value, right: Value) -> None:
    """Add left * right to one vector of sums, where a row has no common left operand."""
    accumulator.set(left.multiply_add(right, accumulator.get()))


def add_in_memory(pointer: Pointer, value: Value, mask: Mask | None) -> None:
    """Add a vector to a vector of sums in memory."""
    pointer.store(pointer.load(value.ir.type.count, mask) + value, mask)
