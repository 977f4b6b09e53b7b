"""Compute exact convolutions by index tables and matrix products, without einstride's code.

A table for each axis holds the input element that each (output, tap) pair reads. Gathering the
input by these tables gives all windows W (B, O, K, C); then

    y  = W f            forward
    gf = W^H gy         filter gradient
    gx = scatter(gy f^H by the same tables)

Everything is exact in float64 or complex128: cases keep every sum below 2**52.
"""

from __future__ import annotations

from functools import cached_property
from math import prod
from typing import Any

import numpy as np

INTEGERS = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
)  # fmt: skip
HALVES = ("float16", "bfloat16")


def pads_of(entry: Any, n: int, k: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return the (low, high) pads of one axis from one entry of a padding keyword."""
    reach = (k - 1) * dilation
    if isinstance(entry, int):
        return entry, entry
    if not isinstance(entry, str):
        return tuple(entry)
    total = max((-(-n // stride) - 1) * stride + reach + 1 - n, 0)
    return {
        "valid": (0, 0),
        "full": (reach, reach),
        "causal": (reach, 0),
        "same": (total // 2, total - total // 2),
        "same_lower": (total - total // 2, total // 2),
    }[entry]


def table(
    n: int, k: int, out: int, stride: int, dilation: int, input_dilation: int, low: int, mode: str,
    flip: bool,
) -> np.ndarray:  # fmt: skip
    """Return the table (out, k) of the input elements that taps read on one axis; n for a zero."""
    dilated_size = (n - 1) * input_dilation + 1 if n else 0
    taps = np.arange(k)[::-1] if flip else np.arange(k)
    at = np.arange(out)[:, None] * stride + taps * dilation - low
    outside = (at < 0) | (at >= dilated_size)
    if outside.any():
        if mode == "replicate":
            at = np.clip(at, 0, dilated_size - 1)
        elif mode == "circular":
            at = at % dilated_size
        elif mode == "reflect":
            at = np.where(
                at < 0, -at, np.where(at >= dilated_size, 2 * (dilated_size - 1) - at, at)
            )
        elif mode == "symmetric":
            at = np.where(at < 0, -1 - at, np.where(outside, 2 * dilated_size - 1 - at, at))
        else:
            at = np.where(outside, -1, at)
    on_element = (at >= 0) & (at % input_dilation == 0)
    return np.where(on_element, at // input_dilation, n)


class Exact:
    """Compute all passes of one convolution on canonical arrays, each at its first use.

    `g` has batch, size, channels, filters, groups, kernel, out, stride, dilation, input_dilation,
    pads, mode and flip. The arrays have integer values; x (B, *S, C), f (*K, C // G, D), gy (B, *O,
    D).
    """

    def __init__(self, g: Any, x: np.ndarray, f: np.ndarray, gy: np.ndarray) -> None:
        self.g = g
        self.x, self.f, self.gy = (_to_widest(a) for a in (x, f, gy))
        axes = zip(
            g.size, g.kernel, g.out, g.stride, g.dilation, g.input_dilation, g.pads, strict=True
        )  # fmt: skip
        self.tables = [table(*a[:6], a[6][0], g.mode, g.flip) for a in axes]

    @cached_property
    def windows(self) -> np.ndarray:
        """Return all windows, (B, *O, *K, C)."""
        g, a = self.g, self.x
        for axis, at in enumerate(self.tables, 1):
            zero = np.zeros((*a.shape[:axis], 1, *a.shape[axis + 1 :]), a.dtype)
            a = np.concatenate([a, zero], axis).take(at.ravel(), axis)
        pairs = [n for pair in zip(g.out, g.kernel, strict=True) for n in pair]
        return _group_axes(a.reshape(g.batch, *pairs, g.channels), len(g.out))

    @cached_property
    def _window_matrix(self) -> np.ndarray:
        """Return the windows as a matrix for each group, (G, B * O, K * C // G)."""
        g = self.g
        inner, rows = g.channels // g.groups, g.batch * prod(g.out)
        w = self.windows.reshape(rows, prod(g.kernel), g.groups, inner)
        return w.transpose(2, 0, 1, 3).reshape(g.groups, rows, prod(g.kernel) * inner)

    @cached_property
    def _filter_matrix(self) -> np.ndarray:
        """Return the filter as a matrix for each group, (G, K * C // G, D // G)."""
        g = self.g
        f = self.f.reshape(prod(g.kernel), g.channels // g.groups, g.groups, g.filters // g.groups)
        return f.transpose(2, 0, 1, 3).reshape(g.groups, f.shape[0] * f.shape[1], f.shape[3])

    @cached_property
    def _gy_matrix(self) -> np.ndarray:
        """Return gy as a matrix for each group, (G, B * O, D // G)."""
        g = self.g
        gy = self.gy.reshape(g.batch * prod(g.out), g.groups, g.filters // g.groups)
        return gy.transpose(1, 0, 2)

    @cached_property
    def forward(self) -> np.ndarray:
        """Return y, (B, *O, D)."""
        g = self.g
        y = (self._window_matrix @ self._filter_matrix).transpose(1, 0, 2)
        return y.reshape(g.batch, *g.out, g.filters)

    @cached_property
    def filter_grad(self) -> np.ndarray:
        """Return the filter gradient, (*K, C // G, D)."""
        return self._to_filter(self._window_matrix.conj().transpose(0, 2, 1) @ self._gy_matrix)

    @cached_property
    def filter_grad_each(self) -> np.ndarray:
        """Return the filter gradient of each example, (B, *K, C // G, D)."""
        g = self.g
        rows = self._window_matrix.reshape(
            g.groups, g.batch, prod(g.out), self._window_matrix.shape[-1]
        )
        grad = self._gy_matrix.reshape(g.groups, g.batch, prod(g.out), self._gy_matrix.shape[-1])
        each = rows.conj().swapaxes(-1, -2) @ grad
        f = [self._to_filter(each[:, b]) for b in range(g.batch)]
        return np.stack(f) if f else np.zeros((0, *self.f.shape), each.dtype)

    def _to_filter(self, matrix: np.ndarray) -> np.ndarray:
        g = self.g
        inner, outer = g.channels // g.groups, g.filters // g.groups
        parts = matrix.reshape(g.groups, prod(g.kernel), inner, outer)
        parts = parts.transpose(1, 2, 0, 3)
        return parts.reshape(*g.kernel, g.channels // g.groups, g.filters)

    @cached_property
    def input_grad(self) -> np.ndarray:
        """Return the input gradient, (B, *S, C)."""
        g = self.g
        rank = len(g.out)
        parts = self._gy_matrix @ self._filter_matrix.conj().transpose(0, 2, 1)
        inner = g.channels // g.groups
        parts = parts.reshape(g.groups, g.batch, prod(g.out), prod(g.kernel), inner)
        parts = parts.transpose(1, 2, 3, 0, 4).reshape(g.batch, *g.out, *g.kernel, g.channels)
        order = [0, *(1 + i + j * rank for i in range(rank) for j in (0, 1)), 2 * rank + 1]
        a = parts.transpose(order)
        for axis, at in enumerate(self.tables, 1):
            a = a.reshape(*a.shape[:axis], at.size, *a.shape[axis + 2 :])
            a = np.moveaxis(a, axis, 0)
            found = np.zeros((g.size[axis - 1] + 1, *a.shape[1:]), a.dtype)
            for o, i in enumerate(at.ravel()):
                found[i] += a[o]
            a = np.moveaxis(found[:-1], 0, axis)
        return a


def _group_axes(a: np.ndarray, rank: int) -> np.ndarray:
    """Move axes: (B, O, K, O, K, ..., C) to (B, *O, *K, C)."""
    order = [0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1]
    return a.transpose(order)


def _to_widest(a: np.ndarray) -> np.ndarray:
    return a.astype(np.complex128 if a.dtype.kind == "c" else np.float64)


def result_dtype(names: list[str], accumulate: str | None) -> str:
    """Return the documented dtype of a convolution of operands (and bias) of these dtypes."""
    if all(n in INTEGERS for n in names):
        if accumulate is not None:
            return accumulate
        if all(n == "uint64" for n in names):
            return "uint64"
        eight = all(n in ("int8", "uint8") for n in names[:2])
        fits = all(n in ("bool", "int8", "int16", "int32", "uint8", "uint16") for n in names[2:])
        return "int32" if eight and fits else "int64"
    inexact = [n for n in names if n not in INTEGERS]
    if len(set(inexact)) == 1:
        return inexact[0]
    wide = any(n in ("float64", "complex128") for n in inexact)
    if any(n.startswith("complex") for n in inexact):
        return "complex128" if wide else "complex64"
    return "float64" if wide else "float32"


def dtype(name: str) -> np.dtype:
    """Return the dtype of a name, which may be bfloat16."""
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def rounded(exact: np.ndarray, name: str) -> np.ndarray:
    """Round exact sums once to the dtype of a result."""
    if name in INTEGERS:
        return exact.real.astype(name)
    if exact.dtype.kind == "c" and not name.startswith("complex"):
        exact = exact.real
    with np.errstate(over="ignore"):
        return exact.astype(dtype(name))
