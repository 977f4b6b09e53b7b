"""Layers that change the shape of each example and nothing else."""

from __future__ import annotations

from math import prod
from typing import Any

from einstride.arrays.backends import Array
from einstride.nn.arrays import Shape
from einstride.nn.layer import Gradients, Layer, Maker, Run
from einstride.support.errors import bad_value


class Reshape(Layer):
    """Reshapes each example.

    Parameters
    ----------
    shape : tuple of int
        Shape of an example without the batch axis; one entry may be -1.

    Examples
    --------
    >>> from einstride import nn
    >>> nn.Model(nn.Sequential(nn.Reshape((8, 8, -1))), (64,)).output_shape
    (8, 8, 1)
    """

    fresh = False
    fresh_gradient = False

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def _build(self, shape: Shape, maker: Maker) -> Shape:
        size, known = prod(shape), prod(n for n in self.shape if n != -1)
        free = self.shape.count(-1)
        if free > 1 or (known != size if not free else known == 0 or size % known):
            raise bad_value(
                type(self).__name__, f"one example has {size} elements", f"shape {self.shape}",
                "give a shape with as many, with -1 for at most one axis",
            )  # fmt: skip
        self.shape = tuple(size // known if n == -1 else n for n in self.shape)
        return self.shape

    def _forward(self, x: Array, run: Run, own: bool) -> tuple[Array, Any]:
        kept = tuple(x.shape) if run.keep else None
        return run.b.xp.reshape(x, (x.shape[0], *self.shape)), kept

    def _backward(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        return (run.b.xp.reshape(gy, kept) if inner else None), {}


class Flatten(Reshape):
    """Flattens each example to a vector.

    Examples
    --------
    >>> from einstride import nn
    >>> nn.Model(nn.Sequential(nn.Flatten()), (8, 8, 3)).output_shape
    (192,)
    """

    def __init__(self) -> None:
        super().__init__((-1,))

    def _build(self, shape: Shape, maker: Maker) -> Shape:
        self.shape = (prod(shape),)
        return self.shape
