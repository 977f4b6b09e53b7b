"""Defines the fixtures of tests that use the CuPy host."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest

import cupy_host
from cupy_host.host import Host


@pytest.fixture(scope="session")
def installed_cupy_host() -> Host:
    """Install and return the host; not at import, since collecting tests must not import CuPy."""
    reason = cupy_host.unavailable_reason()
    if reason:
        pytest.skip(reason)
    try:
        return cupy_host.install()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture
def host(installed_cupy_host: Host) -> Iterator[Host]:
    """Return the host with an empty log; fail the test if it leaves an unexpected fault."""
    installed_cupy_host.clear()
    yield installed_cupy_host
    installed_cupy_host.fibre_order = "vary"
    installed_cupy_host.check()


@pytest.fixture
def cp(host: Host) -> ModuleType:
    """Return CuPy on the host."""
    import cupy

    return cupy
