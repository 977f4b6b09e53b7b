"""CUDA C for CuPy, compiled by it on first use. The sources lie beside this file.

Nothing here imports CuPy before a kernel is asked for.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

OPTIONS = ("--std=c++17",)


_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.M)


@cache
def source(name: str) -> str:
    """The text of a source file, with our own headers in it.

    CuPy's cache of compiled kernels looks at the text alone: a header that changes must change it.
    """
    folder = files(__name__)
    text = folder.joinpath(f"{name}.cu").read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda found: folder.joinpath(found[1]).read_text(encoding="utf-8"), text)


@lru_cache(maxsize=512)
def kernel(name: str, instance: str) -> Any:
    """An instance of a template in a source file; CuPy loads it once for each device."""
    import cupy

    module = cupy.RawModule(code=source(name), options=OPTIONS, name_expressions=(instance,))
    return module.get_function(instance)
