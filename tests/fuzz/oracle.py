"""Compute exact convolutions by index tables and matrix products, without einstride's code.

For every axis a table says which input element each (output, tap) pair reads. Gathering the input
by these tables gives all windows W (B, O, K, C); then

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
    """Return the (low, high) padding that one entry of a padding keyword stands for on one axis."""
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
    n: int, k: int, out: int, stride: int, dilation: int, spread: int, low: int, mode: str,
    flip: bool,
) -> np.ndarray:  # fmt: skip
    """Return the table (out, k) of input elements that taps read; n for a zero."""
    wide = (n - 1) * spread + 1 if n else 0
    taps = np.arange(k)[::-1] if flip else np.arange(k)
    at = np.arange(out)[:, None] * stride + taps * dilation - low
    outside = (at < 0) | (at >= wide)
    if outside.any():
        if mode == "replicate":
            at = np.clip(at, 0, wide - 1)
        elif mode == "circular":
            at = at % wide
        elif mode == "reflect":
            at = np.where(at < 0, -at, np.where(at >= wide, 2 * (wide - 1) - at, at))
        else:
            at = np.where(outside, -1, at)
    on = (at >= 0) & (at % spread == 0)
    return np.where(on, at // spread, n)


class Exact:
    """Compute all passes of one convolution on canonical arrays, each at its first use.

    `g` has batch, size, channels, filters, groups, kernel, out, stride, dilation, spread, pads,
    mode and flip. The arrays have integer values; x (B, *S, C), f (*K, C // G, D), gy (B, *O, D).
    """

    def __init__(self, g: Any, x: np.ndarray, f: np.ndarray, gy: np.ndarray) -> None:
        self.g = g
        self.x, self.f, self.gy = (_widened(a) for a in (x, f, gy))
        axes = zip(
            g.size, g.kernel, g.out, g.stride, g.dilation, g.spread, g.pads, strict=True
        )  # fmt: skip
        self.tables = [table(*a[:6], a[6][0], g.mode, g.flip) for a in axes]

    @cached_property
    def windows(self) -> np.ndarray:
        """(B, *O, *K, C)."""
        g, a = self.g, self.x
        for axis, at in enumerate(self.tables, 1):
            zero = np.zeros((*a.shape[:axis], 1, *a.shape[axis + 1 :]), a.dtype)
            a = np.concatenate([a, zero], axis).take(at.ravel(), axis)
        pairs = [n for pair in zip(g.out, g.kernel, strict=True) for n in pair]
        return _apart(a.reshape(g.batch, *pairs, g.channels), len(g.out))

    @cached_property
    def _rows(self) -> np.ndarray:
        """(G, B * O, K * C // G)."""
        g = self.g
        inner, rows = g.channels // g.groups, g.batch * prod(g.out)
        w = self.windows.reshape(rows, prod(g.kernel), g.groups, inner)
        return w.transpose(2, 0, 1, 3).reshape(g.groups, rows, prod(g.kernel) * inner)

    @cached_property
    def _matrix(self) -> np.ndarray:
        """(G, K * C // G, D // G)."""
        g = self.g
        f = self.f.reshape(prod(g.kernel), g.channels // g.groups, g.groups, g.filters // g.groups)
        return f.transpose(2, 0, 1, 3).reshape(g.groups, f.shape[0] * f.shape[1], f.shape[3])

    @cached_property
    def _grad(self) -> np.ndarray:
        """(G, B * O, D // G)."""
        g = self.g
        gy = self.gy.reshape(g.batch * prod(g.out), g.groups, g.filters // g.groups)
        return gy.transpose(1, 0, 2)

    @cached_property
    def forward(self) -> np.ndarray:
        """(B, *O, D)."""
        g = self.g
        y = (self._rows @ self._matrix).transpose(1, 0, 2)
        return y.reshape(g.batch, *g.out, g.filters)

    @cached_property
    def filter_grad(self) -> np.ndarray:
        """(*K, C // G, D)."""
        return self._filter(self._rows.conj().transpose(0, 2, 1) @ self._grad)

    @cached_property
    def filter_grad_each(self) -> np.ndarray:
        """(B, *K, C // G, D)."""
        g = self.g
        rows = self._rows.reshape(g.groups, g.batch, prod(g.out), self._rows.shape[-1])
        grad = self._grad.reshape(g.groups, g.batch, prod(g.out), self._grad.shape[-1])
        each = rows.conj().swapaxes(-1, -2) @ grad
        f = [self._filter(each[:, b]) for b in range(g.batch)]
        return np.stack(f) if f else np.zeros((0, *self.f.shape), each.dtype)

    def _filter(self, matrix: np.ndarray) -> np.ndarray:
        g = self.g
        inner, outer = g.channels // g.groups, g.filters // g.groups
        parts = matrix.reshape(g.groups, prod(g.kernel), inner, outer)
        parts = parts.transpose(1, 2, 0, 3)
        return parts.reshape(*g.kernel, g.channels // g.groups, g.filters)

    @cached_property
    def input_grad(self) -> np.ndarray:
        """(B, *S, C)."""
        g = self.g
        rank = len(g.out)
        parts = self._grad @ self._matrix.conj().transpose(0, 2, 1)
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


def _apart(a: np.ndarray, rank: int) -> np.ndarray:
    """(B, O, K, O, K, ..., C) -> (B, *O, *K, C)."""
    order = [0, *range(1, 2 * rank, 2), *range(2, 2 * rank + 1, 2), 2 * rank + 1]
    return a.transpose(order)


def _widened(a: np.ndarray) -> np.ndarray:
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
    """Return the dtype of a name, bfloat16 included."""
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
