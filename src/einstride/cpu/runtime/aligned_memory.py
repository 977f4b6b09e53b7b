"""Allocate NumPy arrays at cache lines, and large results where loads do not alias stores."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

CACHE_LINE = 64
"""Bytes of a cache line, and of the longest vector (AVX-512)."""

ALIAS_DISTANCE = 4096
"""Bytes between addresses that alias: x86 CPUs look up earlier stores by the last twelve bits."""

UNALIASED_FROM = 1 << 19
"""Bytes of a result from which aliasing costs more time than `unaliased_empty` does."""


def aligned_empty(shape: Sequence[int], dtype: Any) -> Any:
    """Allocate an uninitialised array at a cache line, so that no aligned vector crosses two."""
    dtype = np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    memory = np.empty(size + CACHE_LINE, np.uint8)
    return np.ndarray(shape, dtype, memory, -address(memory) % CACHE_LINE)


def unaliased_empty(shape: Sequence[int], dtype: Any, source: Any) -> Any:
    """Allocate an uninitialised result whose stores do not alias loads of the array `source`.

    A load waits for each recent store whose address has the same last twelve bits (4K aliasing).
    Kernels read `source` and write the result in ascending order. The result therefore begins one
    cache line below `source` modulo 4096: every load from an aliased address precedes the store.
    """
    dtype = np.dtype(dtype)
    memory = np.empty(prod(shape) * dtype.itemsize + ALIAS_DISTANCE, np.uint8)
    wanted = (address(source) - CACHE_LINE) // CACHE_LINE * CACHE_LINE
    return np.ndarray(shape, dtype, memory, (wanted - address(memory)) % ALIAS_DISTANCE)


def address(a: Any) -> int:
    """The address of an array's first element."""
    return int(a.__array_interface__["data"][0])
