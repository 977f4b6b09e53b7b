"""Runs OpenCV on image planes that keep their size, with one filter per plane, also separable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.case import Row
from bench.data import Arrays
from bench.options import Options
from bench.peers import Unsupported, Variant


def start(options: Options) -> dict[str, str]:
    """Import OpenCV and fix its threads."""
    import cv2

    cv2.setNumThreads(options.threads)
    return {"opencv": cv2.__version__}


def builders(row: Row) -> dict[str, Callable[[Arrays], Variant]]:
    """List the variants: filter2D, and sepFilter2D if the filter of the case is a product."""
    plain = all(s == 1 for s in row.stride) and all(d == 1 for d in row.dilation)
    same = all(
        low == high == (k - 1) / 2 for (low, high), k in zip(row.pads, row.case.kernel, strict=True)
    )
    if row.rank > 2 or row.case.channels != 1 or row.case.filters != 1:
        raise Unsupported("planes only")
    if not plain or not same or row.pass_ == "filter_grad":
        raise Unsupported("stride 1 at the same size only, no filter gradient")
    if row.result_dtype not in ("float32", "float64"):
        raise Unsupported(f"no {row.result_dtype} sums")
    ways = {"filter2D": lambda arrays: _build(row, arrays, separable=False)}
    if row.case.filter_values == "gaussian":
        ways["sepFilter2D"] = lambda arrays: _build(row, arrays, separable=True)
    return ways


def _build(row: Row, arrays: Arrays, separable: bool) -> Variant:
    import cv2

    depth = {"float32": cv2.CV_32F, "float64": cv2.CV_64F}[row.result_dtype]
    operand = arrays.x if row.pass_ == "forward" else arrays.gy
    lift = row.rank == 1
    planes = [np.ascontiguousarray(plane[..., 0]) for plane in operand]
    planes = [plane[None] for plane in planes] if lift else planes
    f = arrays.f[..., 0, 0]
    f = np.ascontiguousarray(np.flip(f) if row.pass_ == "input_grad" else f)
    f = f[None] if lift else f
    border = {"borderType": cv2.BORDER_CONSTANT}  # its default value is zero
    if separable:
        # the two factors of a separable filter follow from its sums
        down, across = f.sum(1) / f.sum(), f.sum(0)
        down, across = (np.ascontiguousarray(v) for v in (down, across))

        def run() -> list[np.ndarray]:
            return [cv2.sepFilter2D(p, depth, across, down, **border) for p in planes]
    else:

        def run() -> list[np.ndarray]:
            return [cv2.filter2D(p, depth, f, **border) for p in planes]

    def answer(result: Any) -> np.ndarray:
        stacked = np.stack(result)[..., None]
        return stacked[:, 0] if lift else stacked

    return Variant(run, answer)
