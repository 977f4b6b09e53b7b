"""Fixtures of the host's own tests."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest

import cupy_host
from cupy_host.host import Host


@pytest.fixture(scope="session")
def installed_cupy_host() -> Host:
    """The host. Installed here, not on import: collecting tests must not touch CuPy."""
    reason = cupy_host.unavailable_reason()
    if reason:
        pytest.skip(reason)
    try:
        return cupy_host.install()
    except RuntimeError as error:
        pytest.skip(str(error))


@pytest.fixture
def host(installed_cupy_host: Host) -> Iterator[Host]:
    """The host with an empty log; a fault that the test does not expect fails it."""
    installed_cupy_host.clear()
    yield installed_cupy_host
    installed_cupy_host.fibre_order = "vary"
    installed_cupy_host.check()


@pytest.fixture
def cp(host: Host) -> ModuleType:
    """CuPy on the host."""
    import cupy

    return cupy
