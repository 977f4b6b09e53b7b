"""Build the matrices of minimal filtering F(m, r) in exact fractions: the Cook-Toom method.

F(m, r) gives m outputs of a filter with r taps from a = m + r - 1 products (Winograd 1980; Lavin
and Gray 2016, equation 5): y = A^T [(G g) * (B^T d)], where d are a elements of the input, g the
taps, and y[i] = sum_k d[i + k] g[k].

Polynomials of degree below m and r are multiplied by their values at a - 1 points p_j and at
infinity; transposing that product gives the correlation. With N_j the product of p_j - p_k over the
other points,

    A^T[i, j] = p_j^i          G[j, k] = p_j^k / N_j          B^T[j] = the coefficients of
                                                              prod_{k != j} (z - p_k)

and at infinity A^T and G hold a single 1 in their last row and column, B^T the product over all
points. Row j of B^T may be scaled by any number if row j of G is divided by that number. Factors
that are no powers of two stay in G, so that floating point represents B^T and A^T exactly, and only
the filter, which is transformed once, is multiplied by rounded thirds and fifths. Powers of two
balance the norms of the rows.

The points were found by a search over 0, 1, -1 and small fractions whose denominators are powers of
two, for the least mean of log `growth` over all r and both directions. They differ from the usual
0, 1, -1, 2, -2: with -1/2 instead of -2 the errors of F(4, 3) are smaller by a factor of 1.7 on
each axis, as Barabasz, Anderson, Soodhalter and Gregg (2020) found too.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from math import log2, prod, sqrt

from einstride.support.caches import cached

Rows = tuple[tuple[Fraction, ...], ...]
Numbers = tuple[tuple[float, ...], ...]

_HALF, _THREE_QUARTERS = Fraction(1, 2), Fraction(3, 4)
POINTS: dict[int, tuple[Fraction | int, ...]] = {
    1: (),
    2: (0,),
    3: (0, -1),
    4: (0, 1, -1),
    5: (0, 1, -1, 2),
    6: (0, 1, -1, 2, -_HALF),
    7: (0, 1, -1, _HALF, 3, -_THREE_QUARTERS),
    8: (0, 1, -1, 2, -2, _HALF, -_HALF),
}
"""Finite evaluation points of a tile with `a` products, by a; infinity is one point more."""

LARGEST = max(POINTS)
"""Most products of a tile on one axis. Larger tiles lose too many digits: F(6, 3), with 8 products,
already enlarges rounding errors 6.8 times on each axis. `POINTS` must hold points for each size."""


@dataclass(frozen=True)
class Matrices:
    """Hold the exact matrices of F(m, r).

    Attributes
    ----------
    output : tuple of tuple of Fraction
        A^T (m, a), which transforms products to outputs.
    data : tuple of tuple of Fraction
        B^T (a, a), which transforms a tile of the input.
    taps : tuple of tuple of Fraction
        G (a, r), which transforms the filter.
    """

    output: Rows
    data: Rows
    taps: Rows


@cached(256)
def matrices(m: int, r: int) -> Matrices:
    """Build the matrices of F(m, r) for m + r - 1 <= `LARGEST`."""
    a = m + r - 1
    points = [Fraction(p) for p in POINTS[a]]
    output = [[p**i for p in points] + [Fraction(i == m - 1)] for i in range(m)]
    data = [_coefficients([q for q in points if q != p], a) for p in points]
    data.append(_coefficients(points, a))
    taps = [[p**k / prod(p - q for q in points if q != p) for k in range(r)] for p in points]
    taps.append([Fraction(k == r - 1) for k in range(r)])
    for j in range(a):
        scale = Fraction(2) ** round(log2(_norm(taps[j]) / _norm(data[j])) / 2)
        data[j] = [v * scale for v in data[j]]
        taps[j] = [v / scale for v in taps[j]]
    return Matrices(*(tuple(map(tuple, rows)) for rows in (output, data, taps)))


def _coefficients(roots: list[Fraction], length: int) -> list[Fraction]:
    """Return the coefficients of prod (z - root), constant term first, zero-filled to `length`."""
    found = [Fraction(1)]
    for root in roots:
        shifted = [Fraction(0), *found]
        found = [s - root * c for s, c in zip(shifted, [*found, Fraction(0)], strict=True)]
    return found + [Fraction(0)] * (length - len(found))


def _norm(row: list[Fraction] | tuple[Fraction, ...]) -> float:
    return sqrt(sum(float(v) ** 2 for v in row))


def transposed(rows: Rows) -> Rows:
    """Transpose a matrix."""
    return tuple(zip(*rows, strict=True))


def kronecker(factors: tuple[Rows, ...]) -> Numbers:
    """Form the Kronecker product of one matrix per axis, last axis fastest, as floats."""
    total: list[list[Fraction]] = [[Fraction(1)]]
    for rows in factors:
        total = [[u * v for u in first for v in second] for first in total for second in rows]
    return tuple(tuple(float(v) for v in row) for row in total)


@cached(256)
def growth(m: int, r: int, gradient: bool = False) -> float:
    """Return the factor by which F(m, r) enlarges the rounding errors of a sum of random data.

    If every number between the transforms has a relative error of u, independent of the others,
    the error of output i has variance u^2 sum_j A[i, j]^2 |G_j|^2 |B_j|^2, and output i itself
    has variance r (unit variances of taps and data). The factor is the square root of the largest
    quotient over i, without u^2. With `gradient` it is the factor of the filter gradient
    G^T [(A gy) * (B^T d)], where A and G are exchanged and m takes the place of r.
    """
    t = matrices(m, r)
    first, last = (t.output, transposed(t.taps)) if gradient else (transposed(t.taps), t.output)
    norms = [_norm(g) * _norm(d) for g, d in zip(transposed(first), t.data, strict=True)]
    worst = max(sum((float(v) * n) ** 2 for v, n in zip(row, norms, strict=True)) for row in last)
    return sqrt(worst / (m if gradient else r))


@cached(256)
def condition(m: int, r: int, gradient: bool = False) -> float:
    """Return the largest factor by which F(m, r) can enlarge rounding errors, for any data.

    The factor is max_i sum_j |A[i, j]| |G_j| |B_j| with Euclidean norms: relative errors of u in
    every number between the transforms change output i by at most u times this factor times the
    Euclidean norms of the taps and of the data.
    """
    t = matrices(m, r)
    first, last = (t.output, transposed(t.taps)) if gradient else (transposed(t.taps), t.output)
    norms = [_norm(g) * _norm(d) for g, d in zip(transposed(first), t.data, strict=True)]
    return max(sum(abs(float(v)) * n for v, n in zip(row, norms, strict=True)) for row in last)
