"""Arrays of more than 2**31 elements, made by broadcasting, give right results."""

import numpy as np
import pytest

import einstride as es
from checks import refused, same
from test_workspace import MiB, peak

# x[i, j] = ROW[j]: all rows have one address, and the result follows from one row.
ROW = np.arange(1.0, 18, dtype="float32").reshape(1, 1, 17, 1)


def tall(rows, columns=17):
    """Return an array (1, rows, columns, 1) in 68 bytes of memory."""
    return np.broadcast_to(ROW[:, :, :columns], (1, rows, columns, 1))


@pytest.mark.parametrize("algorithm", ["strided", "gemm", "auto"])
@pytest.mark.parametrize("rows", [2**28, 2**31 + 5, 2**40])
def test_a_tiny_output_of_a_strided_filter(algorithm, rows):
    """Windows at both ends of 2**32 elements or more are read with little workspace."""
    x, f = tall(rows), np.arange(1.0, 5, dtype="float32").reshape(2, 2, 1, 1)
    keywords = {"stride": (rows // 3, 5), "dilation": (rows // 3 - 1, 1)}
    y, used = peak(es.conv, x, f, algorithm=algorithm, **keywords)
    one = es.conv(np.broadcast_to(ROW, (1, 2, 17, 1)), f, stride=(1, 5))
    same(y, np.broadcast_to(one, (1, *es.output_size((rows, 17), 2, **keywords), 1)))
    assert y.shape[1] >= 2
    assert used < MiB


@pytest.mark.parametrize("algorithm", ["strided", "gemm"])
def test_a_pointwise_filter_on_an_input_of_8_gib(algorithm):
    """A filter with stride 2**25 on an input of 2**31 elements has a result of 64 rows."""
    x = np.broadcast_to(ROW[:, :, :1], (1, 2**31, 1, 1))
    y, used = peak(
        es.conv, x, np.full((1, 1, 1, 1), 3, "f4"), stride=(2**25, 1), algorithm=algorithm
    )
    same(y, np.full((1, 64, 1, 1), 3, "float32"))
    assert used < MiB


@pytest.mark.parametrize("algorithm", ["strided", "gemm"])
@pytest.mark.parametrize("per_example", [False, True])
def test_the_filter_gradient(algorithm, per_example):
    x = tall(2**34)
    gy = np.ones((1, 8, 4, 1), "f4")
    kernel, stride = (1, 2), (2**31, 5)
    gf, used = peak(
        es.conv_filter_grad, x, gy, kernel, stride=stride, algorithm=algorithm,
        per_example=per_example,
    )  # fmt: skip
    first = ROW[0, 0, [0, 5, 10, 15], 0].sum() * 8
    expected = np.array([first, first + 32], "float32").reshape(1, 2, 1, 1)
    same(gf, expected[None] if per_example else expected)
    assert used < MiB


def test_windows():
    """Strides of `windows` may exceed 2**33 bytes."""
    x = np.broadcast_to(ROW, (1, 2**32, 17, 1))
    w = es.windows(x, (2, 3), stride=(2**31 - 1, 7), dilation=(2**31, 1))
    assert w.shape == (1, 2, 3, 2, 3, 1)
    same(w[0, 1, 2, 1, :, 0], ROW[0, 0, 14:17, 0])


def test_a_real_buffer_of_2_gib_addresses():
    """Strides exceed 2**31 bytes in allocated memory, of which only the ends are accessed."""
    size = 2**31 + 2**20
    x = np.zeros((1, size, 1), "int8")  # the system allocates pages at their first write
    x[0, 0, 0], x[0, -1, 0] = 3, 5
    f = np.array([1, 10], "int8").reshape(2, 1, 1)
    y, used = peak(es.conv, x, f, dilation=size - 1)
    same(y, np.full((1, 1, 1), 53, "int32"))
    assert used < MiB


def test_a_large_empty_batch():
    x = np.broadcast_to(np.float32(2), (2**31 + 2, 0, 1))
    assert es.conv(x, np.ones((1, 1, 3), "f4"), padding="same").shape == (2**31 + 2, 0, 3)


@pytest.mark.parametrize("which", ["conv", "conv_input_grad", "conv_filter_grad"])
def test_channels_beyond_2_31(which):
    """The plan of 2**31 filters, whose arrays are not made, counts without overflow."""
    x, f = np.broadcast_to(np.int8(1), (1, 4, 2**31)), np.broadcast_to(np.int8(1), (1, 2**31, 1))
    gy = np.broadcast_to(np.int8(1), (1, 4, 1))
    calls = {
        "conv": lambda: es.conv(x, f),
        "conv_input_grad": lambda: es.plan(gy, f, direction="input_grad", input_size=4),
        "conv_filter_grad": lambda: es.plan(x, gy, direction="filter_grad", kernel_size=1),
    }
    if which == "conv":  # 2**31 products of int8 could exceed int32
        with refused("conv", ValueError, 'accumulate="int64"'):
            calls[which]()
    else:
        assert 2**31 in calls[which]().output_shape


def test_an_output_that_no_array_could_hold_is_refused():
    x = np.broadcast_to(np.float32(1), (2**30, 2**30, 1))
    with refused("conv", ValueError, "2**58"):
        es.conv(x, np.ones((1, 1, 5), "f4"))
