"""Every raw kernel compiles for every architecture, spills nothing, and keeps to its registers."""

from __future__ import annotations

import pytest

from cupy_host import nvrtc, registers

SOURCES = sorted(registers.sources())


@pytest.fixture(autouse=True)
def _installed():
    reason = nvrtc.unavailable_reason()
    if reason:
        pytest.skip(reason)


@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES)
def test_registers_and_spills(source, architecture):
    table = registers.table()
    column = table["architectures"].index(architecture)
    same = table["nvrtc"] == ".".join(map(str, nvrtc.version()))
    slack = 0 if same else registers.OTHER_COMPILER
    found = registers.measured(source, architecture)
    assert found
    assert set(found) == set(table[source]), "python tests/cupy_host/registers.py writes the table"
    spilling = {name: bytes_ for name, (_, bytes_) in found.items() if bytes_}
    assert not spilling
    over = {
        name: f"{count} registers, {table[source][name][column]} allowed"
        for name, (count, _) in found.items()
        if count > table[source][name][column] + slack
    }
    assert not over
