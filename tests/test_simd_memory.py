"""Results and panels begin at cache lines; large results avoid aliasing with operands."""

import numpy as np
import pytest

import einstride as es
from einstride.cpu.runtime.aligned_memory import (
    ALIAS_DISTANCE,
    CACHE_LINE,
    UNALIASED_FROM,
    address,
    aligned_empty,
    unaliased_empty,
)


def beginning(place, count=8):
    """Return an array that begins `place` bytes behind a page boundary."""
    buffer = np.zeros(2 * ALIAS_DISTANCE + 8 * count, np.uint8)
    return np.ndarray((count,), np.float64, buffer, (place - address(buffer)) % ALIAS_DISTANCE)


@pytest.mark.parametrize("dtype", ["int8", "float32", "complex128"])
@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (1000, 7)])
def test_panels_begin_with_a_line(shape, dtype):
    for _ in range(20):
        found = aligned_empty(shape, dtype)
        assert found.shape == shape
        assert found.dtype == dtype
        assert address(found) % CACHE_LINE == 0
        found[...] = 1  # the memory is as large as the array says


@pytest.mark.parametrize("place", [0, 8, 16, 64, 120, 2048, ALIAS_DISTANCE - 8])
def test_large_results_lie_just_below_what_is_read(place):
    like = beginning(place)
    found = unaliased_empty((UNALIASED_FROM // 8 + 3,), np.float64, like)
    assert address(found) % CACHE_LINE == 0
    assert CACHE_LINE <= (address(like) - address(found)) % ALIAS_DISTANCE < 2 * CACHE_LINE
    found[...] = 1


@pytest.mark.parametrize("repeat", [1, 4])
def test_small_results_are_plain(repeat):
    x, f = np.zeros((1, 8, 8, 3), np.float32), np.zeros((3, 3, 3, 4), np.float32)
    for _ in range(repeat):
        assert es.conv(x, f).base is None


@pytest.mark.parametrize("repeat", [1, 4])
def test_results_of_calls_are_placed(repeat):
    x = np.zeros((2, 128, 128, 8), np.float32)
    f = np.zeros((3, 3, 8, 16), np.float32)
    found = [es.conv(x, f, padding=1) for _ in range(repeat)]
    assert found[-1].nbytes >= UNALIASED_FROM
    for y in found:
        assert y.flags.c_contiguous
        assert y.flags.writeable
        assert address(y) % CACHE_LINE == 0
        assert CACHE_LINE <= (address(x) - address(y)) % ALIAS_DISTANCE < 2 * CACHE_LINE
    assert not any(np.shares_memory(found[0], y) for y in found[1:])


def test_a_layer_keeps_nothing_of_its_results():
    """A result of a layer is no view of a larger buffer, which the result would keep alive."""
    layer = es.Conv(np.zeros((1, 1, 64, 64), np.float32))
    x = np.ones((4, 64, 64, 64), np.float32)
    y = layer(x)
    assert y.base.nbytes == y.nbytes + ALIAS_DISTANCE
