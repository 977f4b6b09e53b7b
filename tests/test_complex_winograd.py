"""Compiled Winograd kernels compute complex convolutions as real ones of twice the channels."""

from __future__ import annotations

import numpy as np
import pytest

import einstride as es
import oracle
from checks import PASSES, PYTHON_OVERHEAD, agrees, operands
from einstride.cpu import complex_as_real
from oracle import Case
from strategies import arrays
from test_workspace import peak

pytest.importorskip("llvmlite")

CASES = {
    "image": Case(2, (9, 11), (3, 3), 5, 6, (1, 1), ((1, 1), (0, 2)), (1, 1)),
    "one channel": Case(2, (12,), (4,), 1, 1, (1,), ((2, 1),), (1,)),
    "flipped": Case(1, (8, 7), (3, 2), 3, 2, (1, 1), ((1, 1), (1, 0)), (1, 1), flip=True),
    "dilated": Case(2, (11, 12), (3, 3), 9, 17, (1, 1), ((2, 2), (3, 3)), (2, 3)),
    "volume": Case(1, (4, 6, 7), (3, 3, 3), 4, 5, (1,) * 3, ((1, 1),) * 3, (1,) * 3),
    "reflected": Case(2, (7, 9), (5, 5), 2, 3, (1, 1), ((2, 2), (2, 2)), (1, 1), mode="reflect"),
}


def expected(which, pair, case):
    return oracle.PASSES[which](*pair, case)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", CASES)
def test_against_the_loops(name, which, dtype):
    case = CASES[name]
    function, args, pair = operands(which, case, *arrays(case, dtype, 3))
    found = function(*args, algorithm="winograd", **case.explicit)
    agrees(found, expected(which, pair, case), dtype, "winograd")


@pytest.mark.parametrize("order", ["channels_first", "every other channel", "swapped bytes"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", ["image", "one channel"])
def test_arrays_of_any_memory_order(name, which, order):
    case = CASES[name]
    function, args, pair = operands(which, case, *arrays(case, "complex64", 4))

    def stored(a):
        if not isinstance(a, np.ndarray):
            return a
        if order == "channels_first":
            return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, -1, 1)), 1, -1)
        if order == "swapped bytes":
            return a.astype(">c8")
        return np.repeat(a, 2, axis=-1)[..., ::2]

    found = function(*map(stored, args), algorithm="winograd", **case.explicit)
    agrees(found, expected(which, pair, case), "complex64", "winograd")


def test_a_bias_and_a_prepared_filter():
    case = CASES["image"]
    x, f, _ = arrays(case, "complex64", 5)
    bias = np.arange(6) * (1 - 2j)
    layer = es.Conv(f, bias.astype("complex64"), algorithm="winograd", **case.explicit)
    want = oracle.forward(x, f, case) + bias
    agrees(layer(x), want, "complex64", "winograd")
    np.testing.assert_array_equal(
        layer(x), es.conv(x, f, bias=layer.bias, algorithm="winograd", **case.explicit)
    )


def test_a_real_image_under_a_complex_filter():
    case = CASES["image"]
    x, f, _ = arrays(case, "complex64", 6)
    found = es.conv(x.real.copy(), f, algorithm="winograd", **case.explicit)
    assert found.dtype == np.complex64
    agrees(found, oracle.forward(x.real, f, case), "complex64", "winograd")


@pytest.mark.parametrize("which", PASSES)
def test_the_plan_counts_the_filter_of_floats(which):
    case = Case(1, (12, 12), (3, 3), 96, 64, (1, 1), ((1, 1), (1, 1)), (1, 1))
    function, args, _ = operands(which, case, *arrays(case, "complex64", 7))
    more = given(case, which)
    plan = es.plan(*args[:2], direction=which, algorithm="winograd", **case.explicit, **more)
    _, used = peak(function, *args, algorithm="winograd", **case.explicit)
    assert used <= plan.workspace + PYTHON_OVERHEAD
    assert plan.workspace > 2 * case.channels * case.filters * 9 * 8
    limit = plan.workspace - (1 << 18)
    _, used = peak(function, *args, algorithm="winograd", max_workspace=limit, **case.explicit)
    assert used <= limit + PYTHON_OVERHEAD


def given(case, which):
    """Return the keywords of a plan of a gradient that are not operands."""
    if which == "input_grad":
        return {"input_size": case.input_size}
    return {"kernel_size": case.kernel_size} if which == "filter_grad" else {}


def test_views_are_views():
    x = np.ones((2, 3, 4), np.complex64)
    assert np.shares_memory(complex_as_real.floats(x), x)
    assert complex_as_real.floats(x).shape == (2, 3, 8)
