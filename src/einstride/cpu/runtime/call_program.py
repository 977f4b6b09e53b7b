"""Kernels one after another in a single call, with the addresses of NumPy's arrays found in it.

Between Python and a kernel of a few microseconds, most of the time goes into filling an argument
block and asking arrays where they lie. A program does both in machine code: for each of its steps
it copies the step's words to the stack, adds the addresses of the arrays that were passed, and
calls the kernel. Nothing of a program is written, so any number of threads may be in it at once.

Where an array's elements lie is read from its record, as every extension module does: the address
is the first word behind the head that all of Python's objects have. `readable` compares that with
what arrays say themselves; where it does not hold, nobody makes a program.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from einstride.codegen.function_builder import Code
from einstride.codegen.jit import Machine, kernel, machine
from einstride.cpu.runtime.argument_block import Call, address
from einstride.support.caches import cached

ARRAYS = ("first", "second", "bias", "result", "scratch")
"""What a program is called with; None stands for what it does not use."""

MOST = 160
"""Words that the argument block of a step may have."""

HEAD = object.__basicsize__

_SIGNATURE = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int64, *[ctypes.py_object] * len(ARRAYS)
)


class Program:
    """Steps that one thread does in turn. Add them all, then call it with `ARRAYS`."""

    def __init__(self) -> None:
        self._words = [0, 0]
        self._used: set[str] = set()
        self._keep: list[Any] = []

    def add(self, call: Call, **places: tuple[str, int]) -> None:
        """A step. ``word=(array, offset)`` for each address: an array's, and bytes to add."""
        block, patches = call.block(), []
        for name, (array, offset) in places.items():
            argument = call.where(name)
            block[argument] += offset
            patches += [argument, ARRAYS.index(array)]
        function = _address(call.function)
        self._words += [function, ctypes.addressof(block), len(block), len(places), *patches]
        self._words[1] += 1
        self._keep += [block, call]

    def finish(self) -> tuple[Any, int]:
        """The function to call and its first argument, which lasts as long as this object."""
        block = (ctypes.c_int64 * len(self._words))(*self._words)
        self._keep.append(block)
        return _runner(machine()), ctypes.addressof(block)


def fits(call: Call) -> bool:
    """May it be a step? It must be work for one thread."""
    return call.threads == 1 and len(call.block()) <= MOST


@cached(1, "process")
def readable() -> bool:
    """Do arrays keep their addresses where programs look for them?"""
    whole = np.zeros((5, 7), np.float32)
    return all(
        ctypes.c_void_p.from_address(id(a) + HEAD).value == address(a)
        for a in (whole, whole[2:, ::-1], whole.T[3:], np.zeros(3, np.int8))
    )


@cached(8, "code")  # this machine, and those that tests compile for
def _runner(on: Machine) -> Any:
    return _SIGNATURE(_address(kernel("program", text, on=on)))


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def text() -> str:
    """The text of ``program(words, 0, array, array, ...)``."""
    code = Code("program", ("unused", "steps"), len(ARRAYS))
    records = code.scratch("int64", len(ARRAYS))
    block = code.scratch("int64", MOST)
    for i, record in enumerate(code.given):
        records.at(i).store(record)
    at = code.variable(code.number(2))
    with code.loop(0, code["steps"]):
        step = code.argument(0).at(at.get())
        function, template, words, patches = (step.at(i).load() for i in range(4))
        with code.loop(0, words) as argument:
            block.at(argument).store(code.pointer(template, "int64").at(argument).load())
        with code.loop(0, patches) as number:
            patch = step.at(number * 2 + 4)
            record = records.at(patch.at(1).load()).load()
            start = code.pointer(record + HEAD, "int64").load()
            pointer = block.at(patch.load())
            pointer.store(pointer.load() + start)
        code.call(function, block)
        at.set(at.get() + patches * 2 + 4)
    return code.text()
