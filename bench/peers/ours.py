"""Runs einstride: the plain functions, and for the forward pass also a prepared `Conv`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.case import Row
from bench.data import Arrays
from bench.options import Options
from bench.peers import Unsupported, Variant

PREPARED = "Conv (prepared)"
PLAIN = "function"

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
    prepare."""
    ways = {PLAIN: lambda arrays: _variant(row, lambda: _plain(row, arrays))}
    if row.pass_ == "forward":
        ways[PREPARED] = lambda arrays: _variant(row, lambda: _prepared(row, arrays))
    return ways


def plain_call(row: Row, arrays: Arrays, algorithm: str) -> Callable[[], Any]:
    """Return a call of the public function of the row's pass."""
    import einstride as es

    keywords: dict[str, Any] = {**row.keywords, "algorithm": algorithm}
    if row.pass_ == "forward":
        return lambda: es.conv(arrays.x, arrays.f, **keywords)
    if row.pass_ == "input_grad":
        return lambda: es.conv_input_grad(arrays.gy, arrays.f, row.case.size, **keywords)
    return lambda: es.conv_filter_grad(arrays.x, arrays.gy, row.case.kernel, **keywords)


def gemm(dtype: str, size: int) -> Callable[[], Any]:
    """Return a call of NumPy's matrix product."""
    a = np.ones((size, size), dtype)
    return lambda: a @ a


def _plain(row: Row, arrays: Arrays) -> Callable[[], Any]:
    return plain_call(row, arrays, _options.algorithm)


def _prepared(row: Row, arrays: Arrays) -> Callable[[], Any]:
    import einstride as es

    layer = es.Conv(arrays.f, **row.keywords, algorithm=_options.algorithm)
    return lambda: layer(arrays.x)


def _variant(row: Row, make: Callable[[], Callable[[], Any]]) -> Variant:
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
        return result

    return Variant(run, answer)
