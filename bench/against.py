"""Compares this checkout's speed with another commit's: ``python -m bench.against COMMIT``.

Each side runs in a process of its own, with an empty folder of compiled kernels. Only one process
runs at a time, in turns whose order alternates. The folders of the sources have names of equal
length: the length moves small arrays in memory, by which two copies of the same sources differed by
5% in depthwise layers on two threads. ``--processes 8`` repeats the comparison in eight pairs of
processes, whose heaps differ at random.

The report has ratios, the other commit's time divided by this checkout's: above 1, this checkout is
faster. It has geometric means of each group, for warm calls and for first calls, which plan and
compile, and the slowest rows. The exit status is 1 if a result is wrong, or if a group's mean of
warm calls is below ``--floor``.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.case import GROUPS, PASSES, Case, Row
from bench.cases import select, spread
from bench.measure import REFERENCE_LIMIT
from bench.options import Options
from bench.peers import OURS
from bench.progress import Progress
from bench.summary import geometric_mean
from bench.workers import ROOT, Worker, WorkerFailure

LIMIT = 120.0  # seconds for one call of one side, compiling included
OVERHEAD = Case("call/smallest", "tiny", "bench.overhead", (8, 8), 3, (3, 3), 4, batches=(1,))
"""A convolution with negligible arithmetic, whose difference is reported in microseconds."""


@dataclass
class Pair:
    """Hold the seconds of (other commit, this checkout) for a function or a prepared layer."""

    row: Row
    variant: str
    first: tuple[float, float] = (0.0, 0.0)
    rounds: list[tuple[float, float]] = field(default_factory=list)
    problem: str = ""

    @property
    def ratio(self) -> float:
        """Return the median over the rounds of the other commit's time divided by this
        checkout's."""
        return statistics.median(other / this for other, this in self.rounds)

    @property
    def added(self) -> float:
        """Return the median over the rounds of this checkout's time minus the other's, in
        microseconds."""
        return statistics.median(1e6 * (this - other) for other, this in self.rounds)

    def record(self) -> dict[str, Any]:
        """Convert the result to plain data for JSON."""
        return {
            "row": self.row.name, "group": self.row.case.group, "variant": self.variant,
            "first": self.first, "rounds": self.rounds, "problem": self.problem,
        }  # fmt: skip


def sources(commit: str | None, folder: Path) -> Path:
    """Copy the sources of a commit, or those of this checkout, to a folder."""
    if commit is None:
        ignored = shutil.ignore_patterns("__pycache__")
        return Path(shutil.copytree(ROOT / "src", folder / "src", ignore=ignored))
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, "src"], check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    return folder / "src"


def compare(row: Row, reference: Worker, sides: list[Worker], rounds: int) -> list[Pair]:
    """Check and time both sides on one row."""
    with tempfile.TemporaryDirectory() as folder:
        reference.ask("write", row, Path(folder), limit=REFERENCE_LIMIT)
        for side in sides:
            names = side.ask("names", row, limit=LIMIT)
        pairs = [Pair(row, name) for name in names]
        for pair in pairs:
            first = []
            for side in sides:
                found = side.ask("prepare", row, Path(folder), pair.variant, limit=LIMIT)
                first.append(found["first"])
                pair.problem = pair.problem or found["wrong"] or ""
            pair.first = (first[0], first[1])
        for turn in range(rounds):
            for pair in pairs:
                seconds = [0.0, 0.0]
                for side in (0, 1) if turn % 2 else (1, 0):
                    sample = sides[side].ask("measure", pair.variant, limit=LIMIT)
                    seconds[side] = sample["seconds"]
                pair.rounds.append((seconds[0], seconds[1]))
    return pairs


def attempt(row: Row, reference: Worker, sides: list[Worker], rounds: int) -> list[Pair]:
    """Compare one row; failures are results too, unless the algorithm does not support the row."""
    try:
        return compare(row, reference, sides, rounds)
    except WorkerFailure as failure:
        if failure.kind == "unsupported":  # by the requested algorithm
            return []
        return [Pair(row, "-", problem=f"{failure.kind}: {failure}")]


def join(measured: dict[tuple[str, str], Pair], pair: Pair) -> None:
    """Add the rounds of a pair of processes to those of earlier ones."""
    known = measured.setdefault((pair.row.name, pair.variant), pair)
    if known is not pair:
        known.rounds += pair.rounds
        known.problem = known.problem or pair.problem


def report(pairs: list[Pair], commit: str) -> str:
    """Write the table of groups, the slowest rows, and the smallest call in microseconds."""
    timed = [pair for pair in pairs if pair.rounds]
    lines = [
        f"{commit} over this checkout: above 1 this checkout is faster.", "",
        "| group | calls | warm | lowest | first calls |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for group in (*GROUPS, "all"):
        some = [pair for pair in timed if group in (pair.row.case.group, "all")]
        if some:
            first = [pair.first[0] / pair.first[1] for pair in some if pair.variant == "function"]
            lines.append(
                f"| {group} | {len(some)} | {geometric_mean(p.ratio for p in some):.3f} "
                f"| {min(p.ratio for p in some):.2f} | {geometric_mean(first):.2f} |"
            )
    lines += ["", "Slowest:"]
    for pair in sorted(timed, key=lambda pair: pair.ratio)[:10]:
        lines.append(f"- {pair.ratio:.2f} {pair.row.name}, {pair.variant}")
    lines += [
        f"{pair.row.name}, {pair.variant}: {pair.added:+.2f} us in this checkout"
        for pair in timed
        if pair.row.case is OVERHEAD
    ]
    lines += [f"WRONG: {p.row.name}, {p.variant}: {p.problem}" for p in pairs if p.problem]
    return "\n".join(lines)


def below(pairs: list[Pair], floor: float) -> bool:
    """True if a group's geometric mean of warm calls is lower than the floor."""
    groups: dict[str, list[float]] = {}
    for pair in pairs:
        if pair.rounds:
            groups.setdefault(pair.row.case.group, []).append(pair.ratio)
    return any(geometric_mean(ratios) < floor for ratios in groups.values())


def main(arguments: list[str] | None = None) -> int:
    """Time both sides, and print the report."""
    parser = argparse.ArgumentParser(prog="python -m bench.against", description=main.__doc__)
    add = parser.add_argument
    add("commit", help="the commit to compare with, by any name that git knows")
    add("--group", action="append", choices=GROUPS, help="only this group (may be repeated)")
    add("--case", metavar="GLOB", help="only rows or cases whose name matches")
    add("--passes", nargs="+", choices=PASSES)
    add("--algorithm", default="auto", help="force this algorithm on both sides")
    add("--rounds", type=int, default=5, help="turns in each pair of processes")
    add("--processes", type=int, default=1, help="pairs of processes, one after another")
    add("--threads", type=int, default=2)
    add("--time-box", type=float, metavar="SECONDS", help="start no row after this time")
    add("--native-blas", action="store_true", help="drop the environment's choice of BLAS kernels")
    add("--floor", type=float, default=0.0, help="least geometric mean of a group")
    add("--json", type=Path, metavar="PATH")
    args = parser.parse_args(arguments)
    rows = select(groups=args.group, pattern=args.case, passes=args.passes)
    rows = [*(Row(OVERHEAD, 1, which) for which in args.passes or PASSES), *spread(rows)]
    options = Options(threads=args.threads, algorithm=args.algorithm, native_blas=args.native_blas)
    measured: dict[tuple[str, str], Pair] = {}
    with tempfile.TemporaryDirectory() as folder:
        ours = [
            (sources(commit, Path(folder) / f"sources {i}"), Path(folder) / f"kernels {i}")
            for i, commit in enumerate((args.commit, None))
        ]
        begin = time.monotonic()
        try:
            with Progress(len(rows) * args.processes) as progress:
                for _ in range(args.processes):
                    reference = Worker("reference", options)
                    sides = [Worker(OURS, options, *where) for where in ours]
                    try:
                        for row in rows:
                            if args.time_box and time.monotonic() - begin > args.time_box:
                                break
                            found = attempt(row, reference, sides, args.rounds)
                            for pair in found:
                                join(measured, pair)
                            ratios = [f"{pair.ratio:.2f}" for pair in found if pair.rounds]
                            problems = [pair.problem for pair in found if pair.problem]
                            progress.done(row.name, *ratios[:1] or ["-"], *problems[:1])
                    finally:
                        for worker in (*sides, reference):
                            worker.close()
        except KeyboardInterrupt:
            pass  # reports the rows that were measured
    pairs = [*measured.values()]
    print(report(pairs, args.commit))
    if args.json:
        args.json.write_text(json.dumps([pair.record() for pair in pairs], indent=1))
    return int(any(pair.problem for pair in pairs) or below(pairs, args.floor))


if __name__ == "__main__":
    sys.exit(main())
