"""Allocate a worker's buffers: flat arrays that are used again for every block."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from einstride.geometry.keywords import Shape

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend


class Scratch:
    """Named flat buffers of one dtype; empty if the library's arrays are immutable.

    Parameters
    ----------
    sizes : dict
        Elements of each buffer, by name.
    planes : {1, 2}
        Planes of the signals: 1 real, 2 complex.
    dtype : str
        The real dtype of all buffers.
    """

    def __init__(
        self, sizes: dict[str, int], planes: int, dtype: str, like: Array, b: Backend
    ) -> None:
        self.planes = planes
        self._flat: dict[str, Array] = {}
        if b.traits.mutable:
            self._flat = {name: b.empty((n,), dtype, like) for name, n in sizes.items() if n}

    def take(self, name: str, shape: Shape, b: Backend) -> Array:
        """Return the beginning of a buffer in this shape; None if arrays are immutable."""
        if not b.traits.mutable:
            return None
        return b.xp.reshape(self._flat[name][: prod(shape)], shape)
