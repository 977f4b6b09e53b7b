"""A job in pieces of its channels: each a job of its own, over views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, overload

from einstride.geometry.problem import Job
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend

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


def each_group(job: Job) -> Pieces:
    """Every group as a job of its own."""
    return Pieces(job, job.geometry.groups, 1, True)


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


@dataclass(frozen=True)
class Pieces(Sequence[Piece]):
    """Parts of a job, each made when it is asked for: a large filter has many.

    Attributes
    ----------
    job : Job
        The whole.
    end, step : int
        The groups, or the output channels of the pass, and how many of them a piece has; 0 and 1
        if there are no pieces.
    groups : bool
        True if they are groups.
    """

    job: Job
    end: int = 0
    step: int = 1
    groups: bool = False

    def __len__(self) -> int:
        return -(-self.end // self.step)

    @overload
    def __getitem__(self, i: int) -> Piece: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[Piece]: ...
    def __getitem__(self, i: int | slice) -> Piece | Sequence[Piece]:
        if isinstance(i, slice):
            return [self[j] for j in range(len(self))[i]]
        if not 0 <= i < len(self):
            raise IndexError(i)
        return _piece(self.job, i * self.step, min((i + 1) * self.step, self.end), self.groups)


@cached(4096)
def _piece(job: Job, begin: int, end: int, groups: bool) -> Piece:
    return (some_groups if groups else some_channels)(job, begin, end)
