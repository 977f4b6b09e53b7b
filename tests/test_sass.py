"""The main loops of the GPU kernels have no more instructions than the committed table says."""

from __future__ import annotations

import json

import pytest
from bench.gpu import sass

from conftest import commit_number
from cupy_host import nvrtc

HINT = "python -m bench.gpu.sass --write writes the table"


def made(*lines: str) -> list[sass.Instruction]:
    """Read lines of code, each a name, perhaps after "label:" and "@", perhaps with a target."""
    code = []
    for line in lines:
        label, _, rest = line.rpartition(":")
        words = rest.split()
        target = words[1] if len(words) > 1 else None
        labels = (label,) if label else ()
        code.append(sass.Instruction(words[0].lstrip("@"), "@" in rest, target, labels))
    return code


def test_the_pass_is_the_shortest_path_with_all_loads():
    code = made(
        "MOV", "head:ISETP", "@BRA no", "@BRA slow", "IADD", "BRA join",
        "slow:IMAD", "IMAD", "IMAD", "join:LDG", "no:FFMA", "FFMA", "@BRA head", "FFMA",
    )  # fmt: skip
    path = [one.name for one in sass.main_loop(code, "FFMA")]
    assert path == ["ISETP", "BRA", "BRA", "IADD", "BRA", "LDG", "FFMA", "FFMA", "BRA"]


def test_the_loop_is_the_innermost_with_the_most_useful_instructions():
    code = made(
        "outer:LDG", "few:FFMA", "@BRA few", "inner:FFMA", "FFMA", "@BRA inner", "@BRA outer"
    )
    assert [one.name for one in sass.main_loop(code, "FFMA")] == ["FFMA", "FFMA", "BRA"]


@pytest.mark.parametrize(
    ("size", "addresses", "expected"),
    [
        (4, [4 * lane for lane in range(32)], 1),
        (4, [8 * lane for lane in range(32)], 2),
        (4, [128 * lane for lane in range(32)], 32),
        (4, [132 * lane for lane in range(32)], 1),
        (4, [0] * 32, 1),
        (8, [8 * lane for lane in range(32)], 2),
        (16, [16 * lane for lane in range(32)], 4),
        (16, [32 * lane for lane in range(32)], 8),
        (16, [144 * lane for lane in range(32)], 4),
        (16, [128 * lane for lane in range(32)], 32),
    ],
)
def test_bank_conflicts_are_those_of_the_programming_guide(size, addresses, expected):
    """Words of one bank are read one after another; lanes that read one word share it."""
    assert sass.cycles(size, addresses)[0] == expected


def test_warps_that_fit():
    at = sass.MULTIPROCESSORS["90a"]
    assert sass.resident_warps(at, 256, 128, 0) == 16
    assert sass.resident_warps(at, 256, 129, 0) == 8  # registers are given out in eights
    assert sass.resident_warps(at, 256, 32, 100 << 10) == 16
    assert sass.resident_warps(at, 1024, 255, 0) == 0


@pytest.mark.parametrize("architecture", sass.ARCHITECTURES)
def test_no_loop_is_longer_than_in_the_table(architecture):
    """All kernels whose sources have changed, and a few others in turn."""
    reason = nvrtc.unavailable_reason()
    if reason or sass.nvdisasm() is None:
        pytest.skip(reason or "nvdisasm is not installed: pip install nvidia-cuda-nvdisasm")
    table = json.loads(sass.TABLE.read_text())
    if table["nvrtc"] != ".".join(map(str, nvrtc.version())):
        pytest.skip(f"the table is of NVRTC {table['nvrtc']}, here is {nvrtc.version()}")
    assert set(table[architecture]) == {kernel.name for kernel in sass.KERNELS}, HINT
    place = commit_number() + sass.ARCHITECTURES.index(architecture)
    some = [
        kernel
        for i, kernel in enumerate(sass.KERNELS)
        if table["digests"][kernel.source] != sass.digest(kernel.source) or (i + place) % 9 == 0
    ]
    for name, loop in sass.measured(some, architecture).items():
        known = table[architecture][name]
        assert loop.useful * known["issued"] >= known["useful"] * loop.issued, (name, loop, HINT)
        assert loop.registers <= known["registers"], (name, loop, HINT)
        assert loop.bound >= known["bound"], (name, loop, HINT)
