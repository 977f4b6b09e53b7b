"""Reuse the memory of one training step's arrays in the next step.

The operating system takes longer to map new pages than many a layer takes to fill them. A block is
free as soon as no array refers to it, which its reference count tells: a layer or user that still
holds an array of a block keeps that block from being reused.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from einstride.arrays.backends import Array, Backend
from einstride.arrays.backends.numpy import empty
from einstride.support import workers

MIN_BYTES = 1 << 16
"""Smallest array in bytes that gets a block. The C library's allocator reuses its own memory for
smaller ones."""
ALIGN = 64
"""Alignment of arrays in bytes: a cache line, and the widest vector."""


def _references(block: Any) -> int:
    return sys.getrefcount(block)


def _has_exact_counts() -> bool:
    """True if the interpreter counts references immediately, in one count per object."""
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)
    return sys.implementation.name == "cpython" and has_gil()


def _count_unused() -> int:
    """Return the references to a block that only a list and the loop over it refer to."""
    for block in [np.empty(1, np.uint8)]:
        return _references(block)
    return 0


_UNUSED_COUNT = _count_unused() if _has_exact_counts() else 0


_arenas: weakref.WeakSet[Arena] = weakref.WeakSet()


def _after_fork() -> None:
    for arena in list(_arenas):
        arena.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Arena:
    """Memory blocks of the sizes that a training step asked for. A copy of an arena is empty."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._blocks: dict[int, list[Any]] = {}
        self._used: dict[int, int] = {}
        _arenas.add(self)

    def __reduce__(self) -> tuple[type[Arena], tuple[()]]:
        """Make copies, also by pickle, new and empty arenas."""
        return type(self), ()

    def forget(self) -> None:
        """Empty the arena in a forked child, where the thread that held the lock may be missing."""
        self._lock, self._blocks, self._used = threading.RLock(), {}, {}

    def backend(self, b: Backend) -> Backend:
        """Return a backend that allocates from this arena; `b` itself for device libraries."""
        if not b.traits.on_host or not _UNUSED_COUNT:
            return b
        return replace(b, empty=self.empty)

    def begin(self) -> None:
        """Begin a training step: free the blocks that the step before did not use."""
        with workers.guard(self._lock):
            for size, blocks in list(self._blocks.items()):
                del blocks[self._used.get(size, 0) :]
                if not blocks:
                    del self._blocks[size]
            self._used = {}

    def clear(self) -> None:
        """Free all blocks."""
        with workers.guard(self._lock):
            self._blocks, self._used = {}, {}

    def empty(self, shape: Sequence[int], name: str, like: Array) -> Array:
        """Return an uninitialised array, as `Backend.empty` does, in a block of this arena."""
        kind = np.dtype(name) if name != "bfloat16" else like.dtype
        size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
        if size < MIN_BYTES or kind.name != name:
            return empty(shape, name, like)
        with workers.guard(self._lock):
            block = self._block(size)
            start = -block.__array_interface__["data"][0] % ALIGN
            return block[start : start + size].view(kind).reshape(shape)

    def _block(self, size: int) -> Any:
        # A signal handler that trains the same model may run at any point here: `block` is
        # referenced before it is found to be unused, so that the handler cannot take it as well.
        blocks, number = self._blocks.setdefault(size, []), 0
        for block in blocks:
            number += 1  # noqa: SIM113 (enumerate's tuple would hold a reference)
            if _references(block) == _UNUSED_COUNT:
                self._used[size] = max(self._used.get(size, 0), number)
                return block
        block = np.empty(size + ALIGN, np.uint8)
        blocks.append(block)
        self._used[size] = len(blocks)
        return block
