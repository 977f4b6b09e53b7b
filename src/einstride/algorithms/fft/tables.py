"""Matrices of the discrete Fourier transform, with angles reduced in integers."""

from __future__ import annotations

from math import pi
from typing import TYPE_CHECKING, Any

from einstride.algorithms.fft.axes import DENSE, Positions
from einstride.support.byte_cache import kept

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend

KEPT = 64
"""Tables that NumPy's side remembers between calls: at most 64 of 26 thousand numbers each."""


def table(
    period: int, positions: Positions, sign: int, scale: float, dtype: str, like: Array, b: Backend
) -> Array | None:
    """The matrix of an axis, or None if the axis is too long for one.

    With a sign: (2 F, count), rows cosine, then sine times the sign, of each frequency. With sign
    0: (count, 2 F), the inverse at the wanted positions, times the scale.
    """
    if period > DENSE:
        return None
    if b.traits.mutable and not b.traits.on_host:
        return b.astype(_made(period, positions, sign, scale, b.xp), dtype)
    found = _kept(period, positions, sign, scale, dtype)
    if b.traits.mutable:
        return found
    device = None if b.device is None else b.device(like)
    return b.xp.asarray(found, dtype=getattr(b.xp, dtype), device=device, copy=True)


@kept
def _kept(period: int, positions: Positions, sign: int, scale: float, dtype: str) -> Any:
    import numpy as np

    found = _made(period, positions, sign, scale, np).astype(dtype)
    found.flags.writeable = False
    return found


def _made(period: int, positions: Positions, sign: int, scale: float, xp: Any) -> Array:
    """In float64: made where the arrays are, so that nothing is copied to a GPU."""
    first, step, count = positions
    w = xp.reshape(xp.arange(period // 2 + 1, dtype=xp.int64), (-1, 1))
    p = first + step * xp.reshape(xp.arange(count, dtype=xp.int64), (1, -1))
    angles = (w * (p % period) % period).astype(xp.float64) * (2 * pi / period)
    if sign:
        rows = xp.stack([xp.cos(angles), sign * xp.sin(angles)], axis=1)
        return xp.reshape(rows, (-1, count))
    # Frequencies that are their own mirror image count once, the others twice.
    weight = xp.where(w * 2 % period == 0, 1.0, 2.0) * (scale / period)
    rows = xp.stack([xp.cos(angles) * weight, -xp.sin(angles) * weight], axis=1)
    return xp.asarray(xp.reshape(rows, (-1, count)).T, copy=True)
