"""Measures the time of a call beyond a strided view and one einsum: ``python -m bench.overhead``.

x is (1, 8, 8, 3), f is (3, 3, 3, 4), so that arithmetic is negligible. Blocks of calls of view and
einsum, of `conv` and of a prepared `Conv` take turns in one process (all are NumPy, on one thread).
The figure is the median of the differences of blocks, in microseconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import as_strided

CALLS = 50  # calls in a block
BLOCKS = 300


def bare(x: np.ndarray, f: np.ndarray, s: tuple[int, int]) -> np.ndarray:
    """Convolve by a strided view and one einsum, unchecked."""
    x0, x1, x2, x3 = x.strides
    (b, h, w, c), (fh, fw) = x.shape, f.shape[:2]
    shape = (b, 1 + (h - fh) // s[0], 1 + (w - fw) // s[1], fh, fw, c)
    xs = as_strided(x, shape, (x0, s[0] * x1, s[1] * x2, x1, x2, x3))
    return np.einsum("wxyijk,ijkd->wxyd", xs, f)


def block(call: Callable[[], object]) -> float:
    """Return the mean microseconds of a call in one block of calls."""
    begin = time.perf_counter_ns()
    for _ in range(CALLS):
        call()
    return (time.perf_counter_ns() - begin) / CALLS / 1000


def measure(
    calls: dict[str, Callable[[], object]], blocks: int = BLOCKS
) -> dict[str, tuple[float, ...]]:
    """Return the quartiles of each call's time beyond the first one's, in microseconds."""
    for call in calls.values():
        block(call)  # makes plans and fills caches
    rounds = [{name: block(call) for name, call in calls.items()} for _ in range(blocks)]
    first = next(iter(calls))
    return {
        name: tuple(statistics.quantiles((turn[name] - turn[first] for turn in rounds), n=4))
        for name in calls
        if name != first
    }


def main(arguments: list[str] | None = None) -> int:
    """Print the differences; 1 if `conv` costs more than --limit."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=main.__doc__)
    parser.add_argument("--limit", type=float, help="microseconds that conv may add")
    parser.add_argument("--algorithm", default="auto")
    args = parser.parse_args(arguments)
    import einstride as es

    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 8, 8, 3), dtype="float32")
    f = rng.standard_normal((3, 3, 3, 4), dtype="float32")
    layer = es.Conv(f, algorithm=args.algorithm)
    calls = {
        "bare": lambda: bare(x, f, (1, 1)),
        "conv": lambda: es.conv(x, f, algorithm=args.algorithm),
        "prepared Conv": lambda: layer(x),
    }
    if not np.allclose(calls["bare"](), calls["conv"](), atol=1e-5):
        print("overhead: conv is not the seed's answer", file=sys.stderr)
        return 1
    found = measure(calls)
    for name, (low, middle, high) in found.items():
        print(f"{name}: {middle:+.1f} us over the bare lines (quartiles {low:+.1f}, {high:+.1f})")
    return int(args.limit is not None and found["conv"][1] > args.limit)


if __name__ == "__main__":
    sys.exit(main())
