"""Transform one long axis by the array library's real FFT.

NumPy 2 and CuPy keep float32. Lines along the axis are gathered one block at a time, so that a
block stays in the cache while it is transposed, transformed and transposed back. On a GPU, blocks
of equal size share a plan of cuFFT, of which CuPy caches the 16 used last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from einstride.algorithms.fft.axes import Positions
from einstride.algorithms.fft.work import LINE_BLOCK
from einstride.arrays.ops import dilate, pad

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend

COMPLEX = {"float32": "complex64", "float64": "complex128"}


def line_block_elements(traits_block: int) -> int:
    """Count the elements of a block of lines: a fraction of the backend's block."""
    return max(traits_block // LINE_BLOCK, 1)


def line_blocks(count: int, rest: int, period: int, b: Backend) -> Iterator[tuple[slice, slice]]:
    """Split count * rest lines into ranges (q, r), each a block of lines."""
    lines = max(line_block_elements(b.traits.block_bytes) // period, 1)
    across = min(rest, lines)
    down = max(lines // rest, 1) if across == rest else 1
    for q in range(0, count, down):
        for r in range(0, rest, across):
            yield slice(q, min(q + down, count)), slice(r, min(r + across, rest))


def fast_analysis(
    z: Array, period: int, at: Positions, sign: int, dtype: str, out: Array | None, b: Backend
) -> Array:
    """Transform signals (n, count, rest) to spectra (n, 2 F, rest), as the matrix `table` does."""
    xp, (first, step, count) = b.xp, at
    half = period // 2 + 1
    n, _, rest = z.shape
    if out is None:
        z = pad(dilate(z, (step,), b), ((first, 0),), "zeros", b)
        z = xp.permute_dims(z, (0, 2, 1))
        found = xp.fft.rfft(z, n=period, axis=-1)
        planes = xp.stack([xp.real(found), -sign * xp.imag(found)], axis=-1)
        planes = xp.reshape(planes, (n, rest, 2 * half))
        return b.astype(xp.permute_dims(planes, (0, 2, 1)), dtype)
    destination = xp.reshape(out, (n, half, 2, rest))
    line = slice(first, first + (count - 1) * step + 1, step)
    lines: Array = None
    for q, r in line_blocks(n, rest, period, b):
        part = xp.permute_dims(z[q, :, r], (0, 2, 1))
        if lines is None or lines.shape[:2] != part.shape[:2]:
            lines = b.zeros((*part.shape[:2], period), dtype, z)
        lines[:, :, line] = part
        found = xp.fft.rfft(lines, axis=-1)
        if sign > 0:
            found = xp.conj(found)
        destination[q, :, 0, r] = xp.permute_dims(found.real, (0, 2, 1))
        destination[q, :, 1, r] = xp.permute_dims(found.imag, (0, 2, 1))
    return out


def fast_synthesis(
    z: Array, period: int, at: Positions, scale: float, dtype: str, out: Array | None, b: Backend
) -> Array:
    """Transform spectra (n, 2 F, rest) to signals (n, count, rest), as the matrix `table` does."""
    xp, (first, step, count) = b.xp, at
    half = period // 2 + 1
    n, _, rest = z.shape
    z = xp.reshape(z, (n, half, 2, rest))
    line = slice(first, first + (count - 1) * step + 1, step)
    kind = COMPLEX[dtype]
    if out is None:
        real, imag = z[:, :, 0, :], z[:, :, 1, :]
        whole = b.astype(real, kind) + b.astype(imag, kind) * 1j
        found = xp.fft.irfft(xp.permute_dims(whole, (0, 2, 1)), n=period, axis=-1)
        return b.astype(xp.permute_dims(found[:, :, line], (0, 2, 1)) * scale, dtype)
    lines: Array = None
    for q, r in line_blocks(n, rest, period, b):
        part = xp.permute_dims(z[q, :, :, r], (0, 3, 1, 2))
        if lines is None or lines.shape[:2] != part.shape[:2]:
            lines = b.empty((*part.shape[:2], half), kind, z)
        lines.real[...] = part[..., 0]
        lines.imag[...] = part[..., 1]
        found = xp.fft.irfft(lines, n=period, axis=-1)[:, :, line]
        if scale != 1.0:
            found = found * scale
        out[q, :, r] = xp.permute_dims(found, (0, 2, 1))
    return out
