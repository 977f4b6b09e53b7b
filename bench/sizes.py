"""Arrays of ever new sizes: time from the third size on, compiling and memory, against SciPy.

    python -m bench.sizes                     # every series, each in a fresh process
    python -m bench.sizes images --count 50   # one series

Each series is one kind of work on random sizes, drawn with a fixed seed: a folder of photos, songs
of different lengths. A size is met once, so that whatever is compiled, planned or tabulated for a
size counts. Each library has a fresh process, ours with an empty folder of kernels. SciPy's time of
a size is the better of `fftconvolve` and `oaconvolve`, each called once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

SERIES: dict[str, tuple[int, tuple[int, int], int]] = {
    "images": (2, (200, 700), 31),
    "large images": (2, (800, 1600), 101),
    "signals": (1, (100_000, 400_000), 4801),
    "songs": (1, (1_000_000, 1_200_000), 48_000),
}
"""{name: (spatial axes, range of sizes, taps on each axis)}: one channel, float32, "full"."""

LIBRARIES = ("einstride", "scipy")


def sizes(name: str, count: int) -> list[tuple[int, ...]]:
    """Draw the sizes of a series."""
    rank, (low, high), _ = SERIES[name]
    rng = np.random.default_rng(20261130)
    return [tuple(map(int, rng.integers(low, high, rank))) for _ in range(count)]


def resident_mib() -> float:
    """Return the resident memory of this process; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0


def functions(library: str) -> list[Callable[[Any, Any], Any]]:
    """Return the ways in which a library convolves arrays without batch and channels."""
    if library == "scipy":
        from scipy.signal import fftconvolve, oaconvolve

        return [fftconvolve, oaconvolve]
    import einstride as es

    def convolve(x: Any, f: Any) -> Any:
        y = es.conv(x[None, ..., None], f[..., None, None], padding="full", flip=True)
        return y[0, ..., 0]

    return [convolve]


def measure(name: str, library: str, count: int) -> dict[str, float]:
    """Time a series in this process."""
    rank, _, taps = SERIES[name]
    rng = np.random.default_rng(1)
    f = rng.standard_normal((taps,) * rank).astype("float32")
    ways = functions(library)
    times, memory = [], []
    for size in sizes(name, count):
        x = rng.standard_normal(size).astype("float32")
        spent = []
        for way in ways:
            start = time.perf_counter()
            way(x, f)
            spent.append(time.perf_counter() - start)
        times.append(min(spent))
        memory.append(resident_mib())
    found = {
        "first": times[0],
        "later": sum(times[2:]),
        "memory": memory[-1] - memory[min(9, count - 1)],
    }
    if library == "einstride":
        from einstride.codegen import jit

        found["kernels"] = jit.count()
    return found


def in_fresh_process(name: str, library: str, count: int) -> dict[str, float]:
    """Time a series in a process of its own, with an empty folder of kernels."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.sizes", name, "--count", str(count)]
        done = subprocess.run(
            [*command, "--library", library], capture_output=True, text=True, check=True,
            env=os.environ | {"EINSTRIDE_CACHE": folder},
        )  # fmt: skip
    result: dict[str, float] = json.loads(done.stdout)
    return result


def main() -> None:
    """Print a table of ratios."""
    parser = argparse.ArgumentParser(prog="python -m bench.sizes", description=__doc__)
    parser.add_argument("series", nargs="?", choices=list(SERIES), help="one series; default: all")
    parser.add_argument("--count", type=int, default=20, help="sizes of a series, at least 3")
    parser.add_argument("--library", choices=LIBRARIES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.library:
        print(json.dumps(measure(given.series, given.library, given.count)))
        return
    print(
        "| series | SciPy / einstride from the third size on | first result, s | kernels "
        "| growth, MiB |"
    )
    print("|---|---|---|---|---|")
    for name in [given.series] if given.series else SERIES:
        ours, peer = (in_fresh_process(name, library, given.count) for library in LIBRARIES)
        ratio = peer["later"] / ours["later"]
        print(
            f"| {name} | {ratio:.2f} | {ours['first']:.2f} | {ours['kernels']:.0f} "
            f"| {ours['memory']:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
