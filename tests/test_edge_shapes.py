"""Edge shapes give a defined result, or an error that names the axis."""

import numpy as np
import pytest

import einstride as es
import oracle
from checks import EVERY, PASSES, agrees, operands, refused, same, unless_refused
from oracle import Case
from strategies import arrays

ONE = (1,)
EMPTY = {
    "zero batch": Case(0, (5,), (3,), 2, 4, ONE, ((0, 0),), ONE),
    "zero batch, padded, grouped": Case(
        0, (5, 4), (3, 2), 4, 6, (2, 1), ((1, 1), (0, 1)), (1, 2), groups=2
    ),
    "zero input channels": Case(2, (5,), (3,), 0, 4, ONE, ((0, 0),), ONE),
    "zero filters": Case(2, (5,), (3,), 2, 0, ONE, ((0, 0),), ONE),
    "zero channels and filters": Case(2, (5,), (3,), 0, 0, ONE, ((0, 0),), ONE),
    "zero size, padded": Case(2, (0,), (3,), 2, 4, ONE, ((2, 1),), ONE),
    "one zero size, padded": Case(2, (4, 0), (3, 1), 2, 4, (1, 1), ((0, 0), (1, 1)), (1, 1)),
    "cropped to nothing, then padded": Case(1, (2,), (1,), 1, 1, ONE, ((-2, 3),), ONE),
    "one element": Case(1, (1,), (1,), 1, 1, ONE, ((0, 0),), ONE),
    "one element in padding": Case(1, (1, 1), (3, 3), 1, 1, (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "only padding is seen": Case(1, (1,), (2,), 1, 1, (4,), ((2, 0),), ONE),
    "a filter as large as the input": Case(
        2, (4, 5), (4, 5), 2, 3, (1, 1), ((0, 0), (0, 0)), (1, 1)
    ),
    "a stride beyond the input": Case(2, (4,), (2,), 2, 3, (9,), ((0, 0),), ONE),
    "a dilation that just fits": Case(2, (9,), (2,), 2, 3, ONE, ((0, 0),), (8,)),
    "a dilation of a one-tap filter": Case(2, (3,), (1,), 2, 3, ONE, ((0, 0),), (100,)),
    "one channel per group": Case(2, (5,), (2,), 7, 7, ONE, ((0, 0),), ONE, groups=7),
    "padding wider than the input": Case(1, (2,), (2,), 1, 2, (3,), ((7, 9),), (2,)),
}


@pytest.mark.parametrize("name", EMPTY)
@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("which", PASSES)
def test_defined(backend, which, algorithm, name):
    case = EMPTY[name]
    function, args, pair = operands(which, case, *arrays(case, "float64", 1))
    with unless_refused(algorithm):
        result = backend(function, *args, algorithm=algorithm, **case.explicit)
        agrees(result, oracle.PASSES[which](*pair, case), "float64", algorithm)


@pytest.mark.parametrize("rank", [6, 7, 8])
@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("which", PASSES)
def test_many_axes(which, algorithm, rank):
    kernel = (2, 1, 2, 1, 1, 1, 1, 2)[:rank]
    case = Case(
        1,
        (3, 2, 2, 1, 2, 1, 1, 3)[:rank],
        kernel,
        2,
        2,
        (1,) * rank,
        ((0, 0),) * rank,
        (1,) * rank,
        groups=2,
    )
    function, args, pair = operands(which, case, *arrays(case, "float64", 1))
    with unless_refused(algorithm):
        result = function(*args, algorithm=algorithm, **case.explicit)
        agrees(result, oracle.PASSES[which](*pair, case), "float64", algorithm)


def test_the_most_axes_that_numpy_can_hold():
    """For ranks whose windows NumPy cannot hold, a call gives a result or an error, never a
    crash."""
    for rank in range(9, 66):
        try:
            x, f = np.ones((1,) * (rank + 2)), np.ones((1,) * (rank + 2))
        except ValueError:
            break  # NumPy has no more axes
        try:
            y = es.conv(x, f)
        except ValueError:
            with refused("conv", ValueError, "axes"):
                es.conv(x, f)
        else:
            same(y, x)


@pytest.mark.parametrize(
    ("size", "kernel", "keywords"),
    [
        ((0,), (1,), {}),
        ((4, 2), (2, 3), {}),
        ((4, 4), (2, 2), {"dilation": (1, 4)}),
        ((4, 4), (2, 2), {"padding": ((0, 0), (-2, -1))}),
        ((4, 4), (2, 2), {"padding": -2}),
    ],
)
def test_a_filter_beyond_the_input_names_the_axis(backend, size, kernel, keywords):
    x, f = np.ones((1, *size, 1)), np.ones((*kernel, 1, 1))
    with refused("conv", ValueError, "axis"):
        backend(es.conv, x, f, **keywords)
    gy = np.ones((1,) * (len(size) + 2))
    with refused("conv_input_grad", ValueError, "axis"):
        backend(es.conv_input_grad, gy, f, size, **keywords)
    with refused("conv_filter_grad", ValueError, "axis"):
        backend(es.conv_filter_grad, x, gy, kernel, **keywords)


@pytest.mark.parametrize("name", ["same", "same_lower", "full", "causal"])
def test_names_on_an_empty_axis(name):
    """Without input positions, a call gives zeros, or an error that names the axis."""
    x, f = np.ones((1, 0, 2)), np.ones((3, 2, 4))
    try:
        y = es.conv(x, f, padding=name)
    except ValueError:
        with refused("conv", ValueError, "axis"):
            es.conv(x, f, padding=name)
    else:
        assert y.shape[::2] == (1, 4)
        assert not y.any()


@pytest.mark.parametrize("kernel", [(0, 2), (2, 0), (0, 0)])
def test_a_filter_axis_without_taps_is_refused(kernel):
    x, f = np.ones((1, 4, 4, 1)), np.ones((*kernel, 1, 1))
    with refused("conv", ValueError, "axis"):
        es.conv(x, f)
    with refused("conv_filter_grad", ValueError):
        es.conv_filter_grad(x, np.ones((1, 4, 4, 1)), kernel)
    with refused("conv_transpose", ValueError, "axis"):
        es.conv_transpose(x, f)


def test_an_empty_filter_gives_the_bias(backend):
    x, f, bias = np.ones((2, 5, 0)), np.ones((3, 0, 2)), np.array([1.0, 2.0])
    same(backend(es.conv, x, f, bias), np.broadcast_to(bias, (2, 3, 2)))


def test_nan_and_inf_stay_in_their_windows():
    x = np.zeros((1, 9, 1))
    x[0, 0], x[0, 8] = np.nan, np.inf
    y = es.conv(x, np.ones((3, 1, 1)), accuracy="elementwise")
    assert np.isnan(y.ravel()).tolist() == [True] + [False] * 6
    assert np.isinf(y.ravel()).tolist() == [False] * 6 + [True]


def test_one_big_hyperparameter_is_still_a_number():
    x, f = np.arange(5.0).reshape(1, 5, 1), np.ones((2, 1, 1))
    same(es.conv(x, f, stride=10**9), np.array([[[1.0]]]))
    same(es.conv(x, f, stride=2**62), np.array([[[1.0]]]))
    same(es.conv(x, np.ones((1, 1, 1)), dilation=2**62), x)
