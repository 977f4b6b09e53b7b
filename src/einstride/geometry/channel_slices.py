"""Split a job into jobs over slices of its channels, whose operands are views of the arrays."""

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
class ChannelSlice:
    """Hold a job over a slice of the channels, and the indices of its arrays.

    Attributes
    ----------
    job : Job
        The job whose geometry has the channels of the slice only.
    first, second, out : tuple
        Indices of the two operands and of the result. The last entry of `out` indexes the bias too.
    """

    job: Job
    first: Index
    second: Index
    out: Index

    def arguments(self, first: Array, second: Array) -> tuple[Array, Array, Job]:
        """Return an algorithm's arguments: views of the two operands, and the job."""
        return first[self.first], second[self.second], self.job

    def bias(self, bias: Array | None) -> Array | None:
        """Return the bias of the slice's output channels as a view; None without a bias."""
        return None if bias is None else bias[self.out[-1]]


def some_groups(job: Job, begin: int, end: int) -> ChannelSlice:
    """Return the slice of the groups [begin, end)."""
    g = job.geometry
    c, d = (slice(begin * n // g.groups, end * n // g.groups) for n in (g.channels, g.filters))
    part = replace(g, channels=c.stop - c.start, filters=d.stop - d.start, groups=end - begin)
    x, f = (..., c), (..., d)  # the filter's last axis, and y's, are the output channels
    first, second, out = {
        "forward": (x, f, f), "input_grad": (f, f, x), "filter_grad": (x, f, f),
    }[job.direction]  # fmt: skip
    return ChannelSlice(replace(job, geometry=part), first, second, out)


def each_group(job: Job) -> ChannelSlices:
    """Return one slice for each group."""
    return ChannelSlices(job, job.geometry.groups, 1, True)


def by_groups(
    function: Any, shape: tuple[int, ...], first: Array, second: Array, job: Job, b: Backend,
    bias: Array | None, out: Array | None, prepared: Any = None,
) -> Array:  # fmt: skip
    """Call an algorithm's function for one group after another, with all threads in each group."""
    whole = b.empty(shape, job.arithmetic.result, first) if out is None else out
    for i, part in enumerate(each_group(job)):
        more = {} if prepared is None else {"prepared": prepared[i]}
        function(*part.arguments(first, second), b, part.bias(bias), whole[part.out], **more)
    return whole


def some_channels(job: Job, begin: int, end: int) -> ChannelSlice:
    """Return the slice of the channels [begin, end) of the result of a job with one group.

    The job is a forward pass or an input gradient.
    """
    g, some = job.geometry, slice(begin, end)
    every: Index = (...,)
    if job.direction == "input_grad":
        own = replace(job, geometry=replace(g, channels=end - begin))
        return ChannelSlice(own, every, (..., some, slice(None)), (..., some))
    own = replace(job, geometry=replace(g, filters=end - begin))
    return ChannelSlice(own, every, (..., some), (..., some))


@dataclass(frozen=True)
class ChannelSlices(Sequence[ChannelSlice]):
    """List the slices of a job, making each slice when it is indexed: a large filter has many.

    Attributes
    ----------
    job : Job
        The job over all channels.
    end, step : int
        The number of groups, or of the pass's output channels, in all and in one slice; 0 and 1 for
        an empty list.
    groups : bool
        True if `end` and `step` count groups.
    """

    job: Job
    end: int = 0
    step: int = 1
    groups: bool = False

    def __len__(self) -> int:
        return -(-self.end // self.step)

    @overload
    def __getitem__(self, i: int) -> ChannelSlice: ...
    @overload
    def __getitem__(self, i: slice) -> Sequence[ChannelSlice]: ...
    def __getitem__(self, i: int | slice) -> ChannelSlice | Sequence[ChannelSlice]:
        if isinstance(i, slice):
            return [self[j] for j in range(len(self))[i]]
        if not 0 <= i < len(self):
            raise IndexError(i)
        return _slice(self.job, i * self.step, min((i + 1) * self.step, self.end), self.groups)


@cached(4096)
def _slice(job: Job, begin: int, end: int, groups: bool) -> ChannelSlice:
    return (some_groups if groups else some_channels)(job, begin, end)
