"""CUDA C kernels for CuPy arrays, compiled by CuPy, and the modules that launch them.

What may enter: CUDA C sources, a Python module that launches each of them, and calls of cuBLAS.
No module here imports CuPy before a kernel is launched.
Start with `gathered_gemm`, which launches `tiles.cu`, the matrix product for most shapes of
`direct`.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Any

from einstride.cuda.capture import refuse_capture
from einstride.support.caches import cached

OPTIONS = ("--std=c++17",)


_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)


@cached(32, "code")  # all source files: there are 7
def source(name: str) -> str:
    """Return the text of a source file, with the headers of this folder inserted.

    CuPy's cache of compiled kernels is keyed by the text alone, so headers must be part of it.
    """
    return _text(f"{name}.cu")


def _text(file: str) -> str:
    """Return the text of a file, with its includes replaced by the headers of this folder."""
    text = files(__name__).joinpath(file).read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda m: _text(m[1]), text)


@cached(512, "code")
def _function(name: str, instance: str) -> Any:
    import cupy

    module = cupy.RawModule(code=source(name), options=OPTIONS, name_expressions=(instance,))
    return module.get_function(instance)


@cached(512, "code")
def _loaded(name: str, instance: str, device: int) -> Any:
    """Load a template instance on a device; CuPy compiles it once and loads it for each device."""
    import cupy

    refuse_capture(f"the kernel {instance}", cupy)
    return _function(name, instance)


def kernel(name: str, instance: str) -> Any:
    """Return an instance of a kernel template in a source file, for the current device."""
    from cupy.cuda import runtime

    return _loaded(name, instance, runtime.getDevice())
