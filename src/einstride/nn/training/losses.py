"""Losses: the mean loss of a batch and its gradient, computed in float32 or float64.

Each loss is an object with `value_and_gradient(y, t)`; calling it returns the value alone.
"""

from __future__ import annotations

import math

from einstride.arrays import backends
from einstride.arrays.backends import Array, Backend
from einstride.geometry import keywords as parse
from einstride.geometry.arithmetic import INTEGERS
from einstride.nn.arrays import check_float, to_sum_dtype
from einstride.support.errors import bad_type, bad_value


class Loss:
    """Base class of all losses. Subclasses define `_value_and_gradient`."""

    def __call__(self, y: Array, t: Array) -> float:
        """Compute the mean loss over a batch.

        Parameters
        ----------
        y : array, shape (B, ...)
            Output of the model.
        t : array
            Targets.

        Returns
        -------
        float
            The mean over the batch.
        """
        return float(self.value_and_gradient(y, t)[0])

    def value_and_gradient(self, y: Array, t: Array) -> tuple[Array, Array]:
        """Compute the loss, and its gradient with respect to y.

        Parameters
        ----------
        y : array, shape (B, ...)
            Output of the model.
        t : array
            Targets.

        Returns
        -------
        tuple
            The loss (an array without axes, on y's device) and the gradient in y's shape and dtype.
        """
        b = self.check(y, t)
        return self.unchecked(y, t, b)

    def unchecked(self, y: Array, t: Array, b: Backend) -> tuple[Array, Array]:
        """Compute `value_and_gradient` without its checks, for targets that were checked before.

        Parameters
        ----------
        y, t : array
            As in `value_and_gradient`.
        b : Backend
            The library of y and t.

        Returns
        -------
        tuple
            As `value_and_gradient`.
        """
        loss, gradient = self._value_and_gradient(to_sum_dtype(y, b), t, b)
        return loss, b.astype(gradient, b.dtype_name(y))

    def check(self, y: Array, t: Array) -> Backend:
        """Raise an error unless the targets t fit y; return the library of both.

        Parameters
        ----------
        y, t : array
            As in `value_and_gradient`.

        Returns
        -------
        Backend
            The library.
        """
        where = type(self).__name__
        b = backends.of(where, ("y", "t"), y, t)
        check_float(where, "y", y, b)
        if y.ndim < 1 or y.shape[0] == 0:
            raise bad_value(
                where, "a batch must have at least one example", tuple(y.shape), "leave it out"
            )
        self._check_targets(tuple(y.shape), t, b)
        return b

    def _check_targets(self, shape: tuple[int, ...], t: Array, b: Backend) -> None:
        if tuple(t.shape) != shape:
            raise bad_value(
                type(self).__name__, "t must have the shape of y", f"y {shape}, t {tuple(t.shape)}",
                "reshape one of them",
            )  # fmt: skip

    def _value_and_gradient(self, y: Array, t: Array, b: Backend) -> tuple[Array, Array]:
        raise TypeError("a loss defines _value_and_gradient")


class L2(Loss):
    """Mean squared error over all elements.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.L2()(np.array([[1.0, 3.0]]), np.array([[1.0, 1.0]]))
    2.0
    """

    def _value_and_gradient(self, y: Array, t: Array, b: Backend) -> tuple[Array, Array]:
        error = y - b.astype(t, b.dtype_name(y))
        return b.xp.mean(error * error), error * (2 / math.prod(y.shape))


class BinaryCrossEntropy(Loss):
    r"""Binary cross entropy: the mean over all elements of ``-t log(p) - (1 - t) log(1 - p)``.

    Parameters
    ----------
    from_logits : bool
        True: y are logits, p = sigmoid(y), and nothing overflows. False: y are probabilities,
        clipped to lie above 0 and below 1 by 1e-12 in float64, else by 1e-7.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> round(nn.BinaryCrossEntropy()(np.array([[0.0, 1e5]]), np.array([[1.0, 1.0]])), 4)
    0.3466
    """

    def __init__(self, *, from_logits: bool = True) -> None:
        self.from_logits = parse.flag("BinaryCrossEntropy", "from_logits", from_logits)

    def _check_targets(self, shape: tuple[int, ...], t: Array, b: Backend) -> None:
        super()._check_targets(shape, t, b)
        low, high = float(b.xp.min(b.astype(t, "float32"))), float(b.xp.max(b.astype(t, "float32")))
        if not 0 <= low <= high <= 1:
            raise bad_value(
                "BinaryCrossEntropy", "t must lie in [0, 1]", f"values in [{low}, {high}]",
                "scale the targets",
            )  # fmt: skip

    def _value_and_gradient(self, y: Array, t: Array, b: Backend) -> tuple[Array, Array]:
        xp, count = b.xp, math.prod(y.shape)
        t = b.astype(t, b.dtype_name(y))
        if self.from_logits:
            small = xp.exp(-xp.abs(y))
            each = xp.where(y > 0, y, xp.zeros_like(y)) - y * t + xp.log1p(small)
            p = xp.where(y >= 0, xp.ones_like(y), small) / (1 + small)
            return xp.mean(each), (p - t) * (1 / count)
        p = xp.clip(y, *_clip_limits(b.dtype_name(y)))
        each = -(t * xp.log(p) + (1 - t) * xp.log1p(-p))
        return xp.mean(each), (p - t) / (p * (1 - p)) * (1 / count)


class CrossEntropy(Loss):
    """Cross entropy: the mean over the batch of ``-log(probability of the right class)``.

    y is (B, ..., classes). Labels are integers of any dtype (B, ...), or probabilities ("one-hot")
    in the shape of y.

    Parameters
    ----------
    from_logits : bool
        True: y are logits, the softmax is part of the loss, and nothing overflows. False: y are
        probabilities, as from `Softmax`, clipped from below at 1e-12 in float64, else at 1e-7.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.CrossEntropy()(np.array([[0.0, 1e5]]), np.array([1]))
    0.0
    """

    def __init__(self, *, from_logits: bool = True) -> None:
        self.from_logits = parse.flag("CrossEntropy", "from_logits", from_logits)

    def _check_targets(self, shape: tuple[int, ...], t: Array, b: Backend) -> None:
        name, where = b.dtype_name(t), "CrossEntropy"
        if len(shape) < 2:
            raise bad_value(where, "y must have a batch and classes", shape, "reshape it")
        if tuple(t.shape) == shape and name not in INTEGERS:
            return
        if tuple(t.shape) == shape:
            check_labels(where, t, 2, b)  # one-hot, in integers
            return
        if tuple(t.shape) != shape[:-1]:
            raise bad_value(
                where, "labels must be integers of shape y.shape[:-1], or one-hot in y's shape",
                f"y {shape}, labels {tuple(t.shape)}", "reshape them",
            )  # fmt: skip
        if name not in INTEGERS or name == "bool":
            raise bad_type(
                where, "labels must be integers", f"dtype {name}", "convert: t.astype('int64')"
            )
        check_labels(where, t, shape[-1], b)

    def _value_and_gradient(self, y: Array, t: Array, b: Backend) -> tuple[Array, Array]:
        xp, rows = b.xp, math.prod(y.shape[:-1])
        name = b.dtype_name(y)
        if t.ndim < y.ndim:
            classes = xp.astype(xp.arange(y.shape[-1], device=_device(y, b)), xp.int64)
            t = xp.expand_dims(xp.astype(t, xp.int64), axis=-1) == classes
        t = b.astype(t, name)
        if self.from_logits:
            shifted = y - xp.max(y, axis=-1, keepdims=True)
            powers = xp.exp(shifted)
            sums = xp.sum(powers, axis=-1, keepdims=True)
            weight = xp.sum(t, axis=-1, keepdims=True)
            loss = xp.sum(weight * xp.log(sums)) - xp.sum(_product(t, shifted, b))
            return loss / rows, (powers / sums * weight - t) * (1 / rows)
        p = xp.clip(y, _clip_limits(name)[0], 1.0)
        return -xp.sum(_product(t, xp.log(p), b)) / rows, -t / p * (1 / rows)


def _product(t: Array, y: Array, b: Backend) -> Array:
    """Return t * y, but zero where t is zero, even if y is infinite or NaN there."""
    return b.xp.where(t == 0, b.xp.zeros_like(y), t * y)


def _device(y: Array, b: Backend) -> object:
    return None if b.device is None else b.device(y)


def _clip_limits(name: str) -> tuple[float, float]:
    """Return the limits that probabilities of a dtype are clipped to, near 0 and 1."""
    resolution = 1e-12 if name == "float64" else 1e-7
    return resolution, 1 - resolution


def check_labels(where: str, t: Array, classes: int, b: Backend) -> None:
    """Raise ValueError if a label lies outside [0, classes)."""
    if math.prod(t.shape) == 0:
        return
    low, high = int(b.xp.min(t)), int(b.xp.max(t))
    if low < 0 or high >= classes:
        raise bad_value(
            where, f"labels must lie in [0, {classes})", f"labels in [{low}, {high}]",
            "count the classes from zero, or give the model's last layer more outputs",
        )  # fmt: skip
