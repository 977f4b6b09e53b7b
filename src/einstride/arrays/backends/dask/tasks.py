"""Compute one block of a result from chunks of the operands: what the tasks of a graph run.

Tasks are objects that are called with chunks. They hold integers and names only, and are sent to
the processes of a cluster as they are; the filter is an argument of its own, stored once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate, product
from math import inf, prod
from typing import Any, NamedTuple

import numpy as np

from einstride.arrays.backends import numpy, of_type
from einstride.arrays.backends.adapter import Array
from einstride.arrays.backends.dask import pieces
from einstride.arrays.backends.dask.joining import (
    Cuts,
    callers_axis,
    callers_shape,
    fill_border,
    filled,
    gathered,
    lengths_of,
    new_like,
)
from einstride.arrays.backends.passes import PASSES
from einstride.arrays.backends.thread_pool import cores
from einstride.geometry.chunks import CONSTANT, Folded, Part, Range
from einstride.geometry.convolution import Direction
from einstride.geometry.keywords import Keywords, PerExample, Shape, Transposed
from einstride.support.errors import bad_value

LINGER = 0.05
"""Seconds for which a thread counts as one that computes tasks after it has ended one.

Between two tasks of a thread lie 0.3 milliseconds (Dask's threads) to some 20 (workers of a
cluster). With less, a task that begins in such a gap of another thread takes that thread's core,
too, and each waits for the other: some blocks of 4 MiB took three times as long. With more, a task
that is alone after others has one thread for longer.
"""


class Running:
    """Count the threads of this process that compute tasks, one after another.

    Parameters
    ----------
    threads : callable
        Returns the threads that one call would use.
    clock : callable
        Returns the time in seconds.
    """

    def __init__(self, threads: Callable[[], int], clock: Callable[[], float]) -> None:
        self._threads, self._clock = threads, clock
        self._lock = threading.Lock()
        self._until: dict[int, float] = {}

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count this thread while it computes a task, and shortly afterwards."""
        with self._lock:
            self._until[threading.get_ident()] = inf
        try:
            yield
        finally:
            now = self._clock()
            with self._lock:
                self._until[threading.get_ident()] = now + LINGER
                for thread in [t for t, until in self._until.items() if until < now]:
                    del self._until[thread]

    def share(self) -> int:
        """Return the threads that one task may use: its share of those that a call would use."""
        now = self._clock()
        with self._lock:
            counted = sum(until >= now for until in self._until.values())
        return max(self._threads() // max(counted, 1), 1)


RUNNING = Running(lambda: min(numpy.BACKEND.threads(), cores()), time.monotonic)

HOST = replace(
    numpy.BACKEND,
    traits=replace(numpy.BACKEND.traits, library="dask"),
    threads=RUNNING.share,
)
"""The backend that computes blocks in host memory: NumPy's, whose threads the tasks share."""


class Problem(NamedTuple):
    """Describe the call of one task, as `einstride.planning.select.plan` takes it."""

    direction: Direction
    shapes: tuple[Shape, Shape]
    keywords: Keywords
    extra: Any


@dataclass(frozen=True)
class Call:
    """Hold what all blocks of one result have in common.

    Attributes
    ----------
    where, direction, keywords : str, str, Keywords
        The public function, its pass and the caller's checked keywords.
    orders : tuple
        The permutations of the first operand, the second and the result into canonical order.
    compute : str or None
        The dtype to which both operands are converted, so that sums of blocks are rounded once;
        None if they stay as they are.
    result : str
        The dtype of the result.
    steps : tuple of (int, int)
        The stride and the extent of windows on each spatial axis.
    kernel : tuple of int
        The kernel size, of a filter gradient.
    per_example, transposed : bool
        True for filter gradients of single examples, and for transposed convolutions.
    """

    where: str
    direction: Direction
    keywords: Keywords
    orders: tuple[Shape | None, Shape | None, Shape | None]
    compute: str | None
    result: str
    steps: tuple[tuple[int, int], ...]
    kernel: Shape = ()
    per_example: bool = False
    transposed: bool = False

    def on(
        self, first: Array, second: Array, bias: Array | None, parts: Sequence[Part],
        groups: int, input_dilation: Any, out: Array | None = None,
    ) -> Array:  # fmt: skip
        """Compute a block, whose convolution has the paddings of `parts` and no other border."""
        k, extra = self._arguments(parts, groups, input_dilation)
        b = of_type(type(first))
        if b is None:
            raise TypeError(f"{self.where}: a chunk is a {type(first).__qualname__}, not an array")
        on_host = b is numpy.BACKEND
        if not on_host:
            second, bias = (a if a is None else b.xp.asarray(a) for a in (second, bias))
        if self.compute is not None:
            first, second = first.astype(self.compute), second.astype(self.compute)
        return PASSES[0].call(
            self.where, self.direction, first, second, bias, k, extra, HOST if on_host else b, out
        )

    def by_pieces(
        self, chunks: Sequence[Array], cuts: Cuts, second: Array, bias: Array | None,
        parts: Sequence[Part], shape: Shape, groups: int,
    ) -> Array | None:  # fmt: skip
        """Compute a block without a copy of its chunks; None if that would be slower."""
        if self.compute is not None or self.keywords.input_dilation not in (1, (1,) * len(parts)):
            return None
        shape = callers_shape(shape, self.orders[2])

        def allocate() -> Array:
            return new_like(chunks[0], shape, self.result)

        def work(first: Array, parts: Sequence[Part], out: Array) -> None:
            self.on(first, second, bias, parts, groups, 1, out)

        orders = self.orders[0], self.orders[2]
        forward = self.direction == "forward"
        return pieces.compute(chunks, cuts, parts, self.steps, forward, orders, allocate, work)

    def _arguments(
        self, parts: Sequence[Part], groups: int, input_dilation: Any
    ) -> tuple[Keywords, Any]:
        """Return the keywords of a block's call, and the size that its pass needs in addition."""
        k = self.keywords._replace(
            padding=tuple(p.padding for p in parts),
            padding_mode="zeros",
            fill=0,
            groups=groups,
            input_dilation=input_dilation,
        )
        if self.direction == "forward":
            return k, None
        if self.direction == "filter_grad":
            return k, PerExample(self.kernel) if self.per_example else self.kernel
        size = tuple(p.size for p in parts)
        return k, Transposed(0, size) if self.transposed else size

    def problem(
        self, first: list[int], second: list[int], parts: Sequence[Part], groups: int, dilation: Any
    ) -> Problem:
        """Describe the call on operands of these shapes."""
        k, extra = self._arguments(parts, groups, dilation)
        return Problem(self.direction, (tuple(first), tuple(second)), k, extra)


@dataclass(frozen=True, slots=True)
class Block:
    """Compute a block of an output, or one block's part of a filter gradient.

    Attributes
    ----------
    call : Call
        What it has in common with other blocks.
    cuts : Cuts
        The slices of the chunks of the first operand.
    parts : tuple of Part
        The parts of the spatial axes of x.
    shape : tuple of int
        The canonical shape of the result.
    channels : (int, int)
        The channels of the result that the block has, for its part of the bias.
    groups : int
        The groups that the block's channels form.
    second : Cuts
        The slices of the second operand: of the filter, or of the chunks of gy.
    count : int
        The number of chunks of the second operand.
    """

    call: Call
    cuts: Cuts
    parts: tuple[Part, ...]
    shape: Shape
    channels: Range
    groups: int
    second: Cuts
    count: int

    def problem(self) -> Problem:
        """Return the call that computes the block."""
        first, second = lengths_of(self.cuts), lengths_of(self.second)
        for axis, part in enumerate(self.parts, start=1):
            if part.fills:
                first[callers_axis(self.call.orders[0], axis)] = part.size
        dilation = self.call.keywords.input_dilation
        if any(p.fills for p in self.parts):
            dilation = 1
        return self.call.problem(first, second, self.parts, self.groups, dilation)

    @RUNNING.one_more()
    def __call__(self, bias: Array | None, *chunks: Array) -> Array:
        """Compute the block from chunks of the second operand, then those of the first one."""
        call, bias = self.call, _of_channels(bias, self.channels)
        if 0 in self.shape or any(p.size == 0 for p in self.parts):
            return _nothing(call, self.shape, chunks[-1], bias)
        second, chunks = gathered(chunks[: self.count], self.second), chunks[self.count :]
        if call.direction == "forward" and not any(part.fills for part in self.parts):
            found = call.by_pieces(
                chunks, self.cuts, second, bias, self.parts, self.shape, self.groups
            )
            if found is not None:
                return found
        x = gathered(chunks, self.cuts)
        for axis, part in enumerate(self.parts, start=1):
            if part.fills:
                x = filled(x, callers_axis(call.orders[0], axis), part.fills)
        if any(fill.source == CONSTANT for part in self.parts for fill in part.fills):
            for axis, part in enumerate(self.parts, start=1):
                place = callers_axis(call.orders[0], axis)
                fill_border(x, place, part.fills, call.keywords.fill)
        dilations = call.keywords.input_dilation
        if not isinstance(dilations, tuple):
            dilations = (dilations,) * len(self.parts)
        # what `filled` copied has its zeros between the elements already
        dilation = tuple(1 if p.fills else t for p, t in zip(self.parts, dilations, strict=True))
        return call.on(x, second, bias, self.parts, self.groups, dilation)


@dataclass(frozen=True, slots=True)
class InputBlock:
    """Compute a block of an input gradient or of a transposed convolution.

    Attributes
    ----------
    call, shape, channels, groups, second : Call, tuple of int, (int, int), int, Cuts
        As in `Block`.
    cells : tuple of (Cuts, tuple of Part, int)
        The parts of gy behind ranges of padded positions: the slices of its chunks, the parts of
        its spatial axes, and the number of chunks. One cell where the border holds zeros.
    folded : tuple of Folded
        For each spatial axis, how padded positions are added to elements; empty if none are.
    """

    call: Call
    shape: Shape
    channels: Range
    groups: int
    second: Cuts
    cells: tuple[tuple[Cuts, tuple[Part, ...], int], ...]
    folded: tuple[Folded, ...]

    def problem(self) -> Problem:
        """Return the call that computes the block, or most of it where the border is folded."""
        cuts, parts, _ = max(self.cells, key=lambda cell: prod(lengths_of(cell[0])))
        dilation = 1 if self.folded else self.call.keywords.input_dilation
        return self.call.problem(
            lengths_of(cuts), lengths_of(self.second), parts, self.groups, dilation
        )

    @RUNNING.one_more()
    def __call__(self, bias: Array | None, f: Array, *chunks: Array) -> Array:
        """Compute the block from the filter and chunks of gy, those of one cell after another."""
        call, bias = self.call, _of_channels(bias, self.channels)
        f = gathered((f,), self.second)
        if 0 in self.shape:
            return _nothing(call, self.shape, chunks[0], bias)
        if not self.folded:
            [(cuts, parts, _)] = self.cells
            whole = call.by_pieces(chunks, cuts, f, bias, parts, self.shape, self.groups)
            if whole is not None:
                return whole
        found, start = [], 0
        for cuts, parts, count in self.cells:
            gy, start = gathered(chunks[start : start + count], cuts), start + count
            if 0 in gy.shape:
                size = (self.shape[0], *(p.size for p in parts), self.shape[-1])
                found.append(_nothing(call, size, chunks[0], bias))
            else:
                dilation = 1 if self.folded else call.keywords.input_dilation
                found.append(call.on(gy, f, bias, parts, self.groups, dilation))
        if not self.folded:
            return found[0]
        return self._fold(found)

    def _fold(self, found: list[Array]) -> Array:
        """Add the padded positions of all cells to the elements that they hold."""
        call = self.call
        axes = [callers_axis(call.orders[2], i + 1) for i in range(len(self.folded))]
        lengths = [[part.size for part in axis.parts] for axis in self.folded]
        gx = _joined(found, axes, lengths)
        for axis, folded in zip(axes, self.folded, strict=True):
            gx = _folded(gx, axis, folded)
        dilations = call.keywords.input_dilation
        if isinstance(dilations, int):
            dilations = (dilations,) * len(axes)
        steps = [slice(None)] * gx.ndim
        for axis, t in zip(axes, dilations, strict=True):
            steps[axis] = slice(None, None, t)
        return gx[tuple(steps)].astype(call.result)


def _joined(found: list[Array], axes: Sequence[int], lengths: Sequence[Sequence[int]]) -> Array:
    """Join arrays, in row-major order of their cells, along the axes."""
    if len(found) == 1:
        return found[0]
    shape = list(found[0].shape)
    for axis, each in zip(axes, lengths, strict=True):
        shape[axis] = sum(each)
    whole = np.empty_like(found[0], shape=tuple(shape))
    places = [
        [slice(end - n, end) for end, n in zip(accumulate(each), each, strict=True)]
        for each in lengths
    ]
    for part, cell in zip(found, product(*places), strict=True):
        index = [slice(None)] * len(shape)
        for axis, place in zip(axes, cell, strict=True):
            index[axis] = place
        whole[tuple(index)] = part
    return whole


def _folded(gx: Array, axis: int, folded: Folded) -> Array:
    """Add positions of an axis to the elements that they hold, in the order of `ops.fold`."""
    if folded.folds == (((0, folded.size), (0, folded.size), 1),):
        return gx
    shape = (*gx.shape[:axis], folded.size, *gx.shape[axis + 1 :])
    total = np.zeros_like(gx, shape=shape)
    before = (slice(None),) * axis
    for positions, elements, step in folded.folds:
        part = gx[(*before, slice(*positions))]
        if step == 0:
            part = part.sum(axis=axis, keepdims=True, dtype=part.dtype)
        elif step == -1:
            part = np.flip(part, axis)
        total[(*before, slice(*elements))] += part
    return total


@dataclass(frozen=True, slots=True)
class Sum:
    """Add the parts of a filter gradient in the order in which they are given.

    Attributes
    ----------
    where : str
        The public function, for errors.
    result : str or None
        The dtype of the sum; None to leave it as it is.
    """

    where: str
    result: str | None

    def __call__(self, *parts: Array) -> Array:
        """Add arrays of one shape; a sum of integers that could overflow is refused."""
        total = parts[0]
        for part in parts[1:]:
            if total.dtype.kind in "iu" and total.size:
                _check_sum(self.where, total, part)
            total = total + part
        return total if self.result is None else total.astype(self.result)


def _check_sum(where: str, one: Array, other: Array) -> None:
    least, most = int(one.min()) + int(other.min()), int(one.max()) + int(other.max())
    limits = np.iinfo(one.dtype)
    if least < limits.min or most > limits.max:
        raise bad_value(
            where,
            f"the sum of the parts of two blocks could leave {one.dtype}",
            f"values whose sums may lie in [{least}, {most}]",
            "scale them down or convert them to float64",
        )


def _of_channels(bias: Array | None, channels: Range) -> Array | None:
    return None if bias is None else bias[slice(*channels)]


def _nothing(call: Call, shape: Shape, like: Array, bias: Array | None) -> Array:
    """Return a block, of a canonical shape, without products: zeros, plus the bias."""
    order = call.orders[2]
    shape = callers_shape(shape, order)
    zeros: Array = np.zeros_like(like, shape=shape, dtype=call.compute or call.result)
    if bias is not None:
        channel = callers_axis(order, len(shape) - 1)
        places = [1] * len(shape)
        places[channel] = -1
        zeros += np.reshape(np.asarray(bias, like=zeros), places).astype(zeros.dtype)
    return zeros
