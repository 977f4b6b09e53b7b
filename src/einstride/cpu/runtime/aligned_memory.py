"""NumPy memory that begins where vectors are quick: at a line of the cache."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

LINE = 64
"""Bytes of a line of the cache; no vector is longer."""

PAGE = 4096
"""Addresses that differ by a multiple of it look the same to a load that asks for stores."""

LARGE = 1 << 19
"""Bytes of a result from which its place matters more than the time to choose one."""


def aligned(shape: Sequence[int], dtype: Any) -> Any:
    """Uninitialised numbers from the beginning of a line: no vector of them lies in two."""
    dtype = np.dtype(dtype)
    size = prod(shape) * dtype.itemsize
    room = np.empty(size + LINE, np.uint8)
    return np.ndarray(shape, dtype, room, -address(room) % LINE)


def placed(shape: Sequence[int], dtype: Any, like: Any) -> Any:
    """Uninitialised numbers from the beginning of a line, for what is made of the array `like`.

    A load waits for stores shortly before it whose addresses have the same last twelve bits.
    Kernels read and write both arrays upwards; so results lie, in those bits, just below what they
    are made of, and whatever is written there has been read before.
    """
    dtype = np.dtype(dtype)
    room = np.empty(prod(shape) * dtype.itemsize + PAGE, np.uint8)
    wanted = (address(like) - LINE) // LINE * LINE
    return np.ndarray(shape, dtype, room, (wanted - address(room)) % PAGE)


def address(a: Any) -> int:
    """Where an array's first element lies."""
    return int(a.__array_interface__["data"][0])
