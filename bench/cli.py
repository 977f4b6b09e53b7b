"""Defines the command line of ``python -m bench``."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path

from bench import machine
from bench.case import GROUPS, PASSES, Row
from bench.cases import select, spread
from bench.html import page
from bench.measure import measure_row
from bench.options import Options
from bench.peers import OURS, PEERS
from bench.plot import draw
from bench.progress import Progress
from bench.report import Run, to_json, to_markdown
from bench.resume import Unlike, take_over
from bench.workers import Crew, WorkerFailure

GEMM_SIZES = {"float32": 2048, "float64": 1536}
SMOKE_BOX = 38.0  # seconds for the rows; starting the libraries takes the rest of a minute


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Time einstride against PyTorch, JAX, onnxruntime, SciPy and OpenCV on the "
        "CPU, each in a process of its own, in interleaved rounds; check every answer first.",
    )
    add = parser.add_argument
    add("--smoke", action="store_true", help="a handful of small cases, one round, under a minute")
    add("--list", action="store_true", help="print the rows that would be run, and stop")
    add("--group", action="append", choices=GROUPS, help="only this group (may be repeated)")
    add("--case", metavar="GLOB", help="only rows or cases whose name matches")
    add("--passes", nargs="+", choices=PASSES)
    add("--batch", nargs="+", type=int)
    add("--peers", nargs="*", choices=PEERS, default=PEERS, help="default: all installed")
    add("--without-ours", action="store_true", help="time the peers alone")
    add("--algorithm", default="auto", help="force einstride's algorithm")
    add("--rounds", type=int, help="interleaved rounds (default 7; 1 in --smoke)")
    add("--time-box", type=float, metavar="SECONDS", help="start no row after this time")
    add("--threads", type=int, default=2, help="for every library (default 2)")
    add(
        "--native-blas",
        action="store_true",
        help=f"unset {' and '.join(machine.BLAS_CHOICES)} for the workers",
    )
    add(
        "--fresh-memory",
        action="store_true",
        help="let freed memory go back to the system, whose clearing of pages is then timed too",
    )
    add("--json", type=Path, metavar="PATH", help="written after every row")
    add("--resume", action="store_true", help="keep the rows that --json holds, measure the others")
    add("--markdown", type=Path, metavar="PATH", help="default: standard output")
    add("--plot", type=Path, metavar="PATH", help="a PNG (needs matplotlib)")
    add("--html", type=Path, metavar="PATH", help="a page with rows to search and bars")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; return 0 if every result is right, 2 if nothing could be run."""
    args = parse(arguments)
    rows = select(
        groups=args.group,
        pattern=args.case,
        passes=args.passes,
        batches=args.batch,
        smoke=args.smoke,
    )
    if args.list:
        print("\n".join(f"{row.case.group:28} {row.name}" for row in rows))
        return 0
    if not rows:
        print("bench: no row matches; --list names them", file=sys.stderr)
        return 2
    if args.resume and not args.json:
        print("bench: --resume goes on with a file; name it with --json", file=sys.stderr)
        return 2
    box = args.time_box or (SMOKE_BOX if args.smoke else None)
    options = Options(
        threads=args.threads,
        algorithm=args.algorithm,
        native_blas=args.native_blas,
        fresh_memory=args.fresh_memory,
        slice_seconds=0.02 if args.smoke else 0.06,
    )
    run = _describe(args, arguments, options)
    names = ["reference", *([] if args.without_ours else [OURS]), *args.peers]
    with Crew(names, options) as crew:
        run.about = {n: w.about for n, w in crew.workers.items() if n != "reference"}
        run.absent = crew.absent | {n: "not asked for" for n in PEERS if n not in args.peers}
        if "reference" in crew.absent or (OURS in crew.absent):
            who = "einstride" if OURS in crew.absent else "the reference"
            reason = crew.absent.get(OURS) or crew.absent["reference"]
            print(
                f"bench: {who} does not start ({reason}); install it with pip install '.[bench]'",
                file=sys.stderr,
            )
            return 2
        if args.resume:
            try:
                take_over(run, args.json, rows)
            except Unlike as reason:
                print(f"bench: --resume needs a run like this one; {reason}", file=sys.stderr)
                return 2
        _measure_peaks(run, crew)
        _measure_rows(run, crew, rows, box, args.json)
        _measure_peaks(run, crew)  # repeated, since the first measurement may be disturbed
    _write(run, args)
    return run.exit_status


def _describe(args: argparse.Namespace, arguments: list[str] | None, options: Options) -> Run:
    words = sys.argv[1:] if arguments is None else arguments
    return Run(
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        command=shlex.join(["python", "-m", "bench", *words]),
        processor=machine.processor(),
        vector=machine.vector_width(),
        options=options,
        rounds=args.rounds or (1 if args.smoke else 7),
        environment={}
        if options.native_blas
        else {name: os.environ[name] for name in machine.BLAS_CHOICES if name in os.environ},
    )


def _measure_peaks(run: Run, crew: Crew) -> None:
    """Measure the fastest matrix product of all libraries: the peak for all rows."""
    for dtype, size in GEMM_SIZES.items():
        for name, worker in crew.workers.items():
            if name == "reference":
                continue
            try:
                speed = worker.ask("gemm", dtype, size, limit=60.0)
            except WorkerFailure:
                continue
            if speed > run.peaks.get(dtype, 0.0):
                run.peaks[dtype] = speed
                run.peak_library[dtype] = "numpy" if name == OURS else name


def _measure_rows(
    run: Run, crew: Crew, rows: list[Row], box: float | None, path: Path | None
) -> None:
    begin = time.monotonic()
    measured = {result.row for result in run.results}
    order = [row for row in (spread(rows) if box else rows) if row not in measured]
    with Progress(len(order)) as progress, tempfile.TemporaryDirectory() as folder:
        for index, row in enumerate(order):
            if box and time.monotonic() - begin > box:
                run.skipped = [late.name for late in order[index:]]
                break
            try:
                result = measure_row(row, crew, Path(folder), run.options, run.rounds)
            except KeyboardInterrupt:
                run.skipped = [late.name for late in order[index:]]
                break
            run.results.append(result)
            if path:  # written after each row: an interrupted run loses one row
                path.write_text(to_json(run), encoding="utf-8")
            progress.done(
                row.name,
                "" if result.ratio is None else f"{result.ratio:.2f}",
                "" if result.status == "ok" else result.status,
            )
    places = {row: place for place, row in enumerate(rows)}
    run.results.sort(key=lambda result: places[result.row])


def _write(run: Run, args: argparse.Namespace) -> None:
    markdown = to_markdown(run)
    if args.markdown:
        args.markdown.write_text(markdown)
    else:
        print(markdown)
    if args.json:
        args.json.write_text(to_json(run))
    if args.html:
        args.html.write_text(page(json.loads(to_json(run))), encoding="utf-8")
    if args.plot:
        title = (
            f"einstride against the best peer of each row — {run.processor}, "
            f"{run.options.threads} threads, {run.date[:10]}"
        )
        if not draw(run.results, title, args.plot):
            print("bench: no plot (nothing was timed, or matplotlib is absent)", file=sys.stderr)
