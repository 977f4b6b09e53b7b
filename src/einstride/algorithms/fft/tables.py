"""Make and cache matrices of the discrete Fourier transform, with angles reduced in integers."""

from __future__ import annotations

from math import pi
from typing import TYPE_CHECKING, Any

from einstride.algorithms.fft.axes import DENSE, Positions
from einstride.support.byte_cache import kept

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend

TABLES_KEPT = 64
"""Matrices cached on the host: at most 64 of 26 thousand elements each."""


def table(
    period: int, positions: Positions, sign: int, scale: float, dtype: str, like: Array, b: Backend
) -> Array | None:
    """Return the transform matrix of an axis, or None if its period is longer than `DENSE`.

    With sign 1 or -1, it is (2 F, count): for each frequency a row of cosines, then a row of sines
    times the sign. With sign 0, it is (count, 2 F): the inverse at `positions`, times the scale.
    """
    if period > DENSE:
        return None
    if b.traits.mutable and not b.traits.on_host:
        return b.astype(_make_table(period, positions, sign, scale, b.xp), dtype)
    found = _cached_table(period, positions, sign, scale, dtype)
    if b.traits.mutable:
        return found
    device = None if b.device is None else b.device(like)
    return b.xp.asarray(found, dtype=getattr(b.xp, dtype), device=device, copy=True)


@kept
def _cached_table(period: int, positions: Positions, sign: int, scale: float, dtype: str) -> Any:
    import numpy as np

    found = _make_table(period, positions, sign, scale, np).astype(dtype)
    found.flags.writeable = False
    return found


def _make_table(period: int, positions: Positions, sign: int, scale: float, xp: Any) -> Array:
    """Compute a table in float64 with the namespace `xp`, so that none is copied to a GPU."""
    first, step, count = positions
    w = xp.reshape(xp.arange(period // 2 + 1, dtype=xp.int64), (-1, 1))
    p = first + step * xp.reshape(xp.arange(count, dtype=xp.int64), (1, -1))
    angles = (w * (p % period) % period).astype(xp.float64) * (2 * pi / period)
    if sign:
        rows = xp.stack([xp.cos(angles), sign * xp.sin(angles)], axis=1)
        return xp.reshape(rows, (-1, count))
    # Frequencies 0 and L / 2 are their own mirror image and count once, the others twice.
    weight = xp.where(w * 2 % period == 0, 1.0, 2.0) * (scale / period)
    rows = xp.stack([xp.cos(angles) * weight, -xp.sin(angles) * weight], axis=1)
    return xp.asarray(xp.reshape(rows, (-1, count)).T, copy=True)
