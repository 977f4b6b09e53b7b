"""Plants each fault of faults.toml in a copy of the sources, and runs the tests that must fail.

    python tests/mutants/run.py                           # every fault
    python tests/mutants/run.py winograd                  # those with this part in their names
    python tests/mutants/run.py 2/3                       # every third fault, from index 2 on
    python tests/mutants/run.py --tested                  # the tests pass without a fault
    python tests/mutants/run.py --minutes 8               # the newest, as many as begin in time

Prints a line for each fault. The exit status is 1 if a fault survives (no test fails), 2 if a fault
or its tests cannot be run, also if the old code of a fault is no longer in the sources.

For every fault a process forks that has already imported pytest and other libraries, because these
imports take longer than most of the tests. Their objects are hidden from the garbage collector,
which would copy the pages of all of them in every child. einstride is imported after the fork:
every copy of the sources has its own, with its bytecode, which one fault leaves to the next. Python
compares the time of a source with that in its bytecode, so every change gives the file a time of
its own.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import math
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for a run as a program

from mutants.change import Change, NotThereError
from mutants.sources import make, read

ROOT = Path(__file__).parents[2]
LIST = Path(__file__).with_name("faults.toml")
COPIES = 2  # copies of the sources, and so tests at a time: one per core of a small machine
LIMIT = 240  # most seconds for the tests of one fault
CLEAN = 1800  # most seconds for all tests without a fault
PYTEST = (
    "-x", "-q", "--tb=native", "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist",
    "-W", "ignore::pytest.PytestAssertRewriteWarning",  # hypothesis is imported before
    "--backend", "cupy-host",
)  # fmt: skip
PRELOADED = (
    "pytest", "_hypothesis_pytestplugin", "hypothesis", "numpy", "llvmlite.binding", "ml_dtypes",
    "array_api_strict", "scipy.special", "torch",
)  # fmt: skip
TESTS_FAILED = 1


@dataclass(frozen=True)
class Fault:
    """Hold one entry of faults.toml."""

    name: str
    definition: str
    old: str
    new: str
    tests: str
    """Ids of tests, one in each line, of which one must fail: kernels differ between machines."""
    needs: str = ""
    """LLVM's name of a feature that the CPU must have, or ""."""

    @property
    def change(self) -> Change:
        """Return the change of the sources."""
        return Change(self.definition, self.old, self.new)

    @property
    def nodes(self) -> list[str]:
        """Return the ids of the tests as a list."""
        return self.tests.strip().splitlines()


@dataclass(frozen=True)
class Outcome:
    """Hold the verdict on a fault: killed, survived, not run, or the reason why it could not be
    run."""

    fault: Fault
    verdict: str
    seconds: float
    text: str = ""


def faults(part: str = "") -> list[Fault]:
    """List the faults whose names contain `part`; for ``k/n``, every n-th fault from index k % n
    on."""
    entries = tomllib.loads(LIST.read_text())["fault"]
    share = re.fullmatch(r"(\d+)/(\d+)", part)
    if share:
        k, n = int(share[1]), int(share[2])
        return [Fault(**entry) for entry in entries[k % n :: n]]
    return [Fault(**entry) for entry in entries if part in entry["name"]]


def copy_tree(folder: Path) -> Path:
    """Copy the sources and the tests, and return the folder of the copy."""
    tree = folder / "tree"
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for name in ("src", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tree)
    return tree


def make_all(chosen: list[Fault]) -> list[dict[str, str] | NotThereError]:
    """Return for each fault {changed file: text}, or the error if its old code is not found."""
    texts = read(ROOT)
    made: list[dict[str, str] | NotThereError] = []
    for fault in chosen:
        try:
            made.append(make(fault.change, texts))
        except NotThereError as error:
            made.append(error)
    return made


@dataclass
class Process:
    """Run pytest on a copy of the sources in a forked process."""

    tree: Path
    tests: list[str]
    limit: float

    def __post_init__(self) -> None:
        self.begin = time.monotonic()
        self.output = self.tree.parent / "output.txt"
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run()

    def _run(self) -> None:
        """Run pytest in the child; the package `mutants` is then imported from the copy."""
        status = 70
        try:
            os.setsid()
            file = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 1)
            os.dup2(file, 2)
            os.chdir(self.tree)
            path = os.pathsep.join([str(self.tree / "src"), os.environ.get("PYTHONPATH", "")])
            os.environ["PYTHONPATH"] = path
            os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
            sys.dont_write_bytecode = False
            own_folder = str(Path(__file__).resolve().parent)
            sys.path[:] = [
                str(self.tree / "src"),
                *(p for p in sys.path if not own_folder.startswith(p)),
            ]
            for name in [name for name in sys.modules if name.split(".")[0] == "mutants"]:
                del sys.modules[name]
            status = int(sys.modules["pytest"].main([*PYTEST, *self.tests]))
        finally:
            sys.stdout.flush()
            os._exit(status)

    def verdict(self) -> str:
        """Return "killed" if a test failed, "SURVIVED" if none did, "" while they run, else the
        error."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        timed_out = time.monotonic() - self.begin > self.limit
        if pid == 0 and not timed_out:
            return ""
        if pid == 0:
            self.end()
            return "too late"
        code = os.waitstatus_to_exitcode(status)
        return {0: "SURVIVED", TESTS_FAILED: "killed"}.get(code, f"pytest {code}")

    def end(self) -> None:
        """Kill the child and all processes that it started."""
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)

    @property
    def text(self) -> str:
        """Return the output of the child."""
        return self.output.read_text(errors="replace")


def attempts(chosen: list[Fault], trees: list[Path], seconds: float) -> Iterator[Outcome]:
    """For each fault, write the changed file, run the fault's tests, and restore the file.

    Runs as many faults at a time as there are copies of the sources; yields outcomes in the order
    in which they are known. After `seconds` no other fault begins.
    """
    stop = time.monotonic() + seconds
    waiting = list(zip(chosen, make_all(chosen), strict=True))
    running: list[tuple[Fault, Process, Path, str, float]] = []
    changes = 0
    try:
        while waiting or running:
            while waiting and trees:
                fault, made = waiting.pop(0)
                if isinstance(made, NotThereError):
                    yield Outcome(fault, "NOT THERE", 0, str(made))
                elif time.monotonic() > stop:
                    yield Outcome(fault, "not run: no time was left", 0)
                elif fault.needs and not sys.modules[
                    "llvmlite.binding"
                ].get_host_cpu_features().get(fault.needs):
                    yield Outcome(fault, f"not run: this machine has no {fault.needs}", 0)
                else:
                    [(file, changed)] = made.items()
                    path = trees[-1] / file
                    text, when = path.read_text(), path.stat().st_mtime
                    path.write_text(changed)
                    changes += 1
                    os.utime(path, (when + changes, when + changes))
                    process = Process(trees.pop(), fault.nodes, LIMIT)
                    running.append((fault, process, path, text, when))
            time.sleep(0.02)
            for entry in list(running):
                fault, process, path, text, when = entry
                verdict = process.verdict()
                if verdict:
                    running.remove(entry)
                    path.write_text(text)
                    os.utime(path, (when, when))
                    trees.append(process.tree)
                    seconds = time.monotonic() - process.begin
                    yield Outcome(fault, verdict, seconds, process.text)
    finally:
        for _, process, *_ in running:
            process.end()


def run(chosen: list[Fault], tested: bool = False, seconds: float = math.inf) -> int:
    """Try the chosen faults, print a table, and return the exit status."""
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        trees = [copy_tree(Path(scratch) / str(number)) for number in range(COPIES)]
        if not tested:
            clean = Process(trees[0], sorted({n for fault in chosen for n in fault.nodes}), CLEAN)
            while not (verdict := clean.verdict()):
                time.sleep(0.1)
            if verdict != "SURVIVED":
                print(clean.text)
                print(f"the tests fail without any fault: {verdict}")
                return 2
        width = max(len(fault.name) for fault in chosen)
        outcomes = []
        for o in attempts(chosen, trees, seconds):
            print(f"{o.fault.name.ljust(width)}  {o.verdict:9}  {o.seconds:5.1f} s", flush=True)
            outcomes.append(o)
    return report(outcomes)


def report(outcomes: list[Outcome]) -> int:
    """Print the faults that were not killed and the counts; return the exit status."""
    killed = sum(o.verdict == "killed" for o in outcomes)
    survived = sum(o.verdict == "SURVIVED" for o in outcomes)
    for o in outcomes:
        if not o.verdict.startswith(("killed", "not run")):
            print(f"\n{o.fault.name}: {o.verdict}\n{o.text[-2000:]}")
    left_out = sum(o.verdict.startswith("not run") for o in outcomes)
    print(f"{killed} killed, {survived} survived, {left_out} not run, of {len(outcomes)}")
    if killed + survived + left_out < len(outcomes):
        return 2
    return 1 if survived else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Plant faults; a test must notice each.")
    parser.add_argument("part", nargs="?", default="", help="part of a name, or a share k/n")
    parser.add_argument("--tested", action="store_true", help="the tests pass without any fault")
    parser.add_argument("--minutes", type=float, default=math.inf, metavar="N",
                        help="begin no fault after N minutes; the newest come first")  # fmt: skip
    given = parser.parse_args()
    found = faults(given.part)
    if given.minutes < math.inf:
        found.reverse()
    if not found:
        sys.exit(f"no fault has {given.part!r} in its name")
    sys.exit(run(found, given.tested, 60 * given.minutes))
