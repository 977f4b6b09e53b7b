"""The window-copy kernel gives the rows that array code copies from a padded block."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from einstride import _testing
from einstride.cuda import im2col as launcher
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Settings
from oracle import Case
from strategies import cases, integer_data, seeds

pytest_plugins = ["cupy_host.fixtures"]

MODES = ("zeros", "reflect", "replicate", "circular")
PAIRS = [
    ("float32", "float32"),
    ("float64", "float64"),
    ("float16", "float16"),
    ("bfloat16", "bfloat16"),
    ("complex64", "complex64"),
    ("complex128", "complex128"),
    ("int64", "int64"),
    ("uint8", "float32"),
    ("int8", "float32"),
    ("bool", "float32"),
    ("int16", "float64"),
    ("int32", "int64"),
    ("uint64", "float64"),
    ("float16", "float32"),
    ("bfloat16", "float32"),
    ("float32", "float64"),
    ("float32", "complex64"),
    ("float16", "complex128"),
    ("complex64", "complex128"),
]


def numbers(shape, dtype, seed):
    """Return distinct values, so that a wrong address shows; of NumPy, as CuPy makes no
    bfloat16."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2 if dtype == "bool" else 120, shape)
    if dtype.startswith("complex"):
        return (values + 1j * rng.integers(0, 120, shape)).astype(dtype)
    if dtype == "bfloat16":
        return values.astype(pytest.importorskip("ml_dtypes").bfloat16)
    return values.astype(dtype)


def memory_orders(cp, x):
    """Return x as it is, with channels outermost in memory, reversed, and with gaps."""
    yield cp.asarray(x)
    yield cp.moveaxis(cp.asarray(np.ascontiguousarray(np.moveaxis(x, -1, 1))), 1, -1)
    outermost = tuple(slice(None, None, -1) for _ in x.shape)
    yield cp.asarray(np.ascontiguousarray(x[outermost]))[outermost]
    wide = np.repeat(x, 2, axis=-1)
    yield cp.asarray(wide)[..., ::2]


def geometry(case, mode):
    keywords = {"stride": case.stride, "dilation": case.dilation, "groups": case.groups}
    pads = tuple(
        (min(low, n - 1), min(high, n - 1)) if mode != "zeros" else (low, high)
        for (low, high), n in zip(case.pads, case.input_size, strict=True)
    )
    settings = Settings(padding=pads, padding_mode=mode, **keywords)
    return Geometry.of("conv", case.x_shape, case.f_shape, settings)


def both_ways(x, g, dtype, channels_inner, box, taps, channels=None):
    """Return the rows of one block by the kernel and by array code, and the launches of each."""
    from einstride.algorithms.gemm.forward import slab_elements
    from einstride.algorithms.gemm.im2col import Rows
    from einstride.arrays.backends.cupy import BACKEND

    found = []
    for backend in (BACKEND, dataclasses.replace(BACKEND, copy_rows=None)):
        size = int(np.prod(g.y_shape[:-1])) * int(np.prod(g.f_shape[:-1])) * g.groups
        lengths = tuple(hi - lo for lo, hi in box)
        slab = slab_elements(g, lengths, tuple(k1 - k0 for k0, k1 in taps))
        rows = Rows(x, g, size, slab, dtype, channels_inner, backend)
        found.append(rows.of(box, taps, channels).get())
    return found


def whole(g):
    return tuple((0, n) for n in (g.batch, *g.out)), tuple((0, k) for k in g.kernel)


@given(
    case=cases(),
    mode=st.sampled_from(MODES),
    pair=st.sampled_from(PAIRS),
    inner=st.booleans(),
    seed=seeds,
)
def test_random_geometries(installed_cupy_host, case, mode, pair, inner, seed):
    import cupy as cp

    try:
        g = geometry(case, mode)
    except ValueError:
        return  # the filter exceeds the smaller border
    if 0 in g.y_shape or 0 in g.x_shape:
        return
    rng = np.random.default_rng(seed)
    box = tuple((lo, n) for n in (g.batch, *g.out) for lo in [int(rng.integers(n))])
    taps = tuple((lo, k) for k in g.kernel for lo in [int(rng.integers(k))])
    for x in memory_orders(cp, numbers(g.x_shape, pair[0], seed)):
        for part in (whole(g), (box, taps)):
            got, expected = both_ways(x, g, pair[1], inner, *part)
            np.testing.assert_array_equal(got, expected)
    installed_cupy_host.check()


CASE = Case(2, (9, 8), (3, 2), 8, 6, (2, 1), ((2, 1), (1, 2)), (1, 2), groups=2)


@pytest.mark.parametrize("dtypes", PAIRS, ids="-".join)
@pytest.mark.parametrize("index", ["int", "long long"])
@pytest.mark.parametrize("inner", [True, False])
def test_each_dtype_and_index(cp, dtypes, index, inner):
    for mode in MODES:
        g = geometry(CASE, mode)
        for x in memory_orders(cp, numbers(g.x_shape, dtypes[0], 3)):
            with _testing.replacing("choose the index type", lambda *_: index):
                got, expected = both_ways(x, g, dtypes[1], inner, *whole(g))
            np.testing.assert_array_equal(got, expected)


def test_a_range_of_channels(cp):
    g = geometry(dataclasses.replace(CASE, groups=1), "reflect")
    x = cp.asarray(numbers(g.x_shape, "float32", 3))
    for channels in ((0, 3), (3, 8), (4, 8)):
        got, expected = both_ways(x, g, "float32", True, *whole(g), channels)
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_half_becomes_the_same_float(cp, dtype):
    kind = np.dtype("float16") if dtype == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    every = np.arange(65536, dtype="u2").view(kind)
    x = cp.asarray(every.reshape(1, -1, 1))
    y = cp.empty(65536, "f4")
    ones = [[1], [1], [1]]
    assert launcher.copy_rows(x, y, [0], [65536], *ones, "zeros", 1, True, False)
    assert np.array_equal(y.get(), every.astype("f4"), equal_nan=True)


def test_one_launch_and_no_slab(host, cp):
    """A padded block is copied in one launch; the border is addressed by index."""
    import cupy_host
    import einstride as es

    x, f = (cp.asarray(integer_data(s, "float32", 1)) for s in ((2, 8, 8, 4), (3, 3, 4, 4)))
    es.conv(x, f, padding=1, algorithm="gemm")  # compiles
    with host.recording() as seen:
        es.conv(x, f, padding=1, algorithm="gemm")
    launches = seen.of(cupy_host.events.Launch)
    assert [launch.kernel.partition("<")[0] for launch in launches] == ["copy_rows"]


def test_loads_are_as_wide_as_memory_allows(host, cp):
    """Each thread copies 16 bytes where channels are contiguous, and not 4."""
    import cupy_host

    g = geometry(dataclasses.replace(CASE, groups=1), "zeros")
    x = cp.asarray(numbers(g.x_shape, "float32", 3))
    shifted = cp.asarray(numbers((*g.x_shape[:-1], 9), "float32", 3))[..., 1:]
    for array, word in ((x, "uint4"), (shifted, "unsigned int")):
        with host.recording() as seen:
            got, expected = both_ways(array, g, "float32", True, *whole(g))
        assert f"copy_rows<{word}, {word}, int>" in [e.kernel for e in launches(seen, cupy_host)]
        np.testing.assert_array_equal(got, expected)


def launches(seen, cupy_host):
    return seen.of(cupy_host.events.Launch)


def test_an_axis_beyond_32_bits(cp):
    """A broadcast axis of 2**33 elements: offsets exceed 32 bits, memory is small."""
    n = 2**33
    cell = cp.asarray(np.array([7.0], "f4"))
    x = cp.broadcast_to(cell, (1, n, 1))
    y = cp.empty(5 * 3, "f4")
    start = n - 6
    assert launcher.copy_rows(x, y, [start], [5], [3], [2], [1], "zeros", 1, True, False)
    expected = [[7.0 * (start + 2 * o + k < n) for k in range(3)] for o in range(5)]
    np.testing.assert_array_equal(y.get().reshape(5, 3), expected)


@pytest.mark.parametrize(
    ("total", "shape", "steps", "index"),
    [
        (100, (1, 50, 2), (100, 2, 1), "int"),
        (2**31, (1, 50, 2), (100, 2, 1), "long long"),
        (100, (1, 2**31, 1), (0, 0, 1), "long long"),
        (100, (1, 2, 2), (0, 2**31, 1), "long long"),
        (100, (1, 2, 2), (0, -(2**31), 1), "long long"),
    ],
)
def test_the_index_is_wide_enough(total, shape, steps, index):
    assert launcher._index_type(total, shape, steps, [0], [1], [1], [1], [1]) == index


@pytest.mark.parametrize("by", [1, 2, 3, 5, 7, 96, 641, 65535, 65537, 2**30, 2**31 - 1])
def test_division_by_multiplication(by):
    _, multiplier, shift = launcher.divisor(by)
    assert multiplier < 2**32
    ends = [q * by + r for q in (0, 1, 2, (2**31 - 1) // by) for r in (-1, 0, by - 1)]
    for n in [*ends, 2**31 - 1, 2**31 - 2, *np.random.default_rng(by).integers(0, 2**31, 1000)]:
        if 0 <= n < 2**31:
            assert int(n) * multiplier >> shift == n // by


@pytest.mark.parametrize("by", [1, 2, 3, 7, 641, 2**31 + 1, 2**40 - 1, 2**62])
def test_division_by_multiplication_in_64_bits(by):
    """Divides as the kernels do: the upper half of 2 * n * m, shifted."""
    _, multiplier, shift = launcher.divisor(by, "long long")
    assert -(2**63) <= multiplier < 2**63
    ends = [q * by + r for q in (0, 1, 2, (2**62) // by) for r in (-1, 0, by - 1)]
    rng = np.random.default_rng(by % 1000)
    for n in [*ends, 2**63 - 1, *map(int, rng.integers(0, 2**63, 1000))]:
        if 0 <= n < 2**63:
            assert (2 * n * (multiplier % 2**64) >> 64) >> shift == n // by


def test_what_it_cannot_do_is_left_alone(cp):
    """Casts to halves, misaligned views and too many axes return False and write nothing."""
    x, one = cp.ones((1, 4, 1), "int8"), [[1], [1], [1]]
    y = cp.full(4, 9, "float16")
    assert not launcher.copy_rows(x, y, [0], [4], *one, "zeros", 1, True, False)
    raw = cp.zeros(17, "int8")
    odd = raw[1:].view("float32").reshape(1, 4, 1)
    z = cp.full(4, 9, "float32")
    assert not launcher.copy_rows(odd, z, [0], [4], *one, "zeros", 1, True, False)
    assert y.get().tolist() == z.get().tolist() == [9] * 4
    deep = cp.ones((1,) * 15, "float32")
    many = [[1] * 13] * 3
    out = cp.empty(1, "float32")
    assert not launcher.copy_rows(deep, out, [0] * 13, [1] * 13, *many, "zeros", 1, True, False)


def test_channels_first_memory(cp):
    """With channels first in memory, positions are the innermost axis of the matrix."""
    import einstride as es

    x, f = integer_data((2, 4, 9, 8), "float32", 1), integer_data((6, 4, 3, 2), "float32", 2)
    y = es.conv(cp.asarray(x), cp.asarray(f), padding=1, layout="channels_first", algorithm="gemm")
    np.testing.assert_array_equal(
        y.get(), es.conv(x, f, padding=1, layout="channels_first", algorithm="strided")
    )
