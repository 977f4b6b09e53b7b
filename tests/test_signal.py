"""Convolutions of signals equal SciPy's, in every mode, dtype and library."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from einstride import signal
from strategies import seeds

theirs = pytest.importorskip("scipy.signal", reason="SciPy is not installed")

MODES = ("full", "same", "valid")
DTYPES = ("uint8", "int16", "int64", "float32", "float64", "complex64", "complex128")
FEW = settings(max_examples=25)


def numbers(seed, shape, dtype):
    rng = np.random.default_rng(seed)
    values = rng.integers(-9, 9, shape)
    if np.dtype(dtype).kind == "c":
        values = values + 1j * rng.integers(-9, 9, shape)
    return values.astype(dtype) if np.dtype(dtype).kind != "u" else abs(values).astype(dtype)


def close(ours, expected):
    assert ours.dtype == expected.dtype
    assert ours.shape == expected.shape
    if ours.dtype.kind in "iu":
        np.testing.assert_array_equal(ours, expected)
    else:
        bound = 64 * np.finfo(ours.dtype).eps * (1 + abs(expected).max(initial=0))
        np.testing.assert_allclose(ours, expected, 0, bound)


@FEW
@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
    dtype=st.sampled_from(DTYPES), mode=st.sampled_from(MODES), conjugated=st.booleans(),
    direct=st.booleans(), seed=seeds,
)  # fmt: skip
def test_convolve_and_correlate(backend, sizes, dtype, mode, conjugated, direct, seed):
    if not backend.supports(dtype):
        dtype = "float64"
    if mode == "valid":
        sizes = [(max(p), min(p)) for p in sizes]
    x, f = (numbers(seed + i, [p[i] for p in sizes], dtype) for i in (0, 1))
    name = "correlate" if conjugated else "convolve"
    expected = getattr(theirs, name)(x, f, mode, "direct")
    found = backend(getattr(signal, name), x, f, mode, "direct" if direct else "auto")
    close(found, expected)
    if mode == "valid":
        close(backend(getattr(signal, name), f, x, mode), getattr(theirs, name)(f, x, mode))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("one", "other", "axes"),
    [((4, 20), (1, 5), 1), ((4, 20), (4, 5), 1), ((1, 20), (3, 5), -1), ((20, 3), (6, 3), [0]),
     ((2, 9, 8), (2, 3, 4), (1, 2)), ((9, 2, 8), (3, 1, 4), (2, 0)), ((1, 5), (7, 5), (0,))],
)  # fmt: skip
def test_axes_are_a_batch(backend, one, other, axes, mode):
    x, f = numbers(1, one, "float64"), numbers(2, other, "float64")
    for name in ("fftconvolve", "oaconvolve"):
        expected = getattr(theirs, name)(x, f, mode, axes)
        close(backend(getattr(signal, name), x, f, mode, axes), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("boundary", ["fill", "wrap", "symm"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "complex128"])
def test_planes(backend, mode, boundary, dtype):
    if not backend.supports(dtype):
        pytest.skip(f"{backend} has no {dtype}")
    x, f = numbers(1, (6, 7), dtype), numbers(2, (4, 3), dtype)
    for name in ("convolve2d", "correlate2d"):
        for fill in (0, 3):
            expected = getattr(theirs, name)(x, f, mode, boundary, fill)
            close(backend(getattr(signal, name), x, f, mode, boundary, fill), expected)


def test_separable_planes(backend):
    x, rows, columns = (numbers(i, n, "float64") for i, n in ((1, (7, 8)), (2, 5), (3, 3)))
    expected = theirs.sepfir2d(x, rows, columns)
    close(backend(signal.sepfir2d, x, rows, columns), expected)


@FEW
@given(
    n=st.integers(1, 12), taps=st.integers(1, 9), up=st.integers(1, 4), down=st.integers(1, 4),
    mode=st.sampled_from(("constant", "symmetric", "reflect", "edge", "wrap", "smooth", "line",
                          "antisymmetric", "antireflect")),
    axis=st.sampled_from((0, -1)), seed=seeds,
)  # fmt: skip
def test_upfirdn(backend, n, taps, up, down, mode, axis, seed):
    shape = (n, 3) if axis == 0 else (3, n)
    x, h = numbers(seed, shape, "float64"), numbers(seed + 1, taps, "float64")
    if n < 2 and mode not in ("constant", "edge", "wrap", "symmetric"):
        n = 2
        x = np.concatenate([x, x + 1], axis)
    expected = theirs.upfirdn(h, x, up, down, axis, mode)
    close(backend(signal.upfirdn, h, x, up, down, axis, mode), expected)


@pytest.mark.parametrize(("up", "down"), [(3, 2), (2, 7), (1, 4), (5, 1), (4, 2), (3, 3)])
@pytest.mark.parametrize("padtype", ["constant", "line", "mean", "median", "symmetric"])
def test_resample_poly(backend, up, down, padtype):
    x = numbers(1, (90, 2), "float64")
    expected = theirs.resample_poly(x, up, down, padtype=padtype)
    close(backend(signal.resample_poly, x, up, down, padtype=padtype), expected)


@pytest.mark.parametrize("window", ["hamming", "hann", "boxcar", "blackman", "bartlett",
                                    ("kaiser", 8.0)])  # fmt: skip
def test_windows_are_those_of_firwin(window):
    x = numbers(1, 200, "float64")
    close(
        signal.resample_poly(x, 2, 5, window=window), theirs.resample_poly(x, 2, 5, window=window)
    )


@pytest.mark.parametrize("zero_phase", [True, False])
@pytest.mark.parametrize("dtype", ["int16", "float32", "float64", "complex128"])
def test_decimate(backend, dtype, zero_phase):
    if not backend.supports(dtype):
        pytest.skip(f"{backend} has no {dtype}")
    x = numbers(1, (3, 101), dtype)
    given = {"ftype": "fir", "zero_phase": zero_phase}
    expected = theirs.decimate(x, 4, **given)
    close(backend(signal.decimate, x, 4, **given), expected)
    with pytest.raises(ValueError, match="ftype"):
        signal.decimate(x, 4)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_lfilter_in_pieces(backend, axis):
    """A signal filtered in two pieces, with the state of the first, is the whole one filtered."""
    x, taps = numbers(1, (3, 16, 2), "float64"), numbers(2, 5, "float64")
    whole = backend(signal.lfilter, taps, 2.0, x, axis)
    close(whole, theirs.lfilter(taps, 2.0, x, axis))
    cut = [slice(None)] * 3
    cut[axis] = slice(0, x.shape[axis] // 2)
    first = x[tuple(cut)]
    state = np.zeros([4 if a == axis % 3 else n for a, n in enumerate(x.shape)])
    y, zf = signal.lfilter(taps, 2.0, first, axis, state)
    expected, their_zf = theirs.lfilter(taps, 2.0, first, axis, state)
    close(y, expected)
    close(zf, their_zf)
    cut[axis] = slice(x.shape[axis] // 2, None)
    rest, _ = signal.lfilter(taps, 2.0, x[tuple(cut)], axis, zf)
    close(np.concatenate([y, rest], axis), whole)


def test_the_method_comes_with_the_plan():
    long, short = np.ones(20_000), np.ones(4000)
    method = signal.choose_conv_method(long, short)
    assert method == "fft"
    assert method.plan.algorithm == "fft"
    assert signal.choose_conv_method(long, short[:3]) == "direct"
    method, times = signal.choose_conv_method(long[:50], short[:3], measure=True)
    assert method in times
    assert set(times) == {"fft", "direct"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("n", "k"), [(8, 3), (7, 4), (3, 8), (5, 5)])
def test_lags(mode, n, k):
    ours = signal.correlation_lags(n, k, mode)
    np.testing.assert_array_equal(ours, theirs.correlation_lags(n, k, mode))
    assert len(ours) == len(signal.correlate(np.ones(n), np.ones(k), mode))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: signal.convolve([1, 2], [[1]]), ValueError),
        (lambda: signal.convolve([1, 2], [1], "some"), ValueError),
        (lambda: signal.convolve([1, 2], [1], "full", "some"), ValueError),
        (lambda: signal.convolve(np.ones((2, 3)), np.ones((3, 2)), "valid"), ValueError),
        (lambda: signal.convolve([], [1]), ValueError),
        (lambda: signal.fftconvolve([[1, 2]], [[1]], axes=[]), ValueError),
        (lambda: signal.fftconvolve(np.ones((2, 3)), np.ones((3, 3)), axes=1), ValueError),
        (lambda: signal.convolve2d([1], [1]), ValueError),
        (lambda: signal.convolve2d([[1]], [[1]], boundary="mirror"), ValueError),
        (lambda: signal.sepfir2d(np.ones((3, 3)), [1, 2], [1]), ValueError),
        (lambda: signal.upfirdn([], [1.0]), ValueError),
        (lambda: signal.upfirdn([1], [1.0], mode="some"), ValueError),
        (lambda: signal.upfirdn([1], [1.0], up=0), ValueError),
        (lambda: signal.lfilter([1], [1, 2], [1.0]), ValueError),
        (lambda: signal.lfilter([1], 1, [1]), TypeError),
        (lambda: signal.resample_poly([1.0], 2, 1, window="some"), ValueError),
        (lambda: signal.decimate([1.0], 2, ftype="fir", n=1.5), TypeError),
    ],
)
def test_errors_are_those_of_scipy(call, error):
    with pytest.raises(error, match="got"):
        call()


@pytest.mark.parametrize(("up", "down", "taps"), [(8, 7, 31), (3, 2, 10), (5, 1, 3), (2, 9, 12)])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_stays_in_the_windows_that_hold_it(
    backend, up, down, taps, value
):
    """The phases of an upsampled signal have windows of their own."""
    x = np.random.default_rng(3).standard_normal((2, 60))
    x[1, 30] = value
    h = np.random.default_rng(4).standard_normal(taps)
    with np.errstate(invalid="ignore"):
        found = backend(signal.upfirdn, h, x, up, down)
    expected = theirs.upfirdn(h, x, up, down)  # has some more: its phases have as many taps each
    first = np.arange(expected.shape[1]) * down - 30 * up  # the tap that meets the value
    holds = np.zeros(expected.shape, bool)
    holds[1] = (first >= 0) & (first < taps)
    np.testing.assert_array_equal(np.isfinite(found), ~holds)
    finite = np.isfinite(expected)
    close(found[finite], expected[finite])


def test_a_gap_in_a_signal_is_resampled_to_no_wider_a_gap_than_by_scipy():
    x = np.sin(np.arange(400) / 9)
    x[200:203] = np.nan
    found, expected = signal.resample_poly(x, 8, 7), theirs.resample_poly(x, 8, 7)
    assert 0 < np.isnan(found).sum() <= np.isnan(expected).sum()
    finite = np.isfinite(expected)
    close(found[finite], expected[finite])
