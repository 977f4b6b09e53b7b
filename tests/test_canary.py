"""The comparison with the loops finds algorithms that are broken on purpose."""

import importlib

import numpy as np
import pytest

from checks import PASSES, check_pass
from einstride import _testing
from oracle import Case

NUMPY = importlib.import_module("libraries").load("numpy")
CASE = Case(2, (7, 6), (3, 2), 4, 6, (2, 1), ((1, 0), (0, 1)), (1, 2), groups=2)

FAULTS = {
    "off by one": lambda y: np.roll(y, 1, axis=1),
    "last element": lambda y: y + (np.arange(y.size) == y.size - 1).reshape(y.shape),
    "negated": lambda y: -y,
    "never written": lambda y: np.full_like(y, np.nan),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("algorithm", ["strided", "gemm"])
@pytest.mark.parametrize("which", PASSES)
def test_a_broken_kernel_is_caught(which, algorithm, fault):
    check_pass(NUMPY, which, CASE, "float64", 1, algorithm=algorithm, **CASE.explicit)

    def broken(real, *args, **keywords):
        result = real(*args, **keywords)
        result[...] = FAULTS[fault](result.copy())
        return result

    with (
        _testing.replacing(f"{algorithm} {which}", broken),
        pytest.raises(AssertionError),
    ):
        check_pass(NUMPY, which, CASE, "float64", 1, algorithm=algorithm, **CASE.explicit)


@pytest.mark.parametrize("which", PASSES)
def test_an_algorithm_asked_for_by_name_is_the_one_that_runs(which):
    """An algorithm never falls back on another: with gemm disabled, strided works and gemm
    fails."""
    with _testing.failing(f"gemm {which}", LookupError("gemm was asked")):
        check_pass(NUMPY, which, CASE, "float64", 1, algorithm="strided", **CASE.explicit)
        with pytest.raises(LookupError, match="gemm was asked"):
            check_pass(NUMPY, which, CASE, "float64", 1, algorithm="gemm", **CASE.explicit)
