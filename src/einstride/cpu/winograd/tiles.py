"""Address, transform and multiply tiles: the parts that all Winograd kernels share.

The two axes that are filtered by F(m, r) are inner axes; the taps of all other, outer axes are
summed like channels. Tiles are numbered by (batch, outer position, tile of axis 0, tile of axis 1).
Tables hold the offsets of a tile's elements on each axis. An element with a negative offset lies in
the border: it is read from a row of zeros, or written to memory that is never read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable
from einstride.codegen.linear_combinations import Rows, multiply_both_sides
from einstride.codegen.vector_ops import address
from einstride.geometry.cook_toom import Matrices, matrices


@dataclass(frozen=True)
class Form:
    """The tile sizes, the dtype and the register tile of a kernel.

    Attributes
    ----------
    outputs_and_taps : tuple of (int, int)
        m and r of F(m, r) on each of the two inner axes; (1, 1) on the first if there is only one.
    dtype : str
        The dtype of operands, products and result.
    lanes : int
        Elements in a vector.
    tile, vectors : int
        Rows and vectors of the register tile.
    """

    outputs_and_taps: tuple[tuple[int, int], tuple[int, int]]
    dtype: str
    lanes: int
    tile: int
    vectors: int

    def pair(self, of: Callable[[Matrices], Rows]) -> tuple[Rows, Rows]:
        """One transform matrix, chosen by `of`, for each of the two axes."""
        first, second = self.outputs_and_taps
        return of(matrices(*first)), of(matrices(*second))

    @property
    def sizes(self) -> tuple[int, int]:
        """The inputs of a tile on each axis, m + r - 1."""
        (m0, r0), (m1, r1) = self.outputs_and_taps
        return m0 + r0 - 1, m1 + r1 - 1

    @property
    def points(self) -> int:
        """Products of a tile, for each pair of channels."""
        return self.sizes[0] * self.sizes[1]

    @property
    def width(self) -> int:
        """The output channels in a panel."""
        return self.vectors * self.lanes


@dataclass(frozen=True)
class Tile:
    """The indices of a tile on the batch axis, the outer axes together, and the inner axes."""

    batch: Value
    outer: Value
    inner: tuple[Value, Value]


def tile_at(code: Code, index: Value) -> Tile:
    """Return the tile with a number in row-major order."""
    second = index % code["tiles1"]
    index = index // code["tiles1"]
    first = index % code["tiles0"]
    index = index // code["tiles0"]
    return Tile(index // code["outer"], index % code["outer"], (first, second))


def addresses(
    code: Code, tables: tuple[str, str], tile: Tile, counts: tuple[int, int],
    base: Pointer, outer: Value, outside: Pointer, pointers: Pointer,
) -> None:  # fmt: skip
    """Store the address of each element of a tile in `pointers`, `outside` for the border."""
    rows = [
        [code.array(table, "int64").at(tile_index * count + i).load() for i in range(count)]
        for table, tile_index, count in zip(tables, tile.inner, counts, strict=True)
    ]
    for i, first in enumerate(rows[0]):
        for j, second in enumerate(rows[1]):
            offset = outer + first + second
            pointer = (offset >= 0).select_pointer(base.at(offset), outside)
            pointers.at(i * counts[1] + j).store(address(pointer))


def transform(
    code: Code, form: Form, rows: tuple[Rows, Rows], pointers: Pointer, channels: Value,
    destination: Pointer, stride: Value,
) -> None:  # fmt: skip
    """Transform a tile's channels, one vector at a time, to points `stride` elements apart."""
    lanes, columns = form.lanes, len(rows[1][0])

    def transform_vector(c: Value, mask: Mask | None) -> None:
        multiply_both_sides(
            code, *rows,
            lambda i, j: code.pointer(pointers.at(i * columns + j).load(), form.dtype)
            .at(c).load(lanes, mask),
            lambda i, j, value: destination.at(stride * (i * len(rows[1]) + j) + c).store(value),
            form.dtype,
        )  # fmt: skip

    for_each_vector(code, channels, lanes, transform_vector)


def for_each_vector(
    code: Code, count: Value, lanes: int, visit: Callable[[Value, Mask | None], None]
) -> None:
    """Write a loop over full vectors of `count` elements, and the tail with a mask."""
    tail = count % lanes
    full_vectors = count - tail
    with code.loop(0, full_vectors, lanes) as c:
        visit(c, None)
    with code.when(code.number(0) < tail):
        visit(full_vectors, code.first_lanes(tail, lanes))


def multiply(
    code: Code, form: Form, rows: Value, row: Callable[[Value], Pointer], stride: Value | int,
    f: Pointer, f_stride: Value | int, depth: Value, destination: Pointer,
    destination_stride: Value | int, first_accumulation: Value,
) -> None:  # fmt: skip
    """Add to out[p, d] the sum of row(p)[k] * f[k, d] over k; the first accumulation sets it.

    For `rows` rows p, rounded up to full register tiles, and one panel of d. `out` begins at
    `destination`, where p has the stride `destination_stride`; k has the strides `stride` in a row
    and `f_stride` in f.
    """
    lanes, vectors = form.lanes, form.vectors
    with code.loop(0, rows, form.tile) as first:
        points = [row(first + p) for p in range(form.tile)]
        pointers = [destination.at((first + p) * destination_stride) for p in range(form.tile)]
        acc = [code.variable(code.zero(form.dtype, lanes)) for _ in range(form.tile * vectors)]
        with code.when(first_accumulation ^ 1):
            _for_each_accumulator(
                pointers, acc, vectors, lambda a, pointer: a.set(pointer.load(lanes)), lanes
            )
        with code.loop(0, depth) as k:
            line = f.at(k * f_stride)
            f_vectors = [line.at(v * lanes).load(lanes) for v in range(vectors)]
            for p, point in enumerate(points):
                broadcast = code.splat(point.at(k * stride).load(), lanes)
                for v in range(vectors):
                    a = acc[p * vectors + v]
                    a.set(broadcast.multiply_add(f_vectors[v], a.get()))
        _for_each_accumulator(
            pointers, acc, vectors, lambda a, pointer: pointer.store(a.get()), lanes
        )


def _for_each_accumulator(
    pointers: list[Pointer], acc: list[Variable], vectors: int,
    visit: Callable[[Variable, Pointer], None], lanes: int,
) -> None:  # fmt: skip
    for p, pointer in enumerate(pointers):
        for v in range(vectors):
            visit(acc[p * vectors + v], pointer.at(v * lanes))
