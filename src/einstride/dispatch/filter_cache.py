"""Keep a layer's filter as algorithms transformed or packed it, for later calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from einstride.algorithms import ALGORITHMS
from einstride.geometry.problem import Job

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend

MOST_JOBS = 4
"""Jobs (input shapes, directions) for which one filter's transforms are kept at once.

More would save time only for layers that see more shapes in turn, and would hold more memory.
"""


class Prepared:
    """The transforms of one filter, by algorithm and job; the oldest is evicted first.

    Threads need no lock: the table is replaced by a new one with one more entry, never changed. At
    worst two threads make equal transforms, and one thread's are kept. A copy of this object is
    empty, because it belongs to a copy of the filter, whose values may be changed.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, Job], Any] = {}

    def of(self, algorithm: str, f: Array, job: Job, b: Backend) -> Any:
        """Return the argument `prepared` of the algorithm, made when first asked for.

        None if the algorithm reads the filter as it is.
        """
        make = getattr(ALGORITHMS[algorithm], "prepare", None)
        if make is None:
            return None
        key = (algorithm, job)
        kept = self._kept
        found = kept.get(key, _NOTHING)
        if found is _NOTHING:
            found = make(f, job, b)
            newest = list(self._kept.items())[1 - MOST_JOBS :]
            self._kept = {**dict(newest), key: found}
        return found

    def __reduce__(self) -> tuple[type[Prepared], tuple[()]]:
        """Make copies, also through pickle, empty."""
        return type(self), ()


_NOTHING: Any = object()
"""Says that no transform was made yet; None is the transform of an algorithm that needs none."""
