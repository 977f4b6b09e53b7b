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

SPAN_LIMIT = 1 << 22
"""Bytes that an array of `strided_zeros_like` may span, chosen; calls with larger operands get no
program."""

PROGRAM_LIMIT = 1 << 16
"""Bytes of argument blocks and tables of a program, at most: the call cache holds a thousand."""


def strided_zeros_like(a: Any) -> Any:
    """Make zeros with the shape, dtype and strides of an array; None beyond `SPAN_LIMIT` bytes."""
    last_offsets = [(n - 1) * s for n, s in zip(a.shape, a.strides, strict=True)]
    first_byte = sum(min(offset, 0) for offset in last_offsets)
    end_byte = sum(max(offset, 0) for offset in last_offsets) + a.itemsize
    if end_byte - first_byte > SPAN_LIMIT:
        return None
    memory = np.zeros(end_byte - first_byte, np.uint8)
    return np.ndarray(a.shape, a.dtype, memory.data, -first_byte, a.strides)


def bind(
    steps: Any, shape: tuple[int, ...], dtype: Any, launch_program: Callable[..., None]
) -> Callable[..., Any] | None:
    """Make a function (first, second, bias, prepared filter) -> result that runs a call's steps.

    Each call of the function allocates the result and the scratch memory, nothing else; it reads
    the filter `second`, and no prepared one. `launch_program` is the field of the backend. Returns
    None where addresses cannot be read, or if the program would keep more than `PROGRAM_LIMIT`
    bytes.
    """
    if not ADDRESSES_READABLE:
        return None
    program = Program()
    for call, addresses in steps.calls:
        program.add(call, **addresses)
    if program.nbytes > PROGRAM_LIMIT:
        return None
    function, block = program.finish()
    empty: Any = np.empty
    size = steps.scratch_bytes
    allocate_scratch = (
        partial(np.zeros, size, np.uint8)
        if steps.scratch_is_zero
        else partial(aligned_empty, (size,), np.uint8)
    )
    is_large = prod(shape) * dtype.itemsize >= UNALIASED_FROM

    def run(first: Any, second: Any, bias: Any, prepared_filter: Any) -> Any:
        result = unaliased_empty(shape, dtype, first) if is_large else empty(shape, dtype)
        function(block, 0, first, second, bias, result, None)
        return result

    def run_with_scratch(first: Any, second: Any, bias: Any, prepared_filter: Any) -> Any:
        result = unaliased_empty(shape, dtype, first) if is_large else empty(shape, dtype)
        function(block, 0, first, second, bias, result, allocate_scratch())
        return result

    def run_on_threads(first: Any, second: Any, bias: Any, prepared_filter: Any) -> Any:
        result = unaliased_empty(shape, dtype, first) if is_large else empty(shape, dtype)
        scratch = allocate_scratch() if size else None
        launch_program(function, block, program.threads, first, second, bias, result, scratch)
        return result

    bound: Callable[..., Any] = run_with_scratch if size else run
    bound = run_on_threads if program.threads > 1 else bound
    bound.program = program  # type: ignore[attr-defined]  # its argument blocks must live as long
    return bound
