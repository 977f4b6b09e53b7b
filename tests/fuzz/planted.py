"""``python -m tests.fuzz --planted``: faults that einstride once had, planted back; each is found.

A fault is a few edits of a copy of the sources. The fuzzer runs on each copy until its first
failure, two minutes at most.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
MINUTES = 2.0


class Edit(NamedTuple):
    """One text in a file of the package, and what stands there in the copy."""

    file: str
    old: str
    new: str


FAULTS: dict[str, tuple[Edit, ...]] = {
    "masked stores of one lane are wide": (
        Edit("codegen/function_builder.py",
             "return mask.stored if ir_types.is_narrow(self.element) or mask.has_parts else mask",
             "return mask"),
        Edit("codegen/function_builder.py",
             "if mask.first is not None and ir_types.is_narrow(self.element):",
             "if False:"),
    ),
    "real beside complex is looked at before it is converted": (
        Edit("algorithms/direct/dense.py",
             "return operand(a, b, None if is_complex(b.dtype_name(a)) else compute, neighbours)",
             "return operand(a, b, needs=neighbours) if is_complex(b.dtype_name(a)) "
             "else b.astype(operand(a, b), compute)"),
        Edit("algorithms/direct/dense.py",
             "x = operand(x, b, needs=neighbours) if four else _operand(x, job, b)",
             "x = operand(x, b, needs=neighbours) if four else x"),
    ),
    "strides of packed records are rounded": (
        Edit("cpu/runtime/operands.py",
             "a.flags.aligned and a.dtype.isnative and gcd(*a.strides) % a.itemsize == 0",
             "a.dtype.isnative"),
        Edit("cpu/runtime/operands.py", "    if rest:\n", "    if False:\n"),
    ),
    "copies of a layer keep the transforms of another filter": (
        Edit("api/conv_layer.py", 'return {**self.__dict__, "_filter": self._filter.f, "_x": None}',
             'return {**self.__dict__, "_x": None}'),
        Edit("api/conv_layer.py", '        self._filter = _Filter.of(state["_filter"])\n', ""),
        Edit("api/conv_layer.py", "        self._filter = _Filter.of(f)\n\n    @property",
             '        self._filter = _Filter(_own(f, "f"), self._filter.kept)\n\n    @property'),
        Edit("dispatch/filter_cache.py", "def __reduce__", "def not_reduced"),
    ),
    "gradients for each example count the sums of one": (
        Edit("algorithms/direct/channelwise.py", "(cut.groups * cut.tables + 1) * prod",
             "(cut.tables + 1) * prod"),
    ),
}  # fmt: skip


def plant(fault: str, folder: Path) -> Path:
    """A copy of the sources with the fault in it."""
    tree = folder / re.sub(r"\W+", "-", fault)
    shutil.copytree(ROOT / "src", tree, ignore=shutil.ignore_patterns("__pycache__"))
    for edit in FAULTS[fault]:
        file = tree / "einstride" / edit.file
        text = file.read_text(encoding="utf-8")
        if text.count(edit.old) != 1:
            raise ValueError(f"{fault}: {edit.file} has {text.count(edit.old)} times {edit.old!r}")
        file.write_text(text.replace(edit.old, edit.new), encoding="utf-8")
    return tree


def find(fault: str, folder: Path, seed: int) -> tuple[bool, float, str]:
    """Whether the fuzzer finds it, after how many seconds, and the first line about it."""
    tree, began = plant(fault, folder), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--minutes", str(MINUTES), "--seed", str(seed),
         "--stop", "--no-shrink", "--pace", "200"],
        cwd=ROOT, capture_output=True, text=True, timeout=60 * MINUTES + 120,
        env=os.environ | {"PYTHONPATH": str(tree)},
    )  # fmt: skip
    lines = [x for x in done.stdout.splitlines() if x.startswith("FAILURE")] or [done.stderr[-200:]]
    return done.returncode == 1, time.monotonic() - began, lines[0]


def main(seed: int) -> int:
    """A table; 1 if a fault is not found."""
    missed = 0
    print(f"faults planted back, seed {seed}; each is to be found within {MINUTES:g} minutes")
    with (
        tempfile.TemporaryDirectory(prefix="einstride-planted-") as name,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        answers = pool.map(lambda fault: find(fault, Path(name), seed), FAULTS)
        for fault, (found, seconds, line) in zip(FAULTS, answers, strict=True):
            missed += not found
            word = "found" if found else "NOT FOUND"
            print(f"{word:9} {seconds:5.0f} s  {fault}: {line[:150]}", flush=True)
    return int(missed > 0)
