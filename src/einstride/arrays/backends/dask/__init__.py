"""Adapt Dask: every call adds tasks to a graph, which computes a block of the result for each.

The operands beside a Dask array may be plain arrays of the library that its chunks belong to.

What may enter: the graph of a call, and what its tasks run. Start with `graph`, which writes tasks;
`tasks` computes them. `batches` writes the graphs of networks.
"""

from __future__ import annotations

from dataclasses import replace
from math import isnan
from typing import Any

import array_api_compat.dask.array as xp
import dask.array
import numpy as np

from einstride.arrays.backends import generic
from einstride.arrays.backends.adapter import Array, Exchange
from einstride.arrays.backends.dask import batches, graph, tasks
from einstride.support.errors import bad_type, bad_value


def check(where: str, names: tuple[str, ...], arrays: tuple[Array | None, ...]) -> None:
    """Raise an error unless all arrays are Dask's or plain, of one library, with known chunks."""
    first, kind = "", ""
    for name, array in zip(names, arrays, strict=True):
        if array is None:
            continue
        lazy = isinstance(array, dask.array.Array)
        theirs = type(array._meta if lazy else array).__module__.partition(".")[0]
        if theirs not in ("numpy", "cupy") or not hasattr(array, "shape"):
            raise bad_type(
                where,
                f"{name} must be an array of NumPy, CuPy or Dask beside arrays of Dask",
                f"{type(array).__module__}.{type(array).__qualname__}"
                + (" with chunks of " + theirs if lazy else ""),
                f"convert it, e.g. numpy.asarray({name})",
            )
        if lazy:
            _check_chunks(where, name, array)
        first, kind = (first, kind) if kind else (name, theirs)
        if theirs != kind and (lazy or theirs == "cupy"):  # a filter in host memory is copied
            raise bad_type(
                where,
                "chunks and arrays must come from one library",
                f"{first} from {kind}, {name} from {theirs}",
                "convert one of them, e.g. by map_blocks(cupy.asarray)",
            )


def _check_chunks(where: str, name: str, array: Array) -> None:
    if any(isnan(n) for lengths in array.chunks for n in lengths):
        raise bad_value(
            where,
            f"the chunks of {name} must have known sizes",
            f"chunks {array.chunks}",
            f"call {name}.compute_chunk_sizes() first",
        )
    if any(0 in lengths and len(lengths) > 1 for lengths in array.chunks):
        raise bad_value(
            where,
            f"no chunk of {name} may have length 0 beside others",
            f"chunks {array.chunks}",
            f"rechunk it, e.g. {name}.rechunk('auto')",
        )


def _astype(x: Array, name: str) -> Array:
    return x if str(x.dtype) == name else x.astype(name)


def _zeros(shape: Any, name: str, like: Array) -> Array:
    return dask.array.zeros(tuple(shape), dtype=np.dtype(name), meta=like._meta)


BACKEND = replace(
    generic.of(xp),
    astype=_astype,
    zeros=_zeros,
    empty=_zeros,
    exchange=Exchange(
        host=tasks.HOST,
        is_plain=lambda *arrays: False,
        lend=lambda x: x,
        adopt=lambda y, *operands: y,
        has_values=lambda x: True,  # tasks look at the values of their blocks
        check=check,
        operator=graph.operator,
        copy=lambda x: x,
        one_library=False,
        figures=graph.figures,
        map_batches=batches.map_batches,
        reduce_batches=batches.reduce_batches,
        checked=batches.checked,
        values=lambda x, scheduler: x.compute(scheduler=scheduler),
    ),
)
