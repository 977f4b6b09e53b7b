"""`Dropout`: sets random elements to zero in training."""

from __future__ import annotations

from typing import Any

import numpy as np

from einstride.arrays.backends import Array
from einstride.nn.arrays import from_host, to_sum_dtype
from einstride.nn.layer import Gradients, Layer, Run
from einstride.support.errors import bad_value


class Dropout(Layer):
    """Sets elements to zero with probability `rate` in training; divides the others by 1 - rate.

    The random elements are drawn on the host, so that they are the same for every library.

    Parameters
    ----------
    rate : float
        The probability, in [0, 1).

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.Model(nn.Sequential(nn.Dropout(0.5)), (2,), dtype="float64")(np.ones((1, 2)))
    array([[1., 1.]])
    """

    fresh = False
    fresh_gradient = False

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise bad_value("Dropout", "rate must lie in [0, 1)", rate, "e.g. 0.5")
        self.rate = float(rate)

    def _forward(self, x: Array, run: Run, own: bool) -> tuple[Array, Any]:
        if not run.training or self.rate == 0:
            return x, None
        n = x.shape[0]
        start, total = run.rows or (0, n)
        # all numbers of the batch: a part of it has the elements that it has in the whole
        drawn = run.rng.random((total, *x.shape[1:]), np.float32)[start : start + n] >= self.rate
        mask = from_host(drawn, run.b)
        return self._masked(x, mask, run), mask if run.keep else None

    def _backward(
        self, gy: Array, kept: Any, run: Run, own: bool, inner: bool
    ) -> tuple[Array | None, Gradients]:
        if not inner:
            return None, {}
        return (gy if kept is None else self._masked(gy, kept, run)), {}

    def _masked(self, x: Array, mask: Array, run: Run) -> Array:
        b = run.b
        scaled = b.astype(to_sum_dtype(x, b) * (1 / (1 - self.rate)), b.dtype_name(x))
        return b.xp.where(mask, scaled, b.xp.zeros_like(x))
