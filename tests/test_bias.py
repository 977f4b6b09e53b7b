"""A bias is added to every output of its channel; its gradient sums over batch and positions."""

import numpy as np
import pytest
from hypothesis import given

import einstride as es
from checks import EVERY, agrees, is_unsupported, same
from strategies import arrays, cases, integer_data, seeds


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("dtype", ["float32", "complex128", "int64"])
@given(case=cases(max_rank=3), seed=seeds)
def test_forward(backend, algorithm, dtype, case, seed):
    x, f, _ = arrays(case, dtype, seed)
    bias = integer_data((case.filters,), dtype, seed)
    keywords = case.keywords | {"algorithm": algorithm}
    if is_unsupported(lambda: backend(es.conv, x, f, bias, **keywords), algorithm, dtype):
        return
    plain = backend(es.conv, x, f, **keywords)
    agrees(backend(es.conv, x, f, bias, **keywords), plain + bias, None, algorithm)
    agrees(backend(es.conv, x, f, bias=bias, **keywords), plain + bias, None, algorithm)


def test_an_int32_bias_of_an_int8_convolution(backend):
    x, f = integer_data((1, 5, 2), "int8", 1), integer_data((3, 2, 3), "int8", 2)
    bias = np.array([100_000, -5, 0], "int32")
    same(backend(es.conv, x, f, bias), backend(es.conv, x, f) + bias, "int32")


@pytest.mark.parametrize(
    ("layout", "f_shape", "axis"),
    [
        ("channels_last", (1, 1, 3, 3), 3),
        ("channels_first", (3, 3, 1, 1), 1),
        ("NHWC,HWIO->HCWN", (1, 1, 3, 3), 1),
    ],
)
def test_the_layout_says_where_the_channels_are(backend, layout, f_shape, axis):
    bias = np.array([1.0, 2.0, 3.0])
    y = backend(es.conv, np.zeros((2, 3, 3, 3)), np.zeros(f_shape), bias, layout=layout)
    channels_last = np.moveaxis(y, axis, -1)
    same(channels_last, np.broadcast_to(bias, channels_last.shape))


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "int64"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_gradient(backend, rank, dtype):
    gy = integer_data((2, *range(3, 3 + rank), 4), dtype, 5)
    same(backend(es.conv_bias_grad, gy), gy.sum(axis=tuple(range(rank + 1))), dtype)


@pytest.mark.parametrize(
    ("layout", "axis"), [("channels_first", 1), ("NHWC,HWIO->HCWN", 1), ("NCHW,OIHW->NHWC", 3)]
)
def test_gradient_reads_the_output_part_of_the_layout(backend, layout, axis):
    gy = integer_data((2, 3, 4, 5), "float64", 6)
    others = tuple(a for a in range(4) if a != axis)
    same(backend(es.conv_bias_grad, gy, layout=layout), gy.sum(axis=others))


def test_gradient_is_the_adjoint_of_adding_the_bias(backend):
    gy, bias = integer_data((2, 4, 3, 5), "complex128", 7), integer_data((5,), "complex128", 8)
    added = np.broadcast_to(bias, gy.shape)
    assert np.sum(added * gy.conj()) == np.sum(bias * backend(es.conv_bias_grad, gy).conj())


def test_gradient_of_float16_accumulates_in_float32():
    gy = np.ones((1, 5000, 1), "float16")  # sums of ones in float16 end at 2048
    same(es.conv_bias_grad(gy), np.array([5000.0], "float16"))


def test_gradient_of_small_integers_does_not_wrap(backend):
    gy = np.full((1, 1000, 2), 127, "int8")
    assert backend(es.conv_bias_grad, gy).tolist() == [127_000, 127_000]


def test_gradient_of_an_empty_batch_is_zero(backend):
    same(backend(es.conv_bias_grad, np.ones((0, 3, 2))), np.zeros(2))
