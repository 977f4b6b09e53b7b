"""Replaces the functions of `cuda.pathfinder` by which CuPy finds CUDA's libraries and headers."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace

from .build import SOURCES
from .faults import NotProvided
from .host import Host

# Libraries that CuPy always looks for, whether or not a program uses them.
_PROBED = {"nvrtc", "cudart", "nccl", "cutensor", "cutensornet"}


def answer_pathfinder(host: Host, loaders: dict[str, Callable[[], ctypes.CDLL]]) -> None:
    """Loads libraries by `loaders`, each at its first use, and refuses others by name."""
    from cuda import pathfinder

    loaded: dict[str, ctypes.CDLL] = {}

    def load(name: str) -> SimpleNamespace:
        if name not in loaders:
            refusal = NotProvided(f"the library {name}")
            if name not in _PROBED:
                host.faults.append(refusal)
            raise pathfinder.DynamicLibNotFoundError(str(refusal))
        if name not in loaded:
            loaded[name] = loaders[name]()
        library = loaded[name]
        return SimpleNamespace(_handle_uint=library._handle, abs_path=library._name)

    pathfinder.load_nvidia_dynamic_lib = load
    pathfinder.find_nvidia_header_directory = lambda name: str(SOURCES)
