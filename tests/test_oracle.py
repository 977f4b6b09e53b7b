"""The loops equal NumPy and the code of the seed project; the fast reference equals the loops."""

import numpy as np
import pytest
from hypothesis import given

import oracle
from oracle import Case
from strategies import arrays, cases, integer_data, seeds


def test_loops_are_numpy_correlate():
    x, f = integer_data((9,), "int64", 1), integer_data((4,), "int64", 2)
    case = Case(1, (9,), (4,), 1, 1, (1,), ((0, 0),), (1,))
    y = oracle.forward(x.reshape(1, 9, 1), f.reshape(4, 1, 1), case)
    np.testing.assert_array_equal(y.ravel(), np.correlate(x, f, "valid"))


def test_loops_flipped_are_numpy_convolve():
    x, f = integer_data((9,), "int64", 1), integer_data((4,), "int64", 2)
    case = Case(1, (9,), (4,), 1, 1, (1,), ((3, 3),), (1,), flip=True)
    y = oracle.forward(x.reshape(1, 9, 1), f.reshape(4, 1, 1), case)
    np.testing.assert_array_equal(y.ravel(), np.convolve(x, f, "full"))


def test_loops_are_the_seed_in_two_dimensions():
    case = Case(2, (7, 8), (3, 2), 3, 2, (2, 3), ((0, 0), (0, 0)), (1, 1))
    x, f, _ = arrays(case, "int64", 3)
    (sh, sw), (oh, ow) = case.stride, case.out_size
    b, h, w, c = x.strides
    xs = np.lib.stride_tricks.as_strided(
        x, (2, oh, ow, 3, 2, 3), (b, sh * h, sw * w, h, w, c), writeable=False
    )
    expected = np.einsum("wxyijk,ijkd->wxyd", xs, f)
    np.testing.assert_array_equal(oracle.forward(x, f, case), expected)


def test_loops_dilation_groups_and_padding_by_hand():
    case = Case(1, (3,), (2,), 2, 2, (1,), ((1, -1),), (2,), groups=2)
    x = np.array([[[1, 10], [2, 20], [3, 30]]])  # padded and cropped: 0, x0, x1
    f = np.array([[[5, 7]], [[11, 13]]])  # y = 5 * 0 + 11 * x1 in the first group
    assert oracle.forward(x, f, case).tolist() == [[[22, 260]]]


@pytest.mark.parametrize("dtype", ["int64", "complex128"])
@given(case=cases(), seed=seeds)
def test_the_gradients_are_adjoints(dtype, case, seed):
    x, f, gy = arrays(case, dtype, seed)
    energy = np.sum(oracle.forward(x, f, case) * gy.conj())
    assert energy == np.sum(x * oracle.input_grad(gy, f, case).conj())
    assert energy == np.sum(f * oracle.filter_grad(x, gy, case).conj())


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@given(case=cases(), seed=seeds)
def test_the_fast_reference_is_the_loops(dtype, case, seed):
    x, f, gy = arrays(case, dtype, seed)
    pairs = {"forward": (x, f), "input_grad": (gy, f), "filter_grad": (x, gy)}
    for name, pair in pairs.items():
        np.testing.assert_array_equal(
            oracle.FAST[name](*pair, case), oracle.PASSES[name](*pair, case)
        )


@given(case=cases())
def test_only_legal_geometries_are_drawn(case):
    assert all(n > 0 for n in (*case.input_size, *case.kernel_size, *case.out_size))
    assert case.channels % case.groups == case.filters % case.groups == 0
    for n, k, pad, dilation in zip(
        case.input_size, case.kernel_size, case.pads, case.dilation, strict=True
    ):
        assert n + sum(pad) >= oracle.span(k, dilation)


def test_same_pads_as_tensorflow_and_jax_do():
    assert oracle.pads_of("same", 7, 3, 2, 1) == (1, 1)
    assert oracle.pads_of("same", 8, 3, 2, 1) == (0, 1)
    assert oracle.pads_of("same_lower", 8, 3, 2, 1) == (1, 0)
    assert oracle.pads_of("same", 5, 2, 1, 3) == (1, 2)
    assert oracle.pads_of("same", 5, 1, 3, 1) == (0, 0)
    assert oracle.pads_of("causal", 5, 3, 2, 2) == (4, 0)
    assert oracle.pads_of("full", 5, 3, 2, 2) == (4, 4)
