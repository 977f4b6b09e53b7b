"""List the tile sizes of Winograd's algorithm for a convolution, and count the work of each.

An axis with one tap is not transformed. The first axis may also be *direct*: its taps are summed in
the transform domain, so that a convolution of volumes needs the transforms of two axes only.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

from einstride.geometry import cook_toom
from einstride.geometry.blocking import tiles_of_phases
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Shape
from einstride.support.caches import cached

MOST_POINTS = 256
"""Most points of a tile, all axes together. Larger tiles spend more time in the transforms than in
the products. A lower limit excludes large tiles, a higher one only lengthens the search."""

NARROW, TRANSFORM, MOVED = 10, 1.7, 10
"""Costs by which `Work.score` compares tile sizes, relative to one multiply-add of large matrix
products: products of n columns take 1 + NARROW / n times as long, a multiply-add of a transform
takes TRANSFORM, and an element of a tile that is written or read takes MOVED. Origin: NumPy's
calibrated `thin`, `transform` and `tiles` in float32, rounded. They serve for every library, so
that the choice of tile sizes does not depend on its rates."""

FEWEST_TAPS, MOST_TAPS = 2, 7
"""Least and greatest number of taps on an axis that Winograd's algorithm transforms. One tap leaves
nothing to save; with 8 taps no F(m, r) with m >= 2 fits the products of `cook_toom.LARGEST`."""


@dataclass(frozen=True)
class TileSizes:
    """Hold the tile size of each axis: m outputs of r taps.

    Attributes
    ----------
    m, kernel : tuple of int
        m and r of F(m, r) per axis; r is 1 on a direct axis.
    taps : int
        Taps of the direct first axis; 1 if no axis is direct.
    """

    m: Shape
    kernel: Shape
    taps: int = 1

    @cached_property
    def window(self) -> Shape:
        """Products of a tile per axis, a = m + r - 1."""
        return tuple(m + r - 1 for m, r in zip(self.m, self.kernel, strict=True))

    @property
    def points(self) -> int:
        """Products of a tile, all axes together."""
        return prod(self.window)

    @property
    def outputs_and_taps(self) -> tuple[tuple[int, int], ...]:
        """Pairs (m, r) per axis, the form that `winograd_error` takes."""
        return tuple(zip(self.m, self.kernel, strict=True))

    def terms(self, g: Geometry, gradient: bool) -> int:
        """Return the number of products that are summed at each point of a tile."""
        return self.tiles(g) if gradient else g.channels // g.groups * self.taps

    def tiles(self, g: Geometry) -> int:
        """Count the tiles of all examples and phases."""
        axes = zip(g.out, g.dilation, self.m, strict=True)
        return g.batch * prod(tiles_of_phases(o, d, m) for o, d, m in axes)

    def matrix(self, which: str) -> cook_toom.Numbers:
        """Form the Kronecker product of the axes' matrices: "data", "taps", "output" or "..^T"."""
        return _matrix(self.m, self.kernel, which)

    def __str__(self) -> str:
        """Write the tile size as F(4x4, 3x3)."""
        sizes = (
            "x".join(map(str, s)) for s in (self.m, (self.taps * self.kernel[0], *self.kernel[1:]))
        )
        return f"F({', '.join(sizes)})"


@cached(256)
def _matrix(m: Shape, kernel: Shape, which: str) -> cook_toom.Numbers:
    name = which.removesuffix("^T")
    rows = (getattr(cook_toom.matrices(a, r), name) for a, r in zip(m, kernel, strict=True))
    return cook_toom.kronecker(tuple(map(cook_toom.transposed, rows) if name != which else rows))


@cached(1024)
def candidates(kernel: Shape, out: Shape) -> tuple[TileSizes, ...]:
    """List the tile sizes that may be fastest for a kernel and an output size."""
    found = []
    for direct in (False, True):
        if direct and (len(kernel) < 2 or kernel[0] == 1 or max(kernel[1:]) == 1):
            continue
        k = (1, *kernel[1:]) if direct else kernel
        for most in range(2, MOST_TAPS + 1):
            m = tuple(
                1 if r == 1 else max(min(most, cook_toom.LARGEST + 1 - r, max(o, 2)), 2)
                for r, o in zip(k, out, strict=True)
            )
            s = TileSizes(m, k, kernel[0] if direct else 1)
            if s not in found and s.points <= MOST_POINTS:
                found.append(s)
    return tuple(found)


@dataclass(frozen=True)
class Work:
    """Hold the amount of work of a convolution by one tile size.

    Attributes
    ----------
    products, transforms : int
        Multiply-adds of the matrix products, and of the transforms.
    moved : int
        Elements of tiles that are written or read.
    width : int
        Columns of the narrowest matrix product.
    """

    products: int
    transforms: int
    moved: int
    width: int

    @property
    def score(self) -> float:
        """Estimated time in multiply-adds of large matrix products, to compare tile sizes by."""
        products = self.products * (1 + NARROW / max(self.width, 1))
        return products + TRANSFORM * self.transforms + MOVED * self.moved


@cached(4096)
def work(
    g: Geometry,
    s: TileSizes,
    gradient: bool,
    slabs: int = 1,
    blocks: int = 1,
    prepared: bool = False,
) -> Work:
    """Count the work of a convolution by one tile size, in `blocks` blocks of tiles.

    `slabs` is the number of slices of the output channels (in a filter gradient, of the input
    channels); the array on the other side is transformed once for each slab.
    """
    tiles = s.tiles(g)
    more = 1 + (s.taps - 1) / g.out[0]  # tiles of x per tile of y
    repeats = (1, slabs) if gradient else (slabs, 1)
    data = int(tiles * more * g.channels) * repeats[0]  # for each point
    result = tiles * g.filters * repeats[1]
    transforms = s.points * (s.points * data + prod(s.m) * result)
    inner = g.channels // g.groups * g.filters
    u = s.taps * s.points * inner
    # Tiles are gathered and transformed, products are summed and transformed back; each of these
    # passes writes and reads its elements.
    moved = s.points * 4 * data + 2 * prod(s.m) * result
    if gradient:  # each block adds to sums that are as large as the transformed filter
        moved += s.points * 2 * result + 3 * u * (blocks + 1)
    else:  # each direct tap adds to its block's sums; each block reads the transformed filter
        moved += s.points * (5 * s.taps - 3) * result + u * (blocks + (0 if prepared else 6))
    if gradient or not prepared:
        transforms += u * prod(s.kernel)
    width = min(g.channels, g.filters) // g.groups
    return Work(tiles * u, transforms, moved, width)
