"""A worker's memory: flat arrays that every block uses again."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from einstride.geometry.keywords import Shape

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend


class Scratch:
    """Named flat arrays of one dtype; nothing where the library's arrays cannot be written.

    Parameters
    ----------
    sizes : dict
        Elements of each.
    planes : {1, 2}
        Of the signals that will be transformed in it.
    dtype : str
        Of all of them: a real one.
    """

    def __init__(
        self, sizes: dict[str, int], planes: int, dtype: str, like: Array, b: Backend
    ) -> None:
        self.planes = planes
        self._flat: dict[str, Array] = {}
        if b.traits.mutable:
            self._flat = {name: b.empty((n,), dtype, like) for name, n in sizes.items() if n}

    def take(self, name: str, shape: Shape, b: Backend) -> Array:
        """Memory of this shape, or None."""
        if not b.traits.mutable:
            return None
        return b.xp.reshape(self._flat[name][: prod(shape)], shape)
