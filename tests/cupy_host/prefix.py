"""Precompiles the headers that almost every CuPy kernel includes, which halves compile times."""

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
    """Return options of g++ for the precompiled header; none if `source` does not begin like it."""
    if not source.startswith(_CUPY_HEADERS):
        return []
    target = cached("prefix", [compiler_identity("g++"), wheel, *flags], "")
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=cache_directory()) as scratch:
            made = Path(scratch) / target.name
            made.mkdir()
            header = made / "prefix.h"
            header.write_text(f'#include "cuda_shim.h"\n{_CUPY_HEADERS}')
            run(["g++", *flags, "-x", "c++-header", "-o", f"{header}.gch", str(header)])
            try:
                os.rename(made, target)
            except OSError:  # another process made it first
                if not target.exists():
                    raise
    return ["-include", str(target / "prefix.h")]
