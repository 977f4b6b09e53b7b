"""Implement ``python -m einstride warmup``: compile the kernels of common layers in advance.

A kernel is compiled when a layer first needs it, which takes a tenth of a second, and kept on disk
for every later process. Kernels depend on vectors and register tiles, not on the sizes of arrays,
so that a small layer of each kind is enough. Each sample runs on every algorithm that compiles
kernels, in all three passes.
"""

from __future__ import annotations

from time import perf_counter
from typing import NamedTuple

import numpy as np

import einstride as es
from einstride.api.saved_plan import DIRECTIONS
from einstride.codegen import disk_cache, jit
from einstride.geometry.types import Algorithm

COMPILED: tuple[Algorithm, ...] = ("direct", "winograd")


class Sample(NamedTuple):
    """Hold the shapes of a small layer that needs the kernels of larger layers of its kind."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    channels: int
    filters: int
    groups: int = 1
    stride: int = 1
    batch: int = 4


SAMPLES = (
    *(Sample((8, 8), (3, 3), c, d) for c, d in ((64, 64), (64, 128), (32, 32), (16, 16), (48, 48))),
    *(Sample((8, 8), (1, 1), c, d) for c, d in ((64, 64), (32, 32), (16, 96), (96, 24))),
    Sample((8, 8), (3, 3), 64, 64, batch=1),
    Sample((8, 8), (3, 3), 64, 64, stride=2),
    Sample((8, 8), (1, 1), 64, 64, stride=2),
    Sample((16, 16), (7, 7), 3, 64, stride=2),
    Sample((16, 16), (3, 3), 3, 32, stride=2),
    Sample((16, 16), (5, 5), 1, 6),
    *(Sample((16, 16), (k, k), 32, 32, 32, s) for k in (3, 5, 7) for s in (1, 2)),
    Sample((8, 8), (3, 3), 128, 128, 32),
    Sample((32,), (3,), 64, 64),
    Sample((32,), (1,), 64, 64),
    Sample((64,), (9,), 1, 32),
    Sample((6, 6, 6), (3, 3, 3), 32, 32),
    Sample((6, 6, 6), (3, 3, 3), 3, 64),
)


def run(dtypes: tuple[str, ...] = ("float32",)) -> int:
    """Compile kernels for some dtypes, print the progress, and return the exit status."""
    if not jit.available():
        print(f"warmup: compiled kernels {jit.MISSING}")
        return 2
    start, before = perf_counter(), jit.count()
    jobs = [(dtype, sample) for dtype in dtypes for sample in SAMPLES]
    for number, (dtype, sample) in enumerate(jobs, 1):
        for direction in DIRECTIONS[:3]:
            for algorithm in COMPILED:
                _run_pass(sample, dtype, direction, algorithm)
        print(f"\r{number}/{len(jobs)} layers, {jit.count() - before} kernels", end="")
    where = disk_cache.folder()
    print(f" in {perf_counter() - start:.1f} s, {f'kept in {where}' if where else 'not kept'}")
    return 0


def _run_pass(sample: Sample, dtype: str, direction: str, algorithm: Algorithm) -> None:
    """Run one pass of a layer by an algorithm, unless the algorithm does not support it."""
    s = sample
    f = np.zeros((*s.kernel, s.channels // s.groups, s.filters), dtype)
    x = np.zeros((s.batch, *s.size, s.channels), dtype)
    gy = np.zeros((s.batch, *(-(-n // s.stride) for n in s.size), s.filters), dtype)
    first, second = {"forward": (x, f), "input_grad": (gy, f), "filter_grad": (x, gy)}[direction]
    size = s.size if direction == "input_grad" else None
    kernel = s.kernel if direction == "filter_grad" else None
    try:
        plan = es.plan(
            first, second, direction=direction, input_size=size, kernel_size=kernel,
            stride=s.stride, groups=s.groups, padding="same", algorithm=algorithm,
        )  # fmt: skip
    except ValueError:  # the algorithm does not support the pass; a plan would say why
        return
    plan(first, second)
