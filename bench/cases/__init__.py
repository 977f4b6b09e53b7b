"""The cases, one file per family, and their selection."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch
from itertools import zip_longest

from bench.case import GROUPS, Case, Row
from bench.cases import (
    audio,
    classifiers,
    depthwise,
    large,
    numeric,
    pointwise,
    segmentation,
    tiny,
    volumes,
)

FAMILIES = (
    classifiers,
    segmentation,
    pointwise,
    depthwise,
    large,
    audio,
    volumes,
    numeric,
    tiny,
)
CASES: tuple[Case, ...] = tuple(case for family in FAMILIES for case in family.CASES)


def select(
    *,
    groups: Iterable[str] | None = None,
    pattern: str | None = None,
    passes: Iterable[str] | None = None,
    batches: Iterable[int] | None = None,
    smoke: bool = False,
) -> list[Row]:
    """Rows of the table that meet every condition given, in the order of `GROUPS`.

    `pattern` is a glob over a row's name or its case's name.
    """
    rows = [
        Row(case, batch, pass_)
        for case in CASES
        for batch in (case.batches[:1] if smoke else case.batches)
        for pass_ in case.passes
        if not smoke or case.smoke
    ]
    if groups is not None:
        rows = [row for row in rows if row.case.group in set(groups)]
    if pattern is not None:
        rows = [
            row for row in rows if fnmatch(row.name, pattern) or fnmatch(row.case.name, pattern)
        ]
    if passes is not None:
        rows = [row for row in rows if row.pass_ in set(passes)]
    if batches is not None:
        rows = [row for row in rows if row.batch in set(batches)]
    return sorted(rows, key=lambda row: GROUPS.index(row.case.group))


def spread(rows: list[Row]) -> list[Row]:
    """The rows with their groups taken in turn, so that a time box cuts all groups alike."""
    by_group = [[row for row in rows if row.case.group == group] for group in GROUPS]
    return [row for turn in zip_longest(*by_group) for row in turn if row is not None]
