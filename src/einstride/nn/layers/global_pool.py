"""`GlobalAvgPool`: the mean of each channel over all positions."""

from __future__ import annotations

from math import prod
from typing import Any

from einstride.arrays.backends import Array, Backend
from einstride.geometry import keywords as parse
from einstride.nn.arrays import Shape, to_sum_dtype
from einstride.nn.layer import Gradients, Layer, Maker, Run
from einstride.support.errors import bad_value


class GlobalAvgPool(Layer):
    """Averages each channel over all positions.

    Parameters
    ----------
    layout : {"channels_last", "channels_first"}
        Layout of x and y.

    Examples
    --------
    >>> from einstride import nn
    >>> nn.Model(nn.Sequential(nn.GlobalAvgPool()), (8, 8, 3)).output_shape
    (3,)
    """

    def __init__(self, *, layout: str = "channels_last") -> None:
        super().__init__()
        names = ("channels_last", "channels_first")
        self.layout = parse.choice("GlobalAvgPool", "layout", layout, names)

    def _build(self, shape: Shape, maker: Maker) -> Shape:
        if len(shape) < 2 or 0 in shape:
            raise bad_value(
                "GlobalAvgPool", "one example needs positions and channels", shape, "leave it out"
            )
        return (shape[0] if self.layout == "channels_first" else shape[-1],)

    def _forward(self, x: Array, run: Run, own: bool) -> tuple[Array, Any]:
        b, axis = run.b, self._axis()
        flat = to_sum_dtype(self._flat(x, b), b)
        y = b.xp.mean(flat, axis=axis)
        return b.astype(y, b.dtype_name(x)), tuple(x.shape) if run.keep else None

    def _backward(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        if not inner:
            return None, {}
        b, xp = run.b, run.b.xp
        positions = prod(kept[1:]) // gy.shape[1]
        flat = xp.expand_dims(to_sum_dtype(gy, b) * (1 / positions), axis=self._axis())
        shape = list(flat.shape)
        shape[self._axis()] = positions
        gradient = xp.broadcast_to(b.astype(flat, b.dtype_name(gy)), tuple(shape))
        return xp.reshape(xp.asarray(gradient, copy=True), kept), {}

    def _axis(self) -> int:
        return 2 if self.layout == "channels_first" else 1

    def _flat(self, x: Array, b: Backend) -> Array:
        if self.layout == "channels_first":
            return b.xp.reshape(x, (x.shape[0], x.shape[1], -1))
        return b.xp.reshape(x, (x.shape[0], -1, x.shape[-1]))
