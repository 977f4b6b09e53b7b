"""Find the array library for the demo by the name given to ``--backend``."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from einstride.arrays.backends import Array
from einstride.demo.unavailable import UnavailableError


class Library(NamedTuple):
    """An array library: ``xp.asarray`` converts from NumPy arrays, and ``asnumpy`` back."""

    name: str
    xp: Any
    asnumpy: Callable[[Array], Any]

    @property
    def module(self) -> str:
        """The import name of the library."""
        return str(self.xp.__name__).removeprefix("array_api_compat.")


def _numpy() -> Library:
    xp = import_module("numpy")
    return Library("NumPy", xp, xp.asarray)


def _import(name: str, error_text: str) -> Any:
    """Import a module; raise `UnavailableError` with a text if it is not installed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise  # the library is installed, but not a package it needs
        raise UnavailableError(error_text) from error


def _cupy() -> Library:
    cupy = _import(
        "cupy",
        "--backend cupy needs CuPy, which is not installed: "
        "pip install 'einstride[cuda12]' or 'einstride[cuda13]'",
    )
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise UnavailableError(
            f"--backend cupy needs an NVIDIA GPU and its driver; CUDA says {error}"
        ) from error
    if devices == 0:
        raise UnavailableError("--backend cupy needs an NVIDIA GPU; CUDA finds none")
    return Library("CuPy", import_module("array_api_compat.cupy"), cupy.asnumpy)


def _strict() -> Library:
    xp = _import(
        "array_api_strict",
        "--backend strict needs array-api-strict: pip install array-api-strict",
    )
    return Library("array-api-strict", xp, import_module("numpy").asarray)


_LIBRARIES: dict[str, Callable[[], Library]] = {
    "numpy": _numpy,
    "cupy": _cupy,
    "strict": _strict,
}


def load(backend: str) -> Library:
    """Return a library by name; raise `UnavailableError` with the reason if it cannot be used."""
    return _LIBRARIES[backend]()
