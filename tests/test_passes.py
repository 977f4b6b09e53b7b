"""Every pass of every algorithm and library equals the loops to the bit, on random geometries."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import einstride as es
import oracle
from checks import (
    EVERY,
    PASSES,
    agrees,
    check_pass,
    operands,
    result_unless_refused,
    same,
    unless_refused,
)
from oracle import Case
from strategies import DTYPES, arrays, cases, integer_data, seeds

dtypes = st.sampled_from(DTYPES)


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("which", PASSES)
@given(case=cases(), dtype=dtypes, seed=seeds)
def test_random_geometries(backend, which, algorithm, case, dtype, seed):
    assume(backend.supports(dtype))
    check_pass(backend, which, case, dtype, seed, algorithm=algorithm)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("algorithm", EVERY)
def test_each_dtype(backend, algorithm, which, dtype):
    if not backend.supports(dtype):
        pytest.skip(f"{backend.name} has no {dtype}")
    case = Case(2, (6, 5), (3, 2), 4, 6, (2, 1), ((1, 0), (0, 2)), (1, 2), groups=2)
    check_pass(backend, which, case, dtype, 7, algorithm=algorithm, **case.explicit)


# Large enough for many blocks, with partial last ones.
LARGE = {
    "rows": Case(3, (67, 61), (3, 3), 16, 24, (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "strided": Case(2, (131, 97), (5, 4), 12, 8, (3, 2), ((2, 1), (0, 3)), (2, 1)),
    "channels": Case(2, (14, 15), (3, 3), 160, 130, (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "groups": Case(5, (40, 33), (3, 3), 24, 48, (1, 2), ((1, 1), (1, 1)), (1, 1), groups=6),
    "depthwise": Case(2, (57, 56), (5, 5), 64, 64, (1, 1), ((2, 2), (2, 2)), (1, 1), groups=64),
    "multiplier": Case(2, (29, 28), (3, 3), 16, 48, (2, 2), ((1, 1), (0, 1)), (1, 1), groups=16),
    "pointwise": Case(4, (28, 27), (1, 1), 64, 96, (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "pointwise, strided": Case(4, (28, 27), (1, 1), 64, 96, (2, 3), ((0, 0), (0, 0)), (1, 1)),
    "one-dimensional": Case(2, (20011,), (31,), 4, 3, (1,), ((30, 0),), (1,)),
    "stride beyond the filter": Case(2, (90, 91), (2, 3), 8, 8, (5, 4), ((0, 1), (2, 0)), (1, 1)),
    "volume": Case(
        2, (17, 18, 19), (3, 2, 3), 6, 10, (1, 2, 1), ((1, 1), (0, 0), (2, -1)), (1, 1, 2)
    ),
    "many examples": Case(500, (9, 9), (3, 3), 3, 5, (2, 2), ((0, 0), (0, 0)), (1, 1)),
    "one row": Case(1, (1, 40000), (1, 7), 5, 6, (1, 1), ((0, 0), (3, 3)), (1, 1)),
}


@pytest.mark.parametrize("algorithm", ["auto", "gemm", "fft", "winograd"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", LARGE)
def test_many_blocks(backend, name, which, algorithm):
    case = LARGE[name]
    dtype = {"volume": "complex64", "rows": "float32", "groups": "int64"}.get(name, "float64")
    function, args, pair = operands(which, case, *arrays(case, dtype, 11))
    keywords = case.explicit | {"algorithm": algorithm}
    keywords |= {"accuracy": "elementwise"} if algorithm == "auto" else {}
    result = result_unless_refused(lambda: backend(function, *args, **keywords), algorithm, dtype)
    if result is not None:
        agrees(result, oracle.FAST[which](*pair, case), dtype, algorithm)


@pytest.mark.parametrize("algorithm", EVERY)
def test_the_seed_example(backend, algorithm):
    case = Case(64, (28, 28), (6, 6), 3, 2, (2, 2), ((0, 0), (0, 0)), (1, 1))
    x, f, _ = arrays(case, "float32", 1)
    with unless_refused(algorithm):
        y = backend(es.conv, x, f, stride=(2, 2), algorithm=algorithm)
        assert y.shape == (64, 12, 12, 2)
        agrees(y, oracle.fast_forward(x, f, case), "float32", algorithm)


def test_flip_is_a_flipped_filter(backend):
    x, f = integer_data((2, 8, 9, 4), "float64", 1), integer_data((3, 2, 2, 6), "float64", 2)
    flipped = backend(es.conv, x, f, groups=2, flip=True)
    same(flipped, backend(es.conv, x, np.ascontiguousarray(f[::-1, ::-1]), groups=2))


def test_flip_full_is_numpy_convolve():
    x, f = integer_data((12,), "int64", 1), integer_data((5,), "int64", 2)
    y = es.conv(x.reshape(1, 12, 1), f.reshape(5, 1, 1), padding="full", flip=True)
    same(y.ravel(), np.convolve(x, f))


def test_depthwise_keeps_channels_apart(backend):
    x, f = integer_data((1, 6, 4), "float64", 1), integer_data((3, 1, 8), "float64", 2)
    y = backend(es.conv, x, f, groups=4)
    for d in range(8):
        same(y[0, :, d], np.correlate(x[0, :, d // 2], f[:, 0, d], "valid"))


def test_integers_of_numpy_are_hyperparameters_too():
    x, f = integer_data((1, 9, 9, 2), "float64", 1), integer_data((3, 3, 1, 2), "float64", 2)
    plain = es.conv(x, f, stride=2, dilation=(1, 2), groups=2, padding=((1, 0), (2, 1)))
    step, pads = np.int64(2), np.array([[1, 0], [2, 1]])
    fancy = es.conv(
        x, f, stride=step, dilation=[1, step], groups=np.int32(2), padding=tuple(map(tuple, pads))
    )
    same(fancy, plain)
