"""The seed project's three functions: x (B, H, W, C), f (Fh, Fw, C, D), s (Sh, Sw)."""

import numpy as np
import pytest

import einstride as es
import oracle
from checks import refused, same
from oracle import Case
from strategies import arrays

CASE = Case(3, (9, 8), (3, 2), 2, 4, (2, 3), ((0, 0), (0, 0)), (1, 1))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "int64", "int8"])
def test_three_algorithms(backend, dtype):
    x, f, gy = arrays(CASE, dtype, 1)
    dtype = {"int8": "int32"}.get(dtype, dtype)
    same(backend(es.conv4d_forward, x, f, (2, 3)), oracle.forward(x, f, CASE), dtype)
    same(backend(es.conv4d_input_gradient, x, f, gy, (2, 3)), oracle.input_grad(gy, f, CASE), dtype)
    same(
        backend(es.conv4d_filter_gradient, x, f, gy, (2, 3)), oracle.filter_grad(x, gy, CASE), dtype
    )


def test_an_unreached_border_has_no_gradient():
    x, f, gy = np.ones((1, 6, 6, 1)), np.ones((2, 2, 1, 1)), np.ones((1, 2, 2, 1))
    gx = es.conv4d_input_gradient(x, f, gy, (3, 3))
    assert gx[0, :, :, 0].tolist() == np.outer([1, 1, 0, 1, 1, 0], [1, 1, 0, 1, 1, 0]).tolist()


X, F, GY = np.ones((2, 7, 7, 4)), np.ones((3, 3, 4, 6)), np.ones((2, 3, 3, 6))


@pytest.mark.parametrize(
    ("x", "f", "gy", "s"),
    [
        (
            X[..., :3],
            F,
            GY,
            (2, 2),
        ),  # fewer channels than the filter: the seed project read out of bounds
        (np.ones((2, 7, 7, 5)), F, GY, (2, 2)),
        (X[0], F, GY, (2, 2)),
        (X, F[0], GY, (2, 2)),
        (X, F, GY, (0, 2)),
        (X, F, GY, (-1, 2)),
        (X, F, GY, (2.0, 2)),
        (X, F, GY, (2, 2, 2)),
        (X[:, :2], F, GY, (2, 2)),
        (np.ones((1, 7, 7, 7, 4)), np.ones((3, 3, 3, 4, 6)), np.ones((1, 3, 3, 3, 6)), (2, 2, 2)),
        (X.tolist(), F, GY, (2, 2)),
    ],
    ids=[
        "few channels",
        "many channels",
        "x rank",
        "f rank",
        "zero",
        "negative",
        "float",
        "three",
        "small",
        "5-D",
        "list",
    ],
)
def test_refusals_name_the_function_called(x, f, gy, s):
    with refused("conv4d_forward"):
        es.conv4d_forward(x, f, s)
    with refused("conv4d_input_gradient"):
        es.conv4d_input_gradient(x, f, gy, s)
    with refused("conv4d_filter_gradient"):
        es.conv4d_filter_gradient(x, f, gy, s)


@pytest.mark.parametrize(
    "gy", [GY[:1], GY[:, 1:], GY[..., :5], GY[0]], ids=["batch", "size", "channels", "rank"]
)
def test_an_output_gradient_of_another_shape(gy):
    with refused("conv4d_input_gradient", ValueError):
        es.conv4d_input_gradient(X, F, gy, (2, 2))
    with refused("conv4d_filter_gradient", ValueError):
        es.conv4d_filter_gradient(X, F, gy, (2, 2))
