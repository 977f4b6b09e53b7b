"""Runs einstride on CuPy arrays, channels_last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.case import Row
from bench.gpu.timing import Clock, EventClock

NAME = "einstride"


def start(small: bool) -> tuple[Clock, dict[str, str]]:
    """Return the clock and the versions; in small sizes on the host emulation."""
    if small:
        import sys
        from pathlib import Path

        sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
        import cupy_host

        cupy_host.install()
    import cupy

    import einstride

    versions = {"einstride": einstride.__version__, "cupy": cupy.__version__}
    return EventClock(cupy.cuda.Event, cupy.cuda.get_elapsed_time), versions


def variants(row: Row) -> list[str]:
    """List the variants of a row: algorithms, and TF32, which a call must allow."""
    found = ["auto", "direct", "gemm"] if row.case.groups == 1 else ["auto", "direct"]
    if row.case.group == "large filters":
        found.append("fft")
    elif row.case.channels > row.case.groups and row.case.dtype != "complex64":
        found.append("implicit_gemm")
        found += ["implicit_gemm tf32"] * (row.case.dtype == "float32")
    return found


def prepare(
    row: Row, variant: str, arrays: dict[str, Any], sets: int, **more: Any
) -> Callable[[int], Any]:
    """Return a function of the number of a set of arrays, which starts a call and returns its
    result."""
    import cupy

    import einstride as es

    def of(name: str) -> list[Any]:
        kind = row.case.dtype
        if kind == "bfloat16":
            import ml_dtypes

            kind = ml_dtypes.bfloat16
        one = cupy.asarray(arrays[name].astype(kind))
        return [one, *(one.copy() for _ in range(sets - 1))]

    algorithm, _, accuracy = variant.partition(" ")
    k = {
        "stride": row.stride,
        "padding": row.pads,
        "dilation": row.dilation,
        "groups": row.case.groups,
        "algorithm": algorithm,
        "accuracy": accuracy or "normwise",
        **more,
    }
    size, kernel = row.case.size, row.case.kernel
    if row.pass_ == "forward":
        a, b = of("x"), of("f")
        return lambda i: es.conv(a[i], b[i], **k)
    if row.pass_ == "input_grad":
        a, b = of("gy"), of("f")
        return lambda i: es.conv_input_grad(a[i], b[i], size, **k)
    a, b = of("x"), of("gy")
    return lambda i: es.conv_filter_grad(a[i], b[i], kernel, **k)


def checksum(result: Any) -> float:
    """Return the sum of magnitudes, in float64."""
    whole = result.get()
    whole = whole if whole.dtype.kind == "c" else whole.astype("float64")
    return float(np.abs(whole).sum(dtype="float64"))
