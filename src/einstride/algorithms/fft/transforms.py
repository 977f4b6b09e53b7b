"""Transform real signals to planes of frequencies and back, axis by axis.

The transform of a real axis is X[w] = sum_p x[p] exp(-2 pi i w p / L) for w = 0 ... L / 2: two real
rows (cosine, minus sine) for each w, so it is a product with one real matrix (2 F, positions). The
matrix may have any positions: a stride or a dilation costs nothing, zeros are left out, and the
inverse computes only the positions needed. Periods longer than `DENSE` take the library's FFT.

A further axis is transformed as if it were the first. That leaves two imaginary units, i of the
axes before and j of this one. As i and j commute, (z0 + i z1) with z = c + j s is a pair of complex
numbers: j = i gives the frequency w, j = -i gives -w. `planes.pair_frequencies` makes the pair,
`planes.unpair_frequencies` inverts it. A complex signal has its unit i from the start.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from einstride.algorithms.fft.axes import Axis, Positions
from einstride.algorithms.fft.fast import fast_analysis, fast_synthesis
from einstride.algorithms.fft.planes import pair_frequencies, unpair_frequencies
from einstride.algorithms.fft.scratch import Scratch
from einstride.algorithms.fft.tables import table

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend


def _other_buffer(name: str, pair: str) -> str:
    return pair[1] if name == pair[0] else pair[0]


class Transform:
    """The transforms of one worker, for signals at some positions of the axes' frames.

    Parameters
    ----------
    axes : tuple of Axis
        The axes, with their periods.
    positions : tuple of Positions
        The positions of the signal's elements on each axis.
    planes : {1, 2}
        1 for real, 2 for complex signals.
    sign : {-1, 1}
        The sign of the exponent of the analysis; +1 for the filter of a correlation.
    dtype : str
        The real dtype of the planes.
    pair : str
        The names of two buffers of scratch memory, used in turn.
    """

    def __init__(
        self, axes: tuple[Axis, ...], positions: tuple[Positions, ...], planes: int, sign: int,
        dtype: str, like: Array, b: Backend, pair: str = "ab",
    ) -> None:  # fmt: skip
        self._axes, self._positions, self._planes, self._sign = axes, positions, planes, sign
        self._dtype, self._b, self._pair = dtype, b, pair
        self._like = like
        self._analysis: list[Array] = []
        self._synthesis: list[Array] = []

    def analyse(self, z: Array, scratch: Scratch) -> Array:
        """Transform signals (u, *positions, m) to their spectrum (Q, 2, m)."""
        b, xp = self._b, self._b.xp
        if not self._analysis:
            self._analysis = [
                table(x.period, at, self._sign, 0.0, self._dtype, self._like, b)
                for x, at in zip(self._axes, self._positions, strict=True)
            ]
        q, units, buffer = 1, self._planes, ""
        size = prod(z.shape) // units
        for axis, at, matrix in zip(self._axes, self._positions, self._analysis, strict=True):
            size //= at[2]
            rest = size
            z = xp.reshape(z, (q * units, at[2], rest))
            buffer = _other_buffer(buffer, self._pair)
            out = scratch.take(buffer, (q * units, 2 * axis.half, rest), b)
            if matrix is None:
                z = fast_analysis(z, axis.period, at, self._sign, self._dtype, out, b)
            elif q * units == 1:
                out = None if out is None else out[0, ...]
                z = b.matmul(matrix, z[0, ...], out)
            else:
                z = b.matmul(matrix, z, out)
            if units == 2:
                buffer = _other_buffer(buffer, self._pair)
                z = pair_frequencies(xp.reshape(z, (q, 2, axis.half, 2, rest)), scratch, buffer, b)
                q *= 2 * axis.half
            else:
                q, units = axis.half, 2
        return xp.reshape(z, (q, 2, -1))

    def synthesise(self, z: Array, scratch: Scratch) -> Array:
        """Transform a spectrum (Q, 2, m) back to signals (u, *positions, m)."""
        b, xp, last = self._b, self._b.xp, len(self._axes) - 1
        halves = [0.5 if a or self._planes == 2 else 1.0 for a in range(last + 1)]
        if not self._synthesis:
            self._synthesis = [
                table(x.period, at, 0, scale, self._dtype, self._like, b)
                for x, at, scale in zip(self._axes, self._positions, halves, strict=True)
            ]
        q, m, buffer = z.shape[0], z.shape[2], ""
        shape: tuple[int, ...] = (m,)
        for a in range(last, -1, -1):
            axis, at, matrix, rest = (
                self._axes[a],
                self._positions[a],
                self._synthesis[a],
                prod(shape),
            )
            units = 2 if a or self._planes == 2 else 1
            q = q // (units * axis.half)
            if units == 2:
                buffer = _other_buffer(buffer, self._pair)
                z = unpair_frequencies(
                    xp.reshape(z, (q, axis.half, 2, 2, rest)), scratch, buffer, b
                )
            buffer = _other_buffer(buffer, self._pair)
            z = xp.reshape(z, (q * units, 2 * axis.half, rest))
            out = scratch.take(buffer, (q * units, at[2], rest), b)
            if matrix is None:
                z = fast_synthesis(z, axis.period, at, halves[a], self._dtype, out, b)
            elif q * units == 1:
                out = None if out is None else out[0, ...]
                z = b.matmul(matrix, z[0, ...], out)
            else:
                z = b.matmul(matrix, z, out)
            shape = (at[2], *shape)
        return xp.reshape(z, (self._planes, *shape))
