"""CUDA C for CuPy, compiled by it on first use. The sources lie beside this file.

Nothing here imports CuPy before a kernel is asked for.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

OPTIONS = ("--std=c++17",)


_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"$', re.MULTILINE)


@cache
def source(name: str) -> str:
    """The text of a source file."""
    return _text(f"{name}.cu")


def _text(file: str) -> str:
    """A file, with the shared files that it includes in their places."""
    text = files(__name__).joinpath(file).read_text(encoding="utf-8")
    return _INCLUDE.sub(lambda m: _text(m[1]), text)


@lru_cache(maxsize=512)
def kernel(name: str, instance: str) -> Any:
    """An instance of a template in a source file; CuPy loads it once for each device."""
    import cupy

    module = cupy.RawModule(code=source(name), options=OPTIONS, name_expressions=(instance,))
    return module.get_function(instance)
