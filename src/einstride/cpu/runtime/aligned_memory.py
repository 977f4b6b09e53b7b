"""Allocate NumPy arrays at cache lines, and large results where loads do not alias stores.

An array's address is read from its C struct, as extension modules do: it is the integer behind the
header of a Python object. `ADDRESSES_READABLE` says whether this integer is the address that arrays
report themselves, which takes eight times as long.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from einstride.cpu.runtime.recording import Recording

CACHE_LINE = 64
"""Bytes of a cache line, and of the longest vector (AVX-512)."""

ALIAS_DISTANCE = 4096
"""Bytes between addresses that alias: x86 CPUs look up earlier stores by the last twelve bits."""

HEADER_BYTES = object.__basicsize__
"""Bytes of the header of every Python object: reference count and type."""

UNALIASED_FROM = 1 << 19
"""Bytes of a result from which aliasing costs more time than `unaliased_empty` does."""


def aligned_empty(shape: Sequence[int], dtype: Any) -> Any:
    """Allocate an uninitialised array at a cache line, so that no aligned vector crosses two."""
    dtype = np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    memory = np.empty(size + CACHE_LINE, np.uint8)
    return np.ndarray(shape, dtype, memory, -address(memory) % CACHE_LINE)


def allocate(launch: Any, shape: Sequence[int], dtype: str) -> Any:
    """Return `aligned_empty` memory, or stand-in memory while a program is recorded."""
    if isinstance(launch, Recording):
        return launch.allocate(shape, dtype)
    return aligned_empty(shape, dtype)


def unaliased_empty(shape: Sequence[int], dtype: Any, source: Any) -> Any:
    """Allocate an uninitialised result whose stores do not alias loads of the array `source`.

    A load waits for each recent store whose address has the same last twelve bits (4K aliasing).
    Kernels read `source` and write the result in ascending order. The result therefore begins one
    cache line below `source` modulo 4096: every load from an aliased address precedes the store.
    """
    dtype = np.dtype(dtype)
    memory = np.empty(prod(shape) * dtype.itemsize + ALIAS_DISTANCE, np.uint8)
    start = (address(source) - CACHE_LINE) // CACHE_LINE * CACHE_LINE
    return np.ndarray(shape, dtype, memory, (start - address(memory)) % ALIAS_DISTANCE)


def address(a: Any) -> int:
    """Return the address of an array's first element."""
    if ADDRESSES_READABLE and isinstance(a, np.ndarray):
        return _integer_at(id(a) + HEADER_BYTES).value
    return reported_address(a)


def reported_address(a: Any) -> int:
    """Return the address of an array's first element, as the array reports it."""
    return int(a.__array_interface__["data"][0])


_integer_at = ctypes.c_size_t.from_address


def _addresses_readable() -> bool:
    whole = np.zeros((5, 7), np.float32)
    return all(
        _integer_at(id(a) + HEADER_BYTES).value == reported_address(a)
        for a in (whole, whole[2:, ::-1], whole.T[3:], np.zeros(3, np.int8))
    )


ADDRESSES_READABLE = _addresses_readable()
"""True if NumPy arrays hold their address directly behind the object header."""
