"""Continues an earlier run: keeps its rows, and measures only the missing ones.

Times of one row are measured in turns, so that the ratios of rows of two runs are comparable. A run
on another processor, with other settings or with other releases is refused.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.case import Row
from bench.measure import Result, Timing, conclude
from bench.report import Run

SAME = ("processor", "vector", "rounds", "environment")


class Unlike(Exception):
    """Report that the earlier run is of another machine, other settings or other releases."""


def take_over(run: Run, path: Path, rows: list[Row]) -> None:
    """Add the results for `rows` in an earlier JSON file to `run`."""
    if not path.exists():
        return
    old = json.loads(path.read_text(encoding="utf-8"))
    new = {**vars(run), "options": asdict(run.options)}
    for name in (*SAME, "options"):
        if old[name] != new[name]:
            raise Unlike(f"{name} was {old[name]!r} and is {new[name]!r}")
    for library in old["about"].keys() & run.about.keys():
        before, now = (about[library]["versions"] for about in (old["about"], run.about))
        if before != now:
            raise Unlike(f"{library} was {before} and is {now}")
    run.date = f"{old['date']}, {run.date}"
    for dtype, speed in old["peaks"].items():
        if speed > run.peaks.get(dtype, 0.0):
            run.peaks[dtype], run.peak_library[dtype] = speed, old["peak_library"][dtype]
    by_name = {row.name: row for row in rows}
    run.results += [
        _result(by_name[record["row"]], record, run.rounds)
        for record in old["rows"]
        if record["row"] in by_name
    ]


def _result(row: Row, record: dict[str, Any], rounds: int) -> Result:
    timings = [Timing(**timing) for timing in record["timings"]]
    ready = [t for t in timings if t.problem is None and len(t.seconds) == rounds]
    result = conclude(row, timings, ready)
    result.note, result.workspace = record["note"], record["workspace_bytes"]
    return result
