"""Convolutions whose last axis becomes channels, and the number of positions in a tile."""

from dataclasses import replace

import numpy as np
import pytest

import einstride as es
from einstride import _testing

pytest.importorskip("llvmlite")
from einstride.algorithms.direct import shapes
from einstride.codegen import jit
from einstride.cpu.dense import forward_call, pack_call

FULL_STRIDES = {  # size, kernel, stride, channels, filters, padding; all of full strides
    "line": ((40,), (8,), 4, 5, 9, 0),
    "padded": ((44,), (4,), 2, 5, 9, ((2, 2),)),
    "patches": ((12, 16), (4, 4), 4, 3, 20, 0),
    "cropped": ((13, 16), (3, 4), 2, 7, 20, ((1, 1), (-2, 3))),
    "one axis": ((8, 12), (2, 2), (1, 2), 6, 40, 0),
    "rest": ((32,), (2,), 2, 5, 9, ((0, 1),)),
}
OTHERS = {
    "a half stride": ((30,), (3,), 2, 5, 9, 0),
    "an odd size": ((31,), (4,), 2, 5, 9, 0),
    "an odd border": ((30,), (4,), 2, 5, 9, ((1, 1),)),
}


@pytest.fixture(autouse=True)
def _outer_products():
    with _testing.use(engine="dense"):
        yield


def job(size, kernel, stride, c, d, padding, batch=2):
    """An input gradient."""
    p = es.plan((batch, *size, c), (*kernel, c, d), stride=stride, padding=padding)
    return replace(p._decision.job, direction="input_grad")


@pytest.mark.parametrize("name", FULL_STRIDES)
def test_full_strides_are_one_pass(name):
    one = job(*FULL_STRIDES[name])
    g, run = one.geometry, shapes.positions_as_channels(one)
    assert run.stride[-1] == 1
    assert (run.out, run.filters) == (g.out, g.filters)
    assert np.prod(run.x_shape) == np.prod(g.x_shape)
    assert np.prod(run.f_shape) == np.prod(g.f_shape)


@pytest.mark.parametrize("name", OTHERS)
def test_others_keep_their_phases(name):
    one = job(*OTHERS[name])
    assert shapes.positions_as_channels(one) == one.geometry


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float16"])
@pytest.mark.parametrize("name", [*FULL_STRIDES, *OTHERS])
def test_input_gradients(name, dtype):
    size, kernel, stride, c, d, padding = (FULL_STRIDES | OTHERS)[name]
    rng = np.random.default_rng(5)
    f = rng.integers(-3, 4, size=(*kernel, c, d)).astype(dtype)
    x, bias = np.zeros((2, *size, c), dtype), rng.integers(-3, 4, size=c).astype(dtype)
    given = {"stride": stride, "padding": padding}
    y = es.conv(x, f, algorithm="strided", **given)
    gy = rng.integers(-3, 4, size=y.shape).astype(dtype)
    expected = es.conv_input_grad(gy, f, size, algorithm="strided", **given)
    wide = np.empty((*x.shape[:-1], c + 2), dtype)[..., :c]
    for out in (None, np.empty(x.shape, dtype), wide):
        found = es.conv_input_grad(gy, f, size, algorithm="direct", out=out, **given)
        np.testing.assert_array_equal(found, expected)
    layer = es.Conv(f, algorithm="direct", **given)
    for _ in range(2):  # the second time with the prepared filter
        np.testing.assert_array_equal(layer.backward(gy, x)[0], expected)
    turned = np.ascontiguousarray(np.moveaxis(f, -1, 0))
    turned = np.moveaxis(turned, 0, -1)
    for limit in (None, 1 << 20):  # two plans of one geometry
        found = es.conv_transpose(
            gy, turned, bias, output_size=size, algorithm="direct", max_workspace=limit, **given
        )
        np.testing.assert_array_equal(found, expected + bias)


@pytest.mark.parametrize("positions", [1, 2, 3, 5, 7, 11, 13, 49])
@pytest.mark.parametrize("filters", [8, 40, 64])
def test_a_few_positions(positions, filters):
    rng = np.random.default_rng(positions)
    x = rng.integers(-3, 4, size=(1, positions, 9)).astype("float32")
    f = rng.integers(-3, 4, size=(1, 9, filters)).astype("float32")
    found = es.conv(x, f, algorithm="direct")
    np.testing.assert_array_equal(found, es.conv(x, f, algorithm="strided"))


def test_tiles_waste_few_positions():
    s = pack_call.panel_layout("float32", 512, jit.host_target())
    assert forward_call._tile_positions(s, 10_000) == s.rows
    for positions in range(1, 60):
        rows = forward_call._tile_positions(s, positions)
        assert 1 <= rows <= s.rows
        assert -(-positions // rows) * rows <= -(-positions // s.rows) * s.rows


@pytest.mark.parametrize("dtype", ["float32", "float16", "int16", "float64"])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 1, 3, 2), (3, 0, 1, 2), (2, 3, 1, 0)])
@pytest.mark.parametrize(("c", "d"), [(37, 70), (16, 64), (3, 5)])
def test_filters_of_any_memory_order(order, c, d, dtype):
    rng = np.random.default_rng(6)
    f = rng.integers(-3, 4, size=(2, 3, c, d)).astype(dtype)
    back = np.argsort(order)
    f = np.transpose(np.ascontiguousarray(np.transpose(f, order)), back)
    x = rng.integers(-3, 4, size=(1, 6, 7, c)).astype(dtype)
    expected = es.conv(x, f, algorithm="strided")
    np.testing.assert_array_equal(es.conv(x, f, algorithm="direct"), expected)
    layer = es.Conv(f, algorithm="direct")
    np.testing.assert_array_equal(layer(x), expected)
