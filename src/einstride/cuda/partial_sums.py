"""Launches the sum of parts.cu."""

from __future__ import annotations

from typing import Any

from einstride.cuda import kernel
from einstride.cuda.axis_map import packed, steps
from einstride.cuda.im2col import SOURCES

MAX_AXES = 14
WIDTH = 32


def sum_parts(parts: Any, out: Any) -> None:
    """Add `parts` (P, N) along P in a fixed order; `out` has N elements, in any memory order."""
    lengths, moves = list(out.shape), steps(out)
    pad = [0] * (MAX_AXES - out.ndim)
    fields = [parts.shape[0], out.size, out.ndim, *lengths, *pad, *moves, *pad]
    names = (SOURCES[str(a.dtype.name)] for a in (parts, out))
    function = kernel("parts", f"sum_parts<{', '.join(names)}>")
    function((-(-out.size // WIDTH),), (WIDTH * 8,), (parts, out, packed(fields)))
