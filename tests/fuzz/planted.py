"""``python -m tests.fuzz --planted``: checks that the fuzzer finds each of some former faults.

A fault is a list of changes of the sources. The fuzzer runs on a copy of the sources with the
fault, until its first failure but at most two minutes.
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

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for a run as a program

from mutants.change import Change
from mutants.sources import make, read

ROOT = Path(__file__).resolve().parents[2]
MINUTES = 2.0

FAULTS: dict[str, tuple[Change, ...]] = {
    "masked stores of one lane are wide": (
        Change(
            "Pointer.store_mask",
            "mask.hidden_bits if ir_types.is_narrow(self.element) or mask.has_parts else mask",
            "mask",
        ),
        Change(
            "Pointer.store",
            "if mask.leading_lanes is not None and ir_types.is_narrow(self.element): ...",
            "if False: ...",
        ),
    ),
    "real beside complex is looked at before it is converted": (
        Change(
            "dense._operand",
            "return operand(a, b, *_needs(a, job, needs))",
            "wanted, lies = _needs(a, job, needs)\n"
            "return operand(a, b, None, lies) if wanted is None "
            "else b.astype(operand(a, b), wanted)",
        ),
        Change(
            "dense._correlate",
            "x = operand(x, b, *_needs(x, job, addressable, dots))",
            "x = x",
        ),
    ),
    "strides of packed records are rounded": (
        Change(
            "operands.addressable",
            "a.flags.aligned and a.dtype.isnative and gcd(*a.strides) % a.itemsize == 0",
            "a.dtype.isnative",
        ),
        Change(
            "operands.element_stride",
            "count, remainder = divmod(stride, size)\nif remainder: ...",
            "count, remainder = divmod(stride, size)\nif False: ...",
        ),
    ),
    "copies of a layer keep the transforms of another filter": (
        Change(
            "Conv.__getstate__",
            '{**self.__dict__, "_filter": self._filter.f, "_x": None}',
            '{**self.__dict__, "_x": None}',
        ),
        Change("Conv.__setstate__", 'self._filter = _Filter.of(state["_filter"])', ""),
        Change(
            "Conv.f",
            'array_checks.layer("Conv", f, self._bias, _1)\nself._filter = _Filter.of(f)',
            'array_checks.layer("Conv", f, self._bias, _1)\n'
            'self._filter = _Filter(_private_copy(f, "f"), self._filter.kept)',
        ),
        Change("Prepared.__reduce__", "def __reduce__(self): ...", ""),
    ),
    "gradients for each example count the sums of one": (
        Change("channelwise.cost", "split.results * split.per_result + 1", "split.per_result + 1"),
    ),
}


def plant(fault: str, folder: Path) -> Path:
    """Copy the sources, plant the fault in the copy, and return its folder."""
    tree = folder / re.sub(r"\W+", "-", fault)
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("__pycache__"))
    texts = read(ROOT, ("src",))
    for change in FAULTS[fault]:
        made = make(change, texts)
        texts |= made
        for file, text in made.items():
            (tree / file).write_text(text, encoding="utf-8")
    return tree / "src"


def find(tree: Path, seed: int) -> tuple[bool, float, str]:
    """Fuzz sources with a fault; return (True if found, seconds, first line of the report)."""
    start = time.monotonic()
    process = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--minutes", str(MINUTES), "--seed", str(seed),
         "--stop", "--no-shrink", "--pace", "200"],
        cwd=ROOT, capture_output=True, text=True, timeout=60 * MINUTES + 120,
        env=os.environ | {"PYTHONPATH": str(tree)},
    )  # fmt: skip
    lines = [x for x in process.stdout.splitlines() if x.startswith("FAILURE")] or [
        process.stderr[-200:]
    ]
    return process.returncode == 1, time.monotonic() - start, lines[0]


def main(seed: int) -> int:
    """Look for every fault, and print a table; return 1 if a fault is not found."""
    missed = 0
    print(f"faults planted back, seed {seed}; each is to be found within {MINUTES:g} minutes")
    with (
        tempfile.TemporaryDirectory(prefix="einstride-planted-") as name,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        trees = [plant(fault, Path(name)) for fault in FAULTS]
        results = pool.map(lambda tree: find(tree, seed), trees)
        for fault, (found, seconds, line) in zip(FAULTS, results, strict=True):
            missed += not found
            verdict = "found" if found else "NOT FOUND"
            print(f"{verdict:9} {seconds:5.0f} s  {fault}: {line[:150]}", flush=True)
    return int(missed > 0)
