"""The small-channels engine writes its results and no other memory."""

import numpy as np
import pytest

import einstride as es
import oracle
from checks import same
from einstride import _testing
from oracle import Case
from strategies import arrays

pytest.importorskip("llvmlite")


def case(size, kernel, c, d, stride=1, pad=0):
    n = len(size)
    return Case(2, size, kernel, c, d, (stride,) * n, ((pad, pad),) * n, (1,) * n)


@pytest.fixture
def always():
    """Use the small-channels engine for every job that it supports."""
    with _testing.use(engine="few"), _testing.watching("prefer few channels") as calls:
        yield calls


@pytest.mark.parametrize(
    "one",
    [
        case((17, 15), (7, 7), 3, 18, stride=2, pad=3),
        case((13, 22), (5, 5), 3, 8, stride=4),
        case((61,), (10,), 1, 33, stride=5),
        case((9, 10), (3, 3), 3, 21, pad=1),
    ],
    ids=["first layer", "stride four", "signal", "one stride"],
)
@pytest.mark.parametrize("which", ["forward", "input_grad"])
def test_a_result_inside_a_larger_array(which, one, always):
    x, f, gy = arrays(one, "float32", 9)
    margin = 40
    shape = one.y_shape if which == "forward" else one.x_shape
    buffer = np.full((*shape[:-2], shape[-2] + 2 * margin, shape[-1]), 7, "float32")
    out = buffer[..., margin:-margin, :]
    if which == "forward":
        es.conv(x, f, algorithm="direct", out=out, **one.explicit)
        expected = oracle.forward(x, f, one)
    else:
        es.conv_input_grad(gy, f, one.input_size, algorithm="direct", out=out, **one.explicit)
        expected = oracle.input_grad(gy, f, one)
    same(np.ascontiguousarray(out), expected, "float32")
    assert (buffer[..., :margin, :] == 7).all()
    assert (buffer[..., -margin:, :] == 7).all()
    assert any(call.result for call in always)


@pytest.mark.parametrize("filters", [64, 20, 18])
def test_results_go_past_the_caches(filters, always):
    """Full panels with rows at multiples of 16 bytes are stored past the caches; others
    normally."""
    one = case((9, 10), (3, 3), 3, filters, pad=1)
    x, f, _ = arrays(one, "float32", 5)
    expected = oracle.forward(x, f, one)
    for shift in (0, 1):
        buffer = np.full(expected.size + 64, 7, "float32")
        first = -buffer.ctypes.data // 4 % 16 + shift
        out = buffer[first : first + expected.size].reshape(expected.shape)
        with _testing.use(constants={"streamed result": 0}):
            es.conv(x, f, algorithm="direct", out=out, **one.explicit)
        same(out, expected, "float32")
        assert (buffer[:first] == 7).all()
        assert (buffer[first + expected.size :] == 7).all()
    assert any(call.result for call in always)


@pytest.fixture
def small_blocks():
    with _testing.use(constants={"filter piece": 1 << 11}):
        yield


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16"])
@pytest.mark.parametrize(
    "one",
    [
        case((17, 15), (7, 7), 3, 18, stride=2, pad=3),
        case((64,), (40,), 1, 35, stride=4, pad=19),
        case((61,), (10,), 1, 33, stride=5),
    ],
    ids=["first layer", "long filter", "signal"],
)
def test_large_filters_in_parts(one, dtype, always, small_blocks):
    _, f, gy = arrays(one, dtype, 8)
    with _testing.watching("cut an input gradient into parts") as cuts:
        found = es.conv_input_grad(gy, f, one.input_size, algorithm="direct", **one.explicit)
    same(found, oracle.input_grad(gy, f, one), str(found.dtype))
    assert max(len(cut.result) for cut in cuts) > 1
    gy[-1, -1, ..., -1] = 0 if dtype == "int16" else np.nan
    found = es.conv_input_grad(gy, f, one.input_size, algorithm="direct", **one.explicit)
    plain = es.conv_input_grad(gy, f, one.input_size, algorithm="strided", **one.explicit)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(plain))


@pytest.mark.parametrize(("kernel", "stride", "size"), [(11, 16, 32), (8, 4, 64)])
def test_a_large_filter_that_is_kept_gives_the_same_bits(kernel, stride, size):
    rng = np.random.default_rng(0)
    f = rng.standard_normal((kernel, kernel, 4, 2048)).astype("float32")
    out = (size - kernel) // stride + 1
    gy = rng.standard_normal((1, out, out, 2048)).astype("float32")
    layer = es.Conv(f, stride=stride, algorithm="direct")
    kept = layer.backward(gy, np.zeros((1, size, size, 4), "float32")).gx
    options = {"stride": stride, "algorithm": "direct"}
    np.testing.assert_array_equal(kept, es.conv_input_grad(gy, f, (size, size), **options))


@pytest.mark.parametrize(
    ("x_shape", "filters", "kernel", "dtype"),
    [((1, 32, 32, 1), 64, (7, 7), "float32"), ((8, 560, 2), 16, (9,), "float64")],
)
def test_the_engine_does_not_follow_the_threads(x_shape, filters, kernel, dtype):
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(0)
    out = [n - k + 1 for n, k in zip(x_shape[1:-1], kernel, strict=True)]
    x, gy = (rng.standard_normal(s).astype(dtype) for s in (x_shape, (x_shape[0], *out, filters)))
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(es.conv_filter_grad(x, gy, kernel, algorithm="direct"))
    np.testing.assert_array_equal(*found)
