"""Raises, or calls, at every point at which CPython may run a signal handler: none is missed.

CPython 3.11 and later looks for signals when a function begins, after a call, and at the end of a
loop's turn (after RESUME, CALL, CALL_FUNCTION_EX, JUMP_BACKWARD); what a handler raises is raised
by that very instruction. The tracer raises at the instruction behind it, if the same handler is in
force there; where it is not, the instruction is the last of its block, and nothing can be raised
that a real signal would raise.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from functools import cache
from types import CodeType, FrameType
from typing import Any

LOOKS = {"RESUME", "CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD"}


class Struck(BaseException):
    """What the handler raises."""


@cache
def _points(code: CodeType) -> frozenset[int]:
    """Offsets of the instructions before which a signal may be seen."""
    table = dis.Bytecode(code).exception_entries

    def handler(offset: int) -> Any:
        return [(e.target, e.depth) for e in table if e.start <= offset < e.end]

    found, before = set(), None
    steps = [i for i in dis.get_instructions(code) if i.opname != "CACHE"]
    jumps = {i.argval for i in steps if i.opname == "JUMP_BACKWARD"}
    for step in steps:
        looks = before is not None and before.opname in LOOKS - {"JUMP_BACKWARD"}
        if looks and handler(before.offset) == handler(step.offset):
            found.add(step.offset)
        if step.offset in jumps:
            found.add(step.offset)
        before = step
    return frozenset(found)


def strike() -> None:
    raise Struck


class Injector:
    """Counts the points in functions of chosen files, and calls a handler at one of them.

    Parameters
    ----------
    chosen : callable
        True for the file names whose functions are meant.
    at : int
        The number of the point; a negative number for none.
    handler : callable
        What is called there, as a signal's handler would be; by default it raises `Struck`.

    Attributes
    ----------
    seen : int
        How many points there were.
    where : str
        The place at which the handler was called.
    """

    def __init__(
        self, chosen: Callable[[str], bool], at: int = -1, handler: Callable[[], object] = strike
    ) -> None:
        self._chosen, self._at, self._handler = cache(chosen), at, handler
        self.seen, self.where = 0, ""

    def __enter__(self) -> Injector:
        sys.settrace(self._function)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def _function(self, frame: FrameType, event: str, argument: Any) -> Any:
        if not self._chosen(frame.f_code.co_filename):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._step

    def _step(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode" and frame.f_lasti in _points(frame.f_code):
            number, self.seen = self.seen, self.seen + 1
            if number == self._at:
                code = frame.f_code
                self.where = f"{code.co_filename}:{frame.f_lineno} {code.co_qualname}"
                self._handler()
        return self._step
