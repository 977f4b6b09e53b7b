"""What an algorithm has once made of a filter, kept for later calls with the same one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from einstride.algorithms import ALGORITHMS
from einstride.geometry.problem import Job

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend

MOST = 4
"""Jobs (shapes of the input, directions) for which one filter's transforms are kept at once."""


class Prepared:
    """The transforms of one filter, by algorithm and job; the one made first goes first.

    Threads need no lock: the table is never changed, but replaced by one with another entry. At
    worst two threads make the same transforms, and those of one are kept. A copy is empty: it
    belongs to a copy of the filter, which may be another one.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Job], Any] = {}

    def of(self, algorithm: str, f: Array, job: Job, b: Backend) -> Any:
        """For the `prepared` of the algorithm's function; None if it takes filters as they are."""
        make = getattr(ALGORITHMS[algorithm], "prepare", None)
        if make is None:
            return None
        key = (algorithm, job)
        kept = self._kept
        found = kept.get(key, _NOTHING)
        if found is _NOTHING:
            found = make(f, job, b)
            newest = list(self._kept.items())[1 - MOST :]
            self._kept = {**dict(newest), key: found}
        return found

    def __reduce__(self) -> tuple[type[Prepared], tuple[()]]:
        """A copy, also through pickle, is a new one."""
        return type(self), ()


_NOTHING: Any = object()
"""In the place of transforms that were never made; None are those of an algorithm without any."""
