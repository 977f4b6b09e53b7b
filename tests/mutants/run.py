"""Plant each fault of faults.toml in a copy of the sources, and run the tests that must fail.

    python tests/mutants/run.py [part of a fault's name]
    python tests/mutants/run.py 2/3    the second third of the list (8/3 too: modulo)

Prints a table; exit status 1 if a fault survives, 2 if a fault or its tests cannot be run. A fault
whose code is no longer in the sources is an error too: the list must follow them.
"""

from __future__ import annotations

import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from einstride.codegen.jit import machine

sys.path.append(str(Path(__file__).resolve().parents[1]))  # when this is run as a program

from mutants.change import Change, NotThereError
from mutants.sources import make, read

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("faults.toml")
COPIES = 2  # side by side: one per core of a small machine
LIMIT = 120  # seconds for one fault
CLEAN = 900  # and for all their tests without any
PYTEST = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly")
TESTS_FAILED = 1


@dataclass(frozen=True)
class Fault:
    """Hold one entry of faults.toml."""

    name: str
    definition: str
    old: str
    new: str
    tests: str
    """Tests, one in each line; kernels differ between machines, so one test may not be enough."""
    needs: str = ""
    """Feature that the CPU must have, by LLVM's name; "" for none."""

    @property
    def change(self) -> Change:
        """Return the change of the sources."""
        return Change(self.definition, self.old, self.new)

    @property
    def nodes(self) -> list[str]:
        """List the tests that must fail, by pytest's names."""
        return self.tests.strip().splitlines()


@dataclass(frozen=True)
class Outcome:
    """Hold the outcome of a fault: killed, survived, not run, or the reason why not."""

    fault: Fault
    verdict: str
    seconds: float
    text: str = ""


def faults(part: str = "") -> list[Fault]:
    """Select the faults whose name contains `part`; for ``k/n`` every n-th from the k-th on."""
    loaded = tomllib.loads(LIST.read_text())["fault"]
    share = re.fullmatch(r"(\d+)/(\d+)", part)
    if share:
        k, n = int(share[1]), int(share[2])
        return [Fault(**entry) for entry in loaded[k % n :: n]]
    return [Fault(**entry) for entry in loaded if part in entry["name"]]


def run_tests(tree: Path, tests: list[str], limit: int = LIMIT) -> subprocess.CompletedProcess[str]:
    """Run pytest on a copy of the sources, whatever version is installed."""
    backend = ("--backend", "cupy-host")
    path = os.pathsep.join([str(tree / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, *PYTEST, *backend, *tests],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=limit,
        check=False,
    )


def copy_tree(folder: Path) -> Path:
    """Copy the sources and the tests to a folder."""
    tree = folder / "tree"
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tree)
    return tree


def attempt(fault: Fault, made: dict[str, str] | NotThereError, tree: Path) -> Outcome:
    """Write the file with the fault, run the fault's tests, and restore the file."""
    begin = time.monotonic()
    if isinstance(made, NotThereError):
        return Outcome(fault, "NOT THERE", 0, str(made))
    if fault.needs and f"+{fault.needs}" not in machine().features.split(","):
        return Outcome(fault, f"not run: this machine has no {fault.needs}", 0)
    [(file, changed)] = made.items()
    path = tree / file
    text = path.read_text()
    path.write_text(changed)
    try:
        done = run_tests(tree, fault.nodes)
        said = done.stdout + done.stderr
        names = {0: "SURVIVED", TESTS_FAILED: "killed"}
        verdict = names.get(done.returncode, f"pytest {done.returncode}")
    except subprocess.TimeoutExpired:
        verdict, said = "killed", "by its time limit"
    finally:
        path.write_text(text)
    return Outcome(fault, verdict, time.monotonic() - begin, said)


def make_all(chosen: list[Fault]) -> list[dict[str, str] | NotThereError]:
    """Return the changed file and its text for each fault, or the reason why there is none."""
    texts = read(ROOT)
    made: list[dict[str, str] | NotThereError] = []
    for fault in chosen:
        try:
            made.append(make(fault.change, texts))
        except NotThereError as error:
            made.append(error)
    return made


def run(chosen: list[Fault]) -> int:
    """Run all faults, print the table, and return the exit status."""
    made = make_all(chosen)
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        trees: queue.Queue[Path] = queue.Queue()
        for number in range(COPIES):
            trees.put(copy_tree(Path(scratch) / str(number)))
        tree = trees.get()
        clean = run_tests(tree, sorted({node for fault in chosen for node in fault.nodes}), CLEAN)
        trees.put(tree)
        if clean.returncode:
            print(clean.stdout + clean.stderr)
            print("the tests fail without any fault")
            return 2

        def one(fault: Fault, made: dict[str, str] | NotThereError) -> Outcome:
            tree = trees.get()
            try:
                return attempt(fault, made, tree)
            finally:
                trees.put(tree)

        with ThreadPoolExecutor(COPIES) as pool:
            outcomes = list(pool.map(one, chosen, made))
    return report(outcomes)


def report(outcomes: list[Outcome]) -> int:
    """Print the table, and return the exit status."""
    width = max(len(o.fault.name) for o in outcomes)
    for o in outcomes:
        print(f"{o.fault.name.ljust(width)}  {o.verdict:9}  {o.seconds:5.1f} s")
    killed = sum(o.verdict == "killed" for o in outcomes)
    survived = sum(o.verdict == "SURVIVED" for o in outcomes)
    for o in outcomes:
        if not o.verdict.startswith(("killed", "SURVIVED", "not run")):
            print(f"\n{o.fault.name}: {o.verdict}\n{o.text[-2000:]}")
    left_out = sum(o.verdict.startswith("not run") for o in outcomes)
    print(f"{killed} killed, {survived} survived, {left_out} not run, of {len(outcomes)}")
    if killed + survived + left_out < len(outcomes):
        return 2
    return 1 if survived else 0


if __name__ == "__main__":
    found = faults(*sys.argv[1:2])
    if not found:
        sys.exit(f"no fault has {sys.argv[1:]} in its name")
    sys.exit(run(found))
