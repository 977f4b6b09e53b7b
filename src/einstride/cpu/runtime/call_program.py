"""Run several kernels in one call from Python, with array addresses read in machine code.

For a kernel of a few microseconds, filling an argument block and asking arrays for their addresses
in Python takes most of the time. A program does both in machine code: for each step it copies the
step's argument block to the stack, adds the addresses of the arrays that were passed, and runs the
kernel: alone, or together with helper threads that its caller has borrowed (`spin_handoff`). A
program is never written to while it runs, so several threads may run it at once.

No program is made where arrays' addresses cannot be read (`aligned_memory.ADDRESSES_READABLE`).
"""

from __future__ import annotations

import ctypes
from typing import Any

from einstride.codegen.function_builder import Code
from einstride.codegen.jit import Target, host_target, kernel
from einstride.codegen.vector_ops import address as address_in
from einstride.cpu.runtime import spin_handoff
from einstride.cpu.runtime.aligned_memory import HEADER_BYTES
from einstride.cpu.runtime.argument_block import Call
from einstride.support.caches import cached

ARRAYS = ("first", "second", "bias", "result", "scratch")
"""The arguments of a program's call, in order; None stands for an array that it does not use."""

MAX_ARGUMENTS = 160
"""Integers in a step's argument block, at most: the size of its copy on the stack."""

_SIGNATURE = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int64, *[ctypes.py_object] * len(ARRAYS)
)


class Program:
    """Kernels that run in turn: `add` each of them, then `finish`.

    Attributes
    ----------
    threads : int
        Most threads that one of the kernels uses.
    nbytes : int
        Bytes of the argument blocks and of the tables that they refer to.
    """

    def __init__(self) -> None:
        self.threads, self.nbytes = 1, 0
        self._words = [0, 0]
        self._used: set[str] = set()
        self._keep: list[Any] = []

    def add(self, call: Call, **addresses: tuple[str, int]) -> None:
        """Append a step; ``argument=(array, offset)`` is an array's address and bytes to add."""
        block, patches = call.block(), []
        for name, (array, offset) in addresses.items():
            argument = call.index(name)
            block[argument] += offset
            patches += [argument, ARRAYS.index(array)]
        function = _address(call.function)
        self._words += [function, ctypes.addressof(block), len(block), call.threads]
        self._words += [len(addresses), *patches]
        self._words[1] += 1
        self.threads, self.nbytes = max(self.threads, call.threads), self.nbytes + call.nbytes
        self._keep += [block, call]

    def finish(self) -> tuple[Any, int]:
        """The function to call, and its first argument, which is valid while this object lives."""
        block = (ctypes.c_int64 * len(self._words))(*self._words)
        self._keep.append(block)
        return _runner(host_target()), ctypes.addressof(block)


def fits(call: Call) -> bool:
    """True if a call can be a step: its argument block is small enough."""
    return len(call.block()) <= MAX_ARGUMENTS


@cached(8, "code")  # this machine, and those that tests compile for
def _runner(target: Target) -> Any:
    return _SIGNATURE(_address(kernel("program", text, target=target)))


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def text() -> str:
    """The LLVM IR of ``program(block, arguments of launch or 0, array, array, ...)``."""
    code = Code("program", ("unused", "steps"), len(ARRAYS))
    records = code.scratch("int64", len(ARRAYS))
    block = code.scratch("int64", MAX_ARGUMENTS)
    for i, record in enumerate(code.given):
        records.at(i).store(record)
    team, borrowed = code.worker, code.variable(code.number(0))
    with code.when(team.equals(0) ^ 1):
        borrowed.set(code.pointer(team, "int64").load())
    at = code.variable(code.number(2))
    with code.loop(0, code["steps"]):
        step = code.argument(0).at(at.get())
        function, template, words, threads, patches = (step.at(i).load() for i in range(5))
        with code.loop(0, words) as argument:
            block.at(argument).store(code.pointer(template, "int64").at(argument).load())
        with code.loop(0, patches) as number:
            patch = step.at(number * 2 + 5)
            record = records.at(patch.at(1).load()).load()
            start = code.pointer(record + HEADER_BYTES, "int64").load()
            pointer = block.at(patch.load())
            pointer.store(pointer.load() + start)
        helpers = (borrowed.get() < threads).select(borrowed.get(), threads - 1)
        alone = helpers.equals(0)
        with code.when(alone):
            code.call(function, block)
        with code.when(alone ^ 1):
            arguments = code.pointer(team, "int64")
            for i, value in enumerate((helpers, function, address_in(block))):
                arguments.at(i).store(value)
            code.call(arguments.at(spin_handoff.LAUNCH_ARGUMENTS.index("launch")).load(), arguments)
        at.set(at.get() + patches * 2 + 5)
    return code.text()
