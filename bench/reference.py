"""Computes the reference results in float64, independently of einstride and of the peers.

Small rows are computed by one matrix product per tap; large ones by a circular correlation of
numpy.fft, whose length covers the padded input. Integers are always computed by products, exactly,
since they stay below 2**53.
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np

from bench.case import Row
from bench.data import Arrays

MOST_TAPS = 64
MOST_UPDATES = 1_000_000_000  # taps times outputs; beyond both limits the FFT is faster


def answer(row: Row, arrays: Arrays) -> np.ndarray:
    """Compute the row's result in float64 or complex128, channels_last."""
    wide = np.complex128 if row.is_complex else np.float64
    x, f, gy = (a.astype(wide) for a in (arrays.x, arrays.f, arrays.gy))
    # gradients are adjoints: the operand that both passes share is conjugated
    if row.pass_ == "input_grad":
        f = f.conj()
    if row.pass_ == "filter_grad":
        x = x.conj()
    taps = math.prod(row.case.kernel)
    few = taps <= MOST_TAPS or taps * gy.size <= MOST_UPDATES or row.is_integer
    return (_by_taps if few else _by_fft)(row, x, f, gy)


def _by_taps(row: Row, x: np.ndarray, f: np.ndarray, gy: np.ndarray) -> np.ndarray:
    groups = row.case.groups
    padded = _pad(row, x)
    y = np.zeros_like(gy)
    gx = np.zeros_like(padded)
    gf = np.zeros_like(f)
    for tap in product(*map(range, row.case.kernel)):
        seen = (
            slice(None),
            *(
                slice(k * d, k * d + (o - 1) * s + 1, s)
                for k, d, o, s in zip(tap, row.dilation, row.out_size, row.stride, strict=True)
            ),
        )
        if row.pass_ == "forward":
            y += _times(padded[seen], f[tap], groups)
        elif row.pass_ == "input_grad":
            gx[seen] += _times_adjoint(gy, f[tap], groups)
        else:
            gf[tap] = _reduce(padded[seen], gy, groups)
    return {"forward": y, "input_grad": _crop(row, gx), "filter_grad": gf}[row.pass_]


def _times(x: np.ndarray, f: np.ndarray, groups: int) -> np.ndarray:
    """Multiply (.., G*C) by (C, G*D) group by group: (.., G*D)."""
    if len(f) == 1 and groups == f.shape[1]:
        return x * f[0]
    pairs = zip(np.split(x, groups, -1), np.split(f, groups, -1), strict=True)
    return np.concatenate([_matmul(a, b) for a, b in pairs], -1)


def _times_adjoint(gy: np.ndarray, f: np.ndarray, groups: int) -> np.ndarray:
    """Multiply (.., G*D) by the adjoint of (C, G*D) group by group: (.., G*C)."""
    if len(f) == 1 and groups == f.shape[1]:
        return gy * f[0]
    pairs = zip(np.split(gy, groups, -1), np.split(f, groups, -1), strict=True)
    return np.concatenate([_matmul(a, b.T) for a, b in pairs], -1)


def _matmul(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Multiply (.., C) by (C, D) as one matrix product, because small products are not made by
    BLAS."""
    return (a.reshape(-1, a.shape[-1]) @ b).reshape(*a.shape[:-1], -1)


def _reduce(x: np.ndarray, gy: np.ndarray, groups: int) -> np.ndarray:
    """Sum products of (.., G*C) and (.., G*D) over all leading axes, group by group: (C, G*D)."""
    x, gy = x.reshape(-1, x.shape[-1]), gy.reshape(-1, gy.shape[-1])
    if groups == x.shape[1] == gy.shape[1]:
        return np.einsum("nc,nc->c", x, gy)[None]
    pairs = zip(np.split(x, groups, -1), np.split(gy, groups, -1), strict=True)
    return np.concatenate([a.T @ b for a, b in pairs], -1)


def _by_fft(row: Row, x: np.ndarray, f: np.ndarray, gy: np.ndarray) -> np.ndarray:
    case, axes = row.case, tuple(range(1, row.rank + 1))
    padded = _pad(row, x)
    size = padded.shape[1:-1]
    # with an axis of groups, one einsum serves depthwise, grouped and dense convolution
    xg = padded.reshape(row.batch, *size, case.groups, -1)
    fg = _dilate(f[None], row.dilation, axes).reshape(
        *_dilated(row), case.channels // case.groups, case.groups, -1
    )
    gg = _dilate(gy, row.stride, axes).reshape(
        row.batch, *((o - 1) * s + 1 for o, s in zip(row.out_size, row.stride, strict=True)),
        case.groups, -1,
    )  # fmt: skip
    spectrum = {
        "x": lambda: np.fft.fftn(xg, axes=axes),
        "f": lambda: np.fft.fftn(fg, s=size, axes=tuple(range(row.rank))),
        "g": lambda: np.fft.fftn(gg, s=size, axes=axes),
    }
    if row.pass_ == "forward":
        y = np.einsum("b...gc,...cgd->b...gd", spectrum["x"](), _mirror(spectrum["f"](), 0, row))
        y = np.fft.ifftn(y, axes=axes).reshape(row.batch, *size, -1)
        steps = zip(row.out_size, row.stride, strict=True)
        result = y[(slice(None), *(slice(0, (o - 1) * s + 1, s) for o, s in steps))]
    elif row.pass_ == "input_grad":
        gx = np.einsum("b...gd,...cgd->b...gc", spectrum["g"](), spectrum["f"]())
        result = _crop(row, np.fft.ifftn(gx, axes=axes).reshape(row.batch, *size, -1))
    else:
        gf = np.einsum("b...gc,b...gd->...cgd", spectrum["x"](), _mirror(spectrum["g"](), 1, row))
        gf = np.fft.ifftn(gf, axes=tuple(range(row.rank))).reshape(*size, *row.f_shape[-2:])
        steps = zip(_dilated(row), row.dilation, strict=True)
        result = gf[tuple(slice(0, n, d) for n, d in steps)]
    return result if row.is_complex else result.real


def _mirror(spectrum: np.ndarray, first: int, row: Row) -> np.ndarray:
    """Return the spectrum of the array reversed circularly, which turns convolution into
    correlation."""
    axes = tuple(range(first, first + row.rank))
    return np.roll(np.flip(spectrum, axes), 1, axes)


def _dilated(row: Row) -> tuple[int, ...]:
    return tuple((k - 1) * d + 1 for k, d in zip(row.case.kernel, row.dilation, strict=True))


def _dilate(a: np.ndarray, steps: tuple[int, ...], axes: tuple[int, ...]) -> np.ndarray:
    """Insert `steps[i] - 1` zeros between neighbours along axis `axes[i]`."""
    shape = list(a.shape)
    where = [slice(None)] * a.ndim
    for axis, step in zip(axes, steps, strict=True):
        shape[axis] = (shape[axis] - 1) * step + 1
        where[axis] = slice(None, None, step)
    wide = np.zeros(shape, a.dtype)
    wide[tuple(where)] = a
    return wide


def _pad(row: Row, x: np.ndarray) -> np.ndarray:
    return np.pad(x, ((0, 0), *row.pads, (0, 0)))


def _crop(row: Row, gx: np.ndarray) -> np.ndarray:
    spans = zip(row.pads, row.case.size, strict=True)
    return gx[(slice(None), *(slice(low, low + n) for (low, _), n in spans))]
