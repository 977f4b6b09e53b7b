"""Measures the speed of several sizes of blocks of windows, NumPy's `block_bytes`, in turns.

    python -m bench.blocks [KiB ...]

prints the speed of each size relative to the first on ResNet-50's 3x3 layers at batch 8, the median
over rounds in which every size takes its turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from statistics import median
from time import perf_counter
from typing import Any
from unittest import mock

import numpy as np

import einstride as es
from einstride.arrays import backends
from einstride.arrays.backends.numpy import BACKEND

LAYERS = ((56, 64), (28, 128), (14, 256), (7, 512))  # size and channels
ROUNDS = 25


def passes(size: int, channels: int) -> dict[str, Callable[[], Any]]:
    """Return the three passes of one layer."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, size, size, channels), np.float32)
    f = rng.standard_normal((3, 3, channels, channels), np.float32)
    return {
        "forward": lambda: es.conv(x, f, padding=1, algorithm="gemm"),
        "input_grad": lambda: es.conv_input_grad(x, f, size, padding=1, algorithm="gemm"),
        "filter_grad": lambda: es.conv_filter_grad(x, x, 3, padding=1, algorithm="gemm"),
    }


def seconds(work: Callable[[], Any], kib: int, times: int) -> float:
    """Return the seconds of the last of some calls with blocks of this size."""
    backend = replace(BACKEND, traits=replace(BACKEND.traits, block_bytes=kib << 10))
    with mock.patch.dict(backends._FOUND, {np.ndarray: backend}):
        for _ in range(times):
            start = perf_counter()
            work()
        return perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", type=int, nargs="*", default=[1024, 2048, 3072], metavar="KiB")
    sizes = parser.parse_args().sizes
    print("layer         pass         " + "".join(f"{kib:>6} KiB" for kib in sizes))
    for size, channels in LAYERS:
        for name, work in passes(size, channels).items():
            # Two calls in each turn: the first one plans and fills the caches.
            rounds = [[seconds(work, kib, 2) for kib in sizes] for _ in range(ROUNDS)]
            ratios = [median(r[0] / r[i] for r in rounds) for i in range(len(sizes))]
            layer = f"{size}x{size}x{channels}"
            print(f"{layer:<14}{name:<12}" + "".join(f"{r:>10.2f}" for r in ratios))


if __name__ == "__main__":
    main()
