"""Times whole networks of PyTorch, eager and converted: ``python -m bench.torch_models``.

Each network runs as PyTorch computes it and as `einstride.torch.convert` routes it, each in both of
PyTorch's memory formats, in one process and in turns. A ratio is the median over the rounds of
eager's time divided by the converted network's, each in its faster format: above 1, einstride wins.
Where others use the machine, ``--threads 1 --cpu-time`` counts the seconds that this process got.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import einstride.torch
from bench import machine
from bench.summary import geometric_mean
from bench.torch_networks import NETWORKS, SMALL, Network

TASKS = {"inference, batch 1": (1, False), "inference, batch 8": (8, False),
         "training step, batch 8": (8, True)}  # fmt: skip
SIDES = ("eager", "einstride")
FORMATS = ("contiguous", "channels_last")
WRONG = 1e-3
"""Largest difference of the results, relative to the largest result: Winograd's error in depth."""

Clock = Callable[[], float]


def memory_format(name: str, rank: int) -> Any:
    """Return PyTorch's memory format for examples with an axis of channels and `rank` more."""
    if name == "contiguous":
        return torch.contiguous_format
    return {2: torch.channels_last, 3: torch.channels_last_3d}.get(rank)


def step(model: Any, x: Any, trained: bool) -> Callable[[], Any]:
    """Return a call that infers, or makes one step of gradient descent."""
    if not trained:

        def infer() -> Any:
            with torch.no_grad():
                return model(x)

        return infer
    optimiser = torch.optim.SGD(model.parameters(), 1e-6)

    def train() -> Any:
        optimiser.zero_grad()
        y = model(x)
        y.square().mean().backward()
        optimiser.step()
        return y.detach()

    return train


def calls(network: Network, batch: int, trained: bool) -> tuple[dict[Any, Any], dict[str, Any]]:
    """Return the call of each (side, format), and the converted network of each format."""
    torch.manual_seed(0)
    rank, found, converted = len(network.example) - 1, {}, {}
    model, x = network.make().train(trained), torch.randn(batch, *network.example)
    for name in FORMATS:
        form = memory_format(name, rank)
        if form is None:
            continue
        eager = copy.deepcopy(model).to(memory_format=form)
        converted[name] = einstride.torch.convert(eager, fixed_weights=True)
        given = x.to(memory_format=form)
        for side, m in zip(SIDES, (eager, converted[name]), strict=True):
            found[side, name] = step(m, given, trained)
    return found, converted


def measure(name: str, network: Network, task: str, rounds: int, clock: Clock) -> dict[str, Any]:
    """Time a network on a task, and return the record of it."""
    batch, trained = TASKS[task]
    found, converted = calls(network, batch, trained)
    results = {key: call() for key, call in found.items()}
    error = max(
        float((results["einstride", form] - results["eager", form]).abs().max())
        for form in converted
    ) / float(results["eager", "contiguous"].abs().max())  # fmt: skip
    for call in found.values():
        call()  # the second call of a size builds what later calls use
    seconds: dict[Any, list[float]] = {key: [] for key in found}
    for i in range(rounds):
        for key in itertools.islice(itertools.cycle(found), i, i + len(found)):
            begin, count = clock(), 0
            while count == 0 or (clock() - begin < 0.05 and count < 20):
                found[key]()
                count += 1
            seconds[key].append((clock() - begin) / count)
    best = {
        side: min((k for k in found if k[0] == side), key=lambda k: statistics.median(seconds[k]))
        for side in SIDES
    }
    pairs = zip(*(seconds[best[side]] for side in SIDES), strict=True)
    routed = einstride.torch.routes(converted[best["einstride"][1]])
    return {
        "network": name,
        "task": task,
        "seconds": {" ".join(k): statistics.median(v) for k, v in seconds.items()},
        "formats": {side: key[1] for side, key in best.items()},
        "ratio": statistics.median(eager / ours for eager, ours in pairs),
        "routed": sum(r.einstride for r in routed),
        "layers": len(routed),
        "error": error,
    }


def line(r: dict[str, Any]) -> str:
    """Write a row of the table."""
    cells = [r["network"]]
    for side in SIDES:
        for form in FORMATS:
            seconds = r["seconds"].get(f"{side} {form}")
            cells.append("-" if seconds is None else f"{1000 * seconds:.1f}")
    wrong = f" (WRONG: {r['error']:.0e})" if r["error"] > WRONG else ""
    return f"| {' | '.join(cells)} | {r['routed']}/{r['layers']} | **{r['ratio']:.2f}**{wrong} |"


def table(records: list[dict[str, Any]], rounds: int, threads: int, cpu_time: bool) -> str:
    """Write the whole report."""
    options = f" --threads {threads}" + " --cpu-time" * cpu_time
    clock = "CPU time of the process" if cpu_time else "wall clock"
    lines = [
        "# Networks of PyTorch on the CPU, eager and converted",
        "",
        f"`python -m bench.torch_models --rounds {rounds}{options}`, {datetime.date.today()}: "
        f"{machine.processor()}, {machine.vector_width()}, threads: {threads}, float32, PyTorch "
        f"{torch.__version__}, random weights. Milliseconds, {clock}, median of the rounds, in "
        "which all variants take turns. Routed: the convolutions that went to einstride, among the "
        "different pairs of layer and size. Ratio: eager's time over the converted network's, each "
        "in its faster memory format; above 1 einstride is faster.",
    ]  # fmt: skip
    for task in TASKS:
        rows = [r for r in records if r["task"] == task]
        if rows:
            mean = geometric_mean(r["ratio"] for r in rows)
            lines += [
                "", f"## {task[0].upper()}{task[1:]}", "",
                "| network | eager, contiguous | eager, channels_last | converted, contiguous "
                "| converted, channels_last | routed | ratio |", "|---|---|---|---|---|---|---|",
                *map(line, rows), "",
                f"Geometric mean {mean:.2f}, least {min(r['ratio'] for r in rows):.2f}.",
            ]  # fmt: skip
    return "\n".join([*lines, ""])


def main(arguments: list[str] | None = None) -> int:
    """Print the rows, and write the table to a file if one is named."""
    parser = argparse.ArgumentParser(prog="python -m bench.torch_models", description=main.__doc__)
    add = parser.add_argument
    add("--network", default="", help="only those whose name contains this")
    add("--task", default="", help="only those whose name contains this")
    add("--rounds", type=int, default=7)
    add("--threads", type=int, default=min(len(machine.cores(99)) or 1, 2))
    add("--cpu-time", action="store_true", help="CPU time of the process; for one thread")
    add("--markdown", type=Path)
    add("--json", type=Path)
    add("--smoke", action="store_true", help="one round of small networks on one thread")
    args = parser.parse_args(arguments)
    args.threads = 1 if args.smoke else args.threads  # on a busy machine two wait for each other
    torch.set_num_threads(args.threads)
    networks = SMALL if args.smoke else NETWORKS
    rounds = 1 if args.smoke else args.rounds
    clock = time.process_time if args.cpu_time else time.perf_counter
    records = []
    for task in TASKS:
        for name, network in networks.items():
            if args.task in task and args.network in name:
                records.append(measure(name, network, task, rounds, clock))
                print(f"{task}: {line(records[-1])}", flush=True)
    report = table(records, rounds, args.threads, args.cpu_time)
    print(report.rsplit("\n\n", 1)[-1] if len(records) == 1 else report)
    if args.markdown:
        args.markdown.write_text(report, encoding="utf-8")
    if args.json:
        args.json.write_text(json.dumps(records, indent=1), encoding="utf-8")
    return int(any(r["error"] > WRONG for r in records))


if __name__ == "__main__":
    sys.exit(main())
