"""Integers are exact or refused: they never wrap."""

import numpy as np
import pytest

import einstride as es
from checks import ALGORITHMS, refused, same

INT32 = np.iinfo("int32")


def dot(x, f, **keywords):
    """Compute the inner product of two vectors by a convolution."""
    return es.conv(x.reshape(1, 1, -1), f.reshape(1, -1, 1), **keywords)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("x", "f", "product"),
    [
        ("int8", "int8", 128 * 128),
        ("uint8", "uint8", 255 * 255),
        ("uint8", "int8", -255 * 128),
        ("int8", "uint8", -128 * 255),
    ],
)
def test_eight_bits_at_their_extremes(backend, algorithm, x, f, product):
    """The most taps that cannot overflow int32 give exact sums; one more tap is refused."""
    taps = INT32.max // product if product > 0 else INT32.min // product
    extreme = {"uint8": 255, "int8": -128}
    a, b = np.full((1, 1, taps + 1), extreme[x], x), np.full((1, taps + 1, 1), extreme[f], f)
    y = backend(es.conv, a[..., :taps], b[:, :taps], algorithm=algorithm)
    same(y, np.array([[[taps * product]]], object), "int32")
    with refused("conv", ValueError, 'accumulate="int64"'):
        backend(es.conv, a, b, algorithm=algorithm)
    y = backend(es.conv, a, b, algorithm=algorithm, accumulate="int64")
    same(y, np.array([[[(taps + 1) * product]]], object), "int64")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_eight_bits_in_the_gradients(backend, algorithm):
    taps = INT32.max // 255**2
    gy, f = np.full((1, 1, taps + 1), 255, "uint8"), np.full((1, 1, taps + 1), 255, "uint8")
    fits = backend(es.conv_input_grad, gy[..., :taps], f[..., :taps], 1, algorithm=algorithm)
    same(fits, np.array([[[taps * 255**2]]]), "int32")
    with refused("conv_input_grad", ValueError, 'accumulate="int64"'):
        backend(es.conv_input_grad, gy, f, 1, algorithm=algorithm)
    x, gy = np.full((1, taps + 1, 1), 255, "uint8"), np.full((1, taps + 1, 1), 255, "uint8")
    fits = backend(es.conv_filter_grad, x[:, :taps], gy[:, :taps], 1, algorithm=algorithm)
    same(fits, np.array([[[taps * 255**2]]]), "int32")
    with refused("conv_filter_grad", ValueError, 'accumulate="int64"'):
        backend(es.conv_filter_grad, x, gy, 1, algorithm=algorithm)
    wide = backend(es.conv_filter_grad, x, gy, 1, algorithm=algorithm, accumulate="int64")
    same(wide, np.array([[[(taps + 1) * 255**2]]]), "int64")


def test_accumulate_int64_on_small_sums(backend):
    x = np.full((1, 4, 1), 100, "int8")
    same(
        backend(es.conv, x, np.full((2, 1, 1), 100, "int8"), accumulate="int64"),
        np.full((1, 3, 1), 20_000),
    )


@pytest.mark.parametrize("accumulate", ["int16", "int65", "", "float32x"])
def test_accumulate_unknown_names(accumulate):
    x = np.ones(3, "int8")
    with refused("conv", ValueError, "accumulate"):
        dot(x, x, accumulate=accumulate)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", ["int16", "uint16", "int32", "uint32"])
def test_wider_integers_give_int64(backend, algorithm, dtype):
    """Sums beyond 2**53 are exact, so no float dtype is used for them."""
    top = int(np.iinfo(dtype).max)
    x = np.array([top, top - 2], dtype)
    f = np.array([min(top, 2**31) // 2, 3], dtype)
    exact = sum(int(a) * int(b) for a, b in zip(x, f, strict=True))
    y = backend(es.conv, x.reshape(1, 1, 2), f.reshape(1, 2, 1), algorithm=algorithm)
    same(y, np.array([[[exact]]], object), "int64")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_sixty_four_bits_are_exact(backend, algorithm, dtype):
    x = np.array([2**40 + 1, 2**41 - 1, 3], dtype)
    f = np.array([2**20 + 3, 5, 2**20 - 7], dtype)
    exact = sum(int(a) * int(b) for a, b in zip(x, f, strict=True))
    assert exact > 2**60
    y = backend(es.conv, x.reshape(1, 1, 3), f.reshape(1, 3, 1), algorithm=algorithm)
    same(y, np.array([[[exact]]], object), dtype)


def test_uint64_uses_its_whole_range(backend):
    x, f = np.array([[[2**63]]], "uint64"), np.array([[[1]]], "uint64")
    same(backend(es.conv, x, f), x)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    ("x", "f", "dtype"),
    [
        ([2**62], [2], "int64"),
        ([2**62, 2**62], [1, 1], "int64"),
        ([-(2**63)], [-1], "int64"),
        ([2**32], [2**31], "int64"),
        ([2**63], [2], "uint64"),
        ([2**63, 2**63], [1, 1], "uint64"),
        ([2**32 - 1] * 3, [2**32 - 1] * 3, "uint32"),
        ([-(2**31)] * 2, [-(2**31)] * 2, "int32"),
    ],
)
def test_what_would_wrap_is_refused(backend, algorithm, x, f, dtype):
    x, f = np.array(x, dtype), np.array(f, dtype)
    result = "uint64" if dtype == "uint64" else "int64"
    with refused("conv", ValueError, result):
        backend(es.conv, x.reshape(1, 1, -1), f.reshape(1, -1, 1), algorithm=algorithm)
    with refused("conv_input_grad", ValueError, result):
        backend(
            es.conv_input_grad, x.reshape(1, 1, -1), f.reshape(1, 1, -1), 1, algorithm=algorithm
        )
    with refused("conv_filter_grad", ValueError, result):
        backend(
            es.conv_filter_grad, x.reshape(1, -1, 1), f.reshape(1, -1, 1), 1, algorithm=algorithm
        )


def test_a_uint64_beyond_int64_beside_another_integer(backend):
    """uint64 with int64 gives int64; a value that int64 cannot hold is refused."""
    x, f = np.array([[[2**63 + 5]]], "uint64"), np.array([[[1]]], "int64")
    with refused("conv", ValueError):
        backend(es.conv, x, f)


def test_a_bias_that_would_wrap_is_refused():
    x, bias = np.full((1, 1, 1), 2**62), np.array([2**62])
    with refused("conv", ValueError, "int64"):
        es.conv(x, np.full((1, 1, 1), 1), bias)
    small = np.full((1, 1, 1), 100, "int8")
    with refused("conv", ValueError):
        es.conv(small, small, np.array([INT32.max], "int32"))


def test_booleans_count(backend):
    x, f = np.ones((1, 300, 1), bool), np.ones((300, 1, 1), bool)
    same(backend(es.conv, x, f), np.array([[[300]]]), "int64")


def test_transposed_and_seed_follow_the_same_rules():
    x = np.full((1, 1, 1, 4), 127, "int8")
    same(es.conv_transpose(x, x), np.array([[[[4 * 127**2]]]]), "int32")
    same(es.conv4d_forward(x, x.reshape(1, 1, 4, 1), (1, 1)), np.array([[[[4 * 127**2]]]]), "int32")
