"""Kernels in CUDA C for CuPy arrays, compiled by CuPy on first use, and what launches them.

What may enter: sources in CUDA C, a Python module for the launches of each, and calls of cuBLAS.
Nothing here imports CuPy before a kernel is asked for.
Start with `gathered_gemm`, which launches `tiles.cu`, the product behind most kernels of `direct`.
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
    """The text of a source file, with our own headers in it.

    CuPy's cache of compiled kernels looks at the text alone: a header that changes must change it.
    """
    return _text(f"{name}.cu")


def _text(file: str) -> str:
    """A file, with the shared files that it includes in their places."""
    text = files(__name__).joinpath(file).read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda m: _text(m[1]), text)


@cached(512, "code")
def _function(name: str, instance: str) -> Any:
    import cupy

    module = cupy.RawModule(code=source(name), options=OPTIONS, name_expressions=(instance,))
    return module.get_function(instance)


@cached(512, "code")
def _loaded(name: str, instance: str, device: int) -> Any:
    """The instance on a device; CuPy compiles it once and loads it for each device."""
    import cupy

    refuse_capture(f"the kernel {instance}", cupy)
    return _function(name, instance)


def kernel(name: str, instance: str) -> Any:
    """An instance of a template in a source file, for the current device."""
    from cupy.cuda import runtime

    return _loaded(name, instance, runtime.getDevice())
