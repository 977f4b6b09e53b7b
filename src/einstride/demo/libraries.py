"""Where the demo's arrays live: one namespace, found by the name given to ``--backend``."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple

from einstride.arrays.backends import Array
from einstride.demo.unavailable import UnavailableError


class Library(NamedTuple):
    """An array library: ``xp.asarray`` brings a NumPy array in, ``asnumpy`` brings it back."""

    name: str
    xp: Any
    asnumpy: Callable[[Array], Any]

    @property
    def module(self) -> str:
        """Its import name."""
        return str(self.xp.__name__).removeprefix("array_api_compat.")


def _numpy() -> Library:
    xp = import_module("numpy")
    return Library("NumPy", xp, xp.asarray)


def _imported(name: str, otherwise: str) -> Any:
    """A module, or `UnavailableError` with the sentence `otherwise` where it is not installed."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise  # the library is there; something that it needs is not
        raise UnavailableError(otherwise) from error


def _cupy() -> Library:
    cupy = _imported(
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
    xp = _imported(
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
    """The library of that name, or `UnavailableError` with the reason why it cannot be had."""
    return _LIBRARIES[backend]()
