"""Tiles for Winograd's algorithm: how many outputs on each axis, at what error and what work.

An axis with one tap passes through. A first axis may also be *direct*: its taps are summed in the
transform domain, so that a volume needs the transforms of a picture only. Numbers only; no arrays.
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
"""Points of a tile, all axes together, above which the transforms are the work."""

THIN, TRANSFORM, MOVED = 10, 1.7, 10
"""Times that products of n columns are slower, times n; multiply-adds of large products that one of
a transform takes, and an element that is moved. About NumPy's calibrated `thin`, `transform` and
`tiles` in float32, rounded: tiles are compared for any library, whatever its rates."""

FEWEST_TAPS, MOST_TAPS = 2, 7
"""Of an axis that Winograd serves."""


@dataclass(frozen=True)
class Scheme:
    """Outputs m and products a per axis of one tile; `kernel` is 1 on a direct axis.

    Attributes
    ----------
    m, kernel : tuple of int
        F(m, r) per axis.
    taps : int
        Of the direct first axis; 1 if there is none.
    """

    m: Shape
    kernel: Shape
    taps: int = 1

    @cached_property
    def window(self) -> Shape:
        """a = m + r - 1 per axis."""
        return tuple(m + r - 1 for m, r in zip(self.m, self.kernel, strict=True))

    @property
    def points(self) -> int:
        """Products per tile."""
        return prod(self.window)

    @property
    def axes(self) -> tuple[tuple[int, int], ...]:
        """m and r per axis, as `winograd_error` takes them."""
        return tuple(zip(self.m, self.kernel, strict=True))

    def terms(self, g: Geometry, gradient: bool) -> int:
        """Products that are summed at each point of the transform."""
        return self.tiles(g) if gradient else g.channels // g.groups * self.taps

    def tiles(self, g: Geometry) -> int:
        """Tiles of all examples and phases."""
        axes = zip(g.out, g.dilation, self.m, strict=True)
        return g.batch * prod(tiles_of_phases(o, d, m) for o, d, m in axes)

    def matrix(self, which: str) -> cook_toom.Numbers:
        """The Kronecker product of the axes' matrices: "data", "taps", "output" or a transpose."""
        return _matrix(self.m, self.kernel, which)

    def __str__(self) -> str:
        """F(4x4, 3x3)."""
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
def schemes(kernel: Shape, out: Shape) -> tuple[Scheme, ...]:
    """The schemes worth a look for a kernel and an output size."""
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
            s = Scheme(m, k, kernel[0] if direct else 1)
            if s not in found and s.points <= MOST_POINTS:
                found.append(s)
    return tuple(found)


@dataclass(frozen=True)
class Work:
    """What a scheme does.

    Attributes
    ----------
    products, transforms : int
        Multiply-adds.
    moved : int
        Elements of tiles written or read.
    width : int
        Columns of the thinnest products.
    """

    products: int
    transforms: int
    moved: int
    width: int

    @property
    def score(self) -> float:
        """Time, in multiply-adds of large products: for choosing among schemes without rates."""
        products = self.products * (1 + THIN / max(self.width, 1))
        return products + TRANSFORM * self.transforms + MOVED * self.moved


@cached(4096)
def work(
    g: Geometry, s: Scheme, gradient: bool, slabs: int = 1, blocks: int = 1, prepared: bool = False
) -> Work:
    """What a scheme does in so many blocks; what is not cut into slabs is transformed for each."""
    tiles = s.tiles(g)
    more = 1 + (s.taps - 1) / g.out[0]
    again = (1, slabs) if gradient else (slabs, 1)
    data = int(tiles * more * g.channels) * again[0]  # for each point
    result = tiles * g.filters * again[1]
    transforms = s.points * (s.points * data + prod(s.m) * result)
    inner = g.channels // g.groups * g.filters
    u = s.taps * s.points * inner
    # Tiles are gathered and transformed, sums formed and transformed, each written and read.
    moved = s.points * 4 * data + 2 * prod(s.m) * result
    if gradient:  # each block adds to the sums, which are as large as the filter's transform
        moved += s.points * 2 * result + 3 * u * (blocks + 1)
    else:  # each direct tap adds to its block's sums; each block reads the filter's transform
        moved += s.points * (5 * s.taps - 3) * result + u * (blocks + (0 if prepared else 6))
    if gradient or not prepared:
        transforms += u * prod(s.kernel)
    width = min(g.channels, g.filters) // g.groups
    return Work(tiles * u, transforms, moved, width)
