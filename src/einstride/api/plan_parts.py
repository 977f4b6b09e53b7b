"""Define `Parts`, the figures of a call that is computed in parts by workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from einstride.arrays import backends
from einstride.arrays.backends import Backend
from einstride.dispatch import execute

SCHEDULING = 200e-6
"""Seconds in which one scheduler hands out a task, as Dask's documentation states; a scheduler of
another speed changes the time of many small tasks on many workers."""

NETWORK = 1e9
"""Bytes per second that one worker receives, about those of 10 Gbit/s. A faster network lowers the
share of the halo in the predicted times."""

SMALL, LARGE = 1 << 20, 1 << 30
"""Bytes that a task reads below which its scheduling may take longer than its work, and from which
a few tasks fill the memory of a worker."""

MOST_HALO = 0.2
"""Share of the halo in all bytes read from which larger chunks are advised."""


@dataclass(frozen=True)
class Parts:
    """Hold the figures of a call on chunked arrays.

    Attributes
    ----------
    chunks, tasks : int
        Chunks of the result, and tasks of the graph, without those that make the operands.
    halo_bytes : int
        Bytes that tasks read twice: the elements of x (or gy) that windows of several chunks see.
    task_bytes : int
        Most bytes that one task holds: what it reads, its result and its workspace. A worker holds
        as many of these as it has threads.
    task_seconds : float
        Predicted time of the largest task on one thread.
    algorithm : str
        The algorithm of the largest task.
    read_bytes : int
        Bytes of x (or gy) that all tasks read.
    task_read : int
        Bytes of them that the largest task reads.
    """

    chunks: int
    tasks: int
    halo_bytes: int
    task_bytes: int
    task_seconds: float
    algorithm: str
    read_bytes: int
    task_read: int

    @classmethod
    def of(cls, where: str, found: Any, names: list[str], b: Backend) -> Parts:
        """Plan the largest task of a graph on the backend that computes it."""
        task = found.largest
        decision = execute.decide(
            where, task.direction, task.shapes, (names[0], names[1], None), task.keywords,
            task.extra, backends.computing(b),
        )  # fmt: skip
        chosen = (c.cost for c in decision.candidates if c.algorithm == decision.algorithm)
        cost = next(chosen)
        workspace, seconds = (cost.workspace, cost.seconds) if cost else (0, 0.0)
        return cls(
            found.chunks, found.tasks, max(found.read - found.once, 0),
            found.task_read + found.task_result + workspace, seconds, decision.algorithm,
            found.read, found.task_read,
        )  # fmt: skip

    def seconds(self, workers: int) -> float:
        """Predict the time on workers of one thread: tasks, halos received, and scheduling.

        Parameters
        ----------
        workers : int
            Workers that compute at once.

        Returns
        -------
        float
            Seconds: those of the busiest worker, or of the scheduler if it is slower.
        """
        each = -(-self.chunks // workers)
        received = self.halo_bytes / max(self.chunks, 1) / NETWORK if workers > 1 else 0.0
        return max(each * (self.task_seconds + received), self.tasks * SCHEDULING)

    @property
    def advice(self) -> str:
        """What other chunks would be better, and why; empty if none would."""
        if self.task_read < SMALL and self.chunks > 1:
            return "use larger chunks: a task reads less than 1 MiB, less work than its scheduling"
        if self.task_bytes > LARGE:
            return "use smaller chunks: a task holds more than 1 GiB"
        if self.halo_bytes > MOST_HALO * self.read_bytes:
            return "use larger chunks, or fewer along the filter's longest axis: halos are large"
        return ""

    def __str__(self) -> str:
        times = ", ".join(f"{n:,}: {self.seconds(n):.3g} s" for n in (1, 10, 100, 1000, 10_000))
        share = 100 * self.halo_bytes / max(self.read_bytes, 1)
        lines = [
            f"in parts: {self.chunks:,} chunks, {self.tasks:,} tasks, halos of "
            f"{self.halo_bytes:,} bytes ({share:.1f}% of what is read)",
            f"largest task: {self.algorithm}, {self.task_bytes:,} bytes, "
            f"{self.task_seconds * 1e3:.3f} ms",
            f"predicted by workers of one thread: {times}",
        ]
        return "\n".join([*lines, f"advice: {self.advice}"] if self.advice else lines)
