"""Writes the report as Markdown and as JSON."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.case import GROUPS
from bench.layouts import BOTH, LAYOUTS
from bench.measure import Result, as_record, peak_share
from bench.options import Options
from bench.summary import summarise

PASS_NAMES = {"forward": "forward", "input_grad": "input grad", "filter_grad": "filter grad"}


@dataclass
class Run:
    """Hold the environment, the results and the skipped rows of a run."""

    date: str
    command: str
    processor: str
    vector: str
    options: Options
    rounds: int
    environment: dict[str, str]  # environment variables that choose BLAS kernels
    about: dict[str, dict[str, Any]] = field(default_factory=dict)  # library: versions, blas
    absent: dict[str, str] = field(default_factory=dict)  # library: why
    peaks: dict[str, float] = field(default_factory=dict)  # dtype: operations per second
    peak_library: dict[str, str] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # rows that the time limit excluded

    @property
    def exit_status(self) -> int:
        """Exit status 0 if all results are right and einstride ran every row, 2 if it ran none,
        else 1."""
        unable = ("algorithm cannot",)
        if self.results and all(result.status in unable for result in self.results):
            return 2
        return int(any(result.status in ("WRONG", "FAILED") for result in self.results))


def title(date: str, rows: int) -> str:
    """Return the title of a run's table and page, which tells it from other runs."""
    return f"einstride against its peers: {rows} rows, {date[:10]}"


def to_json(run: Run) -> str:
    """Convert the whole run to JSON; times are seconds per call, one entry per round."""
    head = {key: value for key, value in vars(run).items() if key not in ("results", "options")}
    return json.dumps(
        {
            **head,
            "options": asdict(run.options),
            "python": platform.python_version(),
            "groups": [asdict(entry) for entry in summarise(run.results, run.peaks)],
            "rows": [as_record(result, run.peaks) for result in run.results],
        },
        indent=1,
        default=float,
    )


def to_markdown(run: Run) -> str:
    """Convert the whole run to Markdown."""
    parts = [f"# {title(run.date, len(run.results))}", "", *_preamble(run), "", *_group_table(run)]
    for group in GROUPS:
        results = [result for result in run.results if result.row.case.group == group]
        if results:
            parts += ["", f"## {group}", "", *_row_table(results, run.peaks)]
    parts += _problems(run)
    return "\n".join(parts) + "\n"


def _preamble(run: Run) -> list[str]:
    cores = f"{run.options.threads} thread{'s' if run.options.threads > 1 else ''}"
    lines = [
        "Ratio = the best peer's time / einstride's, median over the rounds [quartiles]; above 1 "
        "einstride is faster.",
        "einstride runs in both layouts, and *ratio* is that of the one in which it is slower. The "
        "peer of a row is the best of all peers in their best layout, forward weights prepared "
        "where the library can. The columns *ours* have the ratio in each layout; those of a peer "
        "have its time in a layout divided by einstride's in the same one.",
        "Forward, einstride runs as a prepared `Conv`; the column *not prepared* is the plain "
        "function.",
        "",
        f"- date: {run.date}; command: `{run.command}`",
        f"- processor: {run.processor} ({run.vector}), {cores} for every library, "
        f"{run.rounds} interleaved rounds; Python {platform.python_version()}, "
        f"{platform.system()}",
    ]
    if run.options.algorithm != "auto":
        lines.append(f"- einstride was forced to algorithm `{run.options.algorithm}`")
    for name, about in run.about.items():
        versions = ", ".join(f"{package} {v}" for package, v in about["versions"].items())
        blas = "; ".join(about["blas"])
        lines.append(f"- {name}: {versions}" + (f" — {blas}" if blas else ""))
    for name, reason in run.absent.items():
        lines.append(f"- {name}: ABSENT ({reason})")
    if not run.options.fresh_memory:
        lines.append(
            "- memory: every process keeps what it freed (glibc's `MALLOC_MMAP_MAX_=0`): no "
            "row times the system's clearing of pages; `--fresh-memory` leaves the default"
        )
    for name, value in run.environment.items():
        lines.append(
            f"- {name}={value} was set: OpenBLAS did not choose its own kernel "
            "(`--native-blas` unsets it)"
        )
    for dtype, speed in run.peaks.items():
        lines.append(
            f"- GEMM peak {dtype}: {speed / 1e9:.0f} GFLOP/s "
            f"({run.peak_library[dtype]}, measured in this run)"
        )
    return lines


def _group_table(run: Run) -> list[str]:
    lines = [
        "| group | rows | ratio, geometric mean | lowest | highest | rows at 1 or above "
        f"| peers' share of GEMM peak | {' | '.join(_COLUMNS)} |",
        "|---|---|---|---|---|---|---|" + "---|" * len(_COLUMNS),
    ]
    for entry in summarise(run.results, run.peaks):
        bold = "**" if entry.name == "all" else ""
        lines.append(
            f"| {bold}{entry.name}{bold} | {entry.rows} | {bold}{_number(entry.mean)}{bold} "
            f"| {_number(entry.lowest)} | {_number(entry.highest)} | {entry.won} "
            f"| {_percent(entry.peer_share)} "
            f"| {' | '.join(_number(entry.layouts.get(column)) for column in _COLUMNS)} |"
        )
    return lines


def _row_table(results: list[Result], peaks: dict[str, float]) -> list[str]:
    lines = [
        "| case | batch | pass | ratio | not prepared | best peer | share of peak: ours | peer "
        f"| workspace | {' | '.join(_COLUMNS)} | note |",
        "|---|---|---|---|---|---|---|---|---|" + "---|" * (len(_COLUMNS) + 1),
    ]
    for result in results:
        row = result.row
        notes = [] if result.status == "ok" else [result.status]
        notes += ["disturbed"] if result.disturbed else []
        lines.append(
            f"| {row.case.name} | {row.batch} | {PASS_NAMES[row.pass_]} | {_ratio(result)} "
            f"| {_number(result.unprepared)} "
            f"| {f'{result.peer.library} {result.peer.variant}' if result.peer else '-'} "
            f"| {_percent(peak_share(row, result.ours, peaks))} "
            f"| {_percent(peak_share(row, result.peer, peaks))} "
            f"| {_mebibytes(result.workspace)} "
            f"| {' | '.join(_in_layout(result, column) for column in _COLUMNS)} "
            f"| {', '.join(notes)} |"
        )
    return lines


_COLUMNS = tuple(f"{name} {layout}" for name in BOTH for layout in LAYOUTS)


def _in_layout(result: Result, column: str) -> str:
    name, layout = column.split()
    return _number(result.layouts.get(layout, {}).get(name))


def _problems(run: Run) -> list[str]:
    """List the rows that were not measured, or whose results are wrong."""
    lines = [f"- {r.row.name}: {r.status}: {r.note}" for r in run.results if r.note]
    rows: dict[str, list[str]] = {}  # by problem: many rows share one
    for result in run.results:
        for timing in result.timings:
            if timing.problem and timing.problem.startswith(("error", "too slow")):
                text = f"{timing.library} {timing.variant}: {timing.problem}"
                rows.setdefault(text, []).append(result.row.name)
    lines += [f"- {text} ({', '.join(names)})" for text, names in rows.items()]
    if lines:
        lines = ["", "## Not right, not run, too slow", "", *lines]
    if run.skipped:
        lines += ["", f"## Out of time: {len(run.skipped)} rows", "", ", ".join(run.skipped)]
    return lines


def _ratio(result: Result) -> str:
    if result.ratio is None or result.spread is None:
        return "-"
    low, high = result.spread
    return f"**{_number(result.ratio)}** [{_number(low)}, {_number(high)}]"


def _number(value: float | None) -> str:
    """Format a number with two decimals, or two significant digits if it is too small."""
    if value is None:
        return ""
    return f"{value:.2f}" if value >= 0.095 else f"{value:.2g}"


def _percent(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0%}" if value >= 0.095 else f"{value:.1%}"


def _mebibytes(value: int | None) -> str:
    return "-" if value is None else f"{value / 2**20:.1f} MiB"
