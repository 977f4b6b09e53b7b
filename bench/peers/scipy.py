"""Runs SciPy's signal and ndimage on rows with one filter per channel and stride 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.case import Row
from bench.data import Arrays
from bench.options import Options
from bench.peers import Unsupported, Variant

_options = Options()


def start(options: Options) -> dict[str, str]:
    """Import SciPy."""
    global _options
    _options = options
    import scipy

    return {"scipy": scipy.__version__, "numpy": np.__version__}


def builders(row: Row) -> dict[str, Callable[[Arrays], Variant]]:
    """List the variants: FFT and overlap-add; ndimage for one plane that keeps its size."""
    if not row.depthwise_simple:
        raise Unsupported("no sums over channels")
    if any(s != 1 for s in row.stride) or any(d != 1 for d in row.dilation):
        raise Unsupported("no stride, no dilation")
    if row.is_integer:
        raise Unsupported("its integers wrap")
    ways: dict[str, Callable[[Arrays], Variant]] = {
        name: lambda arrays, name=name: _signal(row, arrays, name)
        for name in ("fftconvolve", "oaconvolve")
    }
    same = all(
        low == high == (k - 1) / 2 for (low, high), k in zip(row.pads, row.case.kernel, strict=True)
    )
    if row.case.channels == 1 and same and row.pass_ != "filter_grad":
        ways["ndimage.correlate"] = lambda arrays: _ndimage(row, arrays)
    return ways


def gemm(dtype: str, size: int) -> Callable[[], Any]:
    """Return a call of NumPy's matrix product."""
    a = np.ones((size, size), dtype)
    return lambda: a @ a


def _signal(row: Row, arrays: Arrays, name: str) -> Variant:
    from scipy import fft, signal

    convolve = getattr(signal, name)
    axes = tuple(range(1, row.rank + 1))
    x, f, gy = arrays.x, arrays.f[None, ..., 0, :], arrays.gy  # f: (1, *K, C)
    size = row.case.size

    def full(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        with fft.set_workers(_options.threads):
            return convolve(a, b, mode="full", axes=axes)

    def cut(a: np.ndarray, starts: list[int], lengths: tuple[int, ...]) -> np.ndarray:
        spans = (slice(s, s + n) for s, n in zip(starts, lengths, strict=True))
        return a[(slice(None), *spans)]

    # the full convolution starts k - 1 (or out - 1) before the first window
    lows = [low for low, _ in row.pads]
    starts = {
        "forward": [k - 1 - low for k, low in zip(row.case.kernel, lows, strict=True)],
        "input_grad": lows,
        "filter_grad": [o - 1 - low for o, low in zip(row.out_size, lows, strict=True)],
    }[row.pass_]
    if min(starts) < 0:
        raise Unsupported("padding wider than the filter")
    if row.pass_ == "forward":
        mirrored = np.flip(f, axes)

        def run() -> np.ndarray:
            return cut(full(x, mirrored), starts, row.out_size)
    elif row.pass_ == "input_grad":
        f = f.conj()

        def run() -> np.ndarray:
            return cut(full(gy, f), starts, size)
    else:

        def run() -> np.ndarray:
            seen = cut(full(x.conj(), np.flip(gy, axes)), starts, row.case.kernel)
            return seen.sum(0)[..., None, :]

    return Variant(run, _identity)


def _ndimage(row: Row, arrays: Arrays) -> Variant:
    from scipy import ndimage

    planes = arrays.x if row.pass_ == "forward" else arrays.gy
    planes = planes[..., 0]  # (B, *S)
    f = arrays.f[..., 0, 0]
    if row.pass_ == "input_grad":
        f = np.flip(f).conj()
    f = np.ascontiguousarray(f)[None]
    kind = row.result_dtype
    return Variant(
        lambda: ndimage.correlate(planes, f, output=kind, mode="constant")[..., None], _identity
    )


def _identity(result: Any) -> np.ndarray:
    return result
