"""Finds the installed CuPy wheel, and lists the wheels that the host supports."""

from __future__ import annotations

import functools
import os
import shutil
from dataclasses import dataclass
from importlib import metadata

SERVED = "14.2."


@dataclass(frozen=True)
class Wheel:
    """Hold an installed wheel and the libraries that it is linked against."""

    name: str
    version: str
    cuda: int
    cublas: str
    cufft: str


_LINKED = {
    12: {"cublas": "libcublas.so.12", "cufft": "libcufft.so.11"},
    13: {"cublas": "libcublas.so.13", "cufft": "libcufft.so.12"},
}


@functools.lru_cache(maxsize=1)
def installed_wheel() -> Wheel:
    """Return the installed CuPy wheel; raise RuntimeError if there is none that is supported."""
    found = {}
    for name in ("cupy-cuda12x", "cupy-cuda13x", "cupy-cuda11x", "cupy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if not found:
        raise RuntimeError("cupy_host: CuPy is not installed; install cupy-cuda12x==14.2.0")
    if len(found) > 1:
        raise RuntimeError(f"cupy_host: more than one CuPy is installed: {sorted(found)}")
    [(name, version)] = found.items()
    cuda = {"cupy-cuda12x": 12, "cupy-cuda13x": 13}.get(name)
    if cuda is None or not version.startswith(SERVED):
        raise RuntimeError(
            f"cupy_host: serves cupy-cuda12x and cupy-cuda13x {SERVED}*, not {name} {version}"
        )
    return Wheel(name, version, cuda, **_LINKED[cuda])


def unavailable_reason() -> str | None:
    """Return why the host cannot or should not be installed, for a test's skip; else None."""
    if os.environ.get("CUPY_HOST") == "0":
        return "CUPY_HOST=0 forbids the host"
    if os.path.exists("/dev/nvidia0"):
        return "this machine has a GPU (/dev/nvidia0): CuPy runs on it for real"
    if shutil.which("g++") is None:
        return "g++ is not installed"
    try:
        installed_wheel()
    except RuntimeError as error:
        return str(error)
    return None
