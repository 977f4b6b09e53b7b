"""SciPy's own tests pass with einstride's functions in their place, but those that cannot."""

from importlib.util import find_spec

import pytest

from scipy_suites import suites

SHIPPED = find_spec("scipy") is not None and find_spec("scipy.conftest") is not None


@pytest.mark.skipif(not SHIPPED, reason="SciPy is not installed, or without its tests")
@pytest.mark.parametrize("suite", suites.SUITES)
def test_suite(suite, full_length):
    """A sample of each suite; `python -m tests.scipy_suites` runs every test."""
    if not full_length and "array-api" in suite:
        pytest.skip("importing PyTorch and collecting its tests takes long: it runs with --all")
    outcomes = suites.run(suite, every=47 if full_length else 211)
    assert outcomes
    assert [name for name in suites.failed(outcomes) if suites.reason(name) is None] == []
