"""Measures one library in this process: ``python -m bench.gpu NAME --out FILE --seconds N``.

Appends one line of JSON per measured row and variant, and skips those that FILE already has, so
that an interrupted run continues. The first variants of all rows come before the others. The exit
status is 1 if a row failed, 3 if time ran out.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import time
from dataclasses import asdict
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from bench.case import Row
from bench.gpu.cases import row_key, rows
from bench.gpu.timing import copies, sample

ITEMSIZE = {"float64": 8, "complex64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
FAILED, OUT_OF_TIME = 1, 3
FEWEST_SECONDS = 2.0  # least remaining time for a row


@lru_cache(maxsize=1)
def data(row: Row) -> dict[str, np.ndarray]:
    """Draw the inputs of a row, equal for every library."""
    rng = np.random.default_rng(0)

    def made(shape: tuple[int, ...]) -> np.ndarray:
        real = rng.standard_normal(shape, "float32")
        return real + 1j * real[::-1] if row.case.dtype == "complex64" else real

    return {"x": made(row.x_shape), "f": made(row.f_shape), "gy": made(row.y_shape)}


def wanted(peer: Any, small: bool) -> list[tuple[Row, str]]:
    """List (row, variant): the first variant of every row, then the others."""
    every = [(row, peer.variants(row)) for row in rows(small)]
    first = [(row, variants[0]) for row, variants in every if variants]
    return first + [(row, variant) for row, variants in every for variant in variants[1:]]


def measure(peer: Any, clock: Any, row: Row, variant: str, small: bool) -> dict[str, Any]:
    """Measure one row with one variant."""
    elements = prod(row.x_shape) + prod(row.f_shape) + prod(row.y_shape)
    sets = copies(elements * ITEMSIZE[row.case.dtype], small)
    call = peer.prepare(row, variant, data(row), sets)
    checksum = peer.checksum(call(0))
    return {**asdict(sample(call, sets, clock, small)), "sets": sets, "checksum": checksum}


def main() -> int:
    """Measure the rows and variants that FILE lacks."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    parser.add_argument("name", choices=("ours", "cudnn", "torch", "jax"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--small", action="store_true", help="tiny sizes, without a GPU")
    args = parser.parse_args()
    deadline = time.monotonic() + args.seconds
    peer = importlib.import_module(f"bench.gpu.{args.name}")
    clock, versions = peer.start(args.small)
    old = args.out.read_text().splitlines() if args.out.exists() else []
    known = {(r["row"], r["variant"]) for r in map(json.loads, old) if "ms" in r}
    status = 0
    with args.out.open("a") as file:
        for row, variant in wanted(peer, args.small):
            if (row_key(row), variant) in known:
                continue
            if time.monotonic() + FEWEST_SECONDS > deadline and not args.small:
                print(f"{args.name}: out of time before {row_key(row)} {variant}")
                return OUT_OF_TIME
            record = {"library": peer.NAME, "variant": variant, "row": row_key(row)}
            record |= {"group": row.case.group, "operations": row.flops, "versions": versions}
            try:
                record |= measure(peer, clock, row, variant, args.small)
            except Exception as error:  # a failure of one row does not end the run
                record["problem"] = f"{type(error).__name__}: {error}"[:400]
                status = FAILED
            print(json.dumps(record), file=file, flush=True)
            gc.collect()
    return status


if __name__ == "__main__":
    raise SystemExit(main())
