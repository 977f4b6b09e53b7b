"""Summarises rows: geometric means and least ratios of each group."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from bench.case import GROUPS
from bench.measure import Result, peak_share


@dataclass(frozen=True)
class GroupSummary:
    """Hold the geometric mean of a group's ratios, and the extremes."""

    name: str
    rows: int
    mean: float
    lowest: float
    highest: float
    won: int  # rows with a ratio of at least 1
    peer_share: float | None  # geometric mean of the peers' share of the GEMM peak
    layouts: dict[str, float]  # "library layout": geometric mean of `Result.layouts`


def geometric_mean(values: Iterable[float]) -> float:
    """Return the exponential of the mean logarithm."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def summarise(results: list[Result], peaks: dict[str, float]) -> list[GroupSummary]:
    """Return one entry per group that has ratios, then one named "all"."""
    counted = [result for result in results if counts(result)]
    parts = [(group, [r for r in counted if r.row.case.group == group]) for group in GROUPS]
    return [_one(name, part, peaks) for name, part in (*parts, ("all", counted)) if part]


def counts(result: Result) -> bool:
    """True if a row's ratio enters the means: the row was timed, and einstride's result is
    right."""
    return result.ratio is not None and result.ours is not None and not result.ours.wrong


def _one(name: str, results: list[Result], peaks: dict[str, float]) -> GroupSummary:
    ratios = [result.ratio for result in results if result.ratio is not None]
    shares = [peak_share(result.row, result.peer, peaks) for result in results]
    known = [share for share in shares if share]
    columns: dict[str, list[float]] = {}
    for result in results:
        for layout, found in result.layouts.items():
            for library, ratio in found.items():
                columns.setdefault(f"{library} {layout}", []).append(ratio)
    return GroupSummary(
        name=name,
        rows=len(ratios),
        mean=geometric_mean(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        won=sum(ratio >= 1 for ratio in ratios),
        peer_share=geometric_mean(known) if known else None,
        layouts={column: geometric_mean(found) for column, found in columns.items()},
    )
