"""Arrays of any size: nothing is compiled or kept for a size, however many sizes are met."""

import numpy as np
import pytest

import einstride as es

pytest.importorskip("llvmlite")

from einstride.codegen import jit
from einstride.cpu.fft import calls
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Settings
from einstride.support.caches import REGISTRY


def random_sizes(rank, count, low, high, seed=3):
    rng = np.random.default_rng(seed)
    return [tuple(map(int, rng.integers(low, high, rank))) for _ in range(count)]


def transforms():
    """Count the kernels of transforms that are compiled."""
    return sum("cpu.fft" in write.__module__ for write, *_ in jit._kernels)


@pytest.mark.parametrize("channels", [1, 9])
@pytest.mark.parametrize("rank", [1, 2])
def test_transforms_of_new_sizes_compile_nothing(rank, channels):
    """The kernels of the first size do all others, with any padding mode and filter."""
    sizes = random_sizes(rank, 12, 40, 400 if rank == 1 else 90)
    rng = np.random.default_rng(1)
    for number, size in enumerate(sizes):
        taps = tuple(map(int, rng.integers(2, 20, rank)))
        x = rng.integers(-8, 8, (1, *size, channels)).astype("float32")
        f = rng.integers(-8, 8, (*taps, 1, channels)).astype("float32")
        mode = ("zeros", "reflect", "replicate", "circular")[number % 4]
        given = {"padding": "same", "padding_mode": mode, "groups": channels}
        y = es.conv(x, f, algorithm="fft", **given)
        expected = es.conv(x.astype("float64"), f, algorithm="strided", **given)
        assert np.abs(y - expected).max() < 1e-5 * np.abs(expected).max()
        if number == 0:
            kernels = transforms()
    assert transforms() == kernels >= 3


def test_tables_of_transforms_are_as_long_as_a_tile():
    """The arguments of a call take the same bytes for a short signal and for one of a year."""
    found = []
    for length in (10_000_000, 1_000_000_000):
        given = (1, length, 4), (1001, 1, 4), Settings(padding="same", groups=4)
        g = Geometry.of("t", *given)
        conv = calls.FFTConvolution(g, "float32", False, jit.host_target())
        strides = (4 * length, 4, 1), (4 * length, 4, 1)
        call = calls.call(conv, "convolve", ("float32", "float32"), strides, 1, 1, 1)
        found.append((call.nbytes, conv.tables, conv.scratch_elements("convolve")))
        tables = sum(t.nbytes for t in call._tables)
        assert tables <= conv.tables, (tables, conv.tables)
    for short, long in zip(*found, strict=True):
        assert long <= 1.01 * short


def test_every_cache_has_a_bound_and_can_be_emptied():
    """`clear_caches` empties all results; every cache of results has a limit."""
    x, f = np.ones((1, 30, 33, 1), "float32"), np.ones((5, 5, 1, 1), "float32")
    for _ in range(3):
        before = es.conv(x, f, algorithm="fft")
    results = [cache for cache in REGISTRY if cache.kind == "results"]
    assert sum(cache.entries() for cache in results) > 0
    assert es.clear_caches() > 0
    assert es.clear_caches() == 0
    assert sum(cache.entries() for cache in results if "_array_types" not in cache.name) == 0
    np.testing.assert_array_equal(es.conv(x, f, algorithm="fft"), before)
    assert all(cache.limit for cache in results)
    for cache in REGISTRY:
        size = cache.nbytes() if cache.nbytes is not None else cache.entries()
        assert cache.limit is None or size <= cache.limit, cache.name


def test_info_names_every_cache():
    from einstride.tools import info

    listed = list(info._caches())
    assert len(listed) == len(REGISTRY)
    assert any("byte_cache.CACHE" in line and "at most 50,331,648 bytes" in line for line in listed)


def kernels_of(name):
    return sum(write.__module__.endswith(name) for write, *_ in jit._kernels)


def test_long_rows_of_few_channels_share_one_kernel():
    """Tiles of the ends of a row, and those between, do not depend on the row's length."""
    rng = np.random.default_rng(5)
    f = rng.integers(-3, 4, (3, 3, 1, 8)).astype("float32")
    before = kernels_of("channelwise.channels")
    for width in (57, 58, 63, 64, 71, 100, 131, 300):
        x = rng.integers(-3, 4, (1, 9, width, 1)).astype("float32")
        y = es.conv(x, f, padding="same", algorithm="direct")
        np.testing.assert_array_equal(y, es.conv(x, f, padding="same", algorithm="strided"))
    assert kernels_of("channelwise.channels") - before <= 1


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular", "symmetric"])
@pytest.mark.parametrize(
    ("taps", "stride", "dilation"), [(3, 1, 1), (4, 2, 1), (3, 1, 9), (7, 3, 2), (2, 1, 31)]
)
def test_unrolled_rows_of_any_length(taps, stride, dilation, mode):
    """Rows shorter and longer than a tile and the borders, alone and in strips for threads."""
    rng = np.random.default_rng([taps, len(mode)])
    pad = ((taps - 1) * dilation, dilation)
    for out in rng.choice([*range(2, 34), 40, 41, 55, 57, 113], 6, replace=False):
        size = (out - 1) * stride + (taps - 1) * dilation + 1 - sum(pad)
        if size <= (max(pad) if mode in ("reflect", "circular", "symmetric") else 0):
            continue
        x = rng.integers(-9, 9, (1, size, 2)).astype("float32")
        f = rng.integers(-9, 9, (taps, 1, 2)).astype("float32")
        given = {"padding": (pad,), "stride": stride, "dilation": dilation, "padding_mode": mode}
        y = es.conv(x, f, groups=2, algorithm="direct", **given)
        right = es.conv(x, f, groups=2, algorithm="strided", **given)
        assert y.shape[1] == out
        np.testing.assert_array_equal(y, right)


def test_a_long_signal_is_divided_into_strips():
    """A row of one example is divided among threads; each strip has its own part of the borders."""
    rng = np.random.default_rng(7)
    for length in (100_003, 90_001):
        x = rng.integers(-9, 9, (1, length, 1)).astype("float32")
        f = rng.integers(-9, 9, (5, 1, 4)).astype("float32")
        y = es.conv(x, f, padding="same", padding_mode="circular", algorithm="direct")
        padded = np.concatenate([x[:, -2:], x, x[:, :2]], 1)[..., 0]
        right = np.stack([np.correlate(padded[0], f[:, 0, m], "valid") for m in range(4)], -1)
        np.testing.assert_array_equal(y[0], right)
