"""Every kernel of direct convolution converts halves in registers and sums in float32."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import einstride as es
import oracle
from checks import PASSES, operands
from einstride._testing import use, watching_kernels
from oracle import Case

jit = pytest.importorskip("einstride.codegen.jit")
pytest.importorskip("llvmlite", reason="llvmlite, the extra fast, is missing")
ml_dtypes = pytest.importorskip("ml_dtypes", reason="ml_dtypes gives NumPy its bfloat16")

HALVES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""The largest relative error of rounding to nearest."""
SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-133}
"""The smallest number above zero."""
SAME = ((1, 1), (1, 1))
CASES = {
    "dense": ("dense", Case(2, (7, 9), (3, 3), 24, 40, (1, 1), SAME, (1, 1))),
    "dense, strided": ("dense", Case(2, (9, 9), (3, 3), 17, 21, (2, 2), SAME, (1, 1))),
    "dense, no border": ("dense", Case(2, (9, 12), (3, 3), 24, 72, (1, 1), ((0, 0),) * 2, (1, 1))),
    "grouped": ("grouped", Case(2, (6, 9), (3, 3), 12, 12, (1, 1), SAME, (1, 1), 3)),
    "few": ("few", Case(2, (33, 41), (3, 3), 3, 24, (1, 1), SAME, (1, 1))),
    "few, strided": ("few", Case(1, (64, 64), (7, 7), 3, 32, (2, 2), ((3, 3),) * 2, (1, 1))),
    "few, out too": ("few", Case(2, (20, 41), (3, 3), 3, 5, (1, 1), SAME, (1, 1))),
    "channelwise": ("channelwise", Case(2, (9, 9), (3, 3), 20, 20, (1, 1), SAME, (1, 1), 20)),
}
KERNELS = {
    "dense": {"dense", "outer", "blocked"},
    "grouped": {"grouped", "grouped_gradient"},
    "few": {"blocks", "lines", "runs", "run_lanes"},
    "channelwise": {"depthwise", "depthwise_gradient"},
}
"""{engine: its kernels that read the operands}; other kernels pack, or are of other engines."""


def halves(shape, dtype, seed):
    return np.random.default_rng(seed).standard_normal(shape).astype(HALVES[dtype])


def errors(which, case, dtype, found, pair):
    """Return (error, bound) of a result: sums in float32, rounded once."""
    exact = oracle.FAST[which](*(a.astype("f8") for a in pair), case)
    sums = oracle.FAST[which](*(np.abs(a.astype("f8")) for a in pair), case)
    terms = np.prod(case.y_shape[:-1]) if which == "filter_grad" else np.prod(case.f_shape)
    bound = UNIT[dtype] * (np.abs(exact) + 2.0**-24 * terms * sums)
    return np.abs(found.astype("f8") - exact), bound + 2.0**-24 * terms * sums + SMALLEST[dtype]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", CASES)
def test_sums_are_of_float32_and_rounded_once(name, which, dtype):
    engine, case = CASES[name]
    shapes = case.x_shape, case.f_shape, case.y_shape
    x, f, gy = (halves(s, dtype, i) for i, s in enumerate(shapes))
    function, args, pair = operands(which, case, x, f, gy)
    with use(engine=engine), watching_kernels() as calls:
        found = function(*args, algorithm="direct", **case.explicit)
        exactly = function(
            *(np.asarray(a, "f4") if isinstance(a, np.ndarray) else a for a in args),
            algorithm="direct",
            **case.explicit,
        )
    assert {call.kernel.name for call in calls} & KERNELS[engine]
    assert found.dtype == HALVES[dtype]
    error, bound = errors(which, case, dtype, found, pair)
    assert (error <= bound).all()
    if engine != "channelwise":  # its tiles of other dtypes may add in another order
        np.testing.assert_array_equal(found, exactly.astype(found.dtype))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", ["dense", "grouped", "few", "channelwise"])
def test_the_plan_says_which_engine(name, which, dtype):
    engine, case = CASES[name]
    first, second, more = {
        "forward": (case.x_shape, case.f_shape, {}),
        "input_grad": (case.y_shape, case.f_shape, {"input_size": case.input_size}),
        "filter_grad": (case.x_shape, case.y_shape, {"kernel_size": case.kernel_size}),
    }[which]
    with use(engine=engine):
        keywords = more | {"dtype": dtype, "algorithm": "direct"} | case.explicit
        found = es.plan(first, second, direction=which, **keywords).execution
    assert found["compiled"]
    assert found["engine"] == {"few": "few channels"}.get(engine, engine)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("which", PASSES)
def test_whole_arrays_are_not_converted(which, dtype):
    """The workspace of a call is below a quarter of x or gy in float32: no array is converted."""
    case = Case(4, (96, 96), (3, 3), 32, 32, (1, 1), SAME, (1, 1))
    x, f, gy = (halves(s, dtype, 1) for s in (case.x_shape, case.f_shape, case.y_shape))
    function, args, _ = operands(which, case, x, f, gy)
    with use(engine="dense"):
        for _ in range(3):  # the second call fills the call cache
            function(*args, algorithm="direct", **case.explicit)
        tracemalloc.start()
        try:
            found = function(*args, algorithm="direct", **case.explicit)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak - found.nbytes < x.size


def numbers(dtype):
    """Return float32 values between halves, at and beside midpoints; huge, tiny and NaN."""
    bits = np.arange(1 << 16, dtype=np.uint16).view(HALVES[dtype])
    with np.errstate(invalid="ignore"):
        exact = bits.astype("f4")
    near = exact.view("u4")[:, None] + np.array([0, 1, 0x7FFF, 0x8000, 0x8001], "u4")
    middles = (exact[np.isfinite(exact)].astype("f8") * (1 + UNIT[dtype])).astype("f4")
    middles = np.concatenate([np.nextafter(middles, np.float32(s * 9e99)) for s in (-1, 1)])
    return np.concatenate([exact, near.ravel().view("f4"), middles])


def converts(stored, wanted, lanes):
    """Return the text of a kernel that converts an array of full vectors."""
    from einstride.codegen.function_builder import Code

    code = Code("converts", ["chunks", "from", "to", "count"])
    with code.loop(0, code["count"], lanes) as i:
        number = code.array("from", stored).at(i).load_as(stored, wanted, lanes)
        code.array("to", wanted).at(i).store(number)
    return code.text()


@pytest.mark.parametrize("lanes", [1, 16])
@pytest.mark.parametrize("dtype", HALVES)
def test_each_half_and_each_way_of_rounding(dtype, lanes):
    """Conversions equal those of ml_dtypes and NumPy bit by bit; a NaN stays a NaN."""

    def converted(a, stored, wanted):
        padded = np.resize(a, -(-a.size // lanes) * lanes)
        out = np.zeros(padded.shape, HALVES.get(wanted, np.float32))
        block = np.array([0, padded.ctypes.data, out.ctypes.data, padded.size], np.int64)
        kernel = jit.kernel("converts", converts, stored, wanted, lanes, target=jit.host_target())
        kernel(block.ctypes.data, 0)
        return out[: a.size]

    given = np.arange(1 << 16, dtype=np.uint16).view(HALVES[dtype])
    with np.errstate(all="ignore"):
        wide = given.astype("f4")
        single = numbers(dtype)
        rounded = single.astype(HALVES[dtype])
    real = ~np.isnan(wide)
    found = converted(given, dtype, "float32")
    np.testing.assert_array_equal(found.view("u4")[real], wide.view("u4")[real])
    assert np.isnan(found[~real]).all()
    real = ~np.isnan(single)
    found = converted(single, "float32", dtype)
    np.testing.assert_array_equal(found.view("u2")[real], rounded.view("u2")[real])
    assert np.isnan(found[~real].astype("f4")).all()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("groups", [1, 4, 16])
def test_sums_of_halves_in_float64_are_refused_by_name(groups, dtype):
    x = np.ones((1, 12, 12, 16), HALVES[dtype])
    f = np.ones((5, 5, 16 // groups, 16), HALVES[dtype])
    with pytest.raises(ValueError, match="vectors convert halves to and from float32 only"):
        es.conv(x, f, groups=groups, algorithm="direct", accumulate="float64")
    y = es.conv(x, f, groups=groups, accumulate="float64")
    assert y.dtype == HALVES[dtype]
    assert (y.astype("f8") == 25 * 16 // groups).all()


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("algorithm", ["auto", "fft", "gemm"])
def test_large_filters_of_halves_with_sums_of_float64(algorithm, dtype):
    x, f = np.ones((1, 40, 40, 16), HALVES[dtype]), np.ones((9, 9, 1, 16), HALVES[dtype])
    y = es.conv(x, f, groups=16, algorithm=algorithm, accumulate="float64")
    assert y.dtype == HALVES[dtype]
    assert (y.astype("f8") == 81).all()
