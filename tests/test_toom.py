"""The matrices of minimal filtering are right, in exact arithmetic."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from einstride import _testing
from einstride.geometry import cook_toom, tile_sizes, winograd_error

SIZES = [(m, r) for r in range(1, 8) for m in range(1, 9) if m + r - 1 <= cook_toom.LARGEST]


def exact(rows):
    return np.array(rows, object)


def rationals(shape, seed):
    rng = np.random.default_rng(seed)
    values = [Fraction(int(n), int(d)) for n, d in rng.integers(1, 99, (int(np.prod(shape)), 2))]
    return np.array(values, object).reshape(shape)


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_a_tile_is_the_correlation(m, r):
    """y = A^T [(G g) * (B^T d)] is the correlation, for every pair of unit vectors, exactly."""
    t = cook_toom.matrices(m, r)
    for k, i in product(range(r), range(m + r - 1)):
        g, d = (
            np.array([Fraction(j == at) for j in range(n)]) for at, n in ((k, r), (i, m + r - 1))
        )
        y = exact(t.output) @ ((exact(t.taps) @ g) * (exact(t.data) @ d))
        assert list(y) == [Fraction(i == o + k) for o in range(m)]


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_its_adjoint_is_the_filter_gradient(m, r):
    """G^T [(A gy) * (B^T d)] is the correlation of d with gy."""
    t = cook_toom.matrices(m, r)
    d, gy = rationals(m + r - 1, 1), rationals(m, 2)
    gf = exact(t.taps).T @ ((exact(t.output).T @ gy) * (exact(t.data) @ d))
    assert list(gf) == [sum(d[k + o] * gy[o] for o in range(m)) for k in range(r)]


@pytest.mark.parametrize(("m", "r"), SIZES)
def test_only_the_filter_pays_for_thirds(m, r):
    """A and B hold only numbers that float32 represents exactly; thirds are in G alone."""
    t = cook_toom.matrices(m, r)
    for v in (*np.ravel(exact(t.output)), *np.ravel(exact(t.data))):
        assert Fraction(float(np.float32(float(v)))) == v


def test_axes_multiply():
    s = tile_sizes.TileSizes((2, 4), (3, 2))
    first, second = cook_toom.matrices(2, 3), cook_toom.matrices(4, 2)
    found = np.array(s.matrix("data"))
    expected = np.kron(exact(first.data).astype(float), exact(second.data).astype(float))
    np.testing.assert_array_equal(found, expected)
    transposed = np.array(s.matrix("output^T"))
    np.testing.assert_array_equal(transposed.T, np.array(s.matrix("output")))
    assert str(s) == "F(2x4, 3x2)"


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize(("m", "r"), SIZES)
def test_growth_is_below_the_worst_case(m, r, gradient):
    assert cook_toom.growth(m, r, gradient) <= cook_toom.condition(m, r, gradient)
    if m == 1 or r == 1:
        return
    assert 1 < cook_toom.growth(m, r, gradient) < 10


def test_the_points_are_better_than_the_usual_ones():
    ours = cook_toom.growth(4, 3)
    usual = {**cook_toom.POINTS, 6: (0, 1, -1, 2, -2)}
    with _testing.use(constants={"Cook-Toom points": usual}):
        assert cook_toom.growth(4, 3) > 1.7 * ours


@pytest.mark.parametrize("direction", ["forward", "filter_grad"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("r", range(2, 8))
def test_some_tile_size_is_accurate_enough(r, rank, direction):
    """Some tile size is accurate enough, except for long filters on three axes."""
    found = tile_sizes.candidates((r,) * rank, (20,) * rank)
    growths = [winograd_error.growth(s.outputs_and_taps, direction == "filter_grad") for s in found]
    if rank < 3 or r < 6:
        assert min(growths) <= winograd_error.MOST_GROWTH
    assert all(s.points <= tile_sizes.MOST_POINTS for s in found)
