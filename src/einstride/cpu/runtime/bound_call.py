"""A program with the memory that it needs: called with arrays, it gives the result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from einstride.cpu.runtime.aligned_memory import LARGE, aligned, placed
from einstride.cpu.runtime.call_program import Program, readable

MOST = 1 << 22
"""Bytes of memory that a stand-in may span."""


def stand_in(a: Any) -> Any:
    """An array that lies in memory as this one does, in memory of its own; None if that is much."""
    ends = [(n - 1) * s for n, s in zip(a.shape, a.strides, strict=True)]
    before, after = -sum(min(e, 0) for e in ends), sum(max(e, 0) for e in ends)
    if before + after + a.itemsize > MOST:
        return None
    memory = np.zeros(before + after + a.itemsize, np.uint8)
    return np.ndarray(a.shape, a.dtype, memory.data, before, a.strides)


def bound(steps: Any, shape: tuple[int, ...], dtype: Any) -> Callable[..., Any] | None:
    """Those steps as a function of the first operand, the second, the bias, and one it ignores.

    It keeps the program; each call allocates the result and the scratch memory, and nothing else.
    """
    if not readable():
        return None
    program = Program()
    for call, places in steps.calls:
        program.add(call, **places)
    function, words = program.finish()
    empty: Any = np.empty
    size = steps.scratch
    make = (
        partial(np.zeros, size, np.uint8) if steps.zeroed else partial(aligned, (size,), np.uint8)
    )
    large = prod(shape) * dtype.itemsize >= LARGE

    def plain(first: Any, second: Any, bias: Any, kept: Any) -> Any:
        result = placed(shape, dtype, first) if large else empty(shape, dtype)
        function(words, 0, first, second, bias, result, None)
        return result

    def with_scratch(first: Any, second: Any, bias: Any, kept: Any) -> Any:
        result = placed(shape, dtype, first) if large else empty(shape, dtype)
        function(words, 0, first, second, bias, result, make())
        return result

    found: Callable[..., Any] = with_scratch if size else plain
    found.program = program  # type: ignore[attr-defined]  # its words must live as long
    return found
