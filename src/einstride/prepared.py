"""What an algorithm has once made of a filter, kept for later calls with the same one."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from einstride.algorithms import ALGORITHMS
from einstride.job import Job

if TYPE_CHECKING:
    from einstride.backends import Array, Backend

MOST = 4
"""Jobs (shapes of the input, directions) for which one filter's transforms are kept at once."""


class Prepared:
    """The transforms of one filter, by algorithm and job; the least recently used goes first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, Job], Any] = OrderedDict()

    def of(self, algorithm: str, f: Array, job: Job, b: Backend) -> Any:
        """For the `prepared` of the algorithm's function; None if it takes filters as they are."""
        make = getattr(ALGORITHMS[algorithm], "prepare", None)
        if make is None:
            return None
        key = (algorithm, job)
        if key in self._kept:
            found = self._kept[key]
        else:
            found = self._kept[key] = make(f, job, b)
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)
        return found
