"""Tables of offsets: where in an array a kernel finds the element that a tap of an output meets.

A padded axis is described once, by `padded`: the element that each of its positions holds, with its
border of any mode, or -1 where a zero stands. All other tables of an axis are looked up in that
one. Elements become offsets by `placed`, which knows arrays that run backwards in memory and marks
what is outside by `OUTSIDE`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from einstride.geometry.convolution import Geometry
from einstride.geometry.padding_modes import segments

OUTSIDE = -(1 << 60)
"""An offset so negative that no sum with others becomes positive."""

ROWS = 1 << 12
"""Outputs whose offsets are looked up at once: an index of a few pages is all that a table takes
beside itself while it is made."""


def padded(g: Geometry, axis: int) -> Any:
    """The element of x that each position of a padded axis holds; -1 in a border of zeros."""
    size, (low, high) = g.size[axis], g.padding[axis]
    found = np.empty(max(size + low + high, 0), np.int64)
    for run in segments(-low, size + high, size, g.padding_mode):
        if run.step == 0:
            found[run.positions] = run.source
        else:
            found[run.positions] = np.arange(
                run.source, run.source + run.step * (run.stop - run.start), run.step
            )
    return found


def looked_up(held: Any, g: Geometry, axis: int, outputs: Any = None) -> Any:
    """(O, K) what a padded axis holds under each tap of each output, or of those given."""
    outputs = np.arange(g.out[axis]) if outputs is None else outputs
    found = np.empty((len(outputs), g.kernel[axis]), np.int64)
    k = np.arange(g.kernel[axis]) * g.dilation[axis]
    rows = max(ROWS // max(len(k), 1), 1)
    for first in range(0, len(found), rows):
        o = outputs[first : first + rows, None] * g.stride[axis]
        found[first : first + rows] = held[o + k]
    return found


def sources(g: Geometry, axis: int, outputs: Any = None) -> Any:
    """(O, K) the element of x that a tap of an output meets; -1 in a border of zeros."""
    return looked_up(padded(g, axis), g, axis, outputs)


def backwards(count: int, step: int) -> int:
    """The offset of the element of an axis that comes first in memory: 0, or negative."""
    return min((count - 1) * step, 0)


def placed(elements: Any, step: int, back: int) -> Any:
    """Elements of an axis as offsets from the one at the offset `back`; `OUTSIDE` for negative."""
    found = np.multiply(elements, step, dtype=np.int64, order="C")
    found -= back
    found[elements < 0] = OUTSIDE
    return found


def offsets(g: Geometry, axis: int, step: int, outputs: Any = None) -> tuple[Any, int]:
    """(O, K) offsets in x of the taps of each output on an axis, and what to add to its address.

    An offset is negative only in a border of zeros, also where x runs backwards in memory.
    """
    back = backwards(g.size[axis], step)
    return looked_up(placed(padded(g, axis), step, back), g, axis, outputs), back


def ranges(g: Geometry, axis: int) -> tuple[Any, Any]:
    """(K,) the first output whose tap meets an element, and one past the last; 0, 0 if none."""
    out, s, low = g.out[axis], g.stride[axis], g.padding[axis][0]
    taps = np.arange(g.kernel[axis], dtype=np.int64)
    if g.padding_mode != "zeros":
        return np.zeros_like(taps), np.full_like(taps, out)
    at = taps * g.dilation[axis] - low  # where the first output's tap lies
    first = np.maximum(-(at // s), 0)
    last = np.minimum((g.size[axis] - 1 - at) // s + 1, out)
    some = first < last
    return np.where(some, first, 0), np.where(some, last, 0)


def grid(counts: Sequence[int], steps: Sequence[int]) -> Any:
    """The offset of each element of an array with these axes, flat, in row-major order."""
    found = np.zeros(1, np.int64)
    for count, step in zip(counts, steps, strict=True):
        found = (found[:, None] + np.arange(count) * step).ravel()
    return found
