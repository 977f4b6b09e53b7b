"""conv_transpose is the adjoint of conv: f has the shape for conv, x has D channels, y has C."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import einstride as es
import oracle
from checks import ALGORITHMS, refused, same
from oracle import span
from strategies import cases, integer_data, seeds


def base_size(case, x_size):
    """Return the smallest size whose forward convolution has `x_size`."""
    axes = zip(x_size, case.kernel_size, case.stride, case.pads, case.dilation, strict=True)
    return tuple((n - 1) * s + span(k, d) - sum(pad) for n, k, s, pad, d in axes)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", ["float32", "complex128", "int64"])
@given(case=cases(max_rank=3), seed=seeds)
def test_output_size_makes_it_the_input_gradient(backend, algorithm, dtype, case, seed):
    x, f = integer_data(case.y_shape, dtype, seed), integer_data(case.f_shape, dtype, seed + 1)
    y = backend(
        es.conv_transpose, x, f, output_size=case.input_size, algorithm=algorithm, **case.keywords
    )
    same(y, oracle.input_grad(x, f, case), dtype)
    grad = backend(es.conv_input_grad, x, f, case.input_size, algorithm=algorithm, **case.keywords)
    same(grad, y)


@pytest.mark.parametrize("dtype", ["float64", "complex64"])
@given(
    case=cases(max_rank=3), seed=seeds, extra=st.lists(st.integers(0, 2), min_size=3, max_size=3)
)
def test_output_padding_adds_to_the_high_end(backend, dtype, case, seed, extra):
    x, f = integer_data(case.y_shape, dtype, seed), integer_data(case.f_shape, dtype, seed + 1)
    limits = zip(extra, case.stride, case.dilation, strict=False)
    more = tuple(min(e, max(s, d) - 1) for e, s, d in limits)
    size = tuple(n + e for n, e in zip(base_size(case, case.out_size), more, strict=True))
    if min(size) < 1:
        return
    y = backend(es.conv_transpose, x, f, output_padding=more, **case.explicit)
    same(y, oracle.input_grad(x, f, case, size), dtype)


def test_same_gives_n_times_stride(backend):
    for stride in (1, 2, 3, 5):
        x, f = integer_data((1, 4, 2), "float64", 1), integer_data((3, 3, 2), "float64", 2)
        y = backend(es.conv_transpose, x, f, stride=stride, padding="same")
        assert y.shape == (1, 4 * stride, 3)
        same(y, backend(es.conv_input_grad, x, f, 4 * stride, stride=stride, padding="same"))


@pytest.mark.parametrize(
    ("padding", "size"),
    [("valid", 11), (1, 9), (((0, 1),), 10), ("full", 7), (-1, 13), ("causal", 9)],
)
def test_padding_crops(backend, padding, size):
    x, f = integer_data((1, 5, 1), "float64", 1), integer_data((3, 1, 1), "float64", 2)
    y = backend(es.conv_transpose, x, f, stride=2, padding=padding)
    assert y.shape == (1, size, 1)


def test_by_hand():
    x, f = np.array([1.0, 2.0]).reshape(1, 2, 1), np.array([1.0, 10.0, 100.0]).reshape(3, 1, 1)
    assert es.conv_transpose(x, f, stride=2).ravel().tolist() == [1, 10, 102, 20, 200]
    assert es.conv_transpose(x, f, stride=2, padding=1).ravel().tolist() == [10, 102, 20]
    assert es.conv_transpose(x, f, stride=2, output_padding=1).ravel().tolist() == [
        1,
        10,
        102,
        20,
        200,
        0,
    ]
    assert es.conv_transpose(x, f, stride=2, padding=1, output_padding=1).ravel().tolist() == [
        10,
        102,
        20,
        200,
    ]


def test_the_filter_is_conjugated(backend):
    x, f = np.full((1, 1, 1), 1j), np.full((1, 1, 1), 1j)
    assert backend(es.conv_transpose, x, f).item() == 1


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_bias_has_the_length_of_y_channels(backend, dtype):
    x, f = integer_data((2, 3, 4, 6), dtype, 1), integer_data((3, 2, 2, 6), dtype, 2)
    bias = np.arange(4).astype(dtype)  # C = 2 * groups
    y = backend(es.conv_transpose, x, f, bias, stride=2, groups=2)
    same(y, backend(es.conv_transpose, x, f, stride=2, groups=2) + bias)
    with refused("conv_transpose", ValueError, "bias"):
        es.conv_transpose(x, f, np.zeros(6, dtype), stride=2, groups=2)


def test_output_positions_without_a_product_hold_the_bias(backend):
    x, f = np.ones((1, 2, 1)), np.ones((1, 1, 1))
    y = backend(es.conv_transpose, x, f, np.array([7.0]), stride=3, output_padding=2)
    assert y.ravel().tolist() == [8, 7, 7, 8, 7, 7]


@pytest.mark.parametrize("layout", ["channels_first", "NCHW,IOHW->NHWC"])
def test_layout_keeps_the_filter_of_conv(backend, layout):
    """In a layout string, O is the filter axis that is summed with x's channels."""
    x, f = integer_data((2, 3, 4, 6), "float64", 1), integer_data((3, 2, 5, 6), "float64", 2)
    plain = es.conv_transpose(x, f, stride=(2, 1), output_padding=(1, 0))
    order = (3, 2, 0, 1) if layout == "channels_first" else (2, 3, 0, 1)
    first = np.ascontiguousarray(x.transpose(0, 3, 1, 2)), np.ascontiguousarray(f.transpose(order))
    y = backend(es.conv_transpose, *first, stride=(2, 1), output_padding=(1, 0), layout=layout)
    same(y, plain.transpose(0, 3, 1, 2) if layout == "channels_first" else plain)


X, F = np.ones((1, 4, 4, 6)), np.ones((3, 3, 2, 6))


@pytest.mark.parametrize(
    ("keywords", "kind", "says"),
    [
        ({"stride": 2, "output_padding": 1, "output_size": 10}, ValueError, "output_size"),
        ({"stride": 2, "output_padding": 2}, ValueError, "output_padding"),
        ({"stride": 2, "output_padding": -1}, ValueError, "output_padding"),
        ({"output_padding": 1}, ValueError, "output_padding"),
        ({"stride": 2, "output_padding": (1, 2)}, ValueError, "output_padding"),
        ({"stride": 2, "output_padding": (1,)}, ValueError, "output_padding"),
        ({"stride": 2, "output_padding": 1.0}, TypeError, "output_padding"),
        ({"stride": 2, "output_padding": True}, TypeError, "output_padding"),
        ({"stride": 2, "output_size": 11}, ValueError, "output_size"),
        ({"stride": 2, "output_size": 8}, ValueError, "output_size"),
        ({"stride": 2, "output_size": (9, 9, 9)}, ValueError, "output_size"),
        ({"stride": 2, "output_size": 9.0}, TypeError, "output_size"),
        ({"stride": 2, "padding_mode": "reflect"}, ValueError, "padding_mode"),
    ],
    ids=str,
)
def test_refusals(keywords, kind, says):
    with refused("conv_transpose", kind, says):
        es.conv_transpose(X, F, **keywords)


def test_output_padding_may_reach_the_dilation(backend):
    y = backend(es.conv_transpose, X, F, dilation=3, output_padding=2)
    assert y.shape == (1, 12, 12, 2)
    assert not y[:, -2:].any()


def test_channels_must_meet():
    with refused("conv_transpose", ValueError, "channels"):
        es.conv_transpose(np.ones((1, 4, 4, 2)), F)
