"""Compares results with the loops of `oracle`, and checks the form of error messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import einstride as es
import oracle
from einstride import calibration
from einstride._testing import use
from oracle import Case
from strategies import arrays

ALGORITHMS = ("auto", "strided", "gemm")
ROUNDING = ("fft", "winograd")  # rounds integer values, refuses integer dtypes
PARTIAL = ("direct", *ROUNDING)  # refuse some calls, with an error that names them
EVERY = (*ALGORITHMS, *PARTIAL)
PASSES = ("forward", "input_grad", "filter_grad")
FUNCTIONS = {"forward": "conv", "input_grad": "conv_input_grad", "filter_grad": "conv_filter_grad"}

PYTHON_OVERHEAD = 96 << 10
"""Bytes of Python objects (frames, tuples, views) that a call may allocate beyond its workspace.

Measured in calls of `test_workspace` by strided, gemm and fft: up to 10 KiB. The rest is a margin
for other versions of Python and NumPy. With 128 KiB or more, tests would miss the buffer of 8192
elements of complex128 through which NumPy converts dtypes.
"""


def promoted(x: str, f: str) -> str:
    """Return the documented dtype of the result of two operands."""
    kinds = {np.dtype(x).kind, np.dtype(f).kind}
    if kinds <= set("biu"):
        if np.dtype(x).itemsize == np.dtype(f).itemsize == 1 and "b" not in kinds:
            return "int32"
        return "uint64" if x == f == "uint64" else "int64"
    floating = [dtype for dtype in (x, f) if np.dtype(dtype).kind in "fc"]
    return str(np.result_type(*floating))


def same(actual: np.ndarray, expected: np.ndarray, dtype: str | None = None) -> None:
    """Check that shapes, dtypes and all values are equal.

    `expected` may be an object array of Python numbers.
    """
    dtype = dtype or str(expected.dtype)
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    np.testing.assert_array_equal(actual, expected.astype(dtype))


def agrees(
    actual: np.ndarray, expected: np.ndarray, dtype: str | None = None, algorithm: str = "auto"
) -> None:
    """Check a result: `same` for an algorithm that is exact on integers, else within a tolerance.

    The tolerance is a multiple of the unit roundoff times the largest element; with the small
    integers of the tests it is far below one half.
    """
    if algorithm not in ROUNDING or 0 in expected.shape:
        same(actual, expected, dtype)
        return
    dtype = dtype or str(expected.dtype)
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    exact_dtype = "complex128" if np.dtype(dtype).kind == "c" else "float64"
    exact, found = expected.astype(exact_dtype), actual.astype(exact_dtype)
    sum_dtype = "float32" if dtype == "float16" else dtype
    unit = 64 * np.finfo(sum_dtype).eps + (np.finfo(dtype).eps if sum_dtype != dtype else 0)
    assert np.abs(found - exact).max() <= unit * (np.abs(exact).max() + 4)


@contextmanager
def slow_dense_torch() -> Iterator[None]:
    """Let PyTorch be predicted slow for dense layers alone, on whatever CPU the tests run."""
    known = calibration.calibration("calibration_torch")["seconds"]
    each = {kind: 1e-6 if kind.startswith("dense") else 1e-15 for kind in known["multiply_add"]}
    with use(calibration={"calibration_torch": {"seconds": {**known, "multiply_add": each}}}):
        yield


@contextmanager
def unless_refused(algorithm: str) -> Iterator[None]:
    """Let the block end early if one of the `PARTIAL` algorithms refuses the call, in its own
    name."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        if algorithm not in PARTIAL or f"algorithm={algorithm!r} cannot do this" not in text:
            raise
        well_formed(text.partition(":")[0], text, f"{algorithm}: ")


def result_unless_refused(function: Callable[..., Any], algorithm: str, dtype: str) -> Any:
    """Return the result of ``function()``, or None if the algorithm refuses the call.

    Fails if an algorithm of `ROUNDING` accepts integers, or refuses without naming its reason.
    """
    result = None
    with unless_refused(algorithm):
        result = function()
        assert not (algorithm in ROUNDING and np.dtype(dtype).kind in "biu")
    return result


def is_unsupported(function: Callable[..., Any], algorithm: str, dtype: str) -> bool:
    """True if the algorithm refuses the call `function()`, with an error that names its reason."""
    return algorithm in PARTIAL and result_unless_refused(function, algorithm, dtype) is None


def operands(
    which: str, case: Case, x: np.ndarray, f: np.ndarray, gy: np.ndarray
) -> tuple[Callable[..., Any], tuple[Any, ...], tuple[np.ndarray, np.ndarray]]:
    """Return for a pass: the public function, its positional arguments, and the loops' two
    arrays."""
    args, pair = {
        "forward": ((x, f), (x, f)),
        "input_grad": ((gy, f, case.input_size), (gy, f)),
        "filter_grad": ((x, gy, case.kernel_size), (x, gy)),
    }[which]
    return getattr(es, FUNCTIONS[which]), args, pair


def check_pass(
    backend: Any, which: str, case: Case, dtype: str, seed: int, **keywords: Any
) -> None:
    """Compare a pass of einstride with the loops: bit by bit where the algorithm is exact."""
    function, args, pair = operands(which, case, *arrays(case, dtype, seed))
    algorithm = keywords.get("algorithm", "auto")
    result = result_unless_refused(
        lambda: backend(function, *args, **(case.keywords | keywords)), algorithm, dtype
    )
    if result is not None:
        expected = oracle.PASSES[which](*pair, case)
        agrees(result, expected, promoted(dtype, dtype), algorithm)


@contextmanager
def refused(
    function: str, kind: Any = (ValueError, TypeError), says: str = ""
) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Check that the block raises exactly `kind`, as 'function: rule; values got; remedy'."""
    with pytest.raises(kind) as caught:
        yield caught
    kinds = kind if isinstance(kind, tuple) else (kind,)
    assert type(caught.value) in kinds, repr(caught.value)
    well_formed(function, str(caught.value), says)


def well_formed(function: str, text: str, says: str = "") -> None:
    """Check that an error text has the form 'function: rule; values got; remedy', and holds
    `says`."""
    assert re.search(rf"^{re.escape(function)}: .+; .*\bgot\b.+; .+", text, re.DOTALL), text
    assert says.lower() in text.lower(), f"{says!r} is not in {text!r}"
