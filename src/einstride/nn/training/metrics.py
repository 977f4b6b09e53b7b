"""Metrics: functions (y, t) that return the share of correct predictions, a float in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

from einstride.arrays import backends
from einstride.arrays.backends import Array
from einstride.nn.arrays import check_count
from einstride.support.errors import bad_value

Metric = Callable[[Array, Array], float]


def accuracy(y: Array, t: Array) -> float:
    """Return the share of examples whose largest score belongs to the right class.

    Parameters
    ----------
    y : array, shape (B, ..., classes)
        Scores.
    t : array, shape (B, ...) or (B, ..., classes)
        Labels, as integers or one-hot.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError, TypeError
        If the shapes or the libraries do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.accuracy(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    0.5
    """
    b = backends.of("accuracy", ("y", "t"), y, t)
    t = _labels("accuracy", y, t)
    right = b.xp.astype(b.xp.argmax(y, axis=-1), b.xp.int64) == b.xp.astype(t, b.xp.int64)
    return float(b.xp.mean(b.astype(right, "float64")))


def binary_accuracy(y: Array, t: Array, threshold: float = 0.0) -> float:
    """Return the share of elements on the correct side of the threshold.

    Parameters
    ----------
    y : array
        Logits (or probabilities, with ``threshold=0.5``).
    t : array of the same shape
        0 or 1.
    threshold : float
        Scores above it predict 1.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError, TypeError
        If the shapes or the libraries do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.binary_accuracy(np.array([-1.0, 2.0]), np.array([0, 0]))
    0.5
    """
    b = backends.of("binary_accuracy", ("y", "t"), y, t)
    if tuple(y.shape) != tuple(t.shape):
        raise bad_value(
            "binary_accuracy", "t must have the shape of y", f"y {tuple(y.shape)}, t "
            f"{tuple(t.shape)}", "reshape one of them",
        )  # fmt: skip
    right = (y > threshold) == (b.astype(t, "float32") > 0.5)
    return float(b.xp.mean(b.astype(right, "float64")))


def top_n(n: int) -> Metric:
    """Make a metric: the share of examples whose right class is among the n largest scores.

    Parameters
    ----------
    n : int
        Number of classes that count as predicted.

    Returns
    -------
    callable
        The metric, a function (y, t) as `accuracy`; ties count for the right class.

    Raises
    ------
    ValueError, TypeError
        If n is not a positive integer.

    Examples
    --------
    >>> import numpy as np
    >>> from einstride import nn
    >>> nn.top_n(2)(np.array([[0.5, 0.3, 0.2]]), np.array([1]))
    1.0
    """
    n = check_count("top_n", "n", n)

    def metric(y: Array, t: Array) -> float:
        b = backends.of("top_n", ("y", "t"), y, t)
        xp = b.xp
        t = xp.expand_dims(xp.astype(_labels("top_n", y, t), xp.int64), axis=-1)
        device = None if b.device is None else b.device(y)
        right = t == xp.astype(xp.arange(y.shape[-1], device=device), xp.int64)
        score = xp.max(xp.where(right, y, xp.zeros_like(y) - float("inf")), axis=-1, keepdims=True)
        better = xp.sum(b.astype(y > score, "float64"), axis=-1)
        return float(xp.mean(b.astype(better < n, "float64")))

    metric.__name__ = f"top_{n}"
    return metric


def _labels(where: str, y: Array, t: Array) -> Array:
    """Return labels as integers, from integers or from one-hot rows."""
    b = backends.of(where, ("y", "t"), y, t)
    if tuple(t.shape) == tuple(y.shape):
        return b.xp.argmax(t, axis=-1)
    if tuple(t.shape) != tuple(y.shape[:-1]):
        raise bad_value(
            where, "labels must have the shape of y without its last axis, or that of y",
            f"y {tuple(y.shape)}, labels {tuple(t.shape)}", "reshape them",
        )  # fmt: skip
    return t
