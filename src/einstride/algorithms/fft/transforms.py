"""Real signals to planes of frequencies and back, axis by axis.

The transform of a real axis is X[w] = sum_p x[p] exp(-2 pi i w p / L) for w = 0 ... L / 2: two real
rows (cosine, minus sine) for each w, so one real matrix (2 F, positions) does it, whatever the
positions are: steps of a stride or a dilation cost nothing, zeros are left out, and only the wanted
positions come back. Periods too long for a matrix go through the library's own fast transform.

A further axis is transformed as if it were the first. That leaves two imaginary units, i of the
axes before and j of this one. As i j commutes, (z0 + i z1) with z = c + j s is a pair of complex
numbers: j = i gives the frequency w, j = -i gives -w. `planes.meet` makes that pair, `planes.part`
undoes it. A complex signal is one that has its unit i already.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from einstride.algorithms.fft.axes import Axis, Positions
from einstride.algorithms.fft.fast import fast_analysis, fast_synthesis
from einstride.algorithms.fft.planes import meet, part
from einstride.algorithms.fft.scratch import Scratch
from einstride.algorithms.fft.tables import table

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend


def _other(name: str, pair: str) -> str:
    return pair[1] if name == pair[0] else pair[0]


class Transform:
    """The transforms of one worker for signals that lie at some places of the axes' frames.

    Parameters
    ----------
    axes : tuple of Axis
        Their periods.
    places : tuple of Places
        Where the signal's elements lie, one for each axis.
    planes : {1, 2}
        Of real or complex signals.
    sign : {-1, 1}
        Of the exponent of the analysis; a filter that is to be correlated takes +1.
    dtype : str
        Of the planes: a real one.
    pair : str
        The names of two pieces of scratch memory.
    """

    def __init__(
        self, axes: tuple[Axis, ...], positions: tuple[Positions, ...], planes: int, sign: int,
        dtype: str, like: Array, b: Backend, pair: str = "ab",
    ) -> None:  # fmt: skip
        self._axes, self._positions, self._planes, self._sign = axes, positions, planes, sign
        self._dtype, self._b, self._pair = dtype, b, pair
        self._like = like
        self._forth: list[Array] = []
        self._back: list[Array] = []

    def analyse(self, z: Array, scratch: Scratch) -> Array:
        """Signals (u, *positions, m) -> their spectrum (Q, 2, m)."""
        b, xp = self._b, self._b.xp
        if not self._forth:
            self._forth = [
                table(x.period, at, self._sign, 0.0, self._dtype, self._like, b)
                for x, at in zip(self._axes, self._positions, strict=True)
            ]
        q, unit, here = 1, self._planes, ""
        size = prod(z.shape) // unit
        for axis, at, matrix in zip(self._axes, self._positions, self._forth, strict=True):
            size //= at[2]
            rest = size
            z = xp.reshape(z, (q * unit, at[2], rest))
            here = _other(here, self._pair)
            out = scratch.take(here, (q * unit, 2 * axis.half, rest), b)
            if matrix is None:
                z = fast_analysis(z, axis.period, at, self._sign, self._dtype, out, b)
            elif q * unit == 1:
                out = None if out is None else out[0, ...]
                z = b.matmul(matrix, z[0, ...], out)
            else:
                z = b.matmul(matrix, z, out)
            if unit == 2:
                here = _other(here, self._pair)
                z = meet(xp.reshape(z, (q, 2, axis.half, 2, rest)), scratch, here, b)
                q *= 2 * axis.half
            else:
                q, unit = axis.half, 2
        return xp.reshape(z, (q, 2, -1))

    def synthesise(self, z: Array, scratch: Scratch) -> Array:
        """A spectrum (Q, 2, m) -> the signals (u, *positions, m)."""
        b, xp, last = self._b, self._b.xp, len(self._axes) - 1
        halves = [0.5 if a or self._planes == 2 else 1.0 for a in range(last + 1)]
        if not self._back:
            self._back = [
                table(x.period, at, 0, scale, self._dtype, self._like, b)
                for x, at, scale in zip(self._axes, self._positions, halves, strict=True)
            ]
        q, m, here = z.shape[0], z.shape[2], ""
        shape: tuple[int, ...] = (m,)
        for a in range(last, -1, -1):
            axis, at, matrix, rest = self._axes[a], self._positions[a], self._back[a], prod(shape)
            unit = 2 if a or self._planes == 2 else 1
            q = q // (unit * axis.half)
            if unit == 2:
                here = _other(here, self._pair)
                z = part(xp.reshape(z, (q, axis.half, 2, 2, rest)), scratch, here, b)
            here = _other(here, self._pair)
            z = xp.reshape(z, (q * unit, 2 * axis.half, rest))
            out = scratch.take(here, (q * unit, at[2], rest), b)
            if matrix is None:
                z = fast_synthesis(z, axis.period, at, halves[a], self._dtype, out, b)
            elif q * unit == 1:
                out = None if out is None else out[0, ...]
                z = b.matmul(matrix, z[0, ...], out)
            else:
                z = b.matmul(matrix, z, out)
            shape = (at[2], *shape)
        return xp.reshape(z, (self._planes, *shape))
