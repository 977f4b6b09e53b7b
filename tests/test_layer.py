"""A `Conv` holds its filter; forward stores x, and backward returns (gx, gf, gb)."""

import numpy as np
import pytest
from hypothesis import given

import einstride as es
from checks import refused, same
from strategies import arrays, cases, integer_data, seeds


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@given(case=cases(max_rank=3), seed=seeds)
def test_is_the_three_functions(backend, dtype, case, seed):
    x, f, gy = (backend.asarray(a) for a in arrays(case, dtype, seed))
    bias = backend.asarray(integer_data((case.filters,), dtype, seed))
    layer = es.Conv(f, bias, **case.keywords)

    def equal(ours, theirs):
        assert isinstance(ours, backend.array_type)
        same(backend.asnumpy(ours), backend.asnumpy(theirs))

    y = es.conv(x, f, bias, **case.keywords)
    equal(layer(x), y)
    equal(layer.forward(x), y)
    grads = layer.backward(gy)
    gx, gf, gb = grads
    assert gx is grads.gx
    assert gf is grads.gf
    assert gb is grads.gb
    equal(gx, es.conv_input_grad(gy, f, case.input_size, **case.keywords))
    equal(gf, es.conv_filter_grad(x, gy, case.kernel_size, **case.keywords))
    equal(gb, es.conv_bias_grad(gy))


@pytest.fixture
def arrays_2d():
    x, f = integer_data((2, 6, 5, 2), "float64", 1), integer_data((3, 3, 2, 4), "float64", 2)
    return x, f, integer_data((2, 4, 3, 4), "float64", 3)


def test_without_a_bias_its_gradient_is_none(arrays_2d):
    x, f, gy = arrays_2d
    layer = es.Conv(f)
    layer.forward(x)
    assert layer.backward(gy).gb is None


def test_calling_remembers_nothing(arrays_2d):
    x, f, gy = arrays_2d
    layer = es.Conv(f)
    layer.forward(x)
    layer(x * 2)
    same(layer.backward(gy).gf, es.conv_filter_grad(x, gy, (3, 3)))


def test_forward_remembers_by_reference(arrays_2d):
    x, f, gy = arrays_2d
    layer = es.Conv(f)
    layer.forward(x)
    x *= 3
    same(layer.backward(gy).gf, es.conv_filter_grad(x, gy, (3, 3)))


def test_the_last_forward_counts(arrays_2d):
    x, f, gy = arrays_2d
    layer = es.Conv(f)
    layer.forward(np.ones((9, 3, 3, 2)))
    layer.forward(x)
    same(layer.backward(gy).gf, es.conv_filter_grad(x, gy, (3, 3)))
    same(layer.backward(gy).gx, es.conv_input_grad(gy, f, (6, 5)))  # backward may be called twice


def test_backward_of_a_given_input(arrays_2d):
    x, f, gy = arrays_2d
    layer = es.Conv(f)
    gx, gf, gb = layer.backward(gy, x=x)
    same(gx, es.conv_input_grad(gy, f, (6, 5)))
    same(gf, es.conv_filter_grad(x, gy, (3, 3)))
    assert gb is None


def test_backward_before_forward_is_refused(arrays_2d):
    x, f, gy = arrays_2d
    layer = es.Conv(f)
    layer(x)
    with pytest.raises((ValueError, TypeError, RuntimeError), match=r"forward"):
        layer.backward(gy)


def test_its_filter_is_a_read_only_copy(arrays_2d):
    x, f, _ = arrays_2d
    layer = es.Conv(f)
    y = layer(x)
    same(layer.f, f)
    assert not np.shares_memory(layer.f, f)
    assert f.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        layer.f[...] = 0
    f[...] = 0
    same(layer(x), y)


def test_setting_the_filter_replaces_it(arrays_2d):
    x, f, gy = arrays_2d
    layer = es.Conv(f, np.ones(4))
    layer.forward(x)
    layer.f = new = f * 2 - 1
    assert not np.shares_memory(layer.f, new)
    same(layer(x), es.conv(x, new, np.ones(4)))
    same(layer.backward(gy).gx, es.conv_input_grad(gy, new, (6, 5)))
    new[...] = 0
    same(layer.f, f * 2 - 1)


def test_the_caller_may_pass_an_alias(arrays_2d):
    x, f, _ = arrays_2d
    layer = es.Conv(f)
    layer.f = layer.f
    same(layer(x), es.conv(x, f))


@pytest.mark.parametrize("layout", ["channels_first", "NCHW,HWIO->NHWC"])
def test_in_any_layout(arrays_2d, layout):
    x, f, _ = arrays_2d
    keywords = {"layout": layout, "stride": 1, "padding": "same"}
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    f = np.ascontiguousarray(f.transpose(3, 2, 0, 1)) if layout == "channels_first" else f
    layer = es.Conv(f, np.arange(4.0), **keywords)
    y = layer.forward(x)
    same(y, es.conv(x, f, np.arange(4.0), **keywords))
    gx, gf, gb = layer.backward(y)
    same(gx, es.conv_input_grad(y, f, (6, 5), **keywords))
    same(gf, es.conv_filter_grad(x, y, (3, 3), **keywords))
    same(gb, es.conv_bias_grad(y, layout=layout))


def test_refusals(arrays_2d):
    x, f, gy = arrays_2d
    with refused("Conv", TypeError):
        es.Conv(f.tolist())
    with refused("Conv", ValueError, "stride"):
        es.Conv(f, stride=0)
    with refused("Conv", ValueError, "bias"):
        es.Conv(f, np.ones(3))
    layer = es.Conv(f)
    with pytest.raises(ValueError, match=r"^Conv.*channels"):
        layer(x[..., :1])
    layer.forward(x)
    with pytest.raises(ValueError, match=r"^Conv"):
        layer.backward(gy[:, 1:])
    with pytest.raises((ValueError, TypeError), match=r"^Conv"):
        layer.f = [1, 2]
