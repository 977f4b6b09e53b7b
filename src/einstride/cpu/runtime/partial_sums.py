"""Add the partial sums that the chunks of a kernel leave, in order."""

from __future__ import annotations

from typing import Any

import numpy as np

from einstride.cpu.runtime.operands import packed
from einstride.cpu.runtime.recording import Recording


def add_partial_sums(sums: Any, out: Any, launch: Any) -> None:
    """Compute out (...) = the sum over the first axis of sums (n, ...), in the order of that axis.

    The sum is formed in `out`, by one call of NumPy, if both are contiguous and of one dtype;
    otherwise in the first of the sums: NumPy's reduction of other arrays allocates memory.
    """
    if isinstance(launch, Recording):
        launch.add(sums, out)
        return
    if len(sums) > 1 and out.dtype == sums.dtype and packed(out) and packed(sums):
        np.add.reduce(sums, axis=0, out=out)
        return
    total = sums[0]
    for term in sums[1:]:
        total += term
    out[...] = total
