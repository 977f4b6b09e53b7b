"""Sums of many products in float32 and complex64 are blocked: errors hardly grow with their number.

For n products of positive numbers the error stays below 4 + log2(n) units in the last place. One
accumulator for all of them would lose some n / 50 units here, and n / 4 at worst.
"""

from math import log2, prod

import numpy as np
import pytest

import einstride as es
from einstride import _testing

pytest.importorskip("llvmlite")

WIDTHS = _testing.vector_widths()
CASES = {  # (input size, channels, filter size, filters, groups)
    "dense": ((6, 7), 160, (3, 3), 40, 1),
    "dense point": ((5, 5), 3000, (1, 1), 33, 1),
    "lines": ((24, 25), 3, (17, 15), 24, 1),
    "long lines": ((1500,), 2, (1201,), 24, 1),
    "channels": ((12, 13), 40, (5, 5), 3, 1),
    "channels of a line": ((900,), 20, (301,), 2, 1),
    "positions": ((50, 90), 1, (40, 41), 1, 1),
    "positions of a line": ((6000,), 1, (3001,), 1, 1),
    "depthwise": ((19, 18), 24, (17, 15), 24, 24),
    "depthwise line": ((700,), 24, (401,), 24, 24),
    "depthwise volume": ((9, 9, 10), 24, (7, 7, 7), 24, 24),
    "groups": ((18, 17), 64, (15, 5), 64, 8),
}


def units(found, exact):
    """Return the largest error in units in the last place."""
    return np.max(np.abs(found - exact) / np.spacing(exact.astype("f4")))


def positive(shape, seed):
    return np.random.default_rng(seed).random(shape, "f4")


@pytest.fixture(params=[w for w in WIDTHS if w != "16 bytes"])
def width(request):
    with _testing.use(target=WIDTHS[request.param]):
        yield request.param


@pytest.mark.parametrize("name", CASES)
def test_forward(name, width):
    size, channels, kernel, filters, groups = CASES[name]
    x = positive((1, *size, channels), 1)
    f = positive((*kernel, channels // groups, filters), 2)
    found = es.conv(x, f, algorithm="direct", groups=groups)
    exact = es.conv(x.astype("f8"), f.astype("f8"), groups=groups, algorithm="strided")
    assert units(found, exact) < 4 + log2(prod(f.shape[:-1]))


@pytest.mark.parametrize("name", ["dense", "lines", "depthwise"])
def test_input_gradients(name, width):
    """Of the elements under all taps."""
    size, channels, kernel, filters, groups = CASES[name]
    f = positive((*kernel, channels // groups, filters), 3)
    out = tuple(n - k + 1 for n, k in zip(size, kernel, strict=True))
    wide = tuple(n + 2 * (k - 1) for n, k in zip(out, kernel, strict=True))
    gy = positive((1, *(n + k - 1 for n, k in zip(out, kernel, strict=True)), filters), 4)
    found, exact = (
        es.conv_input_grad(gy.astype(t), f.astype(t), wide, groups=groups, algorithm=a)
        for t, a in (("f4", "direct"), ("f8", "strided"))
    )
    inner = (0, *(slice(k - 1, n - k + 1) for n, k in zip(wide, kernel, strict=True)))
    assert units(found[inner], exact[inner]) < 4 + log2(prod(kernel) * filters // groups)


def test_equal_products():
    """One accumulator gives 15.235521 on CPUs with AVX2 and on others for 15.235171."""
    x = np.full((1, 62, 62, 1), np.float32(15.235171 / 3844))
    exact = 3844 * float(x.flat[0])
    for target in WIDTHS.values():
        with _testing.use(target=target):
            found = float(es.conv(x, np.ones((62, 62, 1, 1), "f4"), algorithm="direct").flat[0])
        # blocks of 64 products, or 128 where a vector has 64 bytes
        most = 4 + log2(3844) if target.vector_bytes < 64 else 32
        assert abs(found - exact) / np.spacing(np.float32(exact)) < most


@pytest.mark.parametrize("name", ["positions", "channels", "dense"])
def test_complex_numbers(name):
    """The real part of positive numbers, whose imaginary parts are zero."""
    size, channels, kernel, filters, groups = CASES[name]
    x = positive((1, *size, channels), 1)
    f = positive((*kernel, channels // groups, filters), 2)
    found = es.conv(x.astype("c8"), f.astype("c8"), algorithm="direct")
    exact = es.conv(x.astype("f8"), f.astype("f8"), algorithm="strided")
    assert units(found.real, exact) < 4 + log2(2 * prod(f.shape[:-1]))
    assert not found.imag.any()


@pytest.mark.parametrize("name", ["dense", "lines", "channels", "positions", "depthwise", "groups"])
def test_integers_are_exact_and_a_bias_counts_once(name):
    size, channels, kernel, filters, groups = CASES[name]
    rng = np.random.default_rng(5)
    x = rng.integers(-2, 3, (1, *size, channels)).astype("f4")
    f = rng.integers(-2, 3, (*kernel, channels // groups, filters)).astype("f4")
    bias = rng.integers(-9, 10, filters).astype("f4")
    keywords = {"groups": groups, "padding": 2}
    found = es.conv(x, f, bias, algorithm="direct", **keywords)
    wide = [a.astype("f8") for a in (x, f, bias)]
    exact = es.conv(*wide, algorithm="strided", **keywords)
    np.testing.assert_array_equal(found, np.rint(exact))


def test_elementwise_sums_are_added_one_after_the_other():
    """Their order is the same in all kernels, so that chunks of an array give the same bits."""
    x, f = positive((1, 5, 5, 300), 6), positive((1, 1, 300, 9), 7)
    found = es.conv(x, f, algorithm="direct", accuracy="elementwise")
    one_by_one = es.conv(x, f, algorithm="direct")
    exact = es.conv(x.astype("f8"), f.astype("f8"), algorithm="strided")
    assert units(one_by_one, exact) < units(found, exact)
