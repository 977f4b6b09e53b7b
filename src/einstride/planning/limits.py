"""Find the least workspace limit that an algorithm can keep, for the remedy in an error.

The workspace that an algorithm needs depends on the limit: under a higher limit it may use larger
blocks, or another method that happens to need less. So the workspace needed under one limit is not
yet the least limit that works.
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
"""Limits that are tried, at most, until one works: each costs a plan of one algorithm, some 50
microseconds for most of them."""


def least(name: str, job: Job, first: int, traits: Traits) -> int:
    """Search for the least limit in bytes that an algorithm can keep, starting at `first`.

    `first` is the workspace that it needs under the job's own limit, which is too small. The limit
    returned works. One byte less does not work; a limit far below may work again where the
    workspace needed is not a monotonic function of the limit.
    """
    low, high = job.limit, first
    for _ in range(TRIES):
        needed = need(name, job, high, traits)
        if needed is not None and needed <= high:
            break
        high = 2 * high + 1 if needed is None else needed
    else:
        return first
    # Bisection: `low` is too small, `high` works. Most algorithms end in the first round; but where
    # larger blocks are faster, the workspace needed is just below any limit.
    while high - low > 1:
        needed = need(name, job, high - 1, traits)
        if needed is None or needed >= high:
            break
        high -= 1
        middle = max((low + high) // 2, low + 1)
        needed = need(name, job, middle, traits)
        if needed is not None and needed <= middle:
            high = middle
        else:
            low = middle
    return high


def need(name: str, job: Job, limit: int, traits: Traits) -> int | None:
    """Return the bytes that an algorithm needs under a limit; None if it cannot do the job."""
    job = replace(job, limit=limit, hard=True)
    inner = part(name, job, traits)
    module = ALGORITHMS[name]
    if module.supports(inner, traits) is not None:
        return None
    known = calibration.rates(traits.library, job.arithmetic.compute, job.accuracy == "tf32")
    return module.cost(inner, traits, known).workspace + outside(name, job, traits)


def part(name: str, job: Job, traits: Traits) -> Job:
    """Return the part of a job that an algorithm computes, with the limit that is left for it."""
    if not job.hard:
        return job.inner
    return replace(job.inner, limit=max(job.limit - outside(name, job, traits), 0))


def outside(name: str, job: Job, traits: Traits) -> int:
    """Return the bytes of workspace that an algorithm's own count leaves out.

    In NumPy `strided` adds a bias without a copy; every other algorithm copies it to the dtype of
    the sums.
    """
    adds_in_place = name == "strided" and traits.mutable and traits.on_host
    outer = job.outer_workspace(in_place=traits.mutable)
    return outer + (0 if adds_in_place else job.bias_bytes)
