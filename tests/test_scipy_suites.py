"""SciPy's own tests pass with einstride's functions in their place, but those that cannot."""

import pytest

from scipy_suites import suites

pytest.importorskip("scipy.conftest", reason="this SciPy was installed without its tests")


@pytest.mark.parametrize("suite", suites.SUITES)
def test_suite(suite, full_length):
    """A sample of each suite; `python -m tests.scipy_suites` runs every test."""
    outcomes = suites.run(suite, every=23 if full_length else 211)
    assert outcomes
    assert [name for name in suites.failed(outcomes) if suites.reason(name) is None] == []
