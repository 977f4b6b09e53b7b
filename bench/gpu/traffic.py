"""Counts the bytes that each kernel launch moves, by a model on the CuPy host: no GPU is needed.

    python -m bench.gpu.traffic [--algorithm NAME] [part of a case's name]

Counts every access of every thread: a block fetches a sector of 32 bytes once and writes it once,
as with an unlimited L1 cache and no L2 cache. The report also has the bytes if each sector were
fetched once in the launch, and the least bytes of the call: each input read once, each result
written once. `over` is the count divided by the least bytes; a real L2 cache can only reduce it. A
product counts as two operations.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from bench.case import PASSES, Case, Row
from bench.gpu import ours

# Layers in their own spatial sizes, with fewer channels and images than in a network.
CASES = [
    Case("depthwise/3x3", "depthwise", "", (56, 56), 32, (3, 3), 32, padding=1, groups=32),
    Case("depthwise/3x3_s2", "depthwise", "", (56, 56), 32, (3, 3), 32, stride=2, padding=1,
         groups=32),
    Case("depthwise/5x5", "depthwise", "", (28, 28), 32, (5, 5), 32, padding=2, groups=32),
    Case("depthwise/7x7", "depthwise", "", (56, 56), 16, (7, 7), 16, padding=3, groups=16),
    Case("depthwise/line", "1-D", "", (2000,), 32, (9,), 32, padding=4, groups=32),
    Case("depthwise/volume", "3-D", "", (16, 16, 16), 16, (3, 3, 3), 16, padding=1, groups=16),
    Case("few/4_to_4", "grouped", "", (56, 56), 32, (3, 3), 32, padding=1, groups=8),
    Case("few/rgb", "few channels", "", (56, 56), 3, (3, 3), 32, padding=1),
    Case("few/to_rgb", "few channels", "", (56, 56), 32, (3, 3), 3, padding=1),
    Case("few/8_s2", "few channels", "", (56, 56), 8, (3, 3), 8, stride=2, padding=1),
    Case("few/16_s2", "few channels", "", (56, 56), 16, (3, 3), 16, stride=2, padding=1),
    Case("few/audio", "1-D", "", (4000,), 1, (10,), 64, stride=5),
    Case("depthwise/5x5_s2", "depthwise", "", (28, 28), 32, (5, 5), 32, stride=2, padding=2,
         groups=32),
    Case("depthwise/7x7_s4", "depthwise", "", (56, 56), 16, (7, 7), 16, stride=4, padding=3,
         groups=16),
    Case("depthwise/line_31", "1-D", "", (1000,), 32, (31,), 32, padding=15, groups=32),
    Case("depthwise/twice", "depthwise", "", (28, 28), 16, (3, 3), 32, padding=1, groups=16),
    Case("depthwise/dilated", "depthwise", "", (56, 56), 32, (3, 3), 32, padding=2, dilation=2,
         groups=32),
    Case("stencil/line_9", "1-D", "", (16000,), 1, (9,), 1, padding=4),
    Case("stencil/line_63", "1-D", "", (16000,), 1, (63,), 1, padding=31),
    Case("stencil/5x5", "few channels", "", (120, 120), 1, (5, 5), 1, padding=2),
    Case("stencil/volume", "3-D", "", (24, 24, 24), 1, (3, 3, 3), 1, padding=1),
]  # fmt: skip
DENSE = [
    Case("dense/3x3", "other dense", "", (28, 28), 32, (3, 3), 64, padding=1),
    Case("dense/3x3_s2", "other dense", "", (28, 28), 32, (3, 3), 64, stride=2, padding=1),
    Case("dense/1x1", "1x1", "", (28, 28), 64, (1, 1), 64),
]
BATCH = 2
LAYOUTS = ("channels_last", "channels_first")


@dataclass(frozen=True)
class Counted:
    """Hold the launches of a call (events of the host's log), its least bytes and its
    operations."""

    launches: tuple[Any, ...]
    floor: int
    operations: int

    @property
    def moved(self) -> int:
        """Return the bytes of all launches."""
        return sum(e.read + e.written for e in self.launches)

    @property
    def over(self) -> float:
        """Return `moved` divided by the least bytes."""
        return self.moved / self.floor


@contextmanager
def _small_device() -> Iterator[None]:
    """Plan for a small device, in proportion to the small layers."""
    from einstride import _testing

    with _testing.use(constants={"GPU processors": 1, "GPU blocks": 4}):
        yield


def count(call: Callable[[], Any], inputs: list[Any], operations: int) -> Counted:
    """Count the bytes that the launches of a call move; the call returns an array."""
    import cupy_host

    host = cupy_host.install()
    with _small_device():
        call()
        host.count_traffic = True
        try:
            with host.recording() as seen:
                result = call()
        finally:
            host.count_traffic = False
    floor = sum(a.nbytes for a in inputs) + result.nbytes
    return Counted(tuple(seen.of(cupy_host.events.Traffic)), floor, operations)


def count_row(row: Row, layout: str, algorithm: str) -> Counted:
    """Count one pass of a case."""
    import cupy

    import einstride as es

    rng = np.random.default_rng(0)

    def made(shape: tuple[int, ...], is_filter: bool = False) -> Any:
        whole = rng.integers(-2, 3, shape).astype(row.case.dtype)
        if layout == "channels_first":
            order = (len(shape) - 1, len(shape) - 2, *range(len(shape) - 2))
            order = order if is_filter else (0, len(shape) - 1, *range(1, len(shape) - 1))
            whole = np.ascontiguousarray(whole.transpose(order))
        return cupy.asarray(whole)

    x, f, gy = made(row.x_shape), made(row.f_shape, True), made(row.y_shape)
    k = {"stride": row.stride, "padding": row.pads, "dilation": row.dilation,
         "groups": row.case.groups, "algorithm": algorithm, "layout": layout}  # fmt: skip
    calls: dict[str, tuple[Callable[[], Any], list[Any]]] = {
        "forward": (lambda: es.conv(x, f, **k), [x, f]),
        "input_grad": (lambda: es.conv_input_grad(gy, f, row.case.size, **k), [gy, f]),
        "filter_grad": (lambda: es.conv_filter_grad(x, gy, row.case.kernel, **k), [x, gy]),
    }
    return count(*calls[row.pass_], 2 * prod(row.y_shape) * prod(row.f_shape[:-1]))


def main() -> int:
    """Print a line for each launch, and one for each call."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu.traffic", description=__doc__)
    parser.add_argument("part", nargs="?", default="")
    parser.add_argument("--algorithm", default="direct")
    args = parser.parse_args()
    ours.start(small=True)
    head = f"{'':44}{'read':>10}{'written':>10}{'at least':>10}{'floor':>10}{'over':>6}"
    print(f"{head}{'ops/byte':>9}")
    for case in (*CASES, *DENSE):
        for pass_ in PASSES:
            for layout in LAYOUTS:
                name = f"{case.name} {pass_} {layout}"
                if args.part not in name:
                    continue
                found = count_row(Row(case, BATCH, pass_), layout, args.algorithm)
                for e in found.launches:
                    least = e.least_read + e.least_written
                    kernel = e.kernel.partition("<")[0]
                    print(f"  {kernel:42}{e.read:10}{e.written:10}{least:10}")
                intensity = found.operations / found.moved
                read = sum(e.read for e in found.launches)
                print(
                    f"{name:44}{read:10}{found.moved - read:10}{'':10}{found.floor:10}"
                    f"{found.over:6.2f}{intensity:9.2f}"
                )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
