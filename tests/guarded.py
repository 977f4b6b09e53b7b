"""Memory beside pages that nobody may touch: one element too far ends the process."""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

PAGE = mmap.PAGESIZE
_kept: list[mmap.mmap] = []


def guarded(a: np.ndarray, end: bool) -> np.ndarray:
    """A copy whose last (or first) byte lies beside a page without access."""
    size = -(-max(a.nbytes, 1) // PAGE) * PAGE
    memory = mmap.mmap(-1, size + 2 * PAGE)
    _kept.append(memory)  # never unmapped: arrays may outlive the test
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    for page in (start, start + PAGE + size):
        if protect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = PAGE + (size - a.nbytes if end else 0)
    found = np.frombuffer(memory, a.dtype, a.size, offset).reshape(a.shape)
    found[...] = a
    return found
