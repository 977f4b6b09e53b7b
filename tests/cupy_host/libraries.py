"""CuPy asks `cuda.pathfinder` for CUDA's libraries and headers: here it is answered."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace

from .build import SOURCES
from .faults import NotProvided
from .host import Host

# CuPy looks for these on its own account, whether or not a program uses them.
_PROBED = {"nvrtc", "cudart", "nccl", "cutensor", "cutensornet"}


def answer_pathfinder(host: Host, loaders: dict[str, Callable[[], ctypes.CDLL]]) -> None:
    """Libraries come from `loaders`, each on first use; any other is refused by name."""
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
