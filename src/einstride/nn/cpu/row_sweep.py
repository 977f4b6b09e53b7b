"""Loops over flattened arrays as rows whose length is a multiple of the channels and of the lanes.

So each lane of a row always holds the same channel, whatever the number of channels, and values per
channel are loaded once for many rows. Only the last row may be shorter (the tail).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import lcm

from einstride.codegen.function_builder import Code, Mask, Value
from einstride.codegen.jit import Target

ARGUMENTS = ("chunks", "rows", "full", "tail", "strips")
"""Kernel arguments that describe the rows: see `Rows`."""
CHUNK_BYTES = 1 << 17
"""Bytes of an operand in a chunk, the share of a thread: a chunk that is read twice in a row stays
in a core's cache."""
MAX_VECTORS = 4
"""Most vectors of a strip, which are accumulated in registers at once."""
MAX_ROW = 1 << 13
"""Elements of a row above which rows are made shorter: a multiple of one vector, not of a strip of
`MAX_VECTORS`."""


@dataclass(frozen=True)
class Rows:
    """The division of an array, channels innermost, into rows and chunks.

    Attributes
    ----------
    element : str
        The dtype.
    lanes, vectors : int
        Elements in a vector, and vectors in a strip.
    channels, width : int
        Elements of a position, and of a row.
    full, tail : int
        Number of full rows, and elements of the tail.
    rows, chunks : int
        Rows in a chunk, and number of chunks.
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
    def of(element: str, channels: int, count: int, target: Target) -> Rows:
        """Divide `count` elements, whole positions, independently of the number of threads."""
        size = 8 if element == "float64" else 4
        lanes = target.lanes(size)
        width = lcm(channels, MAX_VECTORS * lanes)
        if width > MAX_ROW:
            width = lcm(channels, lanes)
        vectors = max(v for v in range(1, MAX_VECTORS + 1) if width // lanes % v == 0)
        full, tail = divmod(count, width)
        rows = max(CHUNK_BYTES // (width * size), 1)
        return Rows(
            element, lanes, vectors, channels, width, full, tail, rows, max(-(-full // rows), 1)
        )

    @property
    def spec(self) -> tuple[str, int, int]:
        """The parameters of the text of a kernel over these rows."""
        return self.element, self.lanes, self.vectors

    @property
    def arguments(self) -> dict[str, int]:
        """The values of the kernel arguments that depend on the rows."""
        strips = self.width // (self.lanes * self.vectors)
        return {
            "chunks": self.chunks, "rows": self.rows, "full": self.full, "tail": self.tail,
            "strips": strips, "width": self.width, "times": self.width // self.channels,
            "channels": self.channels,
        }  # fmt: skip


Visit = Callable[[Value, int, Mask | None], None]
"""``visit(offset, v, mask)`` emits code for vector v of a strip; a mask only in the tail."""


@contextmanager
def strips(code: Code, lanes: int, vectors: int) -> Iterator[Value]:
    """Emit a loop over strips, which are `vectors` vectors wide; yields the offset of each."""
    with code.loop(0, code["strips"]) as s:
        yield s * (lanes * vectors)


def sweep(
    code: Code, chunk: Value, strip_offset: Value, lanes: int, vectors: int, visit: Visit
) -> None:
    """Emit a loop over the rows of a chunk that visits the vectors of one strip."""
    start = chunk * code["rows"]
    stop = (start + code["rows"]).minimum(code["full"])
    width = code["strips"] * (lanes * vectors)
    with code.loop(start, stop) as r:
        row_offset = r * width + strip_offset
        for v in range(vectors):
            visit(row_offset + v * lanes, v, None)
    with code.when((chunk + 1).equals(code["chunks"]) & (code.number(0) < code["tail"])):
        row_offset = code["full"] * width + strip_offset
        for v in range(vectors):
            mask = code.first_lanes(code["tail"] - (strip_offset + v * lanes), lanes)
            visit(row_offset + v * lanes, v, mask)
