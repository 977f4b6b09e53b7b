"""Compares predicted workspace with what calls take: ``python -m bench.predicted``.

Each row is a layer, a pass and an algorithm. Predicted is the workspace of the plan; used is the
most memory of NumPy's arrays, beyond operands and result, of a call whose plan and tables exist:
all workspace of compiled kernels is memory of such arrays. Tables of offsets, which `direct` keeps
between calls, count in the prediction alone, so that its small rows exceed the bound. Rows in which
both are below `SMALL` are left out of the summary: there Python's own objects count. The prediction
holds if it is from 1 to `MOST` times what is used.
"""

from __future__ import annotations

import argparse
import gc
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import einstride as es
from bench import cases

MOST = 1.25
SMALL = 1 << 17
ALGORITHMS = ("auto", "direct", "gemm", "fft", "winograd", "strided")
PASSES = ("forward", "input_grad", "filter_grad")
SLOW = 1.5
"""Predicted seconds from which on an algorithm is not run: a quarter of the rows would take
minutes."""
LARGE = 3 << 30
"""Bytes of operands, result and workspace from which on a row is not run."""


class Layer(NamedTuple):
    """Shapes, channels last, and the keywords of one convolution."""

    name: str
    x: tuple[int, ...]
    f: tuple[int, ...]
    dtype: str
    keywords: dict[str, Any]
    passes: tuple[str, ...] = PASSES
    filter_dtype: str | None = None


class Found(NamedTuple):
    """One row of the table."""

    layer: str
    pass_: str
    algorithm: str
    predicted: int
    used: int

    @property
    def small(self) -> bool:
        return max(self.predicted, self.used) < SMALL

    @property
    def ratio(self) -> float:
        return self.predicted / max(self.used, 1)

    @property
    def holds(self) -> bool:
        return self.small or (self.used <= self.predicted + (1 << 14) and self.ratio <= MOST)


def rows_of_the_benchmark() -> Iterator[Layer]:
    """List the layers of `bench.cases`, at their first batch."""
    for case in cases.CASES:
        row = cases.Row(case, case.batches[0], case.passes[0])
        yield Layer(case.name, row.x_shape, row.f_shape, case.dtype, row.keywords, case.passes,
                    case.filter_dtype)  # fmt: skip


def large_filters() -> Iterator[Layer]:
    """List large filters and templates: square, along a line, and in volumes."""
    for size in (128, 512, 2048):
        for kernel in (15, 31, 101, 401):
            if kernel > size:
                continue
            for channels, groups in ((1, 1), (3, 1), (8, 1), (8, 8)):
                if channels > 1 and size * kernel > 512 * 101:
                    continue
                for dtype in ("float32", "float64", "complex64"):
                    if dtype != "float32" and (channels > 1 or size * kernel > 2048 * 101):
                        continue
                    yield Layer(
                        f"{kernel}x{kernel} on {size}x{size}, {channels} ch / {groups} {dtype}",
                        (1, size, size, channels), (kernel, kernel, channels // groups, channels),
                        dtype, {"padding": "same", "groups": groups},
                    )  # fmt: skip
    for dtype in ("float32", "float64", "complex64"):
        yield Layer(
            f"template of 900 in 1000 {dtype}", (1, 1000, 1000, 1), (900, 900, 1, 1), dtype, {}
        )
        for n in (10**4, 10**6, 10**7):
            for taps in (64, 1000, 10_000, 200_000):
                if taps < n:
                    yield Layer(f"{taps} taps on {n} {dtype}", (1, n, 1), (taps, 1, 1), dtype,
                                {"padding": "same"})  # fmt: skip
        for kernel in (5, 9, 31):
            yield Layer(f"{kernel} cubed on 64 cubed {dtype}", (1, 64, 64, 64, 1),
                        (kernel,) * 3 + (1, 1), dtype, {"padding": "same"})  # fmt: skip


def borders() -> Iterator[Layer]:
    """List layers with borders other than zeros, and other memory orders."""
    for mode in ("reflect", "replicate", "circular", "symmetric"):
        keywords = {"padding": "same", "padding_mode": mode}
        yield Layer(f"3x3, 32 ch, {mode}", (2, 128, 128, 32), (3, 3, 32, 32), "float32", keywords)
        yield Layer(f"31x31, {mode}", (1, 1024, 1024, 1), (31, 31, 1, 1), "float32", keywords)
        yield Layer(f"1000 taps, {mode}", (1, 10**6, 1), (1000, 1, 1), "float32", keywords)
    keywords = {"padding": "same", "padding_mode": "constant", "fill": 3}
    yield Layer("31x31, constant", (1, 1024, 1024, 1), (31, 31, 1, 1), "float32", keywords)
    yield Layer("7 taps, constant", (1, 10**6, 1), (7, 1, 1), "float32", keywords)


FAMILIES: dict[str, Callable[[], Iterator[Layer]]] = {
    "benchmark": rows_of_the_benchmark,
    "filters": large_filters,
    "borders": borders,
}


def calls(layer: Layer, pass_: str) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """Return the function of a pass, its arguments, and those of the plan."""
    x, f = np.ones(layer.x, layer.dtype), np.ones(layer.f, layer.filter_dtype or layer.dtype)
    if pass_ == "forward":
        return es.conv, (x, f), {}
    plan = es.plan(x, f, **layer.keywords)
    gy = np.ones(plan.output_shape, layer.dtype)
    size, kernel = layer.x[1:-1], layer.f[:-2]
    if pass_ == "input_grad":
        return es.conv_input_grad, (gy, f, size), {"input_size": size}
    return es.conv_filter_grad, (x, gy, kernel), {"kernel_size": kernel}


def measure(layer: Layer, pass_: str) -> Iterator[Found]:
    """Measure the algorithms that can do one pass of a layer in a short time."""
    function, given, sizes = calls(layer, pass_)
    arguments = {"direction": pass_, **sizes, **layer.keywords}
    for algorithm in ALGORITHMS:
        try:
            plan = es.plan(*given[:2], algorithm=algorithm, **arguments)
        except ValueError:
            continue  # the algorithm cannot do this; the plan says why
        seconds = next(
            c.cost.seconds for c in plan.candidates if c.cost and c.algorithm == plan.algorithm
        )
        if seconds > SLOW or plan.workspace > LARGE:
            continue

        def call(name: str = algorithm) -> Any:
            return function(*given, algorithm=name, **layer.keywords)

        shown = f"auto: {plan.algorithm}" if algorithm == "auto" else algorithm
        yield Found(layer.name, pass_, shown, plan.workspace, used(call))


def used(call: Callable[[], Any]) -> int:
    """Return the peak bytes of NumPy's arrays in the third call, beyond its result."""
    call(), call()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        result = call()
        return int(tracemalloc.get_traced_memory()[1] - before - result.nbytes)
    finally:
        tracemalloc.stop()


def table(rows: list[Found]) -> str:
    """Format the rows that have a workspace worth mention."""
    lines = ["| layer | pass | algorithm | predicted | used | predicted / used |",
             "|---|---|---|---:|---:|---:|"]  # fmt: skip
    for r in rows:
        if not r.small:
            mark = "" if r.holds else " !"
            lines.append(
                f"| {r.layer} | {r.pass_} | {r.algorithm} | {r.predicted / 2**20:.2f} MiB | "
                f"{r.used / 2**20:.2f} MiB | {r.ratio:.2f}{mark} |"
            )
    return "\n".join(lines) + "\n"


def summary(rows: list[Found]) -> str:
    """Say how many predictions hold."""
    large = [r for r in rows if not r.small]
    below = sum(r.used > r.predicted + (1 << 14) for r in large)
    above = sum(r.ratio > MOST for r in large)
    return (
        f"{len(rows)} calls, of which {len(large)} take or predict {SMALL >> 10} KiB or more; of "
        f"these {below} take more than predicted, {above} take less than predicted / {MOST}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--family", choices=FAMILIES, action="append", help="by default all")
    parser.add_argument("--layer", default="", help="part of the layers' names")
    parser.add_argument("--faults", action="store_true", help="print only predictions that fail")
    parser.add_argument("--markdown", type=Path, help="the file for the table")
    given = parser.parse_args()
    rows: list[Found] = []
    for family in given.family or FAMILIES:
        for layer in FAMILIES[family]():
            if given.layer in layer.name:
                for pass_ in layer.passes:
                    for row in measure(layer, pass_):
                        rows.append(row)
                        if not (given.faults and row.holds):
                            print(*row, f"{row.ratio:.2f}", "" if row.holds else "!", flush=True)
    print(summary(rows))
    if given.markdown:
        shown = [r for r in rows if not (given.faults and r.holds)]
        text = f"# Predicted workspace: `python -m bench.predicted`\n\n{summary(rows)}\n\n"
        given.markdown.write_text(text + table(shown), encoding="utf-8")


if __name__ == "__main__":
    main()
