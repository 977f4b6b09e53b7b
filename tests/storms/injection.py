"""Raise an exception, or call a function, at any point where CPython may run a signal handler.

CPython 3.11 and later runs pending signal handlers when a function begins, after a call, and at the
end of each iteration of a loop, within the instructions RESUME, CALL, CALL_FUNCTION_EX and
JUMP_BACKWARD. An exception of the handler is raised by this instruction. A trace function can only
raise before an instruction. It does so before the next one, if the same exception handlers are in
force for both instructions; a point where they differ is left out, because the exception would not
be caught where an exception of a real signal handler would be.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from functools import cache
from types import CodeType, FrameType
from typing import Any

SIGNAL_CHECKS = {"RESUME", "CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD"}
"""Names of the instructions in which CPython runs pending signal handlers."""


class InjectedError(BaseException):
    """Stand for an exception that a signal handler raises."""


@cache
def _signal_points(code: CodeType) -> frozenset[int]:
    """Return the offsets of the instructions before which a signal handler may have run."""
    table = dis.Bytecode(code).exception_entries

    def exception_handlers(offset: int) -> Any:
        return [(e.target, e.depth) for e in table if e.start <= offset < e.end]

    points, previous = set(), None
    instructions = [i for i in dis.get_instructions(code) if i.opname != "CACHE"]
    loop_starts = {i.argval for i in instructions if i.opname == "JUMP_BACKWARD"}
    for instruction in instructions:
        offset = instruction.offset
        follows_check = previous is not None and (
            previous.opname in SIGNAL_CHECKS - {"JUMP_BACKWARD"}
        )
        if follows_check and exception_handlers(previous.offset) == exception_handlers(offset):
            points.add(offset)
        if offset in loop_starts:
            points.add(offset)
        previous = instruction
    return frozenset(points)


def raise_injected() -> None:
    """Raise `InjectedError`."""
    raise InjectedError


class Injector:
    """Count the points in functions of chosen files, and call a handler at one of the points.

    Parameters
    ----------
    is_chosen : callable
        True for the name of a file whose functions are traced.
    point : int
        Number of the point at which the handler is called; negative: the points are only counted.
    handler : callable
        Function that is called in place of a signal handler; by default it raises `InjectedError`.

    Attributes
    ----------
    count : int
        Number of points that the program has passed.
    location : str
        File, line and function in which the handler was called; empty before that.
    """

    def __init__(
        self,
        is_chosen: Callable[[str], bool],
        point: int = -1,
        handler: Callable[[], object] = raise_injected,
    ) -> None:
        self._is_chosen, self._point, self._handler = cache(is_chosen), point, handler
        self.count, self.location = 0, ""

    def __enter__(self) -> Injector:
        sys.settrace(self._trace_function)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def _trace_function(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Trace each instruction of a function in a chosen file, and no other function."""
        if not self._is_chosen(frame.f_code.co_filename):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._trace_instruction

    def _trace_instruction(self, frame: FrameType, event: str, argument: Any) -> Any:
        """Count the instruction if it is a point, and call the handler at the wanted point."""
        if event == "opcode" and frame.f_lasti in _signal_points(frame.f_code):
            number, self.count = self.count, self.count + 1
            if number == self._point:
                code = frame.f_code
                self.location = f"{code.co_filename}:{frame.f_lineno} {code.co_qualname}"
                self._handler()
        return self._trace_instruction
