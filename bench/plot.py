"""Plots the report: a bar per pass of each case, on a logarithmic axis with a line at 1."""

from __future__ import annotations

from itertools import groupby
from math import ceil
from pathlib import Path
from typing import Any

from bench.case import GROUPS, PASSES
from bench.measure import Result
from bench.summary import counts, geometric_mean

COLOURS = {"forward": "#1b6ca8", "input_grad": "#e08e2b", "filter_grad": "#4f9d69"}
LABELS = {"forward": "forward", "input_grad": "input gradient", "filter_grad": "filter gradient"}
LINES_A_COLUMN = 55
HEADING_LINES = 2
INCHES_A_LINE = 0.3
BAR = 0.29  # of a line: three passes fit
FAINT = 0.4  # opacity of a disturbed row

# a line of the picture: (label of a case, its results, one per pass), or (heading, [])
Line = tuple[str, list[Result]]


def draw(results: list[Result], title: str, path: Path) -> bool:
    """Save the picture; False if there is nothing to draw or matplotlib is absent."""
    try:
        import matplotlib
    except ImportError:
        return False
    results = [result for result in results if counts(result)]
    if not results:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    columns = _columns(results)
    height = max(map(len, columns))
    figure, axes = plt.subplots(
        1,
        len(columns),
        figsize=(7 * len(columns), height * INCHES_A_LINE + 1.6),
        squeeze=False,
        layout="constrained",
    )
    ratios = [result.ratio or 1.0 for result in results]
    limits = (min(0.5, min(ratios)) / 1.15, max(2.0, max(ratios)) * 1.6)
    for axis, column in zip(axes[0], columns, strict=True):
        _draw_column(axis, column, limits, height)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    figure.legend(handles, [LABELS[name] for name in COLOURS], loc="outside lower center", ncols=3)
    faint = "; faint: disturbed" if any(result.disturbed for result in results) else ""
    figure.suptitle(title + faint, fontsize=11)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return True


def _columns(results: list[Result]) -> list[list[Line]]:
    """Distribute the groups' lines to columns of about equal height; no column ends with a
    heading."""
    groups = []
    for group in GROUPS:
        members = [result for result in results if result.row.case.group == group]
        if members:
            mean = geometric_mean(result.ratio or 1.0 for result in members)
            groups.append((f"{group}: {mean:.2f}", _lines(members)))
    total = sum(len(lines) + HEADING_LINES for _, lines in groups)
    height = ceil(total / ceil(total / LINES_A_COLUMN)) + HEADING_LINES
    columns: list[list[Line]] = [[]]
    for heading, lines in groups:
        if columns[-1] and len(columns[-1]) + HEADING_LINES + min(4, len(lines)) > height:
            columns.append([])
        columns[-1] += _heading(heading)
        for line in lines:
            if len(columns[-1]) >= height:
                columns.append(_heading(heading.split(":")[0] + " (continued)"))
            columns[-1].append(line)
    return columns


def _heading(text: str) -> list[Line]:
    return [("", [])] * (HEADING_LINES - 1) + [(text, [])]


def _lines(results: list[Result]) -> list[Line]:
    """Make one line per case and batch."""
    keyed = groupby(results, key=lambda result: (result.row.case.name, result.row.batch))
    return [(f"{name}  b{batch}", list(members)) for (name, batch), members in keyed]


def _draw_column(axis: Any, column: list[Line], limits: tuple[float, float], height: int) -> None:
    ticks, names = [], []
    for position, (text, members) in enumerate(column):
        if not members:
            axis.text(limits[0], position + 0.1, text, fontsize=10, fontweight="bold", va="center")
            continue
        ticks.append(position)
        names.append(text)
        for result in members:
            ratio = result.ratio or 1.0
            where = position + (PASSES.index(result.row.pass_) - 1) * BAR
            axis.barh(
                where,
                ratio - 1,
                left=1,
                height=BAR * 0.92,
                color=COLOURS[result.row.pass_],
                alpha=FAINT if result.disturbed else 1.0,
            )
            axis.text(max(ratio, 1) * 1.03, where, f"{ratio:.2f}", fontsize=5.5, va="center")
    axis.set_xscale("log")
    axis.set_xlim(*limits)
    axis.set_ylim(height, -1)
    axis.set_yticks(ticks, names, fontsize=7.5)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.axvline(1, color="black", linewidth=1)
    axis.grid(axis="x", which="both", alpha=0.25, linewidth=0.5)
    axis.set_axisbelow(True)
    axis.set_xlabel("best peer's time / einstride's (right of 1: einstride is faster)", fontsize=8)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
