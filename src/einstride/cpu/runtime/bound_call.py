"""Bind the steps of a small convolution to a function of arrays that allocates its result."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import numpy as np

from einstride.cpu.runtime.aligned_memory import (
    ADDRESSES_READABLE,
    UNALIASED_FROM,
    aligned_empty,
    unaliased_empty,
)
from einstride.cpu.runtime.call_program import Program

PROGRAM_LIMIT = 1 << 16
"""Bytes of argument blocks and tables of a program, at most: the call cache holds a thousand."""


def bind(
    steps: Any, shape: tuple[int, ...], dtype: Any, lend: Callable[..., None]
) -> Callable[..., Any] | None:
    """Make a function (first, second, bias, ignored) -> result that runs these steps.

    The function keeps the program; each call allocates the result and the scratch memory, nothing
    else. `lend` is that of the backend. None where addresses cannot be read, or if the program
    would keep more than `PROGRAM_LIMIT` bytes.
    """
    if not ADDRESSES_READABLE:
        return None
    program = Program()
    for call, addresses in steps.calls:
        program.add(call, **addresses)
    if program.nbytes > PROGRAM_LIMIT:
        return None
    function, argument = program.finish()
    empty: Any = np.empty
    size = steps.scratch
    scratch_memory = (
        partial(np.zeros, size, np.uint8)
        if steps.zeroed
        else partial(aligned_empty, (size,), np.uint8)
    )
    large = prod(shape) * dtype.itemsize >= UNALIASED_FROM

    def plain(first: Any, second: Any, bias: Any, kept: Any) -> Any:
        result = unaliased_empty(shape, dtype, first) if large else empty(shape, dtype)
        function(argument, 0, first, second, bias, result, None)
        return result

    def with_scratch(first: Any, second: Any, bias: Any, kept: Any) -> Any:
        result = unaliased_empty(shape, dtype, first) if large else empty(shape, dtype)
        function(argument, 0, first, second, bias, result, scratch_memory())
        return result

    def threaded(first: Any, second: Any, bias: Any, kept: Any) -> Any:
        result = unaliased_empty(shape, dtype, first) if large else empty(shape, dtype)
        scratch = scratch_memory() if size else None
        lend(function, argument, program.threads, first, second, bias, result, scratch)
        return result

    found: Callable[..., Any] = with_scratch if size else plain
    found = threaded if program.threads > 1 else found
    found.program = program  # type: ignore[attr-defined]  # its argument blocks must live as long
    return found
