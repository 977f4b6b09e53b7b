"""Launch parts.cu, which adds up partial sums."""

from __future__ import annotations

from typing import Any

from einstride.cuda import kernel
from einstride.cuda.axis_map import as_struct, strides
from einstride.cuda.im2col import SOURCES

MAX_AXES = 14  # of `out`, as in parts.cu
WIDTH = 32  # columns of a block, as in parts.cu


def sum_parts(parts: Any, out: Any) -> None:
    """Sum `parts` (P, N) over P in a fixed order into `out`, with N elements and any strides."""
    lengths, out_strides = list(out.shape), strides(out)
    pad = [0] * (MAX_AXES - out.ndim)
    fields = [parts.shape[0], out.size, out.ndim, *lengths, *pad, *out_strides, *pad]
    names = (SOURCES[str(a.dtype.name)] for a in (parts, out))
    function = kernel("parts", f"sum_parts<{', '.join(names)}>")
    function((-(-out.size // WIDTH),), (WIDTH * 8,), (parts, out, as_struct(fields)))
