"""Errors stay below the documented bound, in exact arithmetic; NaN and Inf stay in their windows.

The bound of a direct algorithm, for an element that is a sum of n products, in any order, with u
the unit roundoff of the dtype of the sums (Jeannerod and Rump, 2013, theorem 3.1):

    |error| <= n u sum |x| |f|

The real and the imaginary part of a complex sum are real sums of 2 n products, each with this
bound; both together add at most a factor of 2 sqrt(2). A result in a narrower dtype is rounded once
more, by at most its unit roundoff times the exact value.
"""

import importlib
from dataclasses import replace
from fractions import Fraction
from functools import cache
from math import sqrt

import numpy as np
import pytest

import einstride as es
import oracle
from checks import ALGORITHMS, PASSES, operands, refused
from oracle import Case

UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
UNIT |= {"complex64": UNIT["float32"], "complex128": UNIT["float64"]}
EXPONENTS = {
    "float16": 3,
    "bfloat16": 30,
    "float64": 400,
}  # largest exponents of two of the factors, so that no sum overflows
CASES = {
    "padded": Case(2, (6, 5), (3, 2), 4, 6, (2, 1), ((1, 0), (0, 1)), (1, 2), groups=2),
    "long": Case(1, (40,), (29,), 3, 2, (1,), ((14, 14),), (1,)),
    "wrapped": Case(1, (7,), (5,), 3, 4, (1,), ((4, 3),), (1,), mode="reflect"),
    "deep": Case(1, (3,), (1,), 400, 2, (1,), ((0, 0),), (1,)),
}
KINDS = ("random", "range", "cancel")
ALL = [(n, d) for n in CASES for d in ("float32", "float64", "complex64")]
ALL += [("padded", "complex128"), ("padded", "float16"), ("long", "float16"), ("deep", "float16")]
ALL += [("padded", "bfloat16"), ("wrapped", "bfloat16"), ("deep", "bfloat16")]


def dtype_of(name):
    if name == "bfloat16":
        reason = "ml_dtypes gives NumPy its bfloat16"
        return np.dtype(pytest.importorskip("ml_dtypes", reason=reason).bfloat16)
    return np.dtype(name)


def adversary(kind, shape, dtype, seed):
    """Return values whose sums lose digits to rounding."""
    rng = np.random.default_rng(seed)

    def part():
        values = rng.standard_normal(shape)
        if kind == "range":
            most = EXPONENTS.get(dtype, 30)
            values = np.ldexp(values, rng.integers(-most, most + 1, shape))
        if kind == "cancel":  # neighbours nearly cancel, along every axis
            sign = (-1.0) ** np.indices(shape).sum(axis=0)
            values = (1 if seed % 2 else sign) * (1 + values * 2.0**-9)
        return values

    values = part() + 1j * part() if dtype.startswith("complex") else part()
    return values.astype(dtype_of(dtype))


def given(name, kind, dtype):
    case = CASES[name]
    shapes = (case.x_shape, case.f_shape, case.y_shape)
    return [adversary(kind, shape, dtype, seed) for seed, shape in enumerate(shapes)]


def fractions(a):
    return np.array([Fraction(float(v)) for v in a.ravel()] or [0], object).reshape(a.shape)


def parts(a):
    """Return (real part, imaginary part or None) as exact rational numbers."""
    return fractions(a.real), fractions(a.imag) if a.dtype.kind == "c" else None


@cache
def exact_sums(which, name, kind, dtype):
    """Return (exact value, sum |x| |f|, number of products) for each element of a result."""
    case = CASES[name]
    a, b = operands(which, case, *given(name, kind, dtype))[2]
    function = oracle.PASSES[which]
    magnitude = np.abs(a.astype("c16" if a.dtype.kind == "c" else "f8"))
    other = np.abs(b.astype("c16" if b.dtype.kind == "c" else "f8"))
    weight = function(magnitude, other, case).astype("f8")
    n = function(np.ones(a.shape), np.ones(b.shape), case).astype("f8")
    (ar, ai), (br, bi) = parts(a), parts(b)
    real = function(ar, br, case)
    if ai is None:
        return (real, None), weight, n
    aa, bb = {"forward": (1, 1), "input_grad": (1, -1), "filter_grad": (-1, 1)}[which]
    real = real - aa * bb * function(ai, bi, case)
    imag = bb * function(ar, bi, case) + aa * function(ai, br, case)
    return (real, imag), weight, n


def error(found, exact):
    """Return |found - exact|, computed exactly and rounded once."""
    real, imag = exact
    first = np.abs((fractions(found.real) - real).astype("f8"))
    if imag is None:
        return first
    return np.hypot(first, np.abs((fractions(found.imag) - imag).astype("f8")))


def bound(dtype, accumulate, exact, weight, n):
    result_unit, sum_unit = UNIT[dtype], UNIT[accumulate]
    factor = 2 * sqrt(2) if dtype.startswith("complex") else 1
    total = factor * n * sum_unit * weight
    if result_unit > sum_unit:
        # 2**-25 is half the smallest float16: the error of a result that underflows
        total = total * (1 + result_unit) + result_unit * np.abs(exact[0].astype("f8"))
        total = total + (2.0**-25 if dtype == "float16" else 0)
    return total


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize(("name", "dtype"), ALL)
def test_error_stays_below_the_bound(backend, which, algorithm, name, dtype):
    narrow = dtype == "bfloat16" and not backend.name.startswith(("numpy", "cupy"))
    if not backend.supports(dtype) or narrow:
        pytest.skip(f"{backend.name} has no {dtype}")
    sums = "float32" if dtype in ("float16", "bfloat16") else dtype
    for kind in KINDS:
        case = CASES[name]
        exact, weight, n = exact_sums(which, name, kind, dtype)
        function, args, _ = operands(which, case, *given(name, kind, dtype))
        keywords = case.explicit | {"algorithm": algorithm, "accuracy": "elementwise"}
        found = backend(function, *args, **keywords)
        assert found.dtype == dtype_of(dtype)
        excess = error(found, exact) - bound(dtype, sums, exact, weight, n)
        assert excess.max() <= 0, kind


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", CASES)
def test_the_default_is_bounded_by_the_norms(backend, name, which):
    """accuracy="normwise": the largest error stays below the bound by the operands' norms."""
    case = CASES[name]
    for kind in KINDS:
        exact, _, n = exact_sums(which, name, kind, "float32")
        function, args, pair = operands(which, case, *given(name, kind, "float32"))
        found = backend(function, *args, **case.explicit)
        norms = np.prod([np.linalg.norm(a.astype("f8")) for a in pair])
        assert error(found, exact).max() <= n.max() * UNIT["float32"] * norms


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize(
    ("dtype", "accumulate"),
    [("float32", "float64"), ("float16", "float64"), ("complex64", "complex128")],
)
def test_wider_sums(which, algorithm, dtype, accumulate):
    """With sums in a wider dtype, the error is hardly more than the rounding of the result."""
    for kind in KINDS:
        case = CASES["padded"]
        exact, weight, n = exact_sums(which, "padded", kind, dtype)
        function, args, _ = operands(which, case, *given("padded", kind, dtype))
        found = function(*args, algorithm=algorithm, accumulate=accumulate, **case.explicit)
        assert found.dtype == dtype
        size = tuple(np.array(part) if part is not None else None for part in exact)
        limit = bound(dtype, accumulate, size, weight, n)
        if size[1] is not None:  # the imaginary part is rounded too
            limit = limit + UNIT[dtype] * np.abs(size[1].astype("f8"))
        assert (error(found, exact) - limit).max() <= 0, kind


def test_the_bias_is_one_more_term(backend):
    case = CASES["long"]
    x, f, _ = given("long", "cancel", "float32")
    bias = np.array([1e7, -3e-7], "float32")
    exact, weight, n = exact_sums("forward", "long", "cancel", "float32")
    found = backend(es.conv, x, f, bias, accuracy="elementwise", **case.explicit)
    exact = (exact[0] + fractions(bias), None)
    limit = (n + 1) * UNIT["float32"] * (weight + np.abs(bias.astype("f8")))
    assert (error(found, exact) - limit).max() <= 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["padded", "wrapped"])
def test_a_nan_or_inf_stays_inside_its_windows(backend, name, value, which, algorithm):
    case = CASES[name]
    positions = [(0, 2, 1, 1), (1, 5, 4, 3)] if name == "padded" else [(0, 1, 0), (0, 6, 2)]
    for at in positions:
        x, f, gy = (np.ones(shape) for shape in (case.x_shape, case.f_shape, case.y_shape))
        first = gy if which == "input_grad" else x
        at = tuple(min(i, n - 1) for i, n in zip(at, first.shape, strict=True))
        touched = np.zeros(first.shape)
        touched[at] = 1
        first[at] = value
        function, args, pair = operands(which, case, x, f, gy)
        keywords = case.explicit | {"algorithm": algorithm, "accuracy": "elementwise"}
        # OpenBLAS for AVX-512 also multiplies unused lanes, of which NumPy would warn
        with np.errstate(invalid="ignore"):
            found = backend(function, *args, **keywords)
        inside = oracle.PASSES[which](touched, np.ones(pair[1].shape), case) != 0
        assert inside.any()
        assert not inside.all()
        np.testing.assert_array_equal(np.isfinite(found), ~inside)
        first[at] = 1
        clean = backend(function, *args, **keywords)
        np.testing.assert_array_equal(found[~inside], clean[~inside])


def test_a_nan_in_an_example_reaches_no_other(backend):
    case = replace(CASES["padded"], batch=3)
    x, gy = np.ones(case.x_shape), np.ones(case.y_shape)
    x[1] = np.nan
    found = backend(es.conv_filter_grad, x, gy, (3, 2), per_example=True, **case.explicit)
    assert np.isfinite(found[[0, 2]]).all()
    assert not np.isfinite(found[1]).any()


def test_every_algorithm_states_its_bound():
    table = importlib.import_module("einstride.algorithms").ALGORITHMS
    for name in table:
        text = importlib.import_module(f"einstride.algorithms.{name}").__doc__
        assert "\nError" in text, f"the page of {name} does not state its error"


@pytest.mark.parametrize(("value", "kind"), [("exact", ValueError), (None, TypeError)])
def test_refusals(value, kind):
    with refused("conv", kind, "accuracy"):
        es.conv(np.ones((1, 4, 1)), np.ones((2, 1, 1)), accuracy=value)
