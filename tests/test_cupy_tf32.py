"""TF32 only for the calls that allow it: seen in the compute type that cuBLAS is asked for."""

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
    """They are multiplied in float32, exactly: rounded factors would be wrong."""
    x, f = cp.full((1, 9, 4), 127, "int8"), cp.full((3, 4, 5), 127, "int8")
    y, seen = recorded(host, es.conv, (x, f), accuracy="tf32", algorithm="gemm")
    assert {e.compute for e in seen.of(events.BlasCall)} <= {"32F"}
    assert (cp.asnumpy(y) == 127 * 127 * 12).all()
