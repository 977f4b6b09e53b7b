"""Write the graph of a convolution of Dask arrays: one task for each chunk of the result.

A task reads the chunks that its block's windows see (`einstride.geometry.chunks`), so that the
number of tasks and the time to write them grow with the number of chunks alone. A filter gradient
has one task for each chunk of gy, and a tree of sums, whose shape follows from the chunks.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from math import prod
from typing import Any

import dask.array
import numpy as np
from dask.base import tokenize
from dask.highlevelgraph import HighLevelGraph

from einstride.arrays.backends.adapter import Array
from einstride.arrays.backends.dask.joining import Cuts, lengths_of
from einstride.arrays.backends.dask.tasks import Block, Call, InputBlock, Problem, Sum
from einstride.arrays.backends.passes import PASSES
from einstride.geometry import chunks as pieces
from einstride.geometry.arithmetic import HALVES
from einstride.geometry.chunks import Range
from einstride.geometry.convolution import Direction, Geometry
from einstride.geometry.keywords import Keywords, PerExample, Shape, Transposed

FAN_IN = 8
"""Parts of a filter gradient that one task adds. More take more memory at once, fewer more tasks;
another number changes the order of sums, and with it the last bits of results."""

Chunks = tuple[list[int], list[Range]]
"""The numbers of consecutive chunks of an axis, and the slice of each."""


def operator(
    where: str,
    direction: Direction,
    first: Array,
    second: Array,
    bias: Array | None,
    k: Keywords,
    extra: Any,
) -> Array:
    """Return the Dask array whose tasks compute a call with checked keywords."""
    # the limit of workspace is that of a task, which checks it for its block
    plan = PASSES[0].plan(
        where, direction, first, second, bias, k._replace(max_workspace=None), extra
    )
    return _Writer(where, direction, first, second, bias, k, extra, plan).array()


@dataclass(frozen=True)
class Figures:
    """Hold what a graph will take.

    Attributes
    ----------
    chunks : int
        Chunks of the result.
    tasks : int
        Tasks of the graph, without those that make the operands.
    read : int
        Bytes of the first operand that all tasks read.
    once : int
        Bytes of the first operand.
    largest : Problem
        The call of the largest task.
    task_read : int
        Bytes of the first operand that the largest task reads.
    task_result : int
        Bytes of the largest chunk of the result, or of a filter gradient.
    """

    chunks: int
    tasks: int
    read: int
    once: int
    largest: Problem
    task_read: int
    task_result: int


def figures(*call: Any) -> Figures:
    """Return the figures of the graph of a call, as `operator` takes it."""
    y = operator(*call)
    first = call[2]
    layer = y.dask.layers[y.name]
    item, read, most, largest = first.dtype.itemsize, 0, -1, None
    for task in layer.values():
        block = task[0] if isinstance(task, tuple) else None
        if not isinstance(block, Block | InputBlock):
            continue
        cells = [block.cuts] if isinstance(block, Block) else [cell[0] for cell in block.cells]
        elements = sum(prod(lengths_of(cuts)) for cuts in cells)
        read += elements
        if elements > most:
            most, largest = elements, block
    if largest is None:
        raise RuntimeError(f"no task computes a block of {y}")
    return Figures(
        y.npartitions, len(layer), read * item, first.nbytes, largest.problem(), most * item,
        prod(y.chunksize) * y.dtype.itemsize,
    )  # fmt: skip


class _Writer:
    """Write the tasks of one call."""

    def __init__(
        self, where: str, direction: Direction, first: Array, second: Array, bias: Array | None,
        k: Keywords, extra: Any, plan: Any,
    ) -> None:  # fmt: skip
        token = tokenize(where, first, second, bias, tuple(k), repr(extra))
        self.name = f"{where}-{token}"
        self.g: Geometry = plan.job.geometry
        self.first = self._lazy(first)
        self.tasks: dict[Any, Any] = {}
        self.arrays = [self.first]
        self.per_example = isinstance(extra, PerExample)
        a = plan.job.arithmetic
        sums = "float32" if a.compute in HALVES else a.compute
        self.folded = direction == "input_grad" and self.g.repeats_input
        several = direction == "filter_grad" or self.folded
        self.call = Call(
            where, direction, k, plan.orders,
            sums if several and not a.exact and sums != a.result else None,
            a.result, tuple(zip(self.g.stride, self.g.extent, strict=True)), self.g.kernel,
            self.per_example, isinstance(extra, Transposed),
        )  # fmt: skip
        self.channel_ends: list[int] = []
        if direction == "filter_grad":
            self.second = self._lazy(second)
            self.arrays.append(self.second)
        else:
            if isinstance(second, dask.array.Array):
                # the result has the filter's chunks of the channels that it makes
                axis = -1 if direction == "forward" else -2
                at = _place(plan.orders[1], second.ndim + axis)
                self.channel_ends = pieces.bounds(second.chunks[at])
            self.f = self._stored("f", second)
        self.bias = None if bias is None else self._stored("bias", bias)

    def _lazy(self, x: Array) -> Array:
        """Return a Dask array; a plain one is one chunk."""
        return x if isinstance(x, dask.array.Array) else dask.array.from_array(x, chunks=-1)

    def _stored(self, role: str, x: Array) -> Any:
        """Return the key of a filter or a bias, as one chunk that is stored once."""
        if isinstance(x, dask.array.Array):
            x = x.rechunk(-1)
            self.arrays.append(x)
            return (x.name, *(0,) * x.ndim)
        key = f"{self.name}-{role}"
        self.tasks[key] = x.copy()  # the caller may write to its own before the graph is computed
        return key

    def array(self) -> Array:
        """Write all tasks, and return the array that they compute."""
        write = {
            "forward": self._forward,
            "input_grad": self._input_grad,
            "filter_grad": self._filter_grad,
        }
        blocks = write[self.call.direction]()
        order = self.call.orders[2]
        lengths = [tuple(stop - start for start, stop in axis) for axis in blocks]
        chunks = tuple(lengths) if order is None else tuple(_callers(lengths, order))
        meta = np.empty_like(
            self.first._meta, shape=(0,) * len(chunks), dtype=np.dtype(self.call.result)
        )
        graph = HighLevelGraph.from_collections(self.name, self.tasks, dependencies=self.arrays)
        return dask.array.Array(graph, self.name, chunks=chunks, meta=meta)

    # Blocks of outputs, and of inputs

    def _spatial(self, x: Array, order: Shape | None) -> list[list[int]]:
        """Return the bounds of chunks of an array, in canonical order."""
        return [pieces.bounds(x.chunks[_place(order, i)]) for i in range(x.ndim)]

    def _channel_blocks(self, ends: list[int], given: int, made: int) -> list[tuple[int, Range]]:
        """List the blocks of the result's channels: the groups of each, and its channels.

        `ends` bound the chunks of the operand's `given` channels; the result has `made`.
        """
        groups = self.g.groups
        if groups == 1:
            cuts = self.channel_ends or [0, made]
            return [(1, (a, b)) for a, b in pairwise(cuts)]
        found = pieces.group_blocks([(ends, given // groups)], groups)
        each = made // groups
        return [(b - a, (a * each, b * each)) for a, b in found]

    def _forward(self) -> list[list[Range]]:
        g = self.g
        ends = self._spatial(self.first, self.call.orders[0])
        batch = _pairs(ends[0])
        channels = self._channel_blocks(ends[-1], g.channels, g.filters)
        dilation = g.input_dilation or (1,) * g.rank
        spatial = [
            pieces.blocks(ends[i + 1], g.stride[i], g.size[i], g.out[i], dilation[i])
            for i in range(g.rank)
        ]
        axes = [
            [
                (block, part := pieces.read_by_outputs(g, i, block), _of(part.ranges, ends[i + 1]))
                for block in spatial[i]
            ]
            for i in range(g.rank)
        ]
        batches = [(block, _of((block,), ends[0])) for block in batch]
        each = g.channels // g.groups
        made = g.filters // g.groups
        lasts = []
        for n, block in channels:
            start = block[0] // made if g.groups > 1 else 0
            read = (start * each, (start + n) * each) if g.groups > 1 else (0, g.channels)
            filters = self._of_filter(g.rank + 2, {g.rank + 1: block})
            lasts.append((block, n, _of((read,), ends[-1]), filters))
        self._write_blocks(batches, axes, lasts)
        return [batch, *spatial, [block for _, block in channels]]

    def _of_filter(self, rank: int, ranges: dict[int, Range]) -> Cuts:
        """Return the slices of the filter, in the caller's order, from ranges of some axes."""
        shape = self.g.f_shape
        cuts = [((0, n),) for n in shape]
        for axis, block in ranges.items():
            cuts[axis] = (block,)
        order = self.call.orders[1]
        return tuple(cuts) if order is None else tuple(_callers(cuts, order))

    def _write_blocks(self, batches: Any, axes: Any, lasts: Any) -> None:
        """Write one task for each block of the output."""
        call, name, source = self.call, self.name, self.first.name
        in_order, out_order = call.orders[0], call.orders[2]
        numbered = [list(enumerate(axis)) for axis in (batches, *axes, lasts)]
        for cell in product(*numbered):
            place = tuple(i for i, _ in cell)
            (rows, of_batch), *spatial = (entry for _, entry in cell[:-1])
            channels, groups, of_channels, filters = cell[-1][1]
            read = [of_batch, *(s[2] for s in spatial), of_channels]
            if in_order is not None:
                read = _callers(read, in_order)
            shape = (
                rows[1] - rows[0],
                *(s[0][1] - s[0][0] for s in spatial),
                channels[1] - channels[0],
            )
            task = Block(
                call,
                tuple([tuple(r[1]) for r in read]),
                tuple([s[1] for s in spatial]),
                shape,
                channels,
                groups,
                filters,
                1,
            )
            keys = [(source, *at) for at in product(*[r[0] for r in read])]
            if out_order is not None:
                place = tuple(_callers(place, out_order))
            self.tasks[name, *place] = (task, self.bias, self.f, *keys)

    def _input_grad(self) -> list[list[Range]]:
        g, call = self.g, self.call
        ends = self._spatial(self.first, call.orders[0])
        batch = _pairs(ends[0])
        channels = self._channel_blocks(ends[-1], g.filters, g.channels)
        given = g.given_shape[1:-1]
        dilation = g.input_dilation or (1,) * g.rank
        spatial = [
            pieces.blocks(ends[i + 1], dilation[i], g.out[i] * g.stride[i], given[i], g.stride[i])
            for i in range(g.rank)
        ]
        axes: list[list[Any]] = []
        for i in range(g.rank):
            axis: list[Any] = []
            for block in spatial[i]:
                folded = pieces.folded_inputs(g, i, block) if self.folded else None
                parts = folded.parts if folded else (pieces.read_by_inputs(g, i, block),)
                axis.append((block, folded, [(p, _of(p.ranges, ends[i + 1])) for p in parts]))
            axes.append(axis)
        batches = [(block, _of((block,), ends[0])) for block in batch]
        made, each = g.channels // g.groups, g.filters // g.groups
        lasts = []
        for n, block in channels:
            if g.groups == 1:
                read, filters = (0, g.filters), self._of_filter(g.rank + 2, {g.rank: block})
            else:
                start = block[0] // made
                read = (start * each, (start + n) * each)
                filters = self._of_filter(g.rank + 2, {g.rank + 1: read})
            lasts.append((block, n, _of((read,), ends[-1]), filters))
        self._write_input_blocks(batches, axes, lasts)
        return [batch, *spatial, [block for _, block in channels]]

    def _write_input_blocks(self, batches: Any, axes: Any, lasts: Any) -> None:
        call, name, source = self.call, self.name, self.first.name
        in_order, out_order = call.orders[0], call.orders[2]
        numbered = [list(enumerate(axis)) for axis in (batches, *axes, lasts)]
        for entries in product(*numbered):
            place = tuple(i for i, _ in entries)
            (rows, of_batch), *spatial = (entry for _, entry in entries[:-1])
            channels, groups, of_channels, filters = entries[-1][1]
            cells, keys = [], []
            for parts in product(*(s[2] for s in spatial)):
                read = [of_batch, *(p[1] for p in parts), of_channels]
                if in_order is not None:
                    read = _callers(read, in_order)
                found = [(source, *at) for at in product(*[r[0] for r in read])]
                keys += found
                cells.append(
                    (tuple([tuple(r[1]) for r in read]), tuple([p[0] for p in parts]), len(found))
                )
            shape = (
                rows[1] - rows[0],
                *(s[0][1] - s[0][0] for s in spatial),
                channels[1] - channels[0],
            )
            folded = tuple([s[1] for s in spatial]) if self.folded else ()
            task = InputBlock(call, shape, channels, groups, filters, tuple(cells), folded)
            if out_order is not None:
                place = tuple(_callers(place, out_order))
            self.tasks[name, *place] = (task, self.bias, self.f, *keys)

    # Filter gradients

    def _filter_grad(self) -> list[list[Range]]:
        g, call = self.g, self.call
        x_ends = self._spatial(self.first, call.orders[0])
        y_ends = self._spatial(self.second, call.orders[1])
        spatial = [
            [
                (part := pieces.read_by_outputs(g, i, block), _of(part.ranges, x_ends[i + 1]),
                 _of((block,), y_ends[i + 1]))
                for block in _pairs(y_ends[i + 1])
            ]
            for i in range(g.rank)
        ]  # fmt: skip
        batches = _pairs(y_ends[0])
        inner, outer = self._filter_blocks(x_ends[-1], y_ends[-1])
        for at in product(range(len(inner)), range(len(outer))):
            channels, (groups, filters) = inner[at[0]], outer[at[1]]
            if g.groups > 1:
                first = filters[0] // (g.filters // g.groups)
                each = g.channels // g.groups
                channels = (first * each, (first + groups) * each)
            of_x, of_y = _of((channels,), x_ends[-1]), _of((filters,), y_ends[-1])
            sums: list[Any] = []
            for i, rows in enumerate(batches):
                keys = [
                    self._part(rows, cell, of_x, of_y, groups, (x_ends[0], y_ends[0]))
                    for cell in product(*spatial)
                ]
                if self.per_example:
                    self._sum(keys, (i, *(0,) * g.rank, *at))
                else:
                    sums += keys
            if not self.per_example:
                self._sum(sums, (*(0,) * g.rank, *at))
        result = [*([(0, n)] for n in g.kernel), inner, [filters for _, filters in outer]]
        return [batches, *result] if self.per_example else result

    def _filter_blocks(
        self, x_ends: list[int], y_ends: list[int]
    ) -> tuple[list[Range], list[tuple[int, Range]]]:
        """Return the blocks of a filter's input channels, and those of its output channels."""
        g = self.g
        if g.groups == 1:
            return _pairs(x_ends), [(1, block) for block in _pairs(y_ends)]
        each, made = g.channels // g.groups, g.filters // g.groups
        found = pieces.group_blocks([(x_ends, each), (y_ends, made)], g.groups)
        return [(0, each)], [(b - a, (a * made, b * made)) for a, b in found]

    def _part(
        self, rows: Range, cell: Any, of_x: Chunks, of_y: Chunks, groups: int, ends: Any
    ) -> Any:
        """Write the task of one chunk's part of the sum, and return its key."""
        g, call = self.g, self.call
        x = [_of((rows,), ends[0]), *(c[1] for c in cell), of_x]
        y = [_of((rows,), ends[1]), *(c[2] for c in cell), of_y]
        orders = call.orders
        x = x if orders[0] is None else _callers(x, orders[0])
        y = y if orders[1] is None else _callers(y, orders[1])
        channels = sum(b - a for a, b in of_x[1]) // groups
        filters = sum(b - a for a, b in of_y[1])
        shape = (*g.kernel, channels, filters)
        if self.per_example:
            shape = (rows[1] - rows[0], *shape)
        y_keys = [(self.second.name, *at) for at in product(*[r[0] for r in y])]
        x_keys = [(self.first.name, *at) for at in product(*[r[0] for r in x])]
        task = Block(
            call, tuple([tuple(r[1]) for r in x]), tuple([c[0] for c in cell]), shape,
            (0, filters), groups, tuple([tuple(r[1]) for r in y]), len(y_keys),
        )  # fmt: skip
        key = (f"{self.name}-part", len(self.tasks))
        self.tasks[key] = (task, None, *y_keys, *x_keys)
        return key

    def _sum(self, keys: Sequence[Any], place: Shape) -> None:
        """Write the tree of tasks that adds parts, up to the block at a canonical place."""
        call = self.call
        while len(keys) > FAN_IN:
            level = []
            for i in range(0, len(keys), FAN_IN):
                key = (f"{self.name}-sum", len(self.tasks))
                self.tasks[key] = (Sum(call.where, None), *keys[i : i + FAN_IN])
                level.append(key)
            keys = level
        if call.orders[2] is not None:
            place = tuple(_callers(place, call.orders[2]))
        self.tasks[self.name, *place] = (Sum(call.where, call.result), *keys)


def _place(order: Shape | None, axis: int) -> int:
    """Return the place, in the caller's order, of an axis of the canonical order."""
    return axis if order is None else order[axis]


def _callers(entries: Sequence[Any], order: Shape) -> list[Any]:
    """Rearrange entries for canonical axes into the caller's order."""
    found: list[Any] = [None] * len(order)
    for axis, place in enumerate(order):
        found[place] = entries[axis]
    return found


def _pairs(ends: Sequence[int]) -> list[Range]:
    return list(pairwise(ends))


def _of(ranges: Sequence[Range], ends: Sequence[int]) -> Chunks:
    """Return the chunks, whose bounds are `ends`, that hold ranges of elements in this order."""
    numbers, cuts = [], []
    for start, stop in ranges:
        i = max(min(bisect_right(ends, start), len(ends) - 1) - 1, 0)
        while True:
            first, last = max(start, ends[i]), min(stop, ends[i + 1])
            numbers.append(i)
            cuts.append((first - ends[i], max(last, first) - ends[i]))
            i += 1
            if i + 1 >= len(ends) or ends[i] >= stop:
                break
    return numbers, cuts
