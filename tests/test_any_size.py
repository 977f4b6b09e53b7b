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
