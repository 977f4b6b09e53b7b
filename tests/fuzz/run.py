"""Run the child process: make calls, case after case, and record each before it is made.

It writes (seed, call) into a small shared file first, so that its parent knows what it was doing
if it dies or hangs, and one line of JSON to standard output now and then: counts, and what failed.

``serve`` is the same for one call at a time, as shrinking asks for them.
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

MOST = 1000
"""Most calls of a case."""
LEAST = 40
"""Calls of a case, at least. Between these, a case ends when the child keeps its pace: kernels are
compiled for each case, and calls are what is counted."""


class Record:
    """Hold three integers in a file that two processes share."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), RECORD.size)

    def write(self, *numbers: int) -> None:
        """Write seed, call and calls so far."""
        self._map[:] = RECORD.pack(*numbers)

    def read(self) -> tuple[int, int, int]:
        """Read what was written last."""
        return RECORD.unpack(self._map[:])


def prepare(width: int, without_fast: bool) -> None:
    """Set the vector width, or remove LLVM, before einstride is used."""
    from .allocator import Allocator

    Allocator()  # needs LLVM itself
    if without_fast:
        from einstride import _testing

        LASTING.enter_context(_testing.use(absent={"llvmlite"}))
        return
    read_kernels()
    if width != 64:
        narrow(width)


LASTING = ExitStack()
"""Switches of this process, which stay set until it ends."""
atexit.register(LASTING.close)

WRONG: list[str] = []
"""Stores of the compiled kernels that LLVM may lower to wider stores."""


def read_kernels() -> None:
    """Check each kernel after LLVM's passes, since not every machine shows the faults of others."""
    from einstride import _testing

    from ..machine_code import wrong_stores

    def optimised(real: Any, text: str, target: Any) -> Any:
        module = real(text, target)
        WRONG.extend(wrong_stores(str(module)))
        return module

    LASTING.enter_context(_testing.replacing("optimise a kernel", optimised))


def narrow(width: int) -> None:
    """Compile kernels as for a machine whose vectors have `width` bytes."""
    from einstride import _testing

    if width < _testing.vector_widths()["native"].vector_bytes:
        name = {32: "x86-64-v3", 16: "x86-64-v2"}[width]
        target = _testing.Machine(name, "", width, 16)
        LASTING.enter_context(_testing.use(target=target))


def main(options: dict[str, Any]) -> None:
    """Fuzz from a seed until the time or the calls are over."""
    prepare(options["width"], options["without_fast"])
    import warnings

    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "overflow encountered", RuntimeWarning)
    from . import calls, cases
    from .hostile import HOSTILE

    record = Record(options["record"])
    runner = calls.Runner()
    started, spoke = time.process_time(), time.monotonic()
    end = time.monotonic() + options["seconds"]
    seed = options["seed"]
    while time.monotonic() < end and runner.calls < options["calls"]:
        known = calls.Known(cases.case(seed, options["width"]))
        numbers = options["only"] or range(MOST)
        for number in numbers:
            record.write(seed, number, runner.calls)
            call = cases.call(known.case, seed, number, len(HOSTILE))
            for problem in run(runner, known, call):
                say("problem", seed, number, cases, known.case, call, problem)
            if number >= LEAST and options["only"] is None:
                behind = options["pace"] * (time.process_time() - started) > runner.calls
                if not behind or time.monotonic() > end:
                    break
        if time.monotonic() - spoke > 1:
            spoke = time.monotonic()
            print(json.dumps({"counts": summary(runner)}), flush=True)
        seed += options["step"]
        if options["replay"]:
            break
    print(json.dumps({"counts": summary(runner), "done": seed}), flush=True)
    sys.stdout.flush()
    os._exit(0)


def run(runner: Any, known: Any, call: Any) -> list[Any]:
    """Return the problems of a call; a warning, or an error of the fuzzer itself, is a problem
    too."""
    from .calls import Problem

    try:
        found = runner.run(known, call)
        wide = [Problem("wide store", text) for text in WRONG]
        WRONG.clear()
        return found + wide
    except Exception as error:
        import traceback

        where = traceback.format_exc(limit=-4)
        return [Problem("raised", f"{type(error).__name__}: {error}"[:300] + "\n" + where)]


def say(
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
    """Return the counts so far."""
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
    """Read calls, one JSON line each, and answer with their problems."""
    prepare(options["width"], options["without_fast"])
    import warnings

    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "overflow encountered", RuntimeWarning)
    from . import calls, cases

    runner = calls.Runner()
    for line in sys.stdin:
        asked = json.loads(line)
        case, call = cases.case_from(asked["case"]), cases.call_from(asked["call"])
        problems = run(runner, calls.Known(case), call) if case.valid else []
        print(json.dumps([[p.kind, p.text] for p in problems], default=str), flush=True)
    os._exit(0)


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if given.get("path"):
        sys.path.insert(0, str(Path(given["path"])))
    import faulthandler

    faulthandler.enable()
    (serve if given.get("serve") else main)(given)
