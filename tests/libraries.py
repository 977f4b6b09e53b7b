"""Wraps each array library under test in a `Library`, so that a test is written once for all."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest

SMALL = 1 << 15
"""Largest sum of operand bytes for which a call is repeated."""


@dataclass(frozen=True)
class Library:
    """Hold an array library: its module, its conversions (which keep dtypes), and dtypes it
    lacks."""

    name: str
    xp: ModuleType
    array_type: type
    asarray: Callable[[np.ndarray], Any]
    asnumpy: Callable[[Any], np.ndarray] = np.asarray
    unsupported_dtypes: frozenset[str] = frozenset()
    check: Callable[[], None] = lambda: None  # is called after every test

    def supports(self, dtype: str) -> bool:
        return dtype not in self.unsupported_dtypes

    def __call__(self, function: Callable[..., Any], *args: Any, **keywords: Any) -> np.ndarray:
        """Call `function` with every NumPy array converted, and return the result as a NumPy array.

        Checks that the result belongs to the library, and that no input was written.
        """
        given = [a for a in (*args, *keywords.values()) if isinstance(a, np.ndarray)]
        before = [a.copy() for a in given]
        ours = {id(a): self.asarray(a) for a in given}
        args = tuple(ours.get(id(a), a) for a in args)
        keywords = {key: ours.get(id(a), a) for key, a in keywords.items()}
        result = function(*args, **keywords)
        if self.array_type is np.ndarray and sum(a.nbytes for a in given) <= SMALL:
            self._check_repeated_calls(function, args, keywords, result)
        for old, array in zip(before, given, strict=True):
            np.testing.assert_array_equal(
                self.asnumpy(ours[id(array)]), old, "an input was written"
            )
        assert isinstance(result, self.array_type), type(result)
        return self.asnumpy(result)

    def _check_repeated_calls(self, function: Any, args: Any, keywords: Any, result: Any) -> None:
        """Check that two repeated calls return the bits of the first.

        The second call finds a plan in the call cache; the third one skips the checks (`repeated`).
        """
        for _ in range(2):
            found = function(*args, **keywords)
            assert (found.dtype, found.shape) == (result.dtype, result.shape)
            assert found.tobytes() == result.tobytes(), "a repeated call has other bits"


def _numpy() -> Library:
    """Return NumPy with read-only arrays: calls that accept these accept writeable ones too."""

    def asarray(a: np.ndarray) -> np.ndarray:
        view = a.view()
        view.flags.writeable = False
        return view

    return Library("numpy", np, np.ndarray, asarray)


def _strict() -> Library:
    xp = importlib.import_module("array_api_strict")
    return Library(
        "strict",
        xp,
        type(xp.asarray(0)),
        lambda a: xp.asarray(a, copy=True),
        unsupported_dtypes=frozenset({"float16"}),
    )


def _cupy() -> Library:
    xp = importlib.import_module("cupy")
    if not xp.cuda.is_available():
        raise ImportError("cupy finds no CUDA device")
    return Library("cupy", xp, xp.ndarray, xp.asarray, xp.asnumpy)


def _cupy_host() -> Library:
    cupy_host = importlib.import_module("cupy_host")
    if reason := cupy_host.unavailable_reason():
        raise ImportError(reason)
    host = cupy_host.install()
    xp = importlib.import_module("cupy")
    return Library("cupy-host", xp, xp.ndarray, xp.asarray, xp.asnumpy, check=host.check)


def _torch() -> Library:
    xp = importlib.import_module("torch")
    unsupported = frozenset({"uint16", "uint32", "uint64"})
    return Library(
        "torch", xp, xp.Tensor, lambda a: xp.from_numpy(a.copy()), lambda t: t.numpy(), unsupported
    )


def _jax() -> Library:
    importlib.import_module("jax").config.update("jax_enable_x64", True)
    xp = importlib.import_module("jax.numpy")
    return Library("jax", xp, importlib.import_module("jax").Array, xp.asarray)


def _dask() -> Library:
    xp = importlib.import_module("dask.array")
    return Library("dask", xp, xp.Array, xp.asarray, lambda a: a.compute())


LIBRARIES: dict[str, Callable[[], Library]] = {
    "numpy": _numpy,
    "strict": _strict,
    "cupy-host": _cupy_host,
    "cupy": _cupy,
    "torch": _torch,
    "jax": _jax,
    "dask": _dask,
}
DEFAULT = ("numpy", "strict")


def load(name: str) -> Library:
    """Return the library of this name, or skip the test with the reason."""
    try:
        return LIBRARIES[name]()
    except ImportError as error:
        pytest.skip(f"backend {name}: {error}")
