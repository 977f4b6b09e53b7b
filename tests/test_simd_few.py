"""The small-channels engine equals the loops for each vector width, within bounds of arrays."""

from dataclasses import replace

import numpy as np
import pytest

import einstride as es
import oracle
from checks import PASSES, operands, same
from einstride import _testing
from guarded import guarded
from oracle import Case
from strategies import arrays

pytest.importorskip("llvmlite")
WIDTHS = _testing.vector_widths()


def case(size, kernel, c, d, stride=1, pad=0, dilation=1, batch=2, **more):
    n = len(size)
    strides = stride if isinstance(stride, tuple) else (stride,) * n
    pads = pad if isinstance(pad, tuple) else ((pad, pad),) * n
    return Case(batch, size, kernel, c, d, strides, pads, (dilation,) * n, **more)


CASES = {
    "first layer": case((17, 15), (7, 7), 3, 18, stride=2, pad=3),
    "stride four": case((23, 19), (5, 5), 3, 8, stride=4, batch=1),
    "one stride": case((9, 10), (3, 3), 3, 21, pad=1),
    "patches": case((9, 8), (4, 4), 3, 12, stride=4),
    "wide patches": case((10, 33), (1, 16), 5, 7, stride=(1, 16)),
    "signal": case((61,), (10,), 1, 33, stride=5),
    "long filter": case((64,), (40,), 1, 35, stride=4, pad=19),
    "valid signal": case((57,), (31,), 1, 24),
    "uneven": case((11, 12), (5, 2), 2, 9, stride=(3, 1), pad=((1, 2), (0, 1))),
    "cropped": case((12, 11), (3, 3), 2, 9, stride=2, pad=((-2, 1), (0, -1))),
    "gaps": case((10, 11), (2, 2), 2, 5, stride=3),
    "dilated": case((12, 13), (3, 3), 2, 9, stride=2, pad=2, dilation=2),
    "flipped": case((9, 10), (4, 3), 3, 9, stride=2, pad=1, flip=True),
    "line": case((40,), (3,), 2, 17, pad=1),
    "volume": case((5, 6, 7), (3, 2, 3), 2, 10, stride=2, pad=1),
    "one of each": case((3, 3), (3, 3), 1, 1, batch=1),
}


@pytest.fixture
def always():
    """Use the small-channels engine for every job that it supports."""
    with _testing.use(engine="few"), _testing.watching("prefer few channels") as calls:
        yield calls


@pytest.fixture(params=WIDTHS)
def width(request, always):
    with _testing.use(target=WIDTHS[request.param]):
        yield request.param


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("which", PASSES)
def test_against_the_loops(which, name, width, always):
    function, args, pair = operands(which, CASES[name], *arrays(CASES[name], "float32", 3))
    found = function(*args, algorithm="direct", **CASES[name].explicit)
    same(found, oracle.PASSES[which](*pair, CASES[name]), "float32")
    assert any(call.result for call in always) or (which != "input_grad" and name == "dilated")


@pytest.mark.parametrize("strides", [(1,), (1, 2), (1, 3, 5), (1, 16)])
@pytest.mark.parametrize("name", CASES)
def test_every_size_of_a_block(name, strides, always):
    """Results are right for blocks of every number of strides, whatever their cost."""

    def cut(real, g, axes, *more):
        return replace(real(g, axes, *more), work=-float(sum(axis.strides for axis in axes)))

    function, args, pair = operands("input_grad", CASES[name], *arrays(CASES[name], "float32", 4))
    with (
        _testing.use(constants={"strides of a block": strides}),
        _testing.replacing("cut positions into blocks", cut),
    ):
        found = function(*args, algorithm="direct", **CASES[name].explicit)
    same(found, oracle.input_grad(*pair, CASES[name]), "float32")


@pytest.mark.parametrize("end", [True, False], ids=["end", "start"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("which", PASSES)
def test_nothing_beside_the_arrays_is_touched(which, name, end, width):
    one = CASES[name]
    given = [guarded(a, end) for a in arrays(one, "float32", 5)]
    function, args, pair = operands(which, one, *given)
    expected = oracle.PASSES[which](*pair, one)
    out = guarded(np.zeros(expected.shape, "float32"), end)
    function(*args, algorithm="direct", out=out, **one.explicit)
    same(out, expected, "float32")


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint8", "int32", "int64"])
@pytest.mark.parametrize("which", PASSES)
def test_dtypes(which, dtype, always):
    one = CASES["flipped"]
    function, args, pair = operands(which, one, *arrays(one, dtype, 1))
    keywords = {"accumulate": "int64"} if which == "filter_grad" and "int8" in dtype else {}
    found = function(*args, algorithm="direct", **keywords, **one.explicit)
    same(found, oracle.PASSES[which](*pair, one), str(found.dtype))
    assert any(call.result for call in always)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular", "symmetric"])
@pytest.mark.parametrize("which", PASSES)
def test_padding_modes(which, mode, always):
    one = replace(CASES["first layer"], mode=mode)
    function, args, pair = operands(which, one, *arrays(one, "float32", 1))
    found = function(*args, algorithm="direct", **one.explicit)
    same(found, oracle.PASSES[which](*pair, one), "float32")
    assert any(call.result for call in always)


@pytest.mark.parametrize("order", ["reversed", "channels first", "strided"])
@pytest.mark.parametrize("which", PASSES)
def test_arrays_of_other_memory_orders(which, order, always):
    one = CASES["first layer"]
    first, second, third = arrays(one, "float32", 2)

    def view(a):
        if order == "channels first":
            return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, -1, 1)), 1, -1)
        if order == "reversed":
            return np.ascontiguousarray(a[:, ::-1, ::-1])[:, ::-1, ::-1]
        return np.repeat(np.repeat(a, 2, 0), 2, 2)[::2, :, ::2]

    function, args, pair = operands(which, one, view(first), view(second), view(third))
    found = function(*args, algorithm="direct", **one.explicit)
    same(found, oracle.PASSES[which](*pair, one), "float32")


def test_a_bias_is_added_once(always):
    one = CASES["first layer"]
    _, f, gy = arrays(one, "float32", 7)
    bias = np.array([1, -2, 3], "float32")
    found = es.conv_transpose(
        gy, f, bias, stride=2, padding=3, output_size=one.input_size, algorithm="direct"
    )
    same(found, oracle.input_grad(gy, f, one) + bias, "float32")
    assert any(call.result for call in always)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["first layer", "stride four", "one stride", "signal", "gaps"])
@pytest.mark.parametrize("which", PASSES)
def test_what_is_not_finite_stays_in_its_windows(which, name, value, always):
    """A NaN or an infinity is not multiplied with zeros of the fused filter, at any accuracy."""
    one = CASES[name]
    x, f, gy = (np.ones(shape, "float32") for shape in (one.x_shape, one.f_shape, one.y_shape))
    bad = gy if which == "input_grad" else x
    at = tuple(n // 2 for n in bad.shape)
    touched = np.zeros(bad.shape)
    touched[at], bad[at] = 1, value
    function, args, pair = operands(which, one, x, f, gy)
    found = function(*args, algorithm="direct", **one.explicit)
    assert found.dtype == "float32"
    inside = oracle.PASSES[which](touched, np.ones(pair[1].shape), one) != 0
    np.testing.assert_array_equal(np.isfinite(found), ~inside)
    assert any(call.result for call in always)


@pytest.mark.parametrize("name", ["first layer", "one stride", "line"])
def test_a_gradient_that_is_not_finite_leaves_taps_in_the_border_alone(name, always):
    """A filter gradient does not multiply gy with the zeros of the border."""
    one = CASES[name]
    x, gy = np.ones(one.x_shape, "float32"), np.zeros(one.y_shape, "float32")
    first = (0,) * gy.ndim
    given = {"kernel_size": one.kernel_size, **one.explicit}
    gy[first] = 1
    inside = es.conv_filter_grad(x, gy, algorithm="strided", **given) != 0
    gy[first] = np.nan
    found = es.conv_filter_grad(x, gy, algorithm="direct", **given)
    np.testing.assert_array_equal(np.isnan(found), inside)
    assert inside.any()
    assert not inside[..., 0].all()


@pytest.mark.parametrize(
    "one",
    [
        case((90, 90), (7, 7), 3, 64, stride=2, pad=3, batch=4),
        case((700,), (300,), 1, 200, stride=4, pad=150, batch=3),
        case((60, 60), (8, 8), 3, 100, stride=8, batch=9),
    ],
    ids=["first layer", "slices", "patches"],
)
@pytest.mark.parametrize("which", PASSES)
def test_large_ones_on_any_number_of_threads(which, one, always):
    from threadpoolctl import threadpool_limits

    function, args, pair = operands(which, one, *arrays(one, "float32", 11))
    keywords = one.explicit
    found = function(*args, algorithm="direct", **keywords)
    same(found, function(*args, algorithm="strided", **keywords), "float32")
    assert any(call.result for call in always)
    rng = np.random.default_rng(0)
    noise = [rng.normal(size=a.shape).astype("float32") for a in pair]
    args = [next(n for n, p in zip(noise, pair, strict=True) if p is a)
            if any(p is a for p in pair) else a for a in args]  # fmt: skip
    both = function(*args, algorithm="direct", **keywords)
    with threadpool_limits(1):
        alone = function(*args, algorithm="direct", **keywords)
    np.testing.assert_array_equal(both, alone)


def test_a_prepared_filter_gives_the_same(always):
    rng = np.random.default_rng(1)
    x, f = rng.normal(size=(2, 19, 18, 3)), rng.normal(size=(7, 7, 3, 24))
    layer = es.Conv(f, padding="same", stride=2, algorithm="direct")
    y = layer(x)
    gx = layer.backward(y, x).gx
    alone = es.conv_input_grad(y, f, (19, 18), padding="same", stride=2, algorithm="direct")
    np.testing.assert_array_equal(gx, alone)
    assert any(call.result for call in always)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "c"),
    [((64, 64), (7, 7), 2, 3), ((64, 64), (8, 8), 8, 3), ((4000,), (10,), 5, 1)],
)
def test_first_layers_and_patches_take_it_by_themselves(size, kernel, stride, c):
    """For vectors of 64 bytes, plans of first layers and patches choose the engine; none is
    compiled."""
    x_shape, f_shape = (16, *size, c), (*kernel, c, 64)
    y_shape = (16, *es.output_size(size, kernel, stride=stride), 64)
    keywords = {"stride": stride, "algorithm": "direct"}
    with (
        _testing.use(target=_testing.Target("x86-64-v4", "", 64, 32)),
        _testing.watching("prefer few channels") as seen,
    ):
        es.plan(y_shape, f_shape, direction="input_grad", input_size=size, **keywords)
        es.plan(x_shape, y_shape, direction="filter_grad", kernel_size=kernel, **keywords)
    assert len(seen) == 2
    assert all(call.result for call in seen)
