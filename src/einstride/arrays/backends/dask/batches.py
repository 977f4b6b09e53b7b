"""Write graphs of functions of blocks: examples of a chunk, shards of a batch, values to check."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from uuid import uuid4

import dask.array
import numpy as np
from dask.highlevelgraph import HighLevelGraph
from dask.utils import apply, parse_bytes

from einstride.arrays.backends.adapter import Array
from einstride.geometry.keywords import Shape

FAN_IN = 8
"""Results of shards that one task adds. Another number changes the order of sums, and with it the
last bits of results."""

LARGE_GRAPH = "distributed.admin.large-graph-warning-threshold"
"""Dask's setting of the bytes of a graph from which it warns."""


def map_batches(
    function: Callable[..., Array],
    arrays: Sequence[Array],
    shape: Shape,
    dtype: str,
    rows: int | None = None,
) -> Array:
    """Return the Dask array of what a function computes of each chunk of examples.

    The function is stored once, like a filter; the other axes of the arrays become one chunk.
    """
    lazy = [a if isinstance(a, dask.array.Array) else dask.array.from_array(a) for a in arrays]
    lengths = lazy[0].chunks[0]
    lazy = [a.rechunk((lengths, *(-1,) * (a.ndim - 1))) for a in lazy]
    name = f"batches-{uuid4().hex}"
    tasks: dict[Any, Any] = {f"{name}-function": function}
    for i in range(len(lengths)):
        keys = [(a.name, i, *(0,) * (a.ndim - 1)) for a in lazy]
        tasks[name, i, *(0,) * len(shape)] = (apply, f"{name}-function", keys)
    found = tuple([rows] * len(lengths)) if rows else lengths
    meta = np.empty_like(lazy[0]._meta, shape=(0,) * (len(shape) + 1), dtype=np.dtype(dtype))
    graph = HighLevelGraph.from_collections(name, tasks, dependencies=lazy)
    return dask.array.Array(graph, name, chunks=(found, *((n,) for n in shape)), meta=meta)


def reduce_batches(
    function: Callable[..., Any],
    add: Callable[[Sequence[Any]], Any],
    batches: Sequence[tuple[Any, ...]],
    scheduler: Any,
) -> Any:
    """Compute a function of each batch, and add what it returns in a tree of fixed shape.

    The function is stored once, in the graph: whatever worker is lost, the scheduler has it.
    """
    stored = dask.delayed(function, name=f"function-{uuid4().hex}", pure=False, traverse=False)
    call, total = dask.delayed(_call, pure=False), dask.delayed(add, pure=False)
    parts = [call(stored, *map(_whole, batch)) for batch in batches]
    while len(parts) > 1:
        parts = [total(parts[i : i + FAN_IN]) for i in range(0, len(parts), FAN_IN)]
    # A cluster warns of graphs of more than 10 MB, which often hold arrays by mistake.
    limit = parse_bytes(dask.config.get(LARGE_GRAPH, "10 MB")) + _bytes_of(function)
    with dask.config.set({LARGE_GRAPH: limit}):
        (found,) = dask.compute(parts[0], scheduler=scheduler)
    return found


def _bytes_of(function: Callable[..., Any]) -> int:
    """Return the bytes that a function takes in a graph, without a copy of its arrays."""
    buffers: list[pickle.PickleBuffer] = []
    rest = pickle.dumps(function, protocol=5, buffer_callback=buffers.append)
    return len(rest) + sum(buffer.raw().nbytes for buffer in buffers)


def checked(check: Callable[..., None], *arrays: Any) -> Array:
    """Return the first array, whose tasks check the values of a block of each array."""
    first = next(a for a in arrays if isinstance(a, dask.array.Array))
    axes = tuple(range(first.ndim))
    pairs = [entry for a in arrays for entry in (a, axes)]
    return dask.array.blockwise(
        partial(_after, check), axes, *pairs, dtype=arrays[0].dtype, meta=first._meta
    )


def _after(check: Callable[..., None], *blocks: Any) -> Any:
    check(*blocks)
    return blocks[0]


def _whole(x: Any) -> Any:
    """Return a lazy array as one value, whose chunks batches share: they are computed once."""
    if not isinstance(x, dask.array.Array):
        return x
    return x.rechunk(-1).to_delayed(optimize_graph=False).item()


def _call(function: Callable[..., Any], *batch: Any) -> Any:
    return function(*batch)
