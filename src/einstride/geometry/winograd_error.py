"""Bound the rounding error of Winograd's minimal filtering, for NumPy passes and compiled kernels.

Let tiles be filtered by F(m, r) on some axes, u be the unit roundoff, and n the number of products
that are summed at each point of a tile between the transforms: the input channels of a group times
the taps of a direct axis; in a filter gradient, the tiles. Errors are relative to the root mean
square of the exact result.

Expected error
--------------
For random data, the root mean square of the error is at most

    u * growth * sqrt(TRANSFORMS + SUMS * n)

`growth` is the product of the axes' `cook_toom.growth`: the factor by which independent errors of
equal size at all points are larger after the last transform than errors of equal size in the plain
sum. Under the root are the variances of two errors at a point, in units of u^2:

- The transforms of data and filter and the product round a number of times that does not depend on
  n. `TRANSFORMS` is measured on all F(m, r) of one and of two axes.
- After each product the sum is rounded. A rounding is uniform in [-u, u] times a power of two;
  relative to numbers whose mantissas are distributed as 1 / mantissa, its variance is
  u^2 / 3 * (1 - 1 / 4) / (2 log 2) = 0.18 u^2. After k products the square of the sum is k / n of
  the last one, so all roundings together have the variance 0.18 u^2 * sum k / n = 0.09 u^2 n.
  Sums in blocks have less.

The error of the plain sum of n * r products follows the formula with growth 1, so `growth` is what
minimal filtering loses, and what `MOST_GROWTH` limits. Among some thousand results the largest
error is up to ten times the root mean square: partial sums of random signs vary, and large partial
sums are rounded to fewer decimal places. `PEAK` is a little more than was measured.

Worst case
----------
For any data, the error of one result is at most u times `worst_error` times the Euclidean norms of
the filter and of the elements of the input under one tile. This follows, to first order in u, from
one rounding for every addition and product that contributes to a result, and from the inequality of
Cauchy and Schwarz (see `cook_toom.condition`).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod, sqrt

from einstride.geometry import cook_toom

Axes = Iterable[tuple[int, int]]
"""Pairs (m, r) of each axis; an axis with r = 1 adds no error."""

TRANSFORMS = 5.0
"""Variance of the errors of transforms and products, in u^2. Measured on all F(m, r) of one axis
and of two equal axes, in float32 and complex64: at most 2.8 in compiled kernels, which transform
one axis after the other, and at most 4.5 in the NumPy passes, with one matrix for both axes."""

SUMS = 0.09
"""Variance of the summation error for each product at a point, in u^2: derived above. With 512
channels the compiled kernels reach 0.97 of the expected error."""

PEAK = 12.0
"""Largest error of a result divided by the expected one. Measured: 9.7 among 6000 results."""

MOST_GROWTH = 30.7
"""Largest growth of a tile size that is used: more would lose more than five bits against the plain
sum. F(4x4, 3x3) has 10.4, F(6x6, 3x3) 46.3. A lower limit excludes larger tiles."""


def growth(axes: Axes, gradient: bool) -> float:
    """Return the factor by which minimal filtering enlarges the rounding errors of random data."""
    return prod((cook_toom.growth(m, r, gradient) for m, r in axes if r > 1), start=1.0)


def condition(axes: Axes, gradient: bool) -> float:
    """Return the largest factor by which minimal filtering can enlarge rounding errors.

    Errors are compared with the product of the norms of filter and tile.
    """
    return prod((cook_toom.condition(m, r, gradient) for m, r in axes if r > 1), start=1.0)


def expected_error(axes: Axes, gradient: bool, terms: int) -> float:
    """Return the root mean square error for random data, in unit roundoffs; `terms` is n above."""
    return growth(axes, gradient) * sqrt(TRANSFORMS + SUMS * terms)


def worst_error(axes: Axes, gradient: bool, terms: int) -> float:
    """Return the largest error for any data in unit roundoffs times the norms of filter, tile."""
    axes = tuple(axes)
    points = prod(m + r - 1 for m, r in axes)
    second = prod(m if gradient else r for m, r in axes)
    # Roundings of the transform of the second operand, whose matrix may itself be rounded; of the
    # transforms of the data and of the sums; of the sums.
    roundings = second + 1 + 2 * points + terms + 1
    return roundings * condition(axes, gradient)
