"""What the kernels of minimal filtering share: where a tile lies, its transform, the products.

The two axes that are filtered by F(m, r) are the inner ones; all other axes are outer ones, whose
taps are summed as if they were channels. A tile has an index in (batch, outer position, tile of
axis 0, tile of axis 1). Tables say where the elements of a tile lie on each axis; a negative offset
stands in the border, and is read from a row of zeros, or written to a place nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable
from einstride.codegen.linear_combinations import Rows, sandwiched
from einstride.codegen.vector_ops import address
from einstride.geometry.cook_toom import Matrices, matrices


@dataclass(frozen=True)
class Form:
    """How a kernel filters and computes.

    Attributes
    ----------
    axes : tuple of (int, int)
        m and r of the two inner axes; (1, 1) where there is only one.
    dtype : str
        Of all numbers.
    lanes : int
        Numbers in a vector.
    tile, vectors : int
        Rows and vectors of a block of products that is kept in registers.
    """

    axes: tuple[tuple[int, int], tuple[int, int]]
    dtype: str
    lanes: int
    tile: int
    vectors: int

    def pair(self, of: Callable[[Matrices], Rows]) -> tuple[Rows, Rows]:
        """One matrix of each of the two axes."""
        return of(matrices(*self.axes[0])), of(matrices(*self.axes[1]))

    @property
    def sizes(self) -> tuple[int, int]:
        """Inputs of a tile on each axis."""
        (m0, r0), (m1, r1) = self.axes
        return m0 + r0 - 1, m1 + r1 - 1

    @property
    def points(self) -> int:
        """Products of a tile, for each pair of channels."""
        return self.sizes[0] * self.sizes[1]

    @property
    def width(self) -> int:
        """Channels in a panel."""
        return self.vectors * self.lanes


@dataclass(frozen=True)
class Tile:
    """Where a tile is: its number on every axis."""

    batch: Value
    outer: Value
    inner: tuple[Value, Value]


def tile_at(code: Code, index: Value) -> Tile:
    """The tile of an index."""
    second = index % code["tiles1"]
    index = index // code["tiles1"]
    first = index % code["tiles0"]
    index = index // code["tiles0"]
    return Tile(index // code["outer"], index % code["outer"], (first, second))


def addresses(
    code: Code, tables: tuple[str, str], tile: Tile, counts: tuple[int, int],
    base: Pointer, outer: Value, outside: Pointer, slots: Pointer,
) -> None:  # fmt: skip
    """Put the address of every element of a tile into `slots`; `outside` for those that are not."""
    rows = [
        [code.array(table, "int64").at(number * count + i).load() for i in range(count)]
        for table, number, count in zip(tables, tile.inner, counts, strict=True)
    ]
    for i, first in enumerate(rows[0]):
        for j, second in enumerate(rows[1]):
            offset = outer + first + second
            pointer = (offset >= 0).pick_pointer(base.at(offset), outside)
            slots.at(i * counts[1] + j).store(address(pointer))


def transform(
    code: Code, form: Form, rows: tuple[Rows, Rows], slots: Pointer, channels: Value,
    target: Pointer, step: Value,
) -> None:  # fmt: skip
    """Transform a tile's channels, a vector at a time; point p goes to target + p * step."""
    lanes, columns = form.lanes, len(rows[1][0])

    def each(c: Value, mask: Mask | None) -> None:
        sandwiched(
            code, *rows,
            lambda i, j: code.pointer(slots.at(i * columns + j).load(), form.dtype)
            .at(c).load(lanes, mask),
            lambda i, j, value: target.at(step * (i * len(rows[1]) + j) + c).store(value),
            form.dtype,
        )  # fmt: skip

    by_vectors(code, channels, lanes, each)


def by_vectors(
    code: Code, count: Value, lanes: int, each: Callable[[Value, Mask | None], None]
) -> None:
    """Whole vectors without a mask, then what is left with one."""
    rest = count % lanes
    whole = count - rest
    with code.loop(0, whole, lanes) as c:
        each(c, None)
    with code.when(code.number(0) < rest):
        each(whole, code.first_lanes(rest, lanes))


def multiply(
    code: Code, form: Form, rows: Value, row: Callable[[Value], Pointer], step: Value | int,
    f: Pointer, f_step: Value | int, depth: Value, target: Pointer, target_step: Value | int,
    fresh: Value,
) -> None:  # fmt: skip
    """target[p, d] = (fresh ? 0 : target[p, d]) + sum_k row(p)[k * step] * f[k * f_step + d].

    For `rows` rows p, rounded up to whole blocks of registers, and one panel of d.
    """
    lanes, vectors = form.lanes, form.vectors
    with code.loop(0, rows, form.tile) as first:
        points = [row(first + p) for p in range(form.tile)]
        places = [target.at((first + p) * target_step) for p in range(form.tile)]
        acc = [code.variable(code.zero(form.dtype, lanes)) for _ in range(form.tile * vectors)]
        with code.when(fresh ^ 1):
            _each(places, acc, vectors, lambda a, pointer: a.set(pointer.load(lanes)), lanes)
        with code.loop(0, depth) as k:
            line = f.at(k * f_step)
            fs = [line.at(v * lanes).load(lanes) for v in range(vectors)]
            for p, point in enumerate(points):
                spread = code.splat(point.at(k * step).load(), lanes)
                for v in range(vectors):
                    a = acc[p * vectors + v]
                    a.set(spread.times_plus(fs[v], a.get()))
        _each(places, acc, vectors, lambda a, pointer: pointer.store(a.get()), lanes)


def _each(
    places: list[Pointer], acc: list[Variable], vectors: int,
    act: Callable[[Variable, Pointer], None], lanes: int,
) -> None:  # fmt: skip
    for p, pointer in enumerate(places):
        for v in range(vectors):
            act(acc[p * vectors + v], pointer.at(v * lanes))
