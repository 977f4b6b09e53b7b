"""Compares the planner's choice on each row with the measured times of all other algorithms.

    python -m bench.choices [--time-box SECONDS] [--case GLOB] [--json PATH]

Algorithms take turns on each row of the table (see `einstride.tune`). The report lists the rows
where the choice is more than 10% slower than the best algorithm, and the shares of rows within 10%
and within a factor of two.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import einstride as es
from bench import data
from bench.case import Row
from bench.cases import select, spread
from einstride.api import tune

SLICE = 0.15  # seconds of all turns for a row
NEAR, FAR = 1.1, 2.0


def timed(row: Row) -> dict[str, Any]:
    """Return the choice of `auto`, and the median seconds of every algorithm."""
    arrays = data.make(row)
    first, second = {
        "forward": (arrays.x, arrays.f),
        "input_grad": (arrays.gy, arrays.f),
        "filter_grad": (arrays.x, arrays.gy),
    }[row.pass_]
    more: dict[str, Any] = dict(row.keywords)
    if row.pass_ == "input_grad":
        more["input_size"] = row.case.size
    elif row.pass_ == "filter_grad":
        more["kernel_size"] = row.case.kernel
    predicted = es.plan(first, second, direction=row.pass_, **more)
    plans = {}
    for name in tune.worth_measuring(predicted):
        try:
            plans[name] = es.plan(first, second, direction=row.pass_, algorithm=name, **more)
        except ValueError:  # the algorithm refuses the row
            continue
    chosen = predicted.algorithm
    seconds = tune._measure(plans, lambda p: p(first, second), SLICE)
    return {"row": row.name, "chosen": chosen, "seconds": seconds}


def behind(found: dict[str, Any]) -> float:
    """Return the time of the choice divided by that of the best algorithm."""
    seconds = found["seconds"]
    return float(seconds[found["chosen"]] / min(seconds.values()))


def main() -> None:
    """Print the rows and the shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time-box", type=float, default=600.0, metavar="SECONDS")
    parser.add_argument("--case", metavar="GLOB")
    parser.add_argument("--json", type=Path, metavar="PATH")
    args = parser.parse_args()
    rows = spread(select(pattern=args.case))
    stop, results = time.monotonic() + args.time_box, []
    for row in rows:
        if time.monotonic() > stop:
            break
        results.append(timed(row))
        if behind(results[-1]) > NEAR:
            seconds, chosen = results[-1]["seconds"], results[-1]["chosen"]
            best = min(seconds, key=seconds.get)
            slower = behind(results[-1])
            print(f"{row.name}: {chosen}, {slower:.2f}x the time of {best}", flush=True)
    for limit in (NEAR, FAR):
        share = sum(behind(r) <= limit for r in results) / max(len(results), 1)
        print(f"within {limit} of the best: {share:.1%} of {len(results)} rows (of {len(rows)})")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
