"""The tiles of implicit GEMM, and which of them suits a product. Integers; no array library.

A block of threads makes one tile of the product. Large tiles read less, small ones leave fewer
multiprocessors idle. The choice depends on shapes alone, never on the device: the same call gives
the same bits everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.caches import cached

PROCESSORS = 132
"""Multiprocessors to keep busy: an H100's."""
ENOUGH_TERMS = 256
"""A sum is cut into parts no shorter than this: each part costs a round through memory."""
MOST_BLOCKS = 2**31 - 1


@dataclass(frozen=True)
class Tile:
    """A tile of the product.

    Attributes
    ----------
    rows, columns, terms : int
        Of the product, and how many terms lie in shared memory at once.
    thread_rows, thread_columns : int
        The part that one thread makes, or one warp where tensor cores do.
    mma : bool
        Is it for tensor cores?
    share : float
        Of the rate of the library's own products that it may reach. A guess until it is measured.
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
        """In a block."""
        cells = self.rows // self.thread_rows * (self.columns // self.thread_columns)
        return cells * 32 if self.mma else cells

    @property
    def parameters(self) -> str:
        """As the kernels' templates take them."""
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
    """One launch: the product of a convolution, cut into tiles and its sums into parts.

    Attributes
    ----------
    geometry : Geometry
        Of the convolution whose x is gathered.
    transposed : bool
        False: rows are positions, and sums run over a window. True, a filter gradient: rows are
        elements of a window, and sums run over positions.
    tile : Tile
        What a block makes.
    parts : int
        Blocks that share a sum, or the examples of which each has a sum of its own.
    split : int
        Terms in one part.
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
        """Along rows and along columns."""
        m, n, _ = self.sides
        return -(-m // self.tile.rows), -(-n // self.tile.columns)

    @property
    def blocks(self) -> int:
        """Of threads, in the whole launch."""
        return prod(self.tiles) * self.geometry.groups * self.parts

    @property
    def elements(self) -> int:
        """Of the result, all groups together, once."""
        m, n, _ = self.sides
        return m * n * self.geometry.groups

    @property
    def multiply_adds(self) -> int:
        """Formed by the launch, with what the last tiles do in vain."""
        terms = self.parts * -(-self.split // self.tile.terms) * self.tile.terms
        sides = prod(self.tiles) * self.tile.rows * self.tile.columns
        return sides * terms * self.geometry.groups

    def moved(self, item: int, item_of_result: int) -> int:
        """Bytes read and written: every tile reads all its rows and columns anew."""
        m, n, k = self.sides
        down, across = self.tiles
        return self.geometry.groups * ((across * m + down * n) * k * item + m * n * item_of_result)


def sides(g: Geometry, transposed: bool) -> tuple[int, int, int]:
    """(rows, columns, terms) of one group's product."""
    positions, elements = g.batch * prod(g.out), prod(g.f_shape[:-1])
    columns = g.filters // g.groups
    return (elements, columns, positions) if transposed else (positions, columns, elements)


@cached(4096)
def choose(
    g: Geometry, transposed: bool, dtype: str, mma: bool, room: int = 0, per_example: bool = False
) -> Product:
    """The product whose launch should end first, its parts in at most `room` bytes."""
    tiles = MMA_TILES[dtype] if mma else TILES[dtype]
    made = [_cut(g, transposed, tile, dtype, room, per_example) for tile in tiles]
    return min(made, key=_duration)


def _cut(
    g: Geometry, transposed: bool, tile: Tile, dtype: str, room: int, per_example: bool
) -> Product:
    _, _, k = sides(g, transposed)
    if per_example:
        return Product(g, transposed, tile, g.batch, prod(g.out))
    whole = Product(g, transposed, tile, 1, k)
    if not transposed:
        return whole
    wanted = min(-(-2 * PROCESSORS // whole.blocks), k // ENOUGH_TERMS)
    wanted = min(wanted, room // (whole.elements * sum_bytes(dtype)))
    if wanted < 2:
        return whole
    split = -(-k // wanted // tile.terms) * tile.terms  # whole steps, so that runs stay whole
    return Product(g, transposed, tile, -(-k // split), split)


def _duration(p: Product) -> float:
    """In rounds over all multiprocessors, two blocks on each."""
    rounds = -(-p.blocks // (2 * PROCESSORS))
    return rounds * (p.multiply_adds / p.blocks) / p.tile.share


def sum_bytes(dtype: str) -> int:
    """Of one number of a sum."""
    return max(ITEMSIZE[dtype], 4)
