"""windows returns a view (B, *O, *K, C) of x (B, *S, C), bounds-checked and read-only on NumPy."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import einstride as es
from checks import refused, same
from strategies import cases, integer_data, seeds


@given(case=cases(padded=False, grouped=False), seed=seeds)
def test_every_window(backend, case, seed):
    x = integer_data(case.x_shape, "float64", seed)
    spread = {"stride": case.stride, "dilation": case.dilation}
    w = backend(es.windows, x, case.kernel_size, **spread)
    assert w.shape == (case.batch, *case.out_size, *case.kernel_size, case.channels)
    for o in product(*map(range, case.out_size)):
        for k in product(*map(range, case.kernel_size)):
            axes = zip(o, k, case.stride, case.dilation, strict=True)
            i = tuple(a * s + t * d for a, t, s, d in axes)
            np.testing.assert_array_equal(w[(slice(None), *o, *k)], x[(slice(None), *i)])


@pytest.mark.parametrize("dtype", ["float32", "complex128", "int8", "bool", "float16"])
def test_keeps_the_dtype(backend, dtype):
    if not backend.supports(dtype):
        pytest.skip(f"{backend.name} has no {dtype}")
    x = integer_data((1, 5, 2), dtype, 1)
    w = backend(es.windows, x, 3)
    same(w, np.stack([x[:, i : i + 3] for i in range(3)], axis=1), dtype)


def test_a_read_only_view_on_numpy():
    x = integer_data((2, 7, 8, 3), "float64", 1)
    w = es.windows(x, (3, 2), stride=(2, 1))
    assert np.shares_memory(w, x)
    assert not w.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        w[...] = 0
    assert x.flags.writeable


def test_the_seed_six_lines():
    x, f = integer_data((2, 9, 8, 3), "float64", 1), integer_data((3, 2, 3, 5), "float64", 2)
    y = np.einsum("wxyijk,ijkd->wxyd", es.windows(x, (3, 2), stride=(2, 1)), f)
    same(es.conv(x, f, stride=(2, 1)), y)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x[:, ::-1, ::-2],
        lambda x: x.transpose(0, 2, 1, 3),
        lambda x: np.asfortranarray(x),
        lambda x: np.broadcast_to(x[:1, :1], x.shape),
        lambda x: x[..., ::-1],
    ],
    ids=["reversed", "transposed", "fortran", "broadcast", "channels reversed"],
)
def test_of_any_strides(view):
    x = view(integer_data((2, 7, 8, 3), "float64", 1))
    same(es.windows(x, (3, 2), dilation=(2, 1)), es.windows(x.copy(), (3, 2), dilation=(2, 1)))


@pytest.mark.parametrize("shape", [(0, 5, 2), (2, 5, 0)])
def test_of_nothing(backend, shape):
    w = backend(es.windows, np.ones(shape), 3)
    assert w.shape == (shape[0], 3, 3, shape[2])


X = np.ones((1, 5, 6, 2))


@pytest.mark.parametrize(
    ("args", "keywords", "kind", "says"),
    [
        ((X, 6), {}, ValueError, "axis"),
        ((X, (3, 7)), {}, ValueError, "axis"),
        ((X, 3), {"dilation": 3}, ValueError, "axis"),
        ((X, 0), {}, ValueError, "kernel_size"),
        ((X, -1), {}, ValueError, "kernel_size"),
        ((X, (3, 3, 3)), {}, ValueError, "kernel_size"),
        ((X, 2.0), {}, TypeError, "kernel_size"),
        ((X, True), {}, TypeError, "kernel_size"),
        ((X, 2), {"stride": 0}, ValueError, "stride"),
        ((X, 2), {"stride": -1}, ValueError, "stride"),
        ((X, 2), {"stride": 1.0}, TypeError, "stride"),
        ((X, 2), {"stride": (1, 1, 1)}, ValueError, "stride"),
        ((X, 2), {"dilation": 0}, ValueError, "dilation"),
        ((X, 2), {"dilation": True}, TypeError, "dilation"),
        ((np.ones((5, 2)), 2), {}, ValueError, ""),
        ((np.ones(()), 2), {}, ValueError, ""),
        ((X.tolist(), 2), {}, TypeError, "asarray"),
    ],
    ids=lambda value: None if isinstance(value, tuple) else str(value),
)
def test_refusals(args, keywords, kind, says):
    with refused("windows", kind, says):
        es.windows(*args, **keywords)


@given(kernel=st.integers(1, 9), stride=st.integers(1, 4), dilation=st.integers(1, 4))
def test_a_window_is_inside_or_refused(kernel, stride, dilation):
    x = np.arange(9.0).reshape(1, 9, 1)
    if (kernel - 1) * dilation + 1 > 9:
        with refused("windows", ValueError, "axis"):
            es.windows(x, kernel, stride, dilation)
    else:
        assert set(es.windows(x, kernel, stride, dilation).ravel()) <= set(range(9))
