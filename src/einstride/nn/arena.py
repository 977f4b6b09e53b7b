"""Memory that goes round: the arrays of one training step lie where those of the last one did.

The system takes longer to give fresh pages than many a layer takes to fill them. A block is free
as soon as no array refers to it, which is what Python counts references for: whoever still holds
an array, layer or user, keeps its block from being used again.
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

LEAST = 1 << 16
"""Bytes from which an array is worth a block; smaller ones come from memory that was used before
anyway."""
ALIGN = 64


def _references(blocks: list[Any], i: int) -> int:
    return sys.getrefcount(blocks[i])


def _counted() -> bool:
    """Are references counted here, at once and by a single count?"""
    together = getattr(sys, "_is_gil_enabled", lambda: True)
    return sys.implementation.name == "cpython" and together()


_UNUSED = _references([np.empty(1, np.uint8)], 0) if _counted() else 0


_arenas: weakref.WeakSet[Arena] = weakref.WeakSet()


def _after_fork() -> None:
    for arena in list(_arenas):
        arena.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Arena:
    """Blocks of memory of the sizes that a step asked for. A copy of an arena is an empty one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks: dict[int, list[Any]] = {}
        self._used: dict[int, int] = {}
        _arenas.add(self)

    def __reduce__(self) -> tuple[type[Arena], tuple[()]]:
        """A copy, also through pickle, is a new one."""
        return type(self), ()

    def forget(self) -> None:
        """In a forked child: the thread that held the lock is not there to release it."""
        self._lock, self._blocks, self._used = threading.Lock(), {}, {}

    def of(self, b: Backend) -> Backend:
        """The backend, whose new arrays lie here; itself for libraries with memory of their own."""
        if not b.traits.on_host or not _UNUSED:
            return b
        return replace(b, empty=self.empty)

    def begin(self) -> None:
        """A new step: what the last one did not need is given back."""
        with workers.guard(self._lock):
            for size, blocks in list(self._blocks.items()):
                del blocks[self._used.get(size, 0) :]
                if not blocks:
                    del self._blocks[size]
            self._used = {}

    def clear(self) -> None:
        """Give everything back."""
        with workers.guard(self._lock):
            self._blocks, self._used = {}, {}

    def empty(self, shape: Sequence[int], name: str, like: Array) -> Array:
        """As `Backend.empty`."""
        kind = np.dtype(name) if name != "bfloat16" else like.dtype
        size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
        if size < LEAST or kind.name != name:
            return empty(shape, name, like)
        with workers.guard(self._lock):
            block = self._block(size)
            start = -block.__array_interface__["data"][0] % ALIGN
            return block[start : start + size].view(kind).reshape(shape)

    def _block(self, size: int) -> Any:
        blocks = self._blocks.setdefault(size, [])
        for i in range(len(blocks)):
            if _references(blocks, i) == _UNUSED:
                self._used[size] = max(self._used.get(size, 0), i + 1)
                return blocks[i]
        blocks.append(np.empty(size + ALIGN, np.uint8))
        self._used[size] = len(blocks)
        return blocks[-1]
