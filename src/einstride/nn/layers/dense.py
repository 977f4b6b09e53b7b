"""`Dense`: an affine layer, computed as one matrix product."""

from __future__ import annotations

from typing import Any

import numpy as np

from einstride.arrays.backends import Array
from einstride.geometry import keywords as parse
from einstride.nn.arrays import Shape, check_count, sum_dtype
from einstride.nn.initialisers import he
from einstride.nn.layer import Gradients, Initialiser, Layer, Maker, Run
from einstride.nn.passes import column_sums
from einstride.support.errors import bad_value


class Dense(Layer):
    r"""Affine map of the last axis: ``y = x @ w + bias``.

    Parameters
    ----------
    width : int
        Number of outputs.
    bias : bool
        False: no bias.
    initialiser : callable
        Initialises the weights w (inputs, outputs); the bias starts at zero.

    Examples
    --------
    >>> from einstride import nn
    >>> nn.Model(nn.Sequential(nn.Dense(10)), (64,)).output_shape
    (10,)
    """

    def __init__(self, width: int, *, bias: bool = True, initialiser: Initialiser = he) -> None:
        super().__init__()
        self.width = check_count("Dense", "width", width)
        self.bias = parse.flag("Dense", "bias", bias)
        self._initialiser = initialiser

    def _build(self, shape: Shape, maker: Maker) -> Shape:
        if not shape:
            raise bad_value("Dense", "one example needs an axis", shape, "put Reshape before it")
        inputs = shape[-1]
        self.parameters["w"] = maker.draw(
            self._initialiser, (inputs, self.width), inputs, self.width
        )
        if self.bias:
            self.parameters["bias"] = maker.fill(np.zeros(self.width), maker.dtype)
        return (*shape[:-1], self.width)

    def _forward(self, x: Array, run: Run, own: bool) -> tuple[Array, Any]:
        b, p = run.b, self.parameters
        if x.shape[-1] != p["w"].shape[0]:
            raise bad_value(
                "Dense", f"the last axis must have {p['w'].shape[0]} elements", tuple(x.shape),
                "flatten it, or build the model for this shape",
            )  # fmt: skip
        given = b.dtype_name(x)
        name = sum_dtype(given)
        rows = b.xp.reshape(b.astype(x, name), (-1, x.shape[-1]))
        y = b.matmul(rows, b.astype(p["w"], name), None)
        if "bias" in p:
            y += b.astype(p["bias"], name)
        y = b.xp.reshape(y, (*x.shape[:-1], self.width))
        return b.astype(y, given), x if run.keep else None

    def _backward(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        b, p, x = run.b, self.parameters, kept
        given = b.dtype_name(x)
        name = sum_dtype(given)
        batch = x.shape[0] if run.per_example else 1
        rows = b.xp.reshape(b.astype(x, name), (batch, -1, x.shape[-1]))  # (1, rows, I)
        g = b.xp.reshape(b.astype(gy, name), (batch, -1, self.width))
        gw = b.xp.matmul(b.xp.matrix_transpose(rows), g)  # or (B, rows, I), for each example
        gradients = {"w": gw if run.per_example else gw[0, ...]}
        if "bias" in p:
            gradients["bias"] = b.xp.sum(g, axis=1) if run.per_example else column_sums(g, b)
        if not inner:
            return None, gradients
        w = b.xp.matrix_transpose(b.astype(p["w"], name))
        gx = b.matmul(b.xp.reshape(g, (-1, self.width)), w, None)
        return b.astype(b.xp.reshape(gx, tuple(x.shape)), given), gradients
