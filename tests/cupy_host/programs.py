"""Replaces NVRTC: CuPy's own code for compiling runs, and gets a ticket instead of a cubin."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass, field
from types import ModuleType

from .build import BuildError
from .compiler import Compiled, compile_kernels
from .provides import provides

TICKET = b"cupy-host:"
_COMPILATION_ERROR = 6


@dataclass
class Program:
    source: str
    expressions: list[str] = field(default_factory=list)
    compiled: Compiled | None = None
    log: str = ""


class Programs:
    """Implement the functions of `cupy_backends.cuda.libs.nvrtc`."""

    def __init__(self, nvrtc: ModuleType, cuda_version: int) -> None:
        self.nvrtc = nvrtc
        self.version = (cuda_version // 1000, cuda_version % 1000 // 10)
        self.programs: dict[int, Program] = {}
        self._numbers = itertools.count(1)

    @provides("getVersion")
    def get_version(self) -> tuple[int, int]:
        return self.version

    @provides("createProgram")
    def create(self, source: str, name: str, headers: object, include_names: object) -> int:
        number = next(self._numbers)
        self.programs[number] = Program(source)
        return number

    @provides("destroyProgram")
    def destroy(self, number: int) -> None:
        self.programs.pop(number, None)

    @provides("addNameExpression")
    def add_expression(self, number: int, name: str) -> None:
        self.programs[number].expressions.append(name)

    @provides("compileProgram")
    def compile(self, number: int, options: tuple[str, ...]) -> None:
        program = self.programs[number]
        if not program.source:  # CuPy compiles an empty program to find the compiler's version
            return
        try:
            program.compiled = compile_kernels(program.source, options, program.expressions)
        except BuildError as error:
            program.log = str(error)
            # Made without its constructor, which would read the error's text from the real NVRTC.
            failure = self.nvrtc.NVRTCError.__new__(self.nvrtc.NVRTCError, "compilation failed")
            failure.status = _COMPILATION_ERROR
            raise failure from None

    @provides("getLoweredName")
    def lowered_name(self, number: int, name: str) -> str:
        return name

    @provides("getProgramLog")
    def log(self, number: int) -> str:
        return self.programs[number].log

    @provides("getCUBIN", "getPTX")
    def ticket(self, number: int) -> bytes:
        compiled = self.programs[number].compiled
        if compiled is None:
            return b""
        content = {"path": str(compiled.path), "entries": compiled.entries}
        return TICKET + json.dumps(content).encode()
