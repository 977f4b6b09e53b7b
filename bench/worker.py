"""Runs one library in a child process, ``python -m bench.worker NAME FD``, controlled by a pipe.

Every request is (method, arguments); every reply is ("ok", value), ("unsupported", reason) or
("error", text).
"""

from __future__ import annotations

import ctypes
import importlib
import math
import os
import random
import signal
import sys
import time
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from bench import data, machine
from bench.case import Row
from bench.options import Options
from bench.peers import Unsupported, Variant

# largest allowed error relative to the largest element of the result; integers must be exact
TOLERANCES = {"float32": 5e-5, "complex64": 5e-5, "float64": 1e-11, "complex128": 1e-11}
LONG = 1.0  # seconds from which a call is not repeated unless necessary
MOST_CALLS = 2000  # in one slice


class ReferenceService:
    """Make the arrays of a row and its float64 result."""

    def start(self, options: Options) -> dict[str, Any]:
        """Do nothing: this service needs no set-up."""
        return {"versions": {"numpy": np.__version__}, "blas": []}

    def write(self, row: Row, folder: Path) -> None:
        """Write x, f, gy and the float64 result to `folder`."""
        from bench.reference import answer

        arrays = data.make(row)
        data.save(folder, arrays, answer(row, arrays))


class PeerService:
    """Prepare, check and time the variants of one library."""

    def __init__(self, name: str) -> None:
        self._module = importlib.import_module(f"bench.peers.{name}")
        self._variants: dict[str, Variant] = {}
        self._counts: dict[str, int] = {}
        self._long: dict[str, bool] = {}
        self._slice = 0.06

    def start(self, options: Options) -> dict[str, Any]:
        """Import the library and fix its threads."""
        versions = self._module.start(options)
        self._slice = options.slice_seconds
        return {"versions": versions, "blas": machine.blas()}

    def names(self, row: Row) -> list[str]:
        """List the variants that may support this row, and drop those of earlier rows."""
        self._variants.clear()
        return list(self._module.builders(row))

    def prepare(self, row: Row, folder: Path, name: str) -> dict[str, Any]:
        """Build one variant, check its result, and time the first and a later call."""
        variant = self._module.builders(row)[name](data.load(folder))
        begin = time.perf_counter()
        got = variant.run()
        first = seconds = time.perf_counter() - begin
        got = variant.answer(got)
        error, wrong = compare(row, got, data.load_answer(folder))
        del got
        self._variants[name] = variant
        if seconds < LONG:  # the first call may have compiled
            begin = time.perf_counter()
            variant.run()
            seconds = max(time.perf_counter() - begin, 1e-7)
        self._counts[name] = min(MOST_CALLS, max(1, math.ceil(self._slice / seconds)))
        self._long[name] = seconds > LONG
        return {"error": error, "wrong": wrong, "seconds": seconds, "first": first}

    def measure(self, name: str) -> dict[str, float]:
        """Return the median seconds of a call over one slice, and the seconds without a core."""
        run, count = self._variants[name].run, self._counts[name]
        if not self._long[name]:
            run()  # wakes the threads and fills the caches of a process that was stopped
        calls = []
        waited, preempted = machine.waiting_seconds(), machine.preemptions()
        begin = time.perf_counter()
        for _ in range(count):
            start = time.perf_counter_ns()
            run()
            calls.append(time.perf_counter_ns() - start)
        wall = time.perf_counter() - begin
        return {
            "seconds": float(np.median(calls)) / 1e9,
            "waiting": (machine.waiting_seconds() - waited) / wall,
            "preemptions": machine.preemptions() - preempted,
        }

    def drop(self, name: str) -> None:
        """Free a variant that will not be measured again."""
        self._variants.pop(name, None)

    def gemm(self, dtype: str, size: int) -> float:
        """Measure the operations per second of this library's matrix product."""
        multiply = getattr(self._module, "gemm", None)
        if multiply is None:
            raise Unsupported("no matrix product here")
        run = multiply(dtype, size)
        run()
        best = math.inf
        for _ in range(5):
            begin = time.perf_counter()
            run()
            best = min(best, time.perf_counter() - begin)
        return 2 * size**3 / best


def compare(row: Row, got: np.ndarray, want: np.ndarray) -> tuple[float, str | None]:
    """Return the error relative to the largest result, and a text if the result is wrong, else
    None."""
    if got.shape != want.shape:
        return math.inf, f"shape {got.shape} instead of {want.shape}"
    if want.size == 0:
        return 0.0, None
    scale = float(np.abs(want).max()) or 1.0
    error = float(np.abs(got - want).max()) / scale
    limit = 0.0 if row.is_integer else TOLERANCES[row.result_dtype]
    # `not <=` instead of `>`: a NaN is wrong
    return error, None if error <= limit else f"error {error:.1e} of the largest value"


def serve(service: object, pipe: Connection) -> None:
    """Answer requests until the pipe closes."""
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(("ok", getattr(service, method)(*arguments)))
        except Unsupported as reason:
            pipe.send(("unsupported", str(reason)))
        except Exception as error:
            pipe.send(("error", _describe(error)))


def _describe(error: Exception) -> str:
    """Describe an error in one line, with the line of the library that raised it."""
    lines = str(error).strip().splitlines() or [""]
    if isinstance(error, ImportError):
        return lines[0]
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    return f"{type(error).__name__}: {lines[0][:300]} ({place})"


def _die_with_parent() -> None:
    # a stopped worker cannot see its pipe close, so ask the kernel (Linux only)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def scattered_memory() -> list[bytearray]:
    """Return blocks of random sizes with gaps between them, which the caller must keep.

    The addresses of small arrays in the heap change the time of some calls by a tenth, equally in
    every process that makes the same allocations. With these blocks the addresses differ between
    processes.
    """
    blocks = [bytearray(random.randrange(1, 3000)) for _ in range(random.randrange(3000))]
    random.shuffle(blocks)
    return blocks[::2]


def main() -> None:
    """Serve the library named on the command line."""
    name, descriptor = sys.argv[1], int(sys.argv[2])
    blocks = scattered_memory()  # noqa: F841
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner handles Ctrl-C
    os.dup2(2, 1)  # output of a library does not go into the report
    service = ReferenceService() if name == "reference" else PeerService(name)
    serve(service, Connection(descriptor))


if __name__ == "__main__":
    main()
