"""Find out whether a filter is a product of one filter for each axis."""

from __future__ import annotations

from typing import Any

import numpy as np

ROUNDOFF = 4
"""Units in the last place, of the largest tap, by which the product of the factors may differ from
each tap. The factors are slices of the filter itself, each rounded once."""


def factors(f: Any) -> list[Any] | None:
    """Return one array for each axis whose outer product is f, within rounding; None if none are.

    f is an array of NumPy of floats. The slices through its largest tap are the factors of every
    outer product.
    """
    if f.ndim < 2 or f.size == 0 or not np.isfinite(f).all():
        return None
    top = np.unravel_index(np.argmax(abs(f)), f.shape)
    largest = f[top]
    if largest == 0:
        return None
    found = []
    for axis in range(f.ndim):
        line = f[(*top[:axis], slice(None), *top[axis + 1 :])]
        found.append(line if axis == 0 else line / largest)
    whole = found[0]
    for line in found[1:]:
        whole = whole[..., None] * line
    close = abs(whole - f).max() <= ROUNDOFF * np.finfo(f.dtype).eps * abs(largest)
    return found if close else None


def worth_passes(shape: tuple[int, ...]) -> bool:
    """True if one pass for each axis takes fewer products than one pass over all, by far enough.

    A further pass reads and writes the array once more, in the time of some ten products.
    """
    taps = 1
    for n in shape:
        taps *= n
    return taps > sum(shape) + 10 * (len(shape) - 1)


def describe(shape: tuple[int, ...], passes: list[Any] | None) -> str:
    """Describe in a sentence how a filter will run."""
    if passes is None:
        return f"one pass over {shape}"
    return f"{len(passes)} passes, of {', '.join(str(len(p)) for p in passes)} taps"
