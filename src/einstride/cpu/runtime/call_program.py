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
    """Collect kernels that run in turn: `add` each of them, then `finish`.

    Attributes
    ----------
    threads : int
        Most threads that one of the kernels uses.
    nbytes : int
        Bytes of the argument blocks and of the tables that they refer to.
    """

    def __init__(self) -> None:
        self.threads, self.nbytes = 1, 0
        self._integers = [0, 0]  # of the program's own argument block: no chunks, number of steps
        self._memory: list[Any] = []  # what the program's argument block has addresses of

    def add(self, call: Call, **addresses: tuple[str, int]) -> None:
        """Append a step; ``argument=(array, offset)``: an array, bytes to add to its address."""
        block, patches = call.block(), []
        for name, (array, offset) in addresses.items():
            argument = call.index(name)
            block[argument] += offset
            patches += [argument, ARRAYS.index(array)]
        function = _address(call.function)
        self._integers += [function, ctypes.addressof(block), len(block), call.threads]
        self._integers += [len(addresses), *patches]
        self._integers[1] += 1
        self.threads, self.nbytes = max(self.threads, call.threads), self.nbytes + call.nbytes
        self._memory += [block, call]

    def finish(self) -> tuple[Any, int]:
        """Return the function to call and its first argument, valid while this object lives."""
        block = (ctypes.c_int64 * len(self._integers))(*self._integers)
        self._memory.append(block)
        return _program_function(host_target()), ctypes.addressof(block)


def fits(call: Call) -> bool:
    """True if a call can be a step: its argument block is small enough."""
    return len(call.block()) <= MAX_ARGUMENTS


@cached(8, "code")  # the host, and the targets of tests
def _program_function(target: Target) -> Any:
    return _SIGNATURE(_address(kernel("program", text, target=target)))


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def text() -> str:
    """Write the LLVM IR of ``program(block, arguments of launch or 0, array, array, ...)``."""
    code = Code("program", ("unused", "steps"), len(ARRAYS))
    arrays = code.scratch("int64", len(ARRAYS))
    block = code.scratch("int64", MAX_ARGUMENTS)
    for i, array in enumerate(code.addresses):
        arrays.at(i).store(array)
    launch_arguments, available = code.worker, code.variable(code.number(0))
    with code.when(launch_arguments.equals(0) ^ 1):
        available.set(code.pointer(launch_arguments, "int64").load())
    offset = code.variable(code.number(2))
    with code.loop(0, code["steps"]):
        step = code.argument(0).at(offset.get())
        function, template, size, threads, patches = (step.at(i).load() for i in range(5))
        with code.loop(0, size) as argument:
            block.at(argument).store(code.pointer(template, "int64").at(argument).load())
        with code.loop(0, patches) as index:
            patch = step.at(index * 2 + 5)
            array = arrays.at(patch.at(1).load()).load()
            data = code.pointer(array + HEADER_BYTES, "int64").load()
            pointer = block.at(patch.load())
            pointer.store(pointer.load() + data)
        helpers = (available.get() < threads).select(available.get(), threads - 1)
        is_alone = helpers.equals(0)
        with code.when(is_alone):
            code.call(function, block)
        with code.when(is_alone ^ 1):
            arguments = code.pointer(launch_arguments, "int64")
            for i, value in enumerate((helpers, function, address_in(block))):
                arguments.at(i).store(value)
            code.call(arguments.at(spin_handoff.LAUNCH_ARGUMENTS.index("launch")).load(), arguments)
        offset.set(offset.get() + patches * 2 + 5)
    return code.text()
