"""Arithmetic of cuBLAS: TF32 only in calls that allow it; sums of halves in float32."""

import pytest

import einstride as es
from cupy_host import events
from test_cupy_contract import ALGORITHMS, CASES, WAYS, prepared, recorded

pytest_plugins = ["cupy_host.fixtures"]


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float64"])
@pytest.mark.parametrize("which", WAYS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_tf32_is_for_the_calls_that_allow_it(host, cp, which, algorithm, dtype):
    function, args, keywords = prepared(cp, which, CASES["padded"], dtype)
    _, seen = recorded(host, function, args, algorithm=algorithm, accuracy="tf32", **keywords)
    expected = "64F" if dtype == "float64" else "32F_FAST_TF32"
    assert {e.compute for e in seen.of(events.BlasCall)} == {expected}
    _, seen = recorded(host, function, args, algorithm=algorithm, **keywords)
    assert "TF32" not in "".join(e.compute for e in seen.of(events.BlasCall))


def test_integers_never_meet_tf32(host, cp):
    """Integers are multiplied in float32, exactly; TF32 would round the factors."""
    x, f = cp.full((1, 9, 4), 127, "int8"), cp.full((3, 4, 5), 127, "int8")
    y, seen = recorded(host, es.conv, (x, f), accuracy="tf32", algorithm="gemm")
    assert {e.compute for e in seen.of(events.BlasCall)} <= {"32F"}
    assert (cp.asnumpy(y) == 127 * 127 * 12).all()


@pytest.mark.parametrize("per_example", [False, True])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_blocks_of_halves_are_added_in_float32(cp, dtype, per_example):
    """Partial sums of blocks are added in float32 and rounded once, at the end."""
    half = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype
    n = 4099
    x, gy = cp.ones((1, n, 4), half), cp.ones((1, n, 4), half)
    gf = es.conv_filter_grad(
        x, gy, 1, algorithm="gemm", max_workspace=3_000, per_example=per_example
    )
    assert (cp.asnumpy(gf).astype(float) == float(cp.asnumpy(cp.full(1, n, half))[0])).all()


@pytest.mark.parametrize("algorithm", ["strided", "gemm"])
def test_a_bias_is_added_before_the_one_rounding(cp, algorithm):
    """2049 is halfway between two float16; with a bias of 0.5 the result must be rounded up."""
    x, f = cp.ones((1, 1, 2049), "float16"), cp.ones((1, 2049, 1), "float16")
    y = es.conv(x, f, cp.full(1, 0.5, "float16"), algorithm=algorithm)
    assert float(y.ravel()[0].get()) == 2050.0
