"""Every raw kernel compiles for every architecture, without spills, with the registers of the
table."""

from __future__ import annotations

import pytest

from cupy_host import nvrtc, registers
from einstride import cuda

SOURCES = sorted(registers.sources())
# Architectures for which all instances of a source are compiled if it was changed since the table
# was written, or if another compiler wrote it. Otherwise every architecture compiles a quarter.
COMPLETE = ("75", "80", "90a", "120")
HINT = "python tests/cupy_host/registers.py writes the table"


@pytest.fixture(autouse=True)
def _installed():
    reason = nvrtc.unavailable_reason()
    if reason:
        pytest.skip(reason)


@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES)
def test_registers_and_spills(source, architecture):
    if not registers.compiles(source, architecture):
        pytest.skip(f"{source} is for compute capability {registers.SINCE[source] / 10} and later")
    table = registers.table()
    column = table["architectures"].index(architecture)
    same = table["nvrtc"] == ".".join(map(str, nvrtc.version()))
    slack = 0 if same else registers.OTHER_COMPILER
    is_known = same and table["digests"][source] == registers.digest(source)
    every = 1 if architecture in COMPLETE and not is_known else 4
    found = registers.measured(source, architecture, every)
    assert found
    known = set(table[source])
    assert set(found) == known if every == 1 else set(found) <= known, HINT
    spilling = {name: bytes_ for name, (_, bytes_) in found.items() if bytes_}
    assert not spilling
    over = {
        name: f"{count} registers, {table[source][name][column]} allowed"
        for name, (count, _) in found.items()
        if count > table[source][name][column] + slack
    }
    assert not over


@pytest.mark.parametrize("architecture", ["80", "90a", "120"])
def test_tensor_cores_are_used(architecture):
    """Each kernel for tensor cores has as many of their instructions as it is written with; others
    none."""
    for source, times in (("implicit_gemm_mma", 16), ("implicit_gemm", 0)):
        some = [i for i in registers.instances(source) if ", 2, false," in i]
        made = nvrtc.compile_for(cuda.source(source), architecture, cuda.OPTIONS, some)
        found = nvrtc.instructions(made.cubin, nvrtc.HMMA)
        assert some
        assert set(found) == set(made.lowered.values())
        assert all((count >= times) if times else (count == 0) for count in found.values()), found
