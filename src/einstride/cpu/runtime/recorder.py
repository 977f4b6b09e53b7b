"""Record the kernel calls of an engine, so that a small call can repeat them without the engine.

An engine is run once on stand-ins: arrays with the shapes, dtypes and strides of the caller's
arrays, at addresses of their own. Its kernel calls are kept and not run. What it does besides goes
through the functions of `recording`: they copy, add and allocate at once, or record it.

    engine on the caller's arrays     kernel calls, copies and sums run at once
    engine on stand-ins               kernel calls, copies and sums become steps of a program

So the control flow of an engine exists once. Stand-ins cannot be written, so that an engine that
writes an array in another way meets an error; an address that lies in no stand-in makes the call
`UnrecordableError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast
from weakref import ref

import numpy as np

from einstride.codegen.jit import host_target
from einstride.cpu.runtime.aligned_memory import CACHE_LINE, address, aligned_empty
from einstride.cpu.runtime.argument_block import Call, dtype_name
from einstride.cpu.runtime.call_program import fits
from einstride.cpu.runtime.operands import addressable, packed
from einstride.cpu.runtime.recording import Recording
from einstride.cpu.runtime.small_problems import gather, reduce

if TYPE_CHECKING:
    from einstride.arrays.backends import Backend

SPAN_LIMIT = 1 << 22
"""Bytes that a stand-in may span, chosen; calls with larger operands get no program."""

MAX_COPIED = 1 << 17
"""Elements that one step of a program copies or adds up, at most, chosen: a single thread does it,
element by element."""


class UnrecordableError(Exception):
    """An engine needs more than kernel calls on its operands and on scratch memory."""


class Recorder(Recording):
    """Collect the steps of one program.

    Parameters
    ----------
    b : Backend
        NumPy's adapter, whose `launch` and allocating functions are replaced in `backend`.
    arrays : array or None
        Arrays like the caller's, by their names in `call_program.ARRAYS`.

    Attributes
    ----------
    calls : list
        Kernel calls; for each address argument the name of an array and an offset in bytes.
    scratch_bytes : int
        Bytes of scratch memory that the kernels share, at the peak.
    scratch_is_zero : bool
        True if scratch memory must be zero before the first kernel.
    backend : Backend
        The adapter that an engine records with.
    """

    def __init__(self, b: Backend, **arrays: Any) -> None:
        self.calls: list[tuple[Call, dict[str, tuple[str, int]]]] = []
        self.scratch_bytes, self.scratch_is_zero = 0, False
        self.backend = replace(b, launch=cast(Any, self), empty=self.allocate, zeros=self._zeros)
        self._new = b.empty
        self._operands: list[tuple[str, Any]] = []
        self._reserved: list[tuple[Any, int, int, int]] = []  # memory, address, bytes, offset
        self.stand_ins = {n: None if a is None else self._like(n, a) for n, a in arrays.items()}

    def _like(self, name: str, a: Any) -> Any:
        """Make the stand-in of an array."""
        below, above = _reach(a)
        if below + above > SPAN_LIMIT:
            raise UnrecordableError("an operand is too large")
        memory = np.empty(below + above, np.uint8)
        self._operands.append((name, memory[below:]))
        stand_in = np.ndarray(a.shape, a.dtype, memory.data, below, a.strides)
        stand_in.flags.writeable = False
        return stand_in

    def allocate(self, shape: Sequence[int], dtype: str, like: Any = None) -> Any:
        """Reserve scratch memory, for as long as an array that is returned exists."""
        array = aligned_empty(shape, self._new((0,), dtype, like).dtype)
        array.flags.writeable = False
        self._reserved = [entry for entry in self._reserved if entry[0]() is not None]
        begin = max((offset + nbytes for _, _, nbytes, offset in self._reserved), default=0)
        size = -(-array.nbytes // CACHE_LINE) * CACHE_LINE
        self._reserved.append((ref(array.base), address(array), size, begin))  # the base of views
        self.scratch_bytes = max(self.scratch_bytes, begin + size)
        return array

    def _zeros(self, shape: Sequence[int], name: str, like: Any = None) -> Any:
        self.scratch_is_zero = True
        return self.allocate(shape, name, like)

    def _locate(self, a: int) -> tuple[str, int]:
        """Return the array of the program that holds an address, and its offset in bytes."""
        for name, memory in self._operands:
            start = address(memory)
            if address(memory.base) <= a < start + memory.nbytes:
                return name, a - start
        for reference, start, nbytes, offset in self._reserved:
            if reference() is not None and start <= a < start + nbytes:
                return "scratch", offset + a - start
        raise UnrecordableError("an address is that of no operand")

    def record(self, call: Call, addresses: dict[str, int]) -> None:
        """Append a kernel call; the address 0 stands for an array that is not given."""
        if not fits(call):
            raise UnrecordableError("an argument block is too large")
        self.calls.append((call, {n: self._locate(a) for n, a in addresses.items() if a}))

    def copy(self, destination: Any, source: Any) -> None:
        """Append a step that copies an array to contiguous memory."""
        if getattr(source, "shape", None) != destination.shape or not addressable(source):
            raise UnrecordableError("the source is a number, or has another shape")
        order = sorted(range(destination.ndim), key=lambda axis: -destination.strides[axis])
        destination, source = destination.transpose(order), source.transpose(order)
        if not packed(destination):
            raise UnrecordableError("a copy has gaps")
        if destination.size > MAX_COPIED:
            raise UnrecordableError("a copy is too large")
        call = gather(source, dtype_name(destination), host_target())
        self.record(call, {"from": address(source), "to": address(destination)})

    def add(self, sums: Any, out: Any) -> None:
        """Append a step that adds the partial sums of one result, or of one for each example."""
        groups = 1 if packed(sums) else sums.shape[1]
        if not addressable(out) or (groups > 1 and not packed(sums.swapaxes(0, 1))):
            raise UnrecordableError("partial sums have gaps")
        if out.size // groups > MAX_COPIED:
            raise UnrecordableError("there are too many sums")
        call = reduce(out, groups, len(sums), dtype_name(sums), host_target())
        self.record(call, {"from": address(sums), "to": address(out)})


def _reach(a: Any) -> tuple[int, int]:
    """Return the bytes of an array before its first element, and from there to its end."""
    ends = [(n - 1) * s for n, s in zip(a.shape, a.strides, strict=True)]
    return -sum(min(e, 0) for e in ends), sum(max(e, 0) for e in ends) + a.itemsize
