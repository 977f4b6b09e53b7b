"""Measures one row: makes arrays and reference, checks results, times interleaved rounds."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.case import Row
from bench.layouts import BOTH, CHANNELS_LAST, LAYOUTS, layout_of
from bench.options import Options
from bench.peers import OURS
from bench.peers.ours import PREPARED
from bench.workers import Crew, Worker, WorkerFailure
from bench.workspace import workspace_bytes

# factors by which a peer's variant may be slower than the best peer, after its trial call and after
# the first round; slower variants are dropped
AFTER_TRIAL = 5.0
AFTER_ROUND = 2.5
# limit for preparing a peer once another peer is timed: seconds to load and compile, plus this
# factor times the seconds of the other peer's call
PATIENCE = 8.0
HOPELESS = 30.0
REFERENCE_LIMIT = 300.0
DISTURBED = 0.05  # share of time waiting for a core from which a round counts as disturbed


@dataclass
class Timing:
    """Hold the times of one variant of one library on one row."""

    library: str
    variant: str
    error: float | None = None  # relative to the largest element of the result
    problem: str | None = None  # "kind: text" where it was not timed
    wrong: bool = False
    trial: float = 0.0  # seconds of one call, before the rounds
    seconds: list[float] = field(default_factory=list)  # one median per round
    waiting: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Return the median seconds of a call."""
        return statistics.median(self.seconds)

    @property
    def layout(self) -> str | None:
        """Return the memory layout of the arrays, None for a peer whose variant names none."""
        found = layout_of(self.variant)
        return CHANNELS_LAST if found is None and self.library == OURS else found


@dataclass
class Result:
    """Hold the result of one row; ratios are the peer's time divided by einstride's.

    `ours` is einstride in the layout in which it is slower, and so are the ratios.
    """

    row: Row
    status: str  # "ok", "WRONG", "FAILED", "no peer", "ours not run", "algorithm cannot"
    note: str = ""
    ours: Timing | None = None
    peer: Timing | None = None
    ratios: list[float] = field(default_factory=list)  # one per round
    unprepared: float | None = None  # the median ratio with a filter that is not prepared
    layouts: dict[str, dict[str, float]] = field(default_factory=dict)
    """For each layout, by library: its time there divided by einstride's there; for "ours", the
    time of the best peer in any layout divided by einstride's."""
    disturbed: bool = False
    workspace: int | None = None  # bytes
    timings: list[Timing] = field(default_factory=list)

    @property
    def ratio(self) -> float | None:
        """Return the median of the rounds' ratios."""
        return statistics.median(self.ratios) if self.ratios else None

    @property
    def spread(self) -> tuple[float, float] | None:
        """Return the first and third quartile of the rounds' ratios."""
        if len(self.ratios) < 3:
            return (min(self.ratios), max(self.ratios)) if self.ratios else None
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return low, high


def measure_row(row: Row, crew: Crew, folder: Path, options: Options, rounds: int) -> Result:
    """Check and time every library on one row."""
    crew.workers["reference"].ask("write", row, folder, limit=REFERENCE_LIMIT)
    timings = _prepare(row, crew, folder, options)
    ready = [timing for timing in timings if timing.problem is None]
    ready = _screen(ready, AFTER_TRIAL, crew, options)
    for turn in range(rounds):
        for timing in list(ready):
            if not _time(timing, crew, options):
                ready.remove(timing)
        if turn == 0:
            ready = _screen(ready, AFTER_ROUND, crew, options)
    result = conclude(row, timings, ready)
    if OURS in crew.workers and result.ours is not None:
        found = workspace_bytes(row, folder, options)
        if isinstance(found, str):
            result.note = f"{result.note}; workspace not measured: {found}".lstrip("; ")
        else:
            result.workspace = found
    return result


def _prepare(row: Row, crew: Crew, folder: Path, options: Options) -> list[Timing]:
    timings: list[Timing] = []
    for worker in crew.workers.values():
        if worker.name == "reference":
            continue
        best = min((t.trial for t in timings if t.trial and t.library != OURS), default=None)
        patience = options.call_limit
        if best is not None and worker.name != OURS:
            patience = min(patience, PATIENCE + HOPELESS * best)
        timings += _prepare_library(row, worker, folder, patience)
    return timings


def _prepare_library(row: Row, worker: Worker, folder: Path, limit: float) -> list[Timing]:
    """Build and check the variants of one library; if its process hangs, only that variant is
    lost."""
    problems: dict[str, str] = {}
    while True:
        try:
            names = worker.ask("names", row, limit=limit)
        except WorkerFailure as failure:
            return [Timing(worker.name, "-", problem=f"{failure.kind}: {failure}")]
        timings = [Timing(worker.name, name, problem=problems.get(name)) for name in names]
        if all(_prepare_variant(row, worker, folder, limit, t) for t in timings if not t.problem):
            return timings
        # the process was replaced and has lost its variants: prepare the others again
        problems |= {t.variant: t.problem for t in timings if t.problem and not t.wrong}


def _prepare_variant(row: Row, worker: Worker, folder: Path, limit: float, timing: Timing) -> bool:
    """Fill in the timing; False if its process had to be replaced."""
    try:
        found = worker.ask("prepare", row, folder, timing.variant, limit=limit)
    except WorkerFailure as failure:
        timing.problem = f"{failure.kind}: {failure}"
        return not failure.replaced
    timing.error, timing.trial = found["error"], found["seconds"]
    if found["wrong"]:
        timing.problem, timing.wrong = f"wrong: {found['wrong']}", True
    return True


def _time(timing: Timing, crew: Crew, options: Options) -> bool:
    # time for a slice and one untimed call, each with a margin
    limit = 2 * options.call_limit + 10 * options.slice_seconds
    try:
        sample = crew.workers[timing.library].ask("measure", timing.variant, limit=limit)
    except WorkerFailure as failure:
        timing.problem = f"{failure.kind}: {failure}"
        return False
    timing.seconds.append(sample["seconds"])
    timing.waiting.append(sample["waiting"])
    return True


def _screen(ready: list[Timing], factor: float, crew: Crew, options: Options) -> list[Timing]:
    """Keep einstride, and the peers that may still be the fastest."""
    last = {id(t): t.seconds[-1] if t.seconds else t.trial for t in ready}
    best = min((last[id(t)] for t in ready if t.library != OURS), default=0.0)
    kept = [t for t in ready if t.library == OURS or last[id(t)] <= factor * best]
    for timing in ready:
        if timing not in kept:
            crew.workers[timing.library].ask("drop", timing.variant, limit=options.call_limit)
    return kept


def conclude(row: Row, timings: list[Timing], ready: list[Timing]) -> Result:
    """Compute the result from the timings; `ready` are the variants that were measured in every
    round."""
    ours = {t.variant: t for t in timings if t.library == OURS}
    peers = [t for t in ready if t.library != OURS]
    peer = min(peers, key=lambda t: t.median, default=None)
    by_layout = [t for layout in LAYOUTS if (t := _ours_in(layout, ours, ready)) is not None]
    chosen = max(by_layout, key=lambda t: t.median, default=next(iter(ours.values()), None))
    result = Result(row, "ok", timings=timings, peer=peer)
    wrong = [t for t in timings if t.wrong]
    if wrong:
        result.status = "WRONG"
        result.note = "; ".join(f"{t.library} {t.variant}: {t.problem}" for t in wrong)
    if chosen is None:
        result.status = result.status if wrong else "ours not run"
        return result
    failed = next((t for t in ours.values() if t.problem is not None), None)
    if failed is not None and failed.problem is not None:
        if not failed.wrong:
            unable = failed.problem.startswith("unsupported")  # possible only with --algorithm
            result.status = "algorithm cannot" if unable else "FAILED"
        return result
    result.ours = chosen
    if peer is None:
        result.status = result.status if wrong else "no peer"
        return result
    result.ratios = [a / b for a, b in zip(peer.seconds, chosen.seconds, strict=True)]
    for timing in by_layout:
        same = [t for t in timings if t.layout == timing.layout and t.trial and not t.wrong]
        # a variant that was dropped has a trial or one round
        best = {
            name: min((t.median if t.seconds else t.trial for t in same if t.library == name),
                      default=None)
            for name in BOTH
        }  # fmt: skip
        best[OURS] = peer.median
        result.layouts[timing.layout or ""] = {
            name: seconds / timing.median for name, seconds in best.items() if seconds is not None
        }
    plain = next((t for t in ours.values() if t.layout == chosen.layout and t is not chosen), None)
    if plain is not None:
        pairs = zip(peer.seconds, plain.seconds, strict=True)
        result.unprepared = statistics.median(a / b for a, b in pairs)
    waits = [statistics.median(t.waiting) for t in (chosen, peer)]
    result.disturbed = max(waits) > DISTURBED
    return result


def _ours_in(layout: str, ours: dict[str, Timing], ready: list[Timing]) -> Timing | None:
    """Return einstride's timing in a layout, of a prepared `Conv` if there is one."""
    found = [t for t in ours.values() if t.layout == layout and t in ready]
    return next((t for t in found if t.variant.startswith(PREPARED)), next(iter(found), None))


def as_record(result: Result, peaks: dict[str, float]) -> dict[str, Any]:
    """Convert a result to plain data for JSON. Times are seconds per call."""
    row, case = result.row, result.row.case
    return {
        "row": row.name,
        "case": case.name,
        "group": case.group,
        "source": case.source,
        "pass": row.pass_,
        "batch": row.batch,
        "x_shape": row.x_shape,
        "f_shape": row.f_shape,
        "y_shape": row.y_shape,
        **row.keywords,
        "dtype": case.dtype,
        "filter_dtype": row.filter_dtype,
        "operations": row.flops,
        "status": result.status,
        "note": result.note,
        "ratio": result.ratio,
        "ratio_quartiles": result.spread,
        "ratio_unprepared": result.unprepared,
        "layouts": result.layouts,
        "ours": result.ours and result.ours.variant,
        "peer": result.peer and f"{result.peer.library} {result.peer.variant}",
        "ours_share_of_gemm_peak": peak_share(row, result.ours, peaks),
        "peer_share_of_gemm_peak": peak_share(row, result.peer, peaks),
        "workspace_bytes": result.workspace,
        "disturbed": result.disturbed,
        "timings": [vars(timing) for timing in result.timings],
    }


def peak_share(row: Row, timing: Timing | None, peaks: dict[str, float]) -> float | None:
    """Return the speed as a fraction of the matrix product's in the same precision; None for
    integers."""
    kind = {"complex64": "float32", "complex128": "float64"}.get(row.result_dtype, row.result_dtype)
    if timing is None or not timing.seconds or not peaks.get(kind):
        return None
    return row.flops / timing.median / peaks[kind]
