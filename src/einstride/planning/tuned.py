"""Hold the measured results that are the default of a process: the fastest algorithm of some jobs.

`einstride.use_tuned` fills the table. A job is found whatever its number of threads, since a file
belongs to one machine; the table is read only where the caller asked for no algorithm by name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from einstride.geometry.problem import Job

TABLE: dict[tuple[Any, ...], str] = {}
"""The algorithm of each job, under `key`."""

SOURCE: list[str] = []
"""The path of the file that the table was read from, or nothing."""


def key(job: Job, orders: tuple[Any, ...], library: str) -> tuple[Any, ...]:
    """Return what a measured result depends on."""
    same = replace(job, threads=1, prepared=False, copied=0, copies_bias=False)
    return same, orders, library


def algorithm(job: Job, orders: tuple[Any, ...], library: str) -> str | None:
    """Return the algorithm that was measured as the fastest for a job, or None."""
    return TABLE.get(key(job, orders, library)) if TABLE else None
