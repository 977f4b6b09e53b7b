"""Times training steps and layers of `einstride.nn` and of PyTorch: ``python -m bench.training``.

Each library and layout has a process of its own, which is stopped (SIGSTOP) while another one
works; the processes take turns in every round. A figure is the median over the rounds of PyTorch's
time divided by einstride's: above 1, einstride is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench import machine, nets

WHO = ("ours", "torch channels_last", "torch contiguous")
ROOT = Path(__file__).resolve().parent.parent


class Child:
    """Run a library and a layout in a process that is stopped except while it answers."""

    def __init__(self, who: str, threads: int, native_blas: bool) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.training", "--child", who],
            cwd=ROOT,
            env=machine.environment(threads, native_blas),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.ask("start")

    def ask(self, request: str) -> dict[str, Any]:
        """Send a request and return the answer."""
        os.kill(self._process.pid, signal.SIGCONT)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process ended with status {self._process.wait()}")
        os.kill(self._process.pid, signal.SIGSTOP)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def serve(who: str) -> None:
    """Answer with the median seconds of a case's call, over calls that fill a tenth of a second."""
    library, _, layout = who.partition(" ")
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    ready: dict[str, nets.Step] = {}
    for line in sys.stdin:
        case, waiting, times = line.strip(), machine.waiting_seconds(), []
        if case != "start":
            if case not in ready:
                ready.clear()
                ready[case] = (nets.ours if library == "ours" else nets.theirs)(case, layout)
            for _ in range(2):
                ready[case]()  # wakes the threads and fills the caches
            begin = time.perf_counter()
            while time.perf_counter() - begin < 0.1 or len(times) < 3:
                start = time.perf_counter()
                ready[case]()
                times.append(time.perf_counter() - start)
        waited = machine.waiting_seconds() - waiting
        seconds = statistics.median(times) if times else 0.0
        out.write(json.dumps({"seconds": seconds, "waited": waited / max(sum(times), 1e-9)}) + "\n")
        out.flush()


def measure(cases: list[str], rounds: int, threads: int, native_blas: bool) -> list[dict[str, Any]]:
    """Measure each case, and return a record for each."""
    children = {who: Child(who, threads, native_blas) for who in WHO}
    records = []
    try:
        for case in cases:
            answers = [{who: c.ask(case) for who, c in children.items()} for _ in range(rounds)]
            seconds = {w: statistics.median(a[w]["seconds"] for a in answers) for w in WHO}
            ratios = {
                w: statistics.median(a[w]["seconds"] / a["ours"]["seconds"] for a in answers)
                for w in WHO[1:]
            }
            disturbed = statistics.median(a["ours"]["waited"] for a in answers) > 0.05
            records.append(
                {"case": case, "seconds": seconds, "ratios": ratios, "disturbed": disturbed}
            )
            print(line(records[-1]), flush=True)
    finally:
        for child in children.values():
            child.close()
    return records


def line(r: dict[str, Any]) -> str:
    """Write a row of the table."""
    times = " | ".join(f"{1000 * r['seconds'][who]:.2f}" for who in WHO)
    ratios = " | ".join(f"**{r['ratios'][who]:.2f}**" for who in WHO[1:])
    return f"| {r['case']}{' (disturbed)' if r['disturbed'] else ''} | {times} | {ratios} |"


def table(records: list[dict[str, Any]], rounds: int, threads: int) -> str:
    """Write the whole report."""
    head = [
        "# Training against PyTorch on the CPU",
        "",
        f"`python -m bench.training --rounds {rounds}`: {machine.processor()}, "
        f"{machine.vector_width()}, {threads} threads, batch {nets.BATCH}, float32. A step is "
        "forward, backward and optimiser; a layer is forward and backward. Milliseconds; ratios "
        "are PyTorch's time over ours, the median of the rounds: above 1 einstride is faster.",
        "",
        "| what | einstride | PyTorch channels_last | PyTorch contiguous | ratio to channels_last "
        "| ratio to contiguous |",
        "|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *map(line, records), ""])


def main() -> int:
    """Print the table, and write it to a file if one is named."""
    parser = argparse.ArgumentParser(prog="python -m bench.training")
    parser.add_argument("--child", choices=WHO, help=argparse.SUPPRESS)
    parser.add_argument("--case", default="", help="only those whose name contains this")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=min(len(machine.cores(99)) or 1, 2))
    parser.add_argument("--native-blas", action="store_true", help="as in python -m bench")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--smoke", action="store_true", help="one round of the small cases")
    args = parser.parse_args()
    if args.child:
        serve(args.child)
        return 0
    if args.smoke:
        args.case, args.rounds = "8x8", 1
    cases = [case for case in nets.CASES if args.case in case]
    records = measure(cases, args.rounds, args.threads, args.native_blas)
    if args.markdown:
        args.markdown.write_text(table(records, args.rounds, args.threads))
    return 0


if __name__ == "__main__":
    sys.exit(main())
