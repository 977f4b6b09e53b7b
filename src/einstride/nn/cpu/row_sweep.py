"""Sweeps over arrays laid flat, as long rows that hold every channel equally often.

A row has as many numbers as fill some vectors and are a multiple of the channels, so that a lane
always meets the same channel, whatever the number of channels. Only the last row may be shorter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import lcm

from einstride.codegen.function_builder import Code, Mask, Value
from einstride.codegen.jit import Machine

WORDS = ("chunks", "rows", "full", "tail", "strips")
"""What a kernel needs to know of the rows."""
CHUNK = 1 << 17
"""Bytes of an operand in a chunk: read twice, it is still near the core."""
VECTORS = 4
LONG = 1 << 13


@dataclass(frozen=True)
class Rows:
    """How an array of `count` numbers, the channels innermost, is cut.

    Attributes
    ----------
    element : str
        The dtype.
    lanes, vectors : int
        Numbers in a vector, and vectors that are worked on at once.
    channels, width : int
        Numbers in a position and in a row.
    full, tail : int
        Whole rows, and numbers in what is left.
    rows, chunks : int
        Rows in a chunk, and how many chunks there are.
    """

    element: str
    lanes: int
    vectors: int
    channels: int
    width: int
    full: int
    tail: int
    rows: int
    chunks: int

    @staticmethod
    def of(element: str, channels: int, count: int, on: Machine) -> Rows:
        """For whole positions; the same cut for any number of threads."""
        size = 8 if element == "float64" else 4
        lanes = on.lanes(size)
        width = lcm(channels, VECTORS * lanes)
        if width > LONG:
            width = lcm(channels, lanes)
        vectors = max(v for v in range(1, VECTORS + 1) if width // lanes % v == 0)
        full, tail = divmod(count, width)
        rows = max(CHUNK // (width * size), 1)
        return Rows(
            element, lanes, vectors, channels, width, full, tail, rows, max(-(-full // rows), 1)
        )

    @property
    def spec(self) -> tuple[str, int, int]:
        """What a kernel's text depends on."""
        return self.element, self.lanes, self.vectors

    @property
    def words(self) -> dict[str, int]:
        """The words of an argument block."""
        strips = self.width // (self.lanes * self.vectors)
        return {
            "chunks": self.chunks, "rows": self.rows, "full": self.full, "tail": self.tail,
            "strips": strips, "width": self.width, "times": self.width // self.channels,
            "channels": self.channels,
        }  # fmt: skip


Visit = Callable[[Value, int, Mask | None], None]
"""``visit(offset, number of the vector, mask)``."""


@contextmanager
def strips(code: Code, lanes: int, vectors: int) -> Iterator[Value]:
    """The columns of the rows, some vectors wide: where each strip begins."""
    with code.loop(0, code["strips"]) as s:
        yield s * (lanes * vectors)


def sweep(code: Code, chunk: Value, at: Value, lanes: int, vectors: int, visit: Visit) -> None:
    """Visit every vector of a strip in a chunk's rows, from the first to the last."""
    start = chunk * code["rows"]
    stop = (start + code["rows"]).least(code["full"])
    width = code["strips"] * (lanes * vectors)
    with code.loop(start, stop) as r:
        here = r * width + at
        for v in range(vectors):
            visit(here + v * lanes, v, None)
    with code.when((chunk + 1).equals(code["chunks"]) & (code.number(0) < code["tail"])):
        here = code["full"] * width + at
        for v in range(vectors):
            mask = code.first_lanes(code["tail"] - (at + v * lanes), lanes)
            visit(here + v * lanes, v, mask)
