"""Defines networks of one kind of layer each, in einstride and in PyTorch, for equal weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from einstride import nn


@dataclass(frozen=True)
class Case:
    """Hold a network: `ours()` makes it in einstride, `theirs(torch)` in PyTorch.

    Shapes of examples are channels last.
    """

    shape: tuple[int, ...]
    ours: Callable[[], nn.Layer]
    theirs: Callable[[Any], Any]
    channels_first: bool = True  # of PyTorch's module


def _pool(ours, name, **theirs):
    return Case((7, 8, 3), ours, lambda t: getattr(t.nn, name)(**theirs))


CASES = {
    "conv": Case(
        (7, 6, 4),
        lambda: nn.Conv(6, (3, 2), stride=2, padding=1, groups=2),
        lambda t: t.nn.Conv2d(4, 6, (3, 2), stride=2, padding=1, groups=2),
    ),
    "conv-1d-dilated": Case(
        (11, 2),
        lambda: nn.Conv(3, 3, dilation=2, bias=False),
        lambda t: t.nn.Conv1d(2, 3, 3, dilation=2, bias=False),
    ),
    "conv-3d-circular": Case(
        (4, 5, 4, 2),
        lambda: nn.Conv(3, 3, padding=1, padding_mode="circular"),
        lambda t: t.nn.Conv3d(2, 3, 3, padding=1, padding_mode="circular"),
    ),
    "conv-transpose": Case(
        (4, 5, 4),
        lambda: nn.ConvTranspose(6, 3, stride=2, padding=1, output_padding=1, groups=2),
        lambda t: t.nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2),
    ),
    "dense": Case((5,), lambda: nn.Dense(3), lambda t: t.nn.Linear(5, 3)),
    "dense-inner": Case(
        (4, 5), lambda: nn.Dense(3, bias=False), lambda t: t.nn.Linear(5, 3, bias=False),
        channels_first=False,
    ),
    "batch-norm": Case((3, 5, 4), nn.BatchNorm, lambda t: t.nn.BatchNorm2d(4)),
    "batch-norm-flat": Case(
        (6,), lambda: nn.BatchNorm(momentum=0.3), lambda t: t.nn.BatchNorm1d(6, momentum=0.3)
    ),
    "max-pool": _pool(lambda: nn.MaxPool(2), "MaxPool2d", kernel_size=2),
    "max-pool-overlap": _pool(
        lambda: nn.MaxPool(3, stride=2, padding=1), "MaxPool2d", kernel_size=3, stride=2, padding=1
    ),
    "max-pool-dilated": _pool(
        lambda: nn.MaxPool((2, 3), stride=1, dilation=2), "MaxPool2d",
        kernel_size=(2, 3), stride=1, dilation=2,
    ),
    "avg-pool": _pool(lambda: nn.AvgPool(2), "AvgPool2d", kernel_size=2),
    "avg-pool-padded": _pool(
        lambda: nn.AvgPool(3, stride=2, padding=1), "AvgPool2d", kernel_size=3, stride=2, padding=1
    ),
    "avg-pool-inside": _pool(
        lambda: nn.AvgPool(3, stride=2, padding=1, count_include_pad=False), "AvgPool2d",
        kernel_size=3, stride=2, padding=1, count_include_pad=False,
    ),
    "global-avg-pool": _pool(lambda: nn.GlobalAvgPool(), "AdaptiveAvgPool2d", output_size=1),
    "relu": Case((4, 3), nn.ReLU, lambda t: t.nn.ReLU()),
    "leaky-relu": Case((4, 3), lambda: nn.LeakyReLU(0.2), lambda t: t.nn.LeakyReLU(0.2)),
    "sigmoid": Case((4, 3), nn.Sigmoid, lambda t: t.nn.Sigmoid()),
    "tanh": Case((4, 3), nn.Tanh, lambda t: t.nn.Tanh()),
    "gelu": Case((4, 3), nn.GELU, lambda t: t.nn.GELU()),
    "gelu-tanh": Case(
        (4, 3), lambda: nn.GELU(approximate=True), lambda t: t.nn.GELU(approximate="tanh")
    ),
    "softmax": Case((4, 3), nn.Softmax, lambda t: t.nn.Softmax(dim=1)),
}  # fmt: skip


def first(x: np.ndarray) -> np.ndarray:
    """Move the axes from channels last to channels first."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 1)) if x.ndim > 2 else x


def last(x: np.ndarray) -> np.ndarray:
    """Move the axes from channels first to channels last."""
    return np.moveaxis(x, 1, -1) if x.ndim > 2 else x


def to_torch(name: str, a: np.ndarray, transposed: bool = False) -> np.ndarray:
    """Return a parameter of einstride in PyTorch's order of axes."""
    if name.endswith(".f"):  # (*K, C // G, D) -> (D, C // G, *K)
        return np.moveaxis(a, (-1, -2), (0, 1))
    return a.T if name.endswith(".w") else a


TORCH_NAMES = {"f": "weight", "w": "weight", "gamma": "weight", "beta": "bias", "bias": "bias",
               "mean": "running_mean", "variance": "running_var"}  # fmt: skip
