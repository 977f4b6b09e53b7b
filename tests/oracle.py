"""Computes all three passes by loops, as the reference of the tests, without any code of einstride.

A convolution is a set of triples (input element, filter element, output element): the seven nested
loops over batch, output position, filter tap, group, input channel and output channel, of any rank.
All three passes walk the same triples, so the two gradients are the adjoints of the forward pass.
The two innermost loops are written as slices of object arrays, whose elements Python multiplies and
adds one by one:

    y[yi]  += x[xi] * f[fi]              forward
    gx[xi] += gy[yi] * conj(f[fi])       input gradient
    gf[fi] += conj(x[xi]) * gy[yi]       filter gradient

Arrays are canonical: x (B, *input, C), f (*kernel, C // groups, D), y (B, *out, D). The arithmetic
is Python's own: exact integers, float64, complex128.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """Hold one convolution, with every hyperparameter per axis; pads are (low, high), negative
    crops.

    `keywords` are the hyperparameters as a caller writes them (padding names, single ints); the
    loops do not read `keywords`.
    """

    batch: int
    input_size: tuple[int, ...]
    kernel_size: tuple[int, ...]
    channels: int
    filters: int
    stride: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int = 1
    flip: bool = False
    mode: str | tuple[str, ...] = "zeros"
    fill: int = 0
    keywords: dict[str, Any] = field(default_factory=dict)

    @property
    def out_size(self) -> tuple[int, ...]:
        axes = zip(
            self.input_size, self.kernel_size, self.stride, self.pads, self.dilation, strict=True
        )
        return tuple(1 + (n + sum(pad) - span(k, d)) // s for n, k, s, pad, d in axes)

    @property
    def x_shape(self) -> tuple[int, ...]:
        return (self.batch, *self.input_size, self.channels)

    @property
    def f_shape(self) -> tuple[int, ...]:
        return (*self.kernel_size, self.channels // self.groups, self.filters)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (self.batch, *self.out_size, self.filters)

    @property
    def explicit(self) -> dict[str, Any]:
        return {"stride": self.stride, "padding": self.pads, "dilation": self.dilation,
                "groups": self.groups, "flip": self.flip, "padding_mode": self.mode,
                **({"fill": self.fill} if self.fill else {})}  # fmt: skip


def span(k: int, dilation: int) -> int:
    """Return the number of input elements from the first to the last of k taps."""
    return (k - 1) * dilation + 1


def pads_of(name: str, n: int, k: int, stride: int, dilation: int) -> tuple[int, int]:
    """Return the (low, high) pads of a padding name on one axis."""
    reach = span(k, dilation) - 1
    total = max(
        (-(-n // stride) - 1) * stride + reach + 1 - n, 0
    )  # the output has ceil(n / stride)
    return {
        "valid": (0, 0),
        "full": (reach, reach),
        "causal": (reach, 0),
        "same": (total // 2, total - total // 2),
        "same_lower": (total - total // 2, total // 2),
    }[name]


def border(i: int, n: int, mode: str) -> int | None:
    """Return the input position that position i of a padded axis of n repeats; None for a zero."""
    if 0 <= i < n:
        return i
    return {
        "zeros": None,
        "replicate": min(max(i, 0), n - 1),
        "circular": i % n if n else None,
        "symmetric": -1 - i if i < 0 else 2 * n - 1 - i,
        "reflect": -i if i < 0 else 2 * (n - 1) - i,  # does not repeat the edge
    }[mode]


def visits(case: Case, input_size: tuple[int, ...], out_size: tuple[int, ...]) -> Iterator[Any]:
    """Yield the positions (input, tap, output) of every product in the sum."""
    for o in product(*map(range, out_size)):
        for k in product(*map(range, case.kernel_size)):
            i = []
            for axis, (low, _) in enumerate(case.pads):
                tap = case.kernel_size[axis] - 1 - k[axis] if case.flip else k[axis]
                at = o[axis] * case.stride[axis] + tap * case.dilation[axis] - low
                i.append(border(at, input_size[axis], case.mode))
            if None not in i:  # else the tap reads a zero of the padding
                yield tuple(i), k, o


def groups(case: Case) -> Iterator[tuple[slice, slice]]:
    """Yield the input and the output channels of every group."""
    group_in, group_out = case.channels // case.groups, case.filters // case.groups
    for g in range(case.groups):
        yield slice(g * group_in, (g + 1) * group_in), slice(g * group_out, (g + 1) * group_out)


def _zeros(shape: tuple[int, ...]) -> np.ndarray:
    return np.zeros(shape, object)  # filled with the int 0


def forward(x: np.ndarray, f: np.ndarray, case: Case) -> np.ndarray:
    x, f, y = x.astype(object), f.astype(object), _zeros(case.y_shape)
    for i, k, o in visits(case, case.input_size, case.out_size):
        for c, d in groups(case):
            source, target = x[(slice(None), *i, c)], y[(slice(None), *o, d)]
            for xc, fc in zip(source.T, f[(*k, slice(None), d)], strict=True):
                target += xc[:, None] * fc
    return y


def input_grad(gy: np.ndarray, f: np.ndarray, case: Case, input_size: Any = None) -> np.ndarray:
    """Return the adjoint of `forward` in x; `input_size` replaces the size of the case."""
    size = input_size or case.input_size
    gx = _zeros((case.batch, *size, case.channels))
    gy, f = gy.astype(object), np.conjugate(f.astype(object))
    for i, k, o in visits(case, size, gy.shape[1:-1]):
        for c, d in groups(case):
            source, target = gy[(slice(None), *o, d)], gx[(slice(None), *i, c)]
            for gd, fd in zip(source.T, f[(*k, slice(None), d)].T, strict=True):
                target += gd[:, None] * fd
    return gx


def filter_grad(x: np.ndarray, gy: np.ndarray, case: Case) -> np.ndarray:
    x, gy, gf = np.conjugate(x.astype(object)), gy.astype(object), _zeros(case.f_shape)
    for i, k, o in visits(case, case.input_size, case.out_size):
        for c, d in groups(case):
            target = gf[(*k, slice(None), d)]
            for xb, gb in zip(x[(slice(None), *i, c)], gy[(slice(None), *o, d)], strict=True):
                target += xb[:, None] * gb
    return gf


PASSES = {"forward": forward, "input_grad": input_grad, "filter_grad": filter_grad}


# The three passes, one filter tap at a time by array operations, for shapes too large for the
# loops.


def _by_tap(case: Case) -> Iterator[tuple[Any, Any]]:
    """Yield (filter index, slices of the padded input) for every tap."""
    for k in product(*map(range, case.kernel_size)):
        at = [size - 1 - t if case.flip else t for t, size in zip(k, case.kernel_size, strict=True)]
        axes = zip(at, case.out_size, case.stride, case.dilation, strict=True)
        yield k, (slice(None), *(slice(t * d, t * d + (o - 1) * s + 1, s) for t, o, s, d in axes))


def _padded(x: np.ndarray, case: Case) -> np.ndarray:
    keep = tuple(
        slice(max(0, -a), n - max(0, -b))
        for (a, b), n in zip(case.pads, case.input_size, strict=True)
    )
    widths = [(0, 0), *((max(0, a), max(0, b)) for a, b in case.pads), (0, 0)]
    return np.pad(x[(slice(None), *keep)], widths)


def _groups(array: np.ndarray, case: Case) -> list[np.ndarray]:
    return np.split(array, case.groups, axis=-1)


def fast_forward(x: np.ndarray, f: np.ndarray, case: Case) -> np.ndarray:
    padded = _groups(_padded(x, case), case)
    filters = _groups(f, case)
    parts = [
        sum(xg[at] @ fg[k] for k, at in _by_tap(case))
        for xg, fg in zip(padded, filters, strict=True)
    ]
    return np.concatenate(parts, axis=-1)


def fast_input_grad(gy: np.ndarray, f: np.ndarray, case: Case) -> np.ndarray:
    parts = []
    for gyg, fg in zip(_groups(gy, case), _groups(f, case), strict=True):
        size = [
            n + max(0, a) + max(0, b) for (a, b), n in zip(case.pads, case.input_size, strict=True)
        ]
        gx = np.zeros((case.batch, *size, fg.shape[-2]), np.result_type(gy, f))
        shift = tuple(
            slice(max(0, -a), n - max(0, -b)) for (a, b), n in zip(case.pads, size, strict=True)
        )
        view = gx[
            (slice(None), *shift)
        ]  # the padded and cropped positions, by which taps are counted
        for k, at in _by_tap(case):
            view[at] += gyg @ fg[k].conj().T
        keep = tuple(
            slice(max(0, a), n - max(0, b)) for (a, b), n in zip(case.pads, size, strict=True)
        )
        parts.append(gx[(slice(None), *keep)])
    return np.concatenate(parts, axis=-1)


def fast_filter_grad(x: np.ndarray, gy: np.ndarray, case: Case) -> np.ndarray:
    gf = np.zeros(case.f_shape, np.result_type(x, gy))
    columns = np.split(gf, case.groups, axis=-1)
    axes = list(range(len(case.input_size) + 1))
    for part, xg, gyg in zip(
        columns, _groups(_padded(x, case), case), _groups(gy, case), strict=True
    ):
        for k, at in _by_tap(case):
            part[k] = np.tensordot(xg[at].conj(), gyg, (axes, axes))
    return gf


FAST = {"forward": fast_forward, "input_grad": fast_input_grad, "filter_grad": fast_filter_grad}
