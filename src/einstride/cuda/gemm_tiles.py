"""Choose the tile of an implicit GEMM from the shape of the product. Integers; no array library.

A block of threads computes one tile of the product. Large tiles read less memory, small tiles leave
fewer multiprocessors idle. The choice depends on shapes alone, so that a call gives the same bits
on every device.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.caches import cached

PROCESSORS = 132
"""Multiprocessors of an H100, which a launch should keep busy."""
ENOUGH_TERMS = 256
"""Fewest terms of a partial sum: each part is written to memory and read again."""
MOST_BLOCKS = 2**31 - 1
"""CUDA's limit on the blocks of a launch along the first axis of the grid."""


@dataclass(frozen=True)
class Tile:
    """A tile of the product.

    Attributes
    ----------
    rows, columns, terms : int
        Rows and columns of the product, and terms in shared memory at once.
    thread_rows, thread_columns : int
        The register tile of one thread, or with tensor cores of one warp.
    mma : bool
        True if the tile is computed by tensor cores.
    share : float
        The fraction of cuBLAS's rate that the tile may reach: a guess, not measured.
    """

    rows: int
    columns: int
    terms: int
    thread_rows: int
    thread_columns: int
    mma: bool
    share: float

    @property
    def threads(self) -> int:
        """Threads of a block."""
        cells = self.rows // self.thread_rows * (self.columns // self.thread_columns)
        return cells * 32 if self.mma else cells

    @property
    def parameters(self) -> str:
        """The template parameters of the kernels."""
        sides = (self.rows, self.columns, self.terms, self.thread_rows, self.thread_columns)
        return ", ".join(map(str, sides))


_HALVES = (
    Tile(128, 128, 16, 8, 8, False, 0.8),
    Tile(64, 64, 16, 8, 4, False, 0.65),
    Tile(32, 32, 16, 4, 4, False, 0.4),
)
TILES = {
    "float32": (
        Tile(128, 128, 8, 8, 8, False, 0.85),
        Tile(128, 32, 8, 8, 4, False, 0.65),
        Tile(64, 64, 8, 8, 4, False, 0.7),
        Tile(32, 32, 8, 4, 4, False, 0.4),
    ),
    "float64": (Tile(64, 64, 8, 4, 4, False, 0.7), Tile(32, 32, 8, 4, 4, False, 0.4)),
    "float16": _HALVES,
    "bfloat16": _HALVES,
}
_MMA_HALVES = (
    Tile(128, 128, 32, 64, 32, True, 0.5),
    Tile(128, 32, 32, 32, 32, True, 0.3),
    Tile(64, 64, 32, 32, 32, True, 0.35),
    Tile(32, 32, 16, 32, 32, True, 0.15),
)
MMA_TILES = {
    "float32": (
        Tile(128, 128, 16, 64, 32, True, 0.5),
        Tile(64, 64, 16, 32, 32, True, 0.35),
        Tile(32, 32, 8, 32, 32, True, 0.15),
    ),
    "float16": _MMA_HALVES,
    "bfloat16": _MMA_HALVES,
}


@dataclass(frozen=True)
class Product:
    """One launch: the matrix product of a convolution, split into tiles and partial sums.

    Attributes
    ----------
    geometry : Geometry
        Geometry of the convolution whose x is gathered.
    transposed : bool
        False: rows are positions, and sums run over a window. True, a filter gradient: rows are
        elements of a window, and sums run over positions.
    tile : Tile
        The tile of a block.
    parts : int
        Number of partial sums; for gradients per example, the number of examples.
    split : int
        Terms of one partial sum.
    """

    geometry: Geometry
    transposed: bool
    tile: Tile
    parts: int
    split: int

    @property
    def sides(self) -> tuple[int, int, int]:
        """(rows, columns, terms) of one group's product."""
        return sides(self.geometry, self.transposed)

    @property
    def tiles(self) -> tuple[int, int]:
        """Number of tiles along rows and along columns."""
        m, n, _ = self.sides
        return -(-m // self.tile.rows), -(-n // self.tile.columns)

    @property
    def blocks(self) -> int:
        """Blocks of threads in the launch."""
        return prod(self.tiles) * self.geometry.groups * self.parts

    @property
    def elements(self) -> int:
        """Elements of the result, in all groups, of one part."""
        m, n, _ = self.sides
        return m * n * self.geometry.groups

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the launch, including those of the last tiles beyond the product."""
        terms = self.parts * -(-self.split // self.tile.terms) * self.tile.terms
        sides = prod(self.tiles) * self.tile.rows * self.tile.columns
        return sides * terms * self.geometry.groups

    def moved(self, item: int, item_of_result: int) -> int:
        """Return the bytes read and written: every tile reads all of its rows and columns."""
        m, n, k = self.sides
        down, across = self.tiles
        return self.geometry.groups * ((across * m + down * n) * k * item + m * n * item_of_result)


def sides(g: Geometry, transposed: bool) -> tuple[int, int, int]:
    """Return (rows, columns, terms) of one group's product."""
    positions, elements = g.batch * prod(g.out), prod(g.f_shape[:-1])
    columns = g.filters // g.groups
    return (elements, columns, positions) if transposed else (positions, columns, elements)


@cached(4096)
def choose_product(
    g: Geometry, transposed: bool, dtype: str, mma: bool, limit: int = 0, per_example: bool = False
) -> Product:
    """Choose tile and parts of the shortest predicted time, with at most `limit` bytes of parts."""
    tiles = MMA_TILES[dtype] if mma else TILES[dtype]
    made = [_with_parts(g, transposed, tile, dtype, limit, per_example) for tile in tiles]
    return min(made, key=_predicted_time)


def _with_parts(
    g: Geometry, transposed: bool, tile: Tile, dtype: str, limit: int, per_example: bool
) -> Product:
    _, _, k = sides(g, transposed)
    if per_example:
        return Product(g, transposed, tile, g.batch, prod(g.out))
    whole = Product(g, transposed, tile, 1, k)
    if not transposed:
        return whole
    wanted = min(-(-2 * PROCESSORS // whole.blocks), k // ENOUGH_TERMS)
    wanted = min(wanted, limit // (whole.elements * sum_bytes(dtype)))
    if wanted < 2:
        return whole
    split = (
        -(-k // wanted // tile.terms) * tile.terms
    )  # a multiple, so that vector loads stay aligned
    return Product(g, transposed, tile, -(-k // split), split)


def _predicted_time(p: Product) -> float:
    """Return the predicted time, in rounds of two blocks on each multiprocessor."""
    rounds = -(-p.blocks // (2 * PROCESSORS))
    return rounds * (p.multiply_adds / p.blocks) / p.tile.share


def sum_bytes(dtype: str) -> int:
    """Return the bytes of one element of a partial sum."""
    return max(ITEMSIZE[dtype], 4)
