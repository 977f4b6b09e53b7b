"""Filters of images equal SciPy's, in every border, dtype and library."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einstride import ndimage
from einstride.filters import separable
from strategies import seeds

theirs = pytest.importorskip("scipy.ndimage", reason="SciPy is not installed")

MODES = ("reflect", "mirror", "nearest", "wrap", "constant", "grid-mirror", "grid-wrap")
DTYPES = ("uint8", "int16", "uint16", "int32", "int64", "float32", "float64", "complex64", "bool")
FEW = settings(max_examples=25)
shapes = st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple)


def numbers(seed, shape, dtype):
    values = np.random.default_rng(seed).integers(-9, 9, shape)
    return values.astype(dtype) if np.dtype(dtype).kind != "u" else abs(values).astype(dtype)


def equal(ours, expected):
    """Compare values; integers and sums of integers exactly, other floats to rounding."""
    assert ours.dtype == expected.dtype
    assert ours.shape == expected.shape
    if ours.dtype.kind in "biu":
        np.testing.assert_array_equal(ours, expected)
    else:
        tolerance = 16 * np.finfo(ours.dtype).eps
        np.testing.assert_allclose(ours, expected, tolerance, tolerance * abs(expected).max())


@FEW
@given(
    shape=shapes, taps=st.integers(1, 9), axis=st.integers(-1, 2), dtype=st.sampled_from(DTYPES),
    mode=st.sampled_from(MODES), shift=st.integers(-4, 4), flip=st.booleans(),
    cval=st.integers(-2, 2), seed=seeds,
)  # fmt: skip
def test_one_axis(backend, shape, taps, axis, dtype, mode, shift, flip, cval, seed):
    if not backend.supports(dtype):
        dtype = "float64"
    axis = min(axis, len(shape) - 1)
    x, weights = numbers(seed, shape, dtype), numbers(seed + 1, taps, "float64")
    origin = min(max(shift, -((taps - 1) // 2)), (taps - 1) // 2)
    name = "convolve1d" if flip else "correlate1d"
    given = {"axis": axis, "mode": mode, "origin": origin, "cval": cval}
    expected = getattr(theirs, name)(x, weights, **given)
    equal(backend(getattr(ndimage, name), x, weights, **given), expected)


@FEW
@given(
    shape=shapes, taps=st.integers(1, 4), dtype=st.sampled_from(DTYPES),
    mode=st.sampled_from(MODES), flip=st.booleans(), some=st.booleans(), seed=seeds,
)  # fmt: skip
def test_several_axes(backend, shape, taps, dtype, mode, flip, some, seed):
    if not backend.supports(dtype):
        dtype = "float64"
    x = numbers(seed, shape, dtype)
    axes = tuple(range(len(shape) - 1)) if some and len(shape) > 1 else None
    rank = len(shape) if axes is None else len(axes)
    weights = numbers(seed + 1, (taps,) * rank, "float64")
    name = "convolve" if flip else "correlate"
    given = {"mode": mode, "axes": axes}
    equal(backend(getattr(ndimage, name), x, weights, **given),
          getattr(theirs, name)(x, weights, **given))  # fmt: skip


FILTERS = {
    "uniform_filter": {"size": (3, 4)},
    "gaussian_filter": {"sigma": (1.5, 0.7), "order": (0, 1)},
    "sobel": {"axis": 0},
    "prewitt": {"axis": 1},
    "laplace": {},
    "gaussian_laplace": {"sigma": 1.2},
    "gaussian_gradient_magnitude": {"sigma": 1.2},
}


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_named_filters(backend, name, dtype):
    if not backend.supports(dtype):
        pytest.skip(f"{backend} has no {dtype}")
    x = numbers(1, (40, 9), dtype) * 3
    for mode in ("reflect", ("mirror", "nearest"), "constant"):
        expected = getattr(theirs, name)(x, mode=mode, **FILTERS[name])
        found = backend(getattr(ndimage, name), x, mode=mode, **FILTERS[name])
        if np.dtype(dtype).kind in "iu":  # a mean that rounds to another side of an integer
            assert found.dtype == expected.dtype
            difference = found.astype(int) - expected.astype(int)
            assert (np.abs((difference + 128) % 256 - 128) <= (name not in ("sobel",))).all()
        else:
            equal(found, expected)


def test_a_result_is_written_to_the_array_given():
    x = numbers(1, (6, 7), "uint8")
    for dtype in ("int32", "float32", "uint8"):
        out = np.full(x.shape, 77, dtype)
        assert ndimage.correlate1d(x, [1.5, 2, -1], 0, out) is out
        np.testing.assert_array_equal(out, theirs.correlate1d(x, [1.5, 2, -1], 0, dtype))
    out = x.copy()
    assert ndimage.gaussian_filter(out, 1, output=out) is out
    np.testing.assert_array_equal(out, theirs.gaussian_filter(x, 1))


def test_a_nan_stays_in_its_windows():
    x = np.zeros((40, 40), "float32")
    x[20, 20] = np.nan
    assert np.isnan(ndimage.uniform_filter(x, 5)).sum() == 25
    assert np.isnan(ndimage.correlate(x, np.ones((5, 5)))).sum() == 25


def test_products_of_one_filter_each_are_found():
    rng = np.random.default_rng(3)
    for shape in ((5, 7), (3, 4, 5)):
        lines = [rng.standard_normal(n) for n in shape]
        f = lines[0]
        for line in lines[1:]:
            f = f[..., None] * line
        found = separable.factors(f)
        assert [len(line) for line in found] == list(shape)
        f = f.copy()
        f[(1,) * f.ndim] += 1e-13 * abs(f).max()
        assert separable.factors(f) is None
    for f in (np.zeros((3, 3)), np.full((3, 3), np.nan), np.ones(3), np.eye(3), np.ones((0, 3))):
        assert separable.factors(f) is None


def test_separable_filters_give_the_same():
    x, line = numbers(1, (50, 60), "float64"), numbers(2, 15, "float64")
    f = np.outer(line, line[::-1])
    assert separable.worth_passes(f.shape)
    for mode in ("reflect", "mirror", "wrap", "nearest", "constant"):
        equal(ndimage.correlate(x, f, mode=mode), theirs.correlate(x, f, mode=mode))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda x: ndimage.correlate1d(x, []), RuntimeError),
        (lambda x: ndimage.correlate1d(x, [1, 2], mode="symmetric"), RuntimeError),
        (lambda x: ndimage.correlate1d(x, [1, 2], origin=2), ValueError),
        (lambda x: ndimage.correlate1d(x, [1, 2], axis=2), np.exceptions.AxisError),
        (lambda x: ndimage.correlate1d(x, [1, 2], output=np.zeros(3)), RuntimeError),
        (lambda x: ndimage.correlate(x, [1, 2]), RuntimeError),
        (lambda x: ndimage.correlate(x, np.ones((2, 2)), mode=("wrap", "wrap")), RuntimeError),
        (lambda x: ndimage.gaussian_filter(x, (1, 2, 3)), RuntimeError),
        (lambda x: ndimage.gaussian_filter(x, 1, axes=(0, 0)), ValueError),
        (lambda x: ndimage.gaussian_filter1d(x, 1, radius=-1), ValueError),
        (lambda x: ndimage.uniform_filter1d(x, 0), RuntimeError),
    ],
)
def test_errors_are_those_of_scipy(call, error):
    with pytest.raises(error, match="got"):
        call(np.ones((4, 5)))


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint8", "int32", "bool"])
@pytest.mark.parametrize("output", ["int64", "float64", "uint8", "int16"])
@pytest.mark.parametrize("largest", [1, 63, 4097, 65_537])
def test_integers_are_exact_where_float32_no_longer_is(dtype, output, largest):
    """Sums up to 2**24 are formed in float32, larger ones in int64; both are exact, and wrap."""
    rng = np.random.default_rng(0)
    high = {"int32": 30_000, "bool": 2}.get(dtype) or np.iinfo(dtype).max + 1
    x = rng.integers(-high if dtype[0] == "i" else 0, high, (9, 40)).astype(dtype)
    weights = np.array([largest, -1, 2, -largest])
    exact = theirs.correlate1d(x.astype(np.int64), weights, output=np.float64).astype(np.int64)
    found = ndimage.correlate1d(x, weights, output=output)
    assert found.dtype == output
    np.testing.assert_array_equal(found, exact.astype(output))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "complex64"])
@pytest.mark.parametrize(("shape", "axis"), [((40, 90), 1), ((2, 40, 90), -1), ((40, 90, 3), 1),
                                             ((33, 50, 100), 0), ((90,), 0)])  # fmt: skip
@pytest.mark.parametrize("size", [3, 9, 40])
def test_rows_and_long_borders(dtype, shape, axis, size):
    """Lengths at which rows are channels, and at which a border is filled in a copy."""
    x = (100 * np.random.default_rng(0).standard_normal(shape)).astype(dtype)
    for mode in ("reflect", "constant"):
        ours, expected = (
            room.correlate1d(x, np.arange(size) - size // 3, axis, mode=mode, cval=2 * (size == 9))
            for room in (ndimage, theirs)
        )
        equal(ours, expected)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "bool", "int64"])
def test_means_of_integers_lose_their_fraction(dtype):
    x = np.random.default_rng(0).integers(-500, 500, (20, 60)).astype(dtype)
    for size in (2, 7, 40):
        sums = theirs.correlate1d(x.astype(np.float64), np.ones(size))
        exact = np.trunc(sums / size).astype(np.int64).astype(dtype)
        found = ndimage.uniform_filter1d(x, size)
        np.testing.assert_array_equal(found, exact if dtype != "bool" else sums != 0)


@pytest.mark.parametrize("size", [3, 5, 8])
@pytest.mark.parametrize("origin", [-9, -2, 0, 3, 9])
def test_a_border_longer_than_the_axis_wraps_by_whole_periods(size, origin):
    """With ends of different lengths: the taps beyond a period go on in the next one."""
    x = np.arange(2 * size).reshape(2, size) ** 2.0
    weights = np.arange(1.0, 20.0)
    how = {"axis": 1, "mode": "wrap", "origin": origin}
    found = ndimage.correlate1d(x, weights, **how)
    np.testing.assert_allclose(found, theirs.correlate1d(x, weights, **how), rtol=1e-13)
