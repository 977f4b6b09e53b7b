"""Complex convolution of NumPy arrays as a real one with twice the channels, for kernels of floats.

A complex array lies in memory as one of floats with real and imaginary parts side by side, so a
view doubles the channels of x and of y. For y = x * f the filter becomes

    F[2c, 2d] = re f    F[2c, 2d + 1] = im f    F[2c + 1, 2d] = -im f    F[2c + 1, 2d + 1] = re f

and a filter gradient of such views holds every part of x times every part of gy.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from einstride.geometry.convolution import Geometry

PARTS = {"complex64": "float32", "complex128": "float64"}


def real(name: str) -> str:
    """Return the dtype of the real and imaginary parts."""
    return PARTS.get(name, name)


def doubled(g: Geometry) -> Geometry:
    """Return the geometry of the real convolution."""
    return replace(g, channels=2 * g.channels, filters=2 * g.filters)


def floats(a: Any) -> Any:
    """View complex numbers (..., C), with neighbouring channels, as floats (..., 2C)."""
    return a.view(real(a.dtype.name))


def filters(f: Any) -> Any:
    """Make the real filter F (..., 2C, 2D) of a complex filter f (..., C, D)."""
    import numpy as np  # not with the package: see test_processes

    *taps, c, d = f.shape
    doubled_filter = np.empty((*taps, c, 2, d, 2), real(f.dtype.name))
    doubled_filter[..., 0, :, 0] = doubled_filter[..., 1, :, 1] = f.real
    doubled_filter[..., 0, :, 1] = f.imag
    # not by np.negative: NumPy 2.4 gets some pairs of steps wrong
    np.multiply(f.imag, -1, out=doubled_filter[..., 1, :, 0])
    return doubled_filter.reshape(*taps, 2 * c, 2 * d)


def combine(parts: Any, out: Any) -> None:
    """Compute out (..., C, D) = sum of conj(x) gy, from a real filter gradient (..., 2C, 2D)."""
    import numpy as np

    *taps, c, d = out.shape
    parts = parts.reshape(*taps, c, 2, d, 2)
    np.add(parts[..., 0, :, 0], parts[..., 1, :, 1], out=out.real)
    np.subtract(parts[..., 0, :, 1], parts[..., 1, :, 0], out=out.imag)
