"""Results have the documented dtype of two operands, and sums the documented accumulation dtype."""

from itertools import product

import numpy as np
import pytest

import einstride as es
import oracle
from checks import ALGORITHMS, PASSES, operands, promoted, same
from oracle import Case
from strategies import DTYPES, integer_data

CASE = Case(2, (6,), (3,), 2, 4, (1,), ((1, 0),), (1,))

# Dtypes worked out by hand, by which `promoted` is checked.
BY_HAND = {
    ("float32", "float32"): "float32",
    ("float32", "float64"): "float64",
    ("float32", "complex64"): "complex64",
    ("float64", "complex64"): "complex128",
    ("float16", "float32"): "float32",
    ("float16", "float16"): "float16",
    ("uint8", "float32"): "float32",
    ("uint8", "float16"): "float16",
    ("int64", "float32"): "float32",
    ("int8", "complex64"): "complex64",
    ("bool", "float64"): "float64",
    ("int8", "int8"): "int32",
    ("uint8", "int8"): "int32",
    ("int8", "int16"): "int64",
    ("int32", "int32"): "int64",
    ("uint32", "uint64"): "int64",
    ("uint64", "uint64"): "uint64",
    ("bool", "bool"): "int64",
    ("bool", "int8"): "int64",
}


@pytest.mark.parametrize(("pair", "expected"), list(BY_HAND.items()))
def test_the_rule_by_hand(pair, expected):
    assert promoted(*pair) == promoted(*reversed(pair)) == expected


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize(("first", "second"), list(product(DTYPES, DTYPES)))
def test_every_pair(backend, which, first, second):
    if not (backend.supports(first) and backend.supports(second)):
        pytest.skip(f"{backend.name} lacks {first} or {second}")
    x, f = integer_data(CASE.x_shape, first, 1), integer_data(CASE.f_shape, second, 2)
    gy = integer_data(CASE.y_shape, second if which == "filter_grad" else first, 3)
    function, args, pair = operands(which, CASE, x, f, gy)
    result = backend(function, *args, padding=CASE.pads)
    same(result, oracle.PASSES[which](*pair, CASE), promoted(first, second))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("which", PASSES)
def test_float16_accumulates_in_float32(which, algorithm):
    """A sum of 5000 ones is 5000, rounded once; a sum in float16 would end at 2048."""
    n = 5000
    ones = {
        "forward": lambda: es.conv(
            np.ones((1, 1, n), "f2"), np.ones((1, n, 1), "f2"), algorithm=algorithm
        ),
        "input_grad": lambda: es.conv_input_grad(
            np.ones((1, 1, n), "f2"), np.ones((1, 1, n), "f2"), 1, algorithm=algorithm
        ),
        "filter_grad": lambda: es.conv_filter_grad(
            np.ones((1, n, 1), "f2"), np.ones((1, n, 1), "f2"), 1, algorithm=algorithm
        ),
    }[which]()
    same(ones.ravel(), np.array([n], "float16"))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_float16_survives_sums_beyond_its_range(algorithm):
    x = np.array([60000, 60000, -60000, -50016], "f2").reshape(1, 4, 1)
    y = es.conv(x, np.ones((4, 1, 1), "f2"), algorithm=algorithm)
    same(y.ravel(), np.array([9984], "float16"))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_float16_is_rounded_once(algorithm):
    x = np.full((1, 3, 1), 2.0**-11, "f2")
    x[0, 0, 0] = 1  # 1 + 2 * 2**-11 is 1 + 2**-10; rounded after each term it would be 1
    same(
        es.conv(x, np.ones((3, 1, 1), "f2"), algorithm=algorithm).ravel(),
        np.array([1 + 2.0**-10], "f2"),
    )


@pytest.mark.parametrize(
    ("other", "expected"),
    [("bfloat16", "bfloat16"), ("float16", "float32"), ("float32", "float32")],
)
def test_bfloat16(other, expected):
    ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes gives NumPy its bfloat16")
    bfloat16 = np.dtype(ml_dtypes.bfloat16)
    other, expected = (
        bfloat16 if name == "bfloat16" else np.dtype(name) for name in (other, expected)
    )
    x, f = np.ones((1, 700, 1), bfloat16), np.ones((512, 1, 1), other)
    y = es.conv(x, f)  # sums of ones in bfloat16 end at 256
    assert y.dtype == expected
    np.testing.assert_array_equal(y.astype("float32"), np.full((1, 189, 1), 512, "float32"))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_large_integers_under_a_float_filter(dtype):
    """The integer is converted to the dtype of the float, and the float keeps its dtype."""
    x = np.array([2**24 - 1, 1], "int32").reshape(1, 2, 1)
    f = np.ones((2, 1, 1), dtype)
    same(es.conv(x, f).ravel(), np.array([2**24], dtype))


EXTREMES = ("int8", "uint8", "int16", "uint16", "int32", "uint32")
FAMILIES = {
    "dense": (16, 32, 1),
    "depthwise": (24, 24, 24),
    "grouped": (16, 16, 4),
    "few": (3, 8, 1),
}
"""{kernel family: (channels, filters, groups)} of shapes that different kernels compute."""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", EXTREMES)
@pytest.mark.parametrize("algorithm", ["auto", "strided"])
def test_the_largest_and_the_least_integer(dtype, family, algorithm):
    """Kernels extend integers to the dtype of sums with their sign, or without one."""
    channels, filters, groups = FAMILIES[family]
    limits = np.iinfo(dtype)
    for extreme in (limits.max, limits.min):
        x = np.full((2, 9, channels), extreme, dtype)
        f = np.ones((3, channels // groups, filters), dtype)
        keywords = {"groups": groups, "algorithm": algorithm}
        y = es.conv(x, f, **keywords)
        assert (y == 3 * channels // groups * int(extreme)).all()
        gx = es.conv_input_grad(np.full((2, 7, filters), extreme, dtype), f, 9, **keywords)
        assert (gx[:, 2:-2] == 3 * filters // groups * int(extreme)).all()
        gf = es.conv_filter_grad(x, np.ones((2, 7, filters), dtype), 3, **keywords)
        assert (gf == 14 * int(extreme)).all()
