"""Run the child process: make calls, case after case, and record each before it is made.

The child writes (seed, call) into a small shared file before each call, so that the parent process
knows the call if the child dies or hangs. It prints lines of JSON: counts once a second, and each
failure.

``serve`` makes single calls instead, which the parent requests while it shrinks a failure.
"""

from __future__ import annotations

import atexit
import json
import mmap
import os
import struct
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

RECORD = struct.Struct("<qqq")
"""Layout of the shared record: seed, call, and the number of calls made so far."""

MOST_CALLS = 1000
"""Most calls of one case."""
LEAST_CALLS = 40
"""Least calls of one case. Between `LEAST_CALLS` and `MOST_CALLS` a case ends once the child has
made `--pace` calls per second of CPU time: each case compiles kernels, and more calls make up for
that."""


class Record:
    """Hold three integers in a file that two processes share."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), RECORD.size)

    def write(self, *numbers: int) -> None:
        """Write the seed, the number of the call, and the number of calls so far."""
        self._map[:] = RECORD.pack(*numbers)

    def read(self) -> tuple[int, int, int]:
        """Return the integers that were written last."""
        return RECORD.unpack(self._map[:])


def prepare(width: int, without_fast: bool) -> None:
    """Set the vector width, or remove LLVM, before einstride is used."""
    from .allocator import Allocator

    Allocator()  # needs LLVM, so made before LLVM is removed
    if without_fast:
        from einstride import _testing

        SWITCHES.enter_context(_testing.use(absent={"llvmlite"}))
        return
    check_kernels()
    if width != 64:
        set_vector_width(width)


SWITCHES = ExitStack()
"""Test switches of einstride, which stay set until the process ends."""
atexit.register(SWITCHES.close)

WRONG: list[str] = []
"""Masked stores of the compiled kernels that LLVM may lower to stores of too many bytes."""


def check_kernels() -> None:
    """Search each kernel for wrong stores after LLVM's passes; not every machine executes them
    wrongly."""
    from einstride import _testing

    from ..machine_code import wrong_stores

    def optimised(real: Any, text: str, target: Any) -> Any:
        module = real(text, target)
        WRONG.extend(wrong_stores(str(module)))
        return module

    SWITCHES.enter_context(_testing.replacing("optimise a kernel", optimised))


def set_vector_width(width: int) -> None:
    """Compile kernels for a CPU whose vectors have `width` bytes."""
    from einstride import _testing

    if width < _testing.vector_widths()["native"].vector_bytes:
        name = {32: "x86-64-v3", 16: "x86-64-v2"}[width]
        target = _testing.Target(name, "", width, 16)
        SWITCHES.enter_context(_testing.use(target=target))


def main(options: dict[str, Any]) -> None:
    """Fuzz cases, beginning with a seed, until the time is up or all calls are made."""
    prepare(options["width"], options["without_fast"])
    import warnings

    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "overflow encountered", RuntimeWarning)
    from . import calls, cases
    from .hostile import HOSTILE

    record = Record(options["record"])
    runner = calls.Runner()
    started, reported = time.process_time(), time.monotonic()
    end = time.monotonic() + options["seconds"]
    seed = options["seed"]
    while time.monotonic() < end and runner.calls < options["calls"]:
        reference = calls.Reference(cases.case(seed, options["width"]))
        numbers = options["only"] or range(MOST_CALLS)
        for number in numbers:
            record.write(seed, number, runner.calls)
            call = cases.call(reference.case, seed, number, len(HOSTILE))
            for problem in run(runner, reference, call):
                print_problem("problem", seed, number, cases, reference.case, call, problem)
            if number >= LEAST_CALLS and options["only"] is None:
                behind = options["pace"] * (time.process_time() - started) > runner.calls
                if not behind or time.monotonic() > end:
                    break
        if time.monotonic() - reported > 1:
            reported = time.monotonic()
            print(json.dumps({"counts": summary(runner)}), flush=True)
        seed += options["step"]
        if options["replay"]:
            break
    print(json.dumps({"counts": summary(runner), "done": seed}), flush=True)
    sys.stdout.flush()
    os._exit(0)


def run(runner: Any, reference: Any, call: Any) -> list[Any]:
    """Make a call and return its problems; warnings and errors of the fuzzer are problems too."""
    from .calls import Problem

    try:
        found = runner.run(reference, call)
        wide = [Problem("wide store", text) for text in WRONG]
        WRONG.clear()
        return found + wide
    except Exception as error:
        import traceback

        where = traceback.format_exc(limit=-4)
        return [Problem("raised", f"{type(error).__name__}: {error}"[:300] + "\n" + where)]


def print_problem(
    kind: str, seed: int, number: int, cases: Any, case: Any, call: Any, problem: Any
) -> None:  # fmt: skip
    """Print one problem as a line."""
    line = {
        kind: {
            "seed": seed, "call": number, "kind": problem.kind, "text": problem.text,
            "case": cases.to_json(case), "made": cases.to_json(call),
        }
    }  # fmt: skip
    print(json.dumps(line, default=str), flush=True)


def summary(runner: Any) -> dict[str, Any]:
    """Return the counts of calls, kernels and refusals so far."""
    kernels = 0
    if "einstride.codegen.jit" in sys.modules:
        kernels = sys.modules["einstride.codegen.jit"].count()
    return {
        "calls": runner.calls,
        "kernels": kernels,
        "counts": [[*k, n] for k, n in runner.counts.items()],
        "refusals": list(runner.refusals.items()),
    }


def serve(options: dict[str, Any]) -> None:
    """Read calls from standard input, a JSON line each, and print the problems of each call."""
    prepare(options["width"], options["without_fast"])
    import warnings

    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "overflow encountered", RuntimeWarning)
    from . import calls, cases

    runner = calls.Runner()
    for line in sys.stdin:
        request = json.loads(line)
        case, call = cases.case_from(request["case"]), cases.call_from(request["call"])
        problems = run(runner, calls.Reference(case), call) if case.valid else []
        print(json.dumps([[p.kind, p.text] for p in problems], default=str), flush=True)
    os._exit(0)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if given.get("path"):
        sys.path.insert(0, str(Path(given["path"])))
    import faulthandler

    faulthandler.enable()
    (serve if given.get("serve") else main)(given)
