"""The least ceiling of workspace that an algorithm keeps, for the remedy of a refusal.

What an algorithm needs depends on its ceiling: with more it may take larger blocks, or another way
that happens to need less. So the need below one ceiling is not yet the least that works.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from einstride import calibration
from einstride.algorithms import ALGORITHMS
from einstride.geometry.problem import Job

if TYPE_CHECKING:
    from einstride.arrays.backends import Traits

TRIES = 100
"""Ceilings that are looked at, at most: each costs a plan of one algorithm, some 50 microseconds.
With fewer the least that is named may be a few bytes more than the least that works."""


def least(name: str, job: Job, first: int, traits: Traits) -> int:
    """The least bytes that work, going from what the algorithm needs below the job's own ceiling.

    Whatever is returned works. One byte less does not, but for algorithms whose needs are no
    monotonic function of the ceiling, where a ceiling far below may work again.
    """
    found, at = None, first
    for _ in range(TRIES):
        spent = need(name, job, at, traits)
        if spent is not None and spent <= at:
            found, at = at, min(spent, at - 1)
        elif found is not None:
            break
        else:
            at = 2 * at + 1 if spent is None else spent
    return first if found is None else found


def need(name: str, job: Job, ceiling: int, traits: Traits) -> int | None:
    """Bytes that an algorithm needs below a ceiling; None if it cannot do the job there."""
    inner = replace(job.inner, limit=max(ceiling - job.outer_workspace, 0))
    module = ALGORITHMS[name]
    if module.supports(inner, traits) is not None:
        return None
    known = calibration.rates(traits.library, job.arithmetic.compute, job.accuracy == "tf32")
    return module.cost(inner, traits, known).workspace + job.outer_workspace
