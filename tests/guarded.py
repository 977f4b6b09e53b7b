"""Places arrays beside pages without access, so that an access out of bounds ends the process."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PAGE = mmap.PAGESIZE
_kept: list[mmap.mmap] = []


def guarded(a: np.ndarray, end: bool) -> np.ndarray:
    """Return a copy whose last byte (or first, if not `end`) lies beside a page without access."""
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


def run(*arguments: str) -> str:
    """Run a program of this folder in a new process without cached kernels; return its last line.

    Skips the test if this line begins with "not run".
    """
    process = subprocess.run(
        [sys.executable, *arguments],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=900,
        env=os.environ | {"EINSTRIDE_CACHE_BYTES": "0"},
    )
    lines = process.stdout.splitlines()
    ended = f"{process.returncode} at {lines[-1:]}: {process.stderr[-3000:]}"
    assert process.returncode == 0, ended
    if lines[-1].startswith("not run"):
        pytest.skip(lines[-1])
    return lines[-1]
