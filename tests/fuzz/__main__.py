"""``python -m tests.fuzz --minutes N``: fuzz in child processes, survive their crashes, report.

A child writes the seed and the number of each call into a shared file before the call, so that the
call is known if the child dies or hangs. Every failure is shrunk, and printed with the command that
repeats it and as a Python program.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from . import cases, planted, shrink, snippet
from .run import RECORD, Record

ROOT = Path(__file__).resolve().parents[2]
HANG = 90
"""Seconds after which a call counts as hanging: far more than any call of the fuzzer takes."""
STABLE = ("error", "unnamed error", "refused", "raised", "pickle", "memory error")
"""Kinds of failures that are told apart by their text, not by the function that was called."""
SHOWN = 25
"""Most failures, each of another category, that are shrunk and printed; further ones are
counted."""


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, help="seed of the first case; default: random, printed")
    parser.add_argument("--width", type=int, choices=(64, 32, 16), help="default: the machine's")
    parser.add_argument("--without-fast", action="store_true", help="run without LLVM")
    parser.add_argument("--calls", type=int, default=10**12, help="most calls to make")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--pace", type=float, default=850.0, help="calls per second of CPU time")
    parser.add_argument("--replay", metavar="SEED[:CALL]", help="one case, or one call of it")
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--planted", action="store_true", help="find former faults again")
    parser.add_argument("--stop", action="store_true", help="stop at the first failure")
    return parser.parse_args(given)


class Child:
    """Run `run.main` in a process, and read its output."""

    def __init__(self, options: dict[str, Any], folder: Path, number: int, lines: Any) -> None:
        self.number, self.options = number, options
        path = folder / f"record{number}"
        path.write_bytes(bytes(RECORD.size))
        self.record = Record(str(path))
        self.errors = (folder / f"errors{number}").open("w+")
        self.process = start({**options, "record": str(path)}, folder, self.errors)
        self.seen, self.since = self.record.read(), time.monotonic()
        self.counts: dict[str, Any] = {}
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()

    def _read(self, lines: Any) -> None:
        for line in self.process.stdout:  # type: ignore[union-attr]
            lines.put((self, line))
        lines.put((self, ""))

    def hangs(self) -> bool:
        """True if the same call has taken `HANG` seconds."""
        now = self.record.read()
        if now != self.seen:
            self.seen, self.since = now, time.monotonic()
        return time.monotonic() - self.since > HANG

    def error_output(self) -> str:
        """Return the end of the process's standard error."""
        self.errors.flush()
        self.errors.seek(0)
        return self.errors.read()[-3000:]


def start(options: dict[str, Any], folder: Path, errors: Any, **more: Any) -> Any:
    """Start a child process whose disk cache belongs to this run."""
    environment = {**os.environ, "EINSTRIDE_CACHE": str(folder / "cache")}
    path = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment["PYTHONPATH"] = os.pathsep.join(path if not os.environ.get("PYTHONPATH") else
                                                path[1:] + path[:1])  # fmt: skip
    return subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.run", json.dumps(options)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, **more,
    )  # fmt: skip


class Client:
    """Send calls to a child one at a time, and start another child when one dies."""

    def __init__(self, options: dict[str, Any], folder: Path) -> None:
        self._options, self._folder = {**options, "serve": True}, folder
        self._child: Any = None
        self._lines: queue.Queue[str] = queue.Queue()

    def __call__(self, case: cases.Case, call: cases.Call) -> list[tuple[str, str]]:
        if self._child is None:
            self._errors = (self._folder / "client").open("w+")
            self._child = start(self._options, self._folder, self._errors, stdin=subprocess.PIPE)
            self._lines = queue.Queue()
            threading.Thread(
                target=_forward_lines, args=(self._child.stdout, self._lines), daemon=True
            ).start()
        request = {"case": cases.to_json(case), "call": cases.to_json(call)}
        try:
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()
            line = self._lines.get(timeout=HANG)
        except (BrokenPipeError, queue.Empty) as error:
            line, hang = "", isinstance(error, queue.Empty)
            if hang:
                self.close()
                return [("hang", f"no answer in {HANG} s")]
        if line:
            return [tuple(p) for p in json.loads(line)]
        code = self._child.wait()
        self._child = None
        self._errors.seek(0)
        return [("crash", f"{describe_exit(code)} {self._errors.read()[-600:]}")]

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None


def _forward_lines(stream: Any, lines: Any) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


def describe_exit(code: int) -> str:
    """Return the signal or the exit status that a process ended with."""
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


class Report:
    """Count failures by category, and shrink and print the first of each category."""

    def __init__(self, given: argparse.Namespace, options: dict[str, Any], folder: Path) -> None:
        self.given, self.options, self.folder = given, options, folder
        self.categories: Counter[tuple[str, ...]] = Counter()

    def failure(self, found: dict[str, Any]) -> None:
        """Record one problem that a child reported."""
        made = found["made"]
        text = "".join("#" if c.isdigit() else c for c in found["text"].splitlines()[0])[:60]
        if found["kind"] == "pickle":
            text = "a pickled layer is large"
        text_key = text if found["kind"] in STABLE else ""
        by_function = (
            made["how"] not in ("copied layer", "pickled layer", "backward") and not text_key
        )
        parts = (made["function"], made["algorithm"]) if by_function else ("", "")
        category = (found["kind"], made["how"], *parts, text_key)
        self.categories[category] += 1
        if self.categories[category] > 1 or len(self.categories) > SHOWN:
            return
        where = f"{found['seed']}:{found['call']}"
        print(f"\nFAILURE {found['kind']} in {made['function']} ({made['how']}): {found['text']}")
        print(f"  repeat: {self.command(where)}", flush=True)
        case, call = cases.case_from(found["case"]), cases.call_from(made)
        if not self.given.no_shrink:
            self._shrunk(case, call, found["kind"], found["text"])

    def command(self, where: str) -> str:
        """Return the command that repeats a call."""
        fast = " --without-fast" * self.given.without_fast
        return f"python -m tests.fuzz --replay {where} --width {self.options['width']}{fast}"

    def _shrunk(self, case: cases.Case, call: cases.Call, kind: str, text: str) -> None:
        client = Client(self.options, self.folder)
        try:
            if not shrink.fails(case, call, kind, client):
                print("  it does not fail alone: replay the whole case (leave out :CALL)")
                return
            case, call = shrink.shrink(case, call, kind, client)
            texts = [t for k, t in client(case, call) if k == kind] or [text]
        finally:
            client.close()
        print(f"  shrunk: {case}\n          {call}")
        try:
            program = snippet.snippet(case, call, texts[0])
        except Exception as error:
            program = f"(no program: {type(error).__name__}: {error})"
        print("  as a program:\n" + "\n".join("    " + line for line in program.splitlines()))
        sys.stdout.flush()


def own_width() -> int:
    """Return the bytes of this machine's vectors."""
    from einstride.codegen import jit

    return jit.host_target().vector_bytes if jit.available() else 64


def main() -> int:
    """Run the fuzzer, print the report, and return 1 if a call failed, else 0."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the children end with it
    given = arguments()
    seed = given.seed if given.seed is not None else random.SystemRandom().randrange(10**8)
    if given.planted:
        return planted.main(seed)
    options: dict[str, Any] = {
        "width": given.width or own_width(), "without_fast": given.without_fast,
        "seconds": given.minutes * 60,
        "calls": -(-given.calls // given.processes), "seed": seed, "step": given.processes,
        "only": None, "replay": False, "pace": given.pace,
    }  # fmt: skip
    if given.replay:
        first, _, call = given.replay.partition(":")
        only = [int(call)] if call else list(range(1000))
        options |= {"seed": int(first), "only": only, "replay": True, "seconds": 1e9}
        given.processes = 1
    with tempfile.TemporaryDirectory(prefix="einstride-fuzz-") as name:
        return fuzz(given, options, Path(name))


def fuzz(given: argparse.Namespace, options: dict[str, Any], folder: Path) -> int:
    """Run the children until the time is up, and replace those that die."""
    report = Report(given, options, folder)
    lines: queue.Queue[tuple[Child, str]] = queue.Queue()
    began = time.monotonic()
    print(f"einstride fuzzer, seed {options['seed']}, cases for vectors of {options['width']} bytes"
          + f" (this machine has no more than {own_width()})" * (options["width"] > own_width())
          + ", without LLVM" * given.without_fast, flush=True)  # fmt: skip
    ended: list[dict[str, Any]] = []
    alive = [
        Child({**options, "seed": options["seed"] + i}, folder, i, lines)
        for i in range(given.processes)
    ]
    reported = 0.0
    try:
        while alive:
            try:
                child, line = lines.get(timeout=1)
            except queue.Empty:
                child, line = None, ""
            if child is not None and child in alive:
                if line:
                    _record_line(child, line, report)
                else:
                    alive.remove(child)
                    ended.append(child.counts)
                    successor = _record_end(child, report, options, began)
                    if successor is not None:
                        alive.append(Child(successor, folder, child.number + 1000, lines))
            for child in alive:
                if child.hangs():
                    child.process.kill()
            if report.categories and given.stop:
                break
            if time.monotonic() - reported > 5:
                reported = time.monotonic()
                _progress(ended + [c.counts for c in alive], report, began)
    finally:
        for child in alive:
            child.process.kill()
            child.process.wait()
            ended.append(child.counts)
    _progress(ended, report, began)
    _summary(ended, report)
    return 1 if report.categories else 0


def _record_line(child: Child, line: str, report: Report) -> None:
    message = json.loads(line)
    if "counts" in message:
        child.counts = message["counts"]
    if "done" in message:
        child.options["done"] = True
    if "problem" in message:
        report.failure(message["problem"])
        child.since = time.monotonic()


def _record_end(
    child: Child, report: Report, options: dict[str, Any], began: float
) -> dict[str, Any] | None:
    """Record the end of a child, and return the options of its successor if the child died
    early."""
    code = child.process.wait()
    if child.options.get("done"):
        return None
    seed, number, calls = child.record.read()
    case = cases.case(seed, options["width"])
    from .hostile import HOSTILE

    kind = "hang" if child.hangs() else "crash"
    report.failure({
        "seed": seed, "call": number, "kind": kind,
        "text": f"{describe_exit(code)}\n{child.error_output()}",
        "case": cases.to_json(case),
        "made": cases.to_json(cases.call(case, seed, number, len(HOSTILE))),
    })  # fmt: skip
    left = options["seconds"] - (time.monotonic() - began)
    if left <= 0 or options["replay"] or calls >= child.options["calls"]:
        return None
    return {**child.options, "seed": seed + options["step"], "seconds": left,
            "calls": child.options["calls"] - calls}  # fmt: skip


def _progress(counts: list[dict[str, Any]], report: Report, began: float) -> None:
    calls = sum(c.get("calls", 0) for c in counts)
    seconds = time.monotonic() - began
    refused = sum(n for c in counts for _, n in c.get("refusals", ()))
    print(
        f"{seconds:6.0f} s  {calls:9,} calls  {calls / max(seconds, 1e-9):6.0f}/s  "
        f"{sum(c.get('kernels', 0) for c in counts):5} kernels  {refused:7,} refused  "
        f"{sum(report.categories.values())} failures of {len(report.categories)} categories",
        flush=True,
    )


def _summary(counts: list[dict[str, Any]], report: Report) -> None:
    table: Counter[tuple[str, ...]] = Counter()
    refusals: Counter[str] = Counter()
    for c in counts:
        for *key, n in c.get("counts", ()):
            table[tuple(key)] += n
        refusals.update(dict(c.get("refusals", ())))
    for what in dict.fromkeys(key[0] for key in table):
        print(f"\n{what}:")
        rows = sorted(((k[1:], n) for k, n in table.items() if k[0] == what), key=lambda r: -r[1])
        for key, n in rows:
            print(f"  {n:9,}  {', '.join(key)}")
    print("\nrefused:")
    for text, n in refusals.most_common(40):
        print(f"  {n:9,}  {text}")
    if report.categories:
        print("\nFAILURES:")
        for category, n in report.categories.most_common():
            print(f"  {n:6}  {', '.join(filter(None, category))}")


if __name__ == "__main__":
    sys.exit(main())
