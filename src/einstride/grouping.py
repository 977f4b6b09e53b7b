"""A job in pieces of its channels: each a job of its own, over views."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from einstride.job import Job

if TYPE_CHECKING:
    from einstride.backends import Array, Backend

Index = tuple[Any, ...]


@dataclass(frozen=True)
class Piece:
    """A job for some channels.

    Attributes
    ----------
    job : Job
        Its geometry has these channels only.
    first, second, out : tuple
        Indices of the two operands and of the result. The last of `out` is the bias's too.
    """

    job: Job
    first: Index
    second: Index
    out: Index

    def given(self, first: Array, second: Array) -> tuple[Array, Array, Job]:
        """What an algorithm is given: views, and the job."""
        return first[self.first], second[self.second], self.job

    def bias(self, bias: Array | None) -> Array | None:
        """Its part of the bias."""
        return None if bias is None else bias[self.out[-1]]


def some_groups(job: Job, begin: int, end: int) -> Piece:
    """The groups from `begin` to `end`."""
    g = job.geometry
    c, d = (slice(begin * n // g.groups, end * n // g.groups) for n in (g.channels, g.filters))
    part = replace(g, channels=c.stop - c.start, filters=d.stop - d.start, groups=end - begin)
    x, f = (..., c), (..., d)  # the filter's last axis, and y's, are the output channels
    first, second, out = {
        "forward": (x, f, f), "input_grad": (f, f, x), "filter_grad": (x, f, f),
    }[job.direction]  # fmt: skip
    return Piece(replace(job, geometry=part), first, second, out)


@lru_cache(maxsize=1024)
def each_group(job: Job) -> tuple[Piece, ...]:
    """Every group as a job of its own."""
    return tuple(some_groups(job, i, i + 1) for i in range(job.geometry.groups))


def by_groups(
    function: Any, shape: tuple[int, ...], first: Array, second: Array, job: Job, b: Backend,
    bias: Array | None, out: Array | None, prepared: Any = None,
) -> Array:  # fmt: skip
    """An algorithm's function for one group after another; all threads work on each."""
    whole = b.empty(shape, job.arithmetic.result, first) if out is None else out
    for i, piece in enumerate(each_group(job)):
        more = {} if prepared is None else {"prepared": prepared[i]}
        function(*piece.given(first, second), b, piece.bias(bias), whole[piece.out], **more)
    return whole


def some_channels(job: Job, begin: int, end: int) -> Piece:
    """Some channels of the result of a forward pass or an input gradient of one group."""
    g, some = job.geometry, slice(begin, end)
    every: Index = (...,)
    if job.direction == "input_grad":
        own = replace(job, geometry=replace(g, channels=end - begin))
        return Piece(own, every, (..., some, slice(None)), (..., some))
    own = replace(job, geometry=replace(g, filters=end - begin))
    return Piece(own, every, (..., some), (..., some))
