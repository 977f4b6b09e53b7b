"""``python -m tests.fuzz --minutes N``: fuzz in child processes, survive their crashes, report.

A child that dies or hangs has left the seed and the number of its call in a shared file; every
failure is printed with the line that makes it again, shrunk, and written as a Python program.
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
"""Kinds of failures that their text tells apart, not the function."""
SHOWN = 25
"""Different failures that are shrunk and printed; the others are counted."""


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, help="of the first case; default: a fresh one, printed")
    parser.add_argument("--width", type=int, choices=(64, 32, 16), help="default: the machine's")
    parser.add_argument("--without-fast", action="store_true", help="as if LLVM were missing")
    parser.add_argument("--calls", type=int, default=10**12, help="stop after so many")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--pace", type=float, default=850.0, help="calls per second of CPU time")
    parser.add_argument("--replay", metavar="SEED[:CALL]", help="one case, or one call of it")
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--planted", action="store_true", help="find faults that were mended")
    parser.add_argument("--stop", action="store_true", help="at the first failure")
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

    def last_words(self) -> str:
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


class Asker:
    """Send calls to a child one at a time, and start another child when one dies."""

    def __init__(self, options: dict[str, Any], folder: Path) -> None:
        self._options, self._folder = {**options, "serve": True}, folder
        self._child: Any = None
        self._lines: queue.Queue[str] = queue.Queue()

    def __call__(self, case: cases.Case, call: cases.Call) -> list[tuple[str, str]]:
        if self._child is None:
            self._errors = (self._folder / "asked").open("w+")
            self._child = start(self._options, self._folder, self._errors, stdin=subprocess.PIPE)
            self._lines = queue.Queue()
            threading.Thread(
                target=_pump, args=(self._child.stdout, self._lines), daemon=True
            ).start()
        asked = {"case": cases.to_json(case), "call": cases.to_json(call)}
        try:
            self._child.stdin.write(json.dumps(asked) + "\n")
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
        return [("crash", f"{died(code)} {self._errors.read()[-600:]}")]

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None


def _pump(stream: Any, lines: Any) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


def died(code: int) -> str:
    """Describe in a word how a process ended."""
    return signal.Signals(-code).name if code < 0 else f"exit status {code}"


class Report:
    """Count failures, and shrink and print the first of each kind."""

    def __init__(self, given: argparse.Namespace, options: dict[str, Any], folder: Path) -> None:
        self.given, self.options, self.folder = given, options, folder
        self.sorts: Counter[tuple[str, ...]] = Counter()

    def failure(self, found: dict[str, Any]) -> None:
        """Record one problem that a child reported."""
        made = found["made"]
        text = "".join("#" if c.isdigit() else c for c in found["text"].splitlines()[0])[:60]
        if found["kind"] == "pickle":
            text = "a pickled layer is large"
        stable = text if found["kind"] in STABLE else ""
        whole = made["how"] not in ("copied layer", "pickled layer", "backward") and not stable
        parts = (made["function"], made["algorithm"]) if whole else ("", "")
        sort = (found["kind"], made["how"], *parts, stable)
        self.sorts[sort] += 1
        if self.sorts[sort] > 1 or len(self.sorts) > SHOWN:
            return
        where = f"{found['seed']}:{found['call']}"
        print(f"\nFAILURE {found['kind']} in {made['function']} ({made['how']}): {found['text']}")
        print(f"  again: {self.again(where)}", flush=True)
        case, call = cases.case_from(found["case"]), cases.call_from(made)
        if not self.given.no_shrink:
            self._shrunk(case, call, found["kind"], found["text"])

    def again(self, where: str) -> str:
        """Return the command that repeats a call."""
        fast = " --without-fast" * self.given.without_fast
        return f"python -m tests.fuzz --replay {where} --width {self.options['width']}{fast}"

    def _shrunk(self, case: cases.Case, call: cases.Call, kind: str, text: str) -> None:
        ask = Asker(self.options, self.folder)
        try:
            if not shrink.fails(case, call, kind, ask):
                print("  it does not fail alone: replay the whole case (leave out :CALL)")
                return
            case, call = shrink.shrink(case, call, kind, ask)
            again = [t for k, t in ask(case, call) if k == kind] or [text]
        finally:
            ask.close()
        print(f"  shrunk: {case}\n          {call}")
        try:
            program = snippet.snippet(case, call, again[0])
        except Exception as error:
            program = f"(no program: {type(error).__name__}: {error})"
        print("  as a program:\n" + "\n".join("    " + line for line in program.splitlines()))
        sys.stdout.flush()


def own_width() -> int:
    """Return the bytes of this machine's vectors."""
    from einstride.codegen import jit

    return jit.machine().vector_bytes if jit.available() else 64


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
    spoke = 0.0
    try:
        while alive:
            try:
                child, line = lines.get(timeout=1)
            except queue.Empty:
                child, line = None, ""
            if child is not None and child in alive:
                if line:
                    _heard(child, line, report)
                else:
                    alive.remove(child)
                    ended.append(child.counts)
                    again = _ended(child, report, options, began)
                    if again is not None:
                        alive.append(Child(again, folder, child.number + 1000, lines))
            for child in alive:
                if child.hangs():
                    child.process.kill()
            if report.sorts and given.stop:
                break
            if time.monotonic() - spoke > 5:
                spoke = time.monotonic()
                _progress(ended + [c.counts for c in alive], report, began)
    finally:
        for child in alive:
            child.process.kill()
            child.process.wait()
            ended.append(child.counts)
    _progress(ended, report, began)
    _summary(ended, report)
    return 1 if report.sorts else 0


def _heard(child: Child, line: str, report: Report) -> None:
    said = json.loads(line)
    if "counts" in said:
        child.counts = said["counts"]
    if "done" in said:
        child.options["done"] = True
    if "problem" in said:
        report.failure(said["problem"])
        child.since = time.monotonic()


def _ended(
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
        "seed": seed, "call": number, "kind": kind, "text": f"{died(code)}\n{child.last_words()}",
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
        f"{sum(report.sorts.values())} failures of {len(report.sorts)} sorts",
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
    if report.sorts:
        print("\nFAILURES:")
        for sort, n in report.sorts.most_common():
            print(f"  {n:6}  {', '.join(filter(None, sort))}")


if __name__ == "__main__":
    sys.exit(main())
