"""Dense filter gradients of packed operands, and VNNI dot products of 8-bit integers."""

from dataclasses import replace

import numpy as np
import pytest

import einstride as es
from einstride import _testing
from guarded import guarded

pytest.importorskip("llvmlite")
from einstride.cpu.conv.dense import (
    packed_filter_gradient,
    vnni,
)
from einstride.planning import select

WIDTHS = _testing.vector_widths()

GRADIENTS = {  # size, kernel, channels, filters, keywords
    "point": ((9, 15), (1, 1), 13, 70, {}),
    "shares": ((37, 40), (1, 1), 5, 9, {}),
    "strided": ((31, 62), (1, 1), 18, 33, {"stride": 2}),
    "strided lines": ((5, 300), (1, 2), 7, 20, {"stride": (2, 2)}),
    "taps": ((20, 19), (3, 2), 8, 40, {}),
    "dilated": ((22, 19), (3, 2), 8, 17, {"dilation": (2, 3)}),
    "cropped": ((20, 23), (2, 2), 6, 17, {"padding": ((-3, -2), (-1, -4))}),
    "grouped": ((12, 19), (2, 2), 18, 40, {"groups": 2}),
    "flipped": ((12, 19), (3, 2), 6, 20, {"flip": True}),
    "volume": ((6, 7, 9), (2, 1, 3), 6, 18, {"stride": (1, 2, 1)}),
    "line": ((3000,), (4,), 8, 24, {"stride": 2}),
    "deep": ((5, 5), (1, 1), 150, 300, {}),
}


@pytest.fixture
def dense_alone():
    """Use the dense engine, also where another engine is faster."""
    with _testing.use(engine="dense"):
        yield


@pytest.fixture(params=WIDTHS)
def width(request, dense_alone):
    with _testing.use(target=WIDTHS[request.param]):
        yield request.param


def integers(rng, shape, dtype="float32"):
    return rng.integers(-4, 5, size=shape).astype(dtype)


def gradients(name, dtype="float32", batch=2):
    """Return (x, gy, kernel size, keywords, gradient by another algorithm) of a case."""
    size, kernel, c, d, keywords = GRADIENTS[name]
    rng = np.random.default_rng(7)
    x = integers(rng, (batch, *size, c), dtype)
    f = integers(rng, (*kernel, c // keywords.get("groups", 1), d), dtype)
    gy = integers(rng, es.conv(x, f, algorithm="strided", **keywords).shape, dtype)
    expected = es.conv_filter_grad(x, gy, kernel, algorithm="strided", **keywords)
    return x, gy, kernel, keywords, expected


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name, width):
    x, gy, kernel, keywords, expected = gradients(name)
    found = es.conv_filter_grad(x, gy, kernel, algorithm="direct", **keywords)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("end", [True, False], ids=["end", "start"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_no_gradient_touches_memory_not_its_own(name, end, width):
    x, gy, kernel, keywords, expected = gradients(name)
    out = guarded(np.full_like(expected, np.nan), end)
    x, gy = guarded(x, end), guarded(gy, end)
    es.conv_filter_grad(x, gy, kernel, algorithm="direct", out=out, **keywords)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", ["float16", "float64", "complex64", "int16", "uint8"])
@pytest.mark.parametrize("name", ["shares", "strided", "grouped"])
def test_gradients_of_each_dtype(name, dtype, dense_alone):
    x, gy, kernel, keywords, expected = gradients(name, "int8" if dtype == "uint8" else dtype)
    more = {"accumulate": "int64"} if dtype == "uint8" else {}
    found = es.conv_filter_grad(x, gy, kernel, algorithm="direct", **more, **keywords)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["shares", "strided", "taps", "line"])
def test_gradients_for_each_example(name, dense_alone):
    x, gy, kernel, keywords, _ = gradients(name, batch=3)
    given = {**keywords, "per_example": True}
    found = es.conv_filter_grad(x, gy, kernel, algorithm="direct", **given)
    for i in range(3):
        alone = es.conv_filter_grad(
            x[i : i + 1], gy[i : i + 1], kernel, algorithm="strided", **keywords
        )
        np.testing.assert_array_equal(found[i], alone)


@pytest.mark.parametrize("name", ["shares", "point", "taps"])
def test_threads_and_steps_leave_the_bits_alone(name, dense_alone):
    from threadpoolctl import threadpool_limits

    x, gy, kernel, keywords, _ = gradients(name, batch=64)  # large enough for two threads
    rng = np.random.default_rng(3)
    x, gy = (rng.normal(size=a.shape).astype("float32") for a in (x, gy))
    given = {**keywords, "algorithm": "direct"}
    both = es.conv_filter_grad(x, gy, kernel, **given)
    with threadpool_limits(1):
        alone = es.conv_filter_grad(x, gy, kernel, **given)
    np.testing.assert_array_equal(both, alone)
    wide = np.zeros((*x.shape[:-2], x.shape[-2] + 3, x.shape[-1] + 5), "float32")
    wide = wide[..., : x.shape[-2], : x.shape[-1]]
    wide[...] = x
    back = np.ascontiguousarray(gy[::-1, ::-1])[::-1, ::-1]
    close = {"rtol": 1e-4, "atol": 1e-4}
    np.testing.assert_allclose(es.conv_filter_grad(wide, back, kernel, **given), both, **close)


def test_a_hard_limit_leaves_no_space_for_partial_sums(dense_alone):
    x, gy, kernel, keywords, expected = gradients("shares")
    g = es.plan(x, gy, direction="filter_grad", kernel_size=kernel)._decision.job.geometry
    assert packed_filter_gradient.partial_sum_count(g, 1, False) > 1
    least = {"algorithm": "direct", **keywords}
    # copies of operands with unsupported strides, and the result
    tight = x.nbytes + gy.nbytes + expected.nbytes
    for room in (tight, tight + 2 * expected.nbytes, 1 << 20):
        plan = es.plan(
            x, gy, direction="filter_grad", kernel_size=kernel, max_workspace=room, **least
        )
        assert plan.workspace <= room
        np.testing.assert_array_equal(
            es.conv_filter_grad(x, gy, kernel, max_workspace=room, **least), expected
        )


@pytest.mark.parametrize("padding", [(2, 0), (0, 2), (2, 2)])
def test_a_tap_outside_stays_with_the_other_kernel(padding):
    gy = (2, 6 + sum(padding), 8)
    p = es.plan((2, 8, 8), gy, direction="filter_grad", kernel_size=3, padding=(padding,))
    assert not packed_filter_gradient.inside(p._decision.job.geometry)


@pytest.fixture
def no_matrix_registers():
    """Compile for this CPU without matrix registers (AMX), which are preferred to VNNI."""
    host = WIDTHS["native"]
    with _testing.use(target=replace(host, features=host.features.replace("+amx", "-amx"))):
        yield


VNNI_CASES = {
    "point": ((7, 7), (1, 1), 64, 100, {}),
    "padded": ((9, 8), (3, 3), 12, 70, {"padding": 1}),
    "strided": ((9, 8), (3, 3), 8, 20, {"padding": 2, "stride": 2}),
    "wide border": ((3, 40), (3, 3), 4, 64, {"padding": 1}),
    "joined taps": ((30,), (4,), 3, 33, {}),
    "circular": ((12, 12), (3, 3), 4, 9, {"padding": 2, "padding_mode": "circular"}),
    "flipped": ((9, 8), (2, 3), 4, 9, {"flip": True, "dilation": 2}),
}


@pytest.mark.parametrize("end", [True, False], ids=["end", "start"])
@pytest.mark.parametrize("unsigned", [True, False], ids=["uint8", "int8"])
@pytest.mark.parametrize("name", VNNI_CASES)
def test_products_of_extreme_8_bit_numbers(name, unsigned, end, no_matrix_registers):
    size, kernel, c, d, keywords = VNNI_CASES[name]
    rng = np.random.default_rng(2)
    values, dtype = ((0, 1, 254, 255), "uint8") if unsigned else ((-128, -127, 0, 127), "int8")
    x = guarded(rng.choice(values, size=(4, *size, c)).astype(dtype), end)
    f = guarded(rng.choice((-128, -1, 127), size=(*kernel, c, d)).astype("int8"), end)
    bias = rng.integers(-9, 9, size=d).astype("int32")
    expected = es.conv(x, f, bias, algorithm="strided", **keywords)
    out = guarded(np.zeros(expected.shape, "int32"), end)
    np.testing.assert_array_equal(
        es.conv(x, f, bias, algorithm="direct", out=out, **keywords), expected
    )
    layer = es.Conv(f, algorithm="direct", **keywords)
    for _ in range(2):
        np.testing.assert_array_equal(layer(x) + bias, expected)
    columns = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    found = es.conv(np.moveaxis(columns, 1, -1), f, bias, algorithm="direct", **keywords)
    np.testing.assert_array_equal(found, expected)


def test_the_cpu_decides_about_vnni():
    host = WIDTHS["native"]
    without = replace(host, features=host.features.replace(vnni.FEATURE, "-avx512vnni"))
    assert not vnni.usable(without)
    assert not vnni.usable(replace(host, vector_bytes=32))


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float16"])
@pytest.mark.parametrize("stride", [2, (1, 3)])
def test_positions_that_no_tap_meets_are_zero(stride, dtype, width):
    rng = np.random.default_rng(4)
    x, f = integers(rng, (2, 40, 41, 130), dtype), integers(rng, (1, 1, 130, 3), dtype)
    gy = integers(rng, es.conv(x, f, stride=stride, algorithm="strided").shape, dtype)
    out = guarded(np.full(x.shape, 7, dtype), True)
    es.conv_input_grad(gy, f, (40, 41), stride=stride, algorithm="direct", out=out)
    expected = es.conv_input_grad(gy, f, (40, 41), stride=stride, algorithm="strided")
    np.testing.assert_array_equal(out, expected)


def test_a_kept_filter_is_chosen_for():
    shape = {"shapes": ((1, 7, 7, 256), (3, 3, 256, 256))}
    f = np.ones(shape["shapes"][1], "float32")
    x = np.ones(shape["shapes"][0], "float32")
    p = es.plan(x, f, padding=1)
    kept = replace(p._decision.inner, prepared=True)
    for name in ("direct", "winograd"):
        module = select.ALGORITHMS[name]
        traits, rates = _cpu(), select.figures.rates("numpy", "float32")
        assert (
            module.cost(kept, traits, rates).seconds
            < module.cost(p._decision.inner, traits, rates).seconds
        )
    np.testing.assert_allclose(es.Conv(f, padding=1)(x), es.conv(x, f, padding=1), rtol=1e-5)


def _cpu():
    from einstride.arrays.backends.numpy import BACKEND

    return BACKEND.traits
