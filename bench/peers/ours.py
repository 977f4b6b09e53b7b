"""Runs einstride in both layouts: the plain functions, and forward also a prepared `Conv`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench.case import Row
from bench.data import Arrays
from bench.layouts import CHANNELS_FIRST, CHANNELS_LAST
from bench.options import Options
from bench.peers import Unsupported, Variant

PREPARED = "Conv (prepared)"
PLAIN = "function"
FIRST = ", channels_first"
"""The end of the names of variants with channels_first arrays; the others are channels_last."""

_options = Options()


def start(options: Options) -> dict[str, str]:
    """Import einstride."""
    global _options
    _options = options
    import einstride

    return {
        "einstride": getattr(einstride, "__version__", "unknown"),
        "numpy": np.__version__,
    }


def builders(row: Row) -> dict[str, Callable[[Arrays], Variant]]:
    """List the variants: the function of the pass; forward also a prepared `Conv`, as peers
    prepare. Each of them in both layouts."""
    ways: dict[str, Callable[[Arrays], Variant]] = {}
    for end, first in (("", False), (FIRST, True)):
        ways[PLAIN + end] = partial(_build, row, _plain, first)
        if row.pass_ == "forward":
            ways[PREPARED + end] = partial(_build, row, _prepared, first)
    return ways


def plain_call(
    row: Row, arrays: Arrays, algorithm: str, layout: str = CHANNELS_LAST
) -> Callable[[], Any]:
    """Return a call of the public function of the row's pass, with arrays in a layout."""
    import einstride as es

    keywords: dict[str, Any] = {**row.keywords, "algorithm": algorithm, "layout": layout}
    if row.pass_ == "forward":
        return lambda: es.conv(arrays.x, arrays.f, **keywords)
    if row.pass_ == "input_grad":
        return lambda: es.conv_input_grad(arrays.gy, arrays.f, row.case.size, **keywords)
    return lambda: es.conv_filter_grad(arrays.x, arrays.gy, row.case.kernel, **keywords)


def gemm(dtype: str, size: int) -> Callable[[], Any]:
    """Return a call of NumPy's matrix product."""
    a = np.ones((size, size), dtype)
    return lambda: a @ a


def _build(
    row: Row, make: Callable[[Row, Arrays, str], Callable[[], Any]], first: bool, arrays: Arrays
) -> Variant:
    if not first:
        return _variant(row, lambda: make(row, arrays, CHANNELS_LAST), lambda result: result)
    f = np.ascontiguousarray(np.moveaxis(arrays.f, (-1, -2), (0, 1)))
    x, gy = (np.ascontiguousarray(np.moveaxis(a, -1, 1)) for a in (arrays.x, arrays.gy))

    def to_last(result: np.ndarray) -> np.ndarray:
        if row.pass_ == "filter_grad":
            return np.moveaxis(result, (0, 1), (-1, -2))
        return np.moveaxis(result, 1, -1)

    return _variant(row, lambda: make(row, Arrays(x, f, gy), CHANNELS_FIRST), to_last)


def _plain(row: Row, arrays: Arrays, layout: str) -> Callable[[], Any]:
    return plain_call(row, arrays, _options.algorithm, layout)


def _prepared(row: Row, arrays: Arrays, layout: str) -> Callable[[], Any]:
    import einstride as es

    layer = es.Conv(arrays.f, **row.keywords, algorithm=_options.algorithm, layout=layout)
    return lambda: layer(arrays.x)


def _variant(
    row: Row, make: Callable[[], Callable[[], Any]], to_last: Callable[[np.ndarray], np.ndarray]
) -> Variant:
    if _options.algorithm == "auto":
        run = make()
    else:
        try:
            run = make()
            run()
        except ValueError as error:  # an algorithm chosen by name runs or raises
            raise Unsupported(str(error)) from error

    def answer(result: Any) -> np.ndarray:
        expected = row.result_dtype
        if result.dtype != expected:
            raise TypeError(f"the answer is {result.dtype}, promised is {expected}")
        return to_last(result)

    return Variant(run, answer)
