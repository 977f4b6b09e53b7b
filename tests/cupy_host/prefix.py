"""Precompiles the headers that kernels include, which halves compile times.

They are the shim of the host, and those that almost every kernel of CuPy's own includes.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .build import cache_directory, cached, compiler_identity, run

_CUPY_HEADERS = "".join(
    f"#include <cupy/{name}>\n"
    for name in ("complex.cuh", "carray.cuh", "atomics.cuh", "math_constants.h")
)


def prefix_options(source: str, flags: Sequence[str], wheel: str) -> list[str]:
    """Return options of g++ for the precompiled header of a source."""
    headers = _CUPY_HEADERS if source.startswith(_CUPY_HEADERS) else ""
    text = f'#include "cuda_shim.h"\n{headers}'
    target = cached("prefix", [compiler_identity("g++"), wheel, *flags, text], "")
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache_directory()) as scratch:
            made = Path(scratch) / target.name
            made.mkdir()
            header = made / "prefix.h"
            header.write_text(text)
            run(["g++", *flags, "-x", "c++-header", "-o", f"{header}.gch", str(header)])
            try:
                os.rename(made, target)
            except OSError:  # another process made it first
                if not target.exists():
                    raise
    return ["-include", str(target / "prefix.h")]
