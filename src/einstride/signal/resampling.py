"""Define upsampling, filtering and downsampling along one axis, as `scipy.signal` does.

The upsampled signal is never made: neighbouring outputs are the output channels of a convolution,
each with the taps that meet elements of the signal there (`_by_phases`).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd, prod
from typing import Any

import numpy as np

from einstride.arrays.backends import Array, Backend
from einstride.filters import along_axes
from einstride.filters.operands import (
    array_like,
    is_array,
    is_complex,
    is_integer,
    is_known_finite,
    together,
)
from einstride.signal.lowpass import lowpass
from einstride.support.errors import bad_value, shown

BORDERS = {
    "constant": "constant", "symmetric": "symmetric", "reflect": "reflect", "edge": "replicate",
    "wrap": "circular",
}  # fmt: skip
"""The padding mode of `einstride.conv` for each mode of SciPy that repeats elements."""

EXTRAPOLATIONS = ("smooth", "line", "antisymmetric", "antireflect")
STATISTICS = ("mean", "median", "minimum", "maximum")


def upfirdn(
    h: Any, x: Any, up: int = 1, down: int = 1, axis: int = -1, mode: str = "constant",
    cval: Any = 0,
) -> Array:  # fmt: skip
    """Insert zeros, filter, and keep every `down`-th element, as `scipy.signal.upfirdn`.

    Parameters
    ----------
    h : sequence or array
        The taps.
    x : array
        The signals.
    up, down : int
        Elements between neighbours of x after zeros are inserted, and between those that are kept.
    axis : int
        The axis of the signals.
    mode : str
        How x continues beyond its ends: "constant" (`cval`), "symmetric", "reflect", "edge",
        "wrap", "smooth", "line", "antisymmetric" or "antireflect".
    cval : number
        The constant.

    Returns
    -------
    array
        ((N - 1) * up + len(h) - 1) // down + 1 elements along the axis.
    """
    where = "upfirdn"
    b, (taps, signal) = together(where, h=h, x=x)
    if taps.ndim != 1 or taps.shape[0] == 0:
        raise bad_value(
            where, "h must be 1-D with non-zero length", f"h of shape {tuple(taps.shape)}",
            "pass a sequence of taps",
        )  # fmt: skip
    up, down = (_factor(where, n, v) for n, v in (("up", up), ("down", down)))
    if signal.ndim == 0:
        raise bad_value(where, "x must be at least 1-D", "a number", "pass a signal")
    if not -signal.ndim <= axis < signal.ndim:
        raise bad_value(where, "axis is out of range", axis, f"x has {signal.ndim} axes")
    axis %= signal.ndim
    if mode not in BORDERS and mode not in EXTRAPOLATIONS:
        raise bad_value(
            where, "Unknown mode", shown(mode), f"use one of {(*BORDERS, *EXTRAPOLATIONS)}"
        )
    name = _result(b.dtype_name(taps), b.dtype_name(signal))
    taps, signal = (b.astype(t, name) for t in (taps, signal))
    reach = taps.shape[0] - 1
    n = signal.shape[axis]
    if n == 0 or 0 in signal.shape:
        length = max(((n - 1) * up + reach) // down + 1, 0) if n else 0
        return b.zeros((*signal.shape[:axis], length, *signal.shape[axis + 1 :]), name, signal)
    plain = mode == "constant" and cval == 0
    more = 0 if plain else -(-reach // up)
    if more:
        signal = continued(signal, axis, more, mode, cval, b)
    pad = reach - more * up
    if up > 1:
        return _by_phases(where, signal, taps, axis, up, down, pad, b)
    return along_axes.correlate(
        where, signal, taps, (axis,), ((pad, pad),), b, flip=True, stride=down,
        accuracy="elementwise",
    )  # fmt: skip


def _result(*names: str) -> str:
    """Return the dtype of a result by NumPy's rules, which SciPy follows for every library."""
    name = str(np.result_type(*("float32" if n == "bfloat16" else n for n in names), np.float32))
    return "float64" if is_integer(name) else name


def _by_phases(
    where: str, x: Array, h: Array, axis: int, up: int, down: int, pad: int, b: Backend
) -> Array:
    """Filter the signal with zeros inserted, by convolutions of the signal itself.

    Output m = q * up + r, of phase r, is the sum of h[p + j * up] * x[q * down + i - j] over j,
    where i and p are quotient and remainder of r * down + len(h) - 1 - pad by `up`. All phases are
    the output channels of one convolution, if the signal is known to be finite: it multiplies by
    zero what one phase does not meet and another does. Otherwise each phase has a convolution.
    """
    n, length = x.shape[axis], h.shape[0]
    count = ((n - 1) * up + 1 + 2 * pad - length) // down + 1
    blocks = -(-count // up)
    order = (*(a for a in range(x.ndim) if a != axis), axis)
    lines = b.xp.permute_dims(x, order)
    outer = lines.shape[:-1]
    lines = b.xp.reshape(lines, (prod(outer), n, 1))
    all_phases = range(up)
    groups = [all_phases] if is_known_finite(x, b) else [[r] for r in all_phases]
    parts = []
    for phases in groups:
        starts = [divmod(r * down + length - 1 - pad, up) for r in phases]
        f, lowest = _taps_of_phases(h, starts, up, b)
        if f is None or phases[0] >= count:  # no tap, or no output
            shape = (lines.shape[0], blocks, len(phases))
            parts.append(b.zeros(shape, b.dtype_name(x), x))
            continue
        after = (blocks - 1) * down + f.shape[0] - n + lowest
        parts.append(
            along_axes.by_parts(where, lines, f, (-lowest, after), down, b, accuracy="elementwise")
        )
    y = b.xp.concat(parts, axis=2) if len(parts) > 1 else parts[0]
    y = b.xp.reshape(y, (*outer, blocks * up))[..., :count]
    return b.xp.permute_dims(y, tuple(sorted(range(x.ndim), key=order.__getitem__)))


def _taps_of_phases(
    h: Array, starts: Sequence[tuple[int, int]], up: int, b: Backend
) -> tuple[Array | None, int]:
    """Return the filter (K, 1, phases) of phases with these i and p, and where its window begins.

    The filter is None if no phase has a tap.
    """
    length = h.shape[0]
    counts = [-(-(length - p) // up) for _, p in starts]  # taps of each phase
    firsts = [i - taps + 1 for (i, _), taps in zip(starts, counts, strict=True) if taps > 0]
    if not firsts:
        return None, 0
    lowest = min(firsts)
    last = max(i for (i, _), taps in zip(starts, counts, strict=True) if taps > 0)
    table = np.full((last - lowest + 1, len(starts)), length)  # the zero behind the taps
    for column, ((i, p), taps) in enumerate(zip(starts, counts, strict=True)):
        j = np.arange(max(taps, 0))
        table[i - j - lowest, column] = p + j * up
    zero = b.zeros((1,), b.dtype_name(h), h)
    f = b.xp.take(b.xp.concat([h, zero], axis=0), array_like(table.ravel(), h, b), axis=0)
    return b.xp.reshape(f, (table.shape[0], 1, len(starts))), lowest


def _factor(where: str, name: str, value: Any) -> int:
    if not hasattr(value, "__index__") or int(value) < 1:
        raise bad_value(where, "Both up and down must be >= 1", f"{name}={shown(value)}", "use 1")
    return int(value)


def continued(x: Array, axis: int, count: int, mode: str, cval: Any, b: Backend) -> Array:
    """Return x with `count` more elements at both ends of an axis."""
    if mode in BORDERS:
        border = "replicate" if mode == "reflect" and x.shape[axis] == 1 else BORDERS[mode]
        return along_axes.extended(x, axis, (count, count), border, b, cval)
    xp, n = b.xp, x.shape[axis]
    head = (slice(None),) * axis
    first, last = x[(*head, slice(0, 1), ...)], x[(*head, slice(n - 1, n), ...)]
    if mode in ("smooth", "line"):
        steps = _column(np.arange(1, count + 1), x, axis, b)
        if n == 1:
            before = after = first * 0
        elif mode == "line":
            before = after = (last - first) / (n - 1)
        else:
            before, after = (
                x[(*head, slice(1, 2), ...)] - first,
                last - x[(*head, slice(n - 2, n - 1), ...)],
            )
        return xp.concat(
            [first - before * xp.flip(steps, axis=axis), x, last + after * steps], axis=axis
        )
    low = high = count
    while low or high:  # as far as one repetition reaches
        n = x.shape[axis]
        odd = mode == "antireflect"
        most = max(n - 1, 1) if odd else n
        ends = min(low, most), min(high, most)
        x = _negated(x, axis, ends, odd, b)
        low, high = low - ends[0], high - ends[1]
    return x


def _negated(x: Array, axis: int, ends: tuple[int, int], odd: bool, b: Backend) -> Array:
    """Add a mirrored border of the other sign; `odd` mirrors about the edge elements."""
    n, head = x.shape[axis], (slice(None),) * axis
    skip = int(odd and n > 1)
    first, last = x[(*head, slice(0, 1), ...)], x[(*head, slice(n - 1, n), ...)]
    parts = [
        b.xp.flip(x[(*head, slice(skip, ends[0] + skip), ...)], axis=axis),
        b.xp.flip(x[(*head, slice(n - skip - ends[1], n - skip), ...)], axis=axis),
    ]
    edges = (2 * first, 2 * last) if odd else (0, 0)
    return b.xp.concat([edges[0] - parts[0], x, edges[1] - parts[1]], axis=axis)


def _column(values: Any, x: Array, axis: int, b: Backend) -> Array:
    shape = [1] * x.ndim
    shape[axis] = -1
    column = array_like(values.astype(float), x, b)
    return b.xp.reshape(b.astype(column, b.dtype_name(x)), tuple(shape))


def resample_poly(
    x: Any, up: int, down: int, axis: int = 0, window: Any = ("kaiser", 5.0),
    padtype: str = "constant", cval: Any = None,
) -> Array:  # fmt: skip
    """Change the sampling rate by up / down, as `scipy.signal.resample_poly`.

    Parameters
    ----------
    x : array
        The signals.
    up, down : int
        The factors of the rate.
    axis : int
        The axis of the signals.
    window : name, (name, parameter), or array
        The window of the low-pass filter ("kaiser", "hamming", "hann", "blackman", "bartlett" or
        "boxcar"), or the taps of the filter itself, e.g. made by `scipy.signal.firwin`.
    padtype : str
        How x continues: a mode of `upfirdn`, or its "mean", "median", "minimum" or "maximum".
    cval : number, optional
        The constant of padtype "constant", by default 0.

    Returns
    -------
    array
        ceil(N * up / down) elements along the axis.
    """
    where = "resample_poly"
    b, (signal,) = together(where, x=x)
    for name, value in (("up", up), ("down", down)):
        if value != int(value):
            raise bad_value(where, f"{name} must be an integer", shown(value), "round it")
    up, down = int(up), int(down)
    if up < 1 or down < 1:
        raise bad_value(where, "up and down must be >= 1", f"{up}, {down}", "use 1")
    if cval is not None and padtype != "constant":
        raise bad_value(
            where, "cval has no effect when padtype is not constant", shown(padtype), "leave it out"
        )
    if padtype not in (*BORDERS, *EXTRAPOLATIONS, *STATISTICS):
        raise bad_value(
            where, "padtype must be one of: maximum, mean, median, minimum, or a mode of upfirdn",
            shown(padtype), "use 'constant'",
        )  # fmt: skip
    common = gcd(up, down)
    up, down = up // common, down // common
    if up == down == 1:
        return b.xp.asarray(signal, copy=True)
    taps = _low_pass(where, window, up, down, signal, b)
    n = signal.shape[axis]
    wanted = -(-n * up // down)
    half = (taps.shape[0] - 1) // 2
    before = down - half % down
    dropped = (half + before) // down
    after = max((wanted + dropped - 1) * down + 1 - (n - 1) * up - taps.shape[0] - before, 0)
    zeros = (b.zeros((k,), b.dtype_name(taps), signal) for k in (before, after))
    low, high = zeros
    taps = b.xp.concat([low, taps * up, high], axis=0)
    background = None
    if padtype in STATISTICS:
        background = _statistic(padtype, signal, axis, b)
        signal = signal - background
    mode = "constant" if background is not None else padtype
    y = upfirdn(taps, signal, up, down, axis, mode, 0 if cval is None else cval)
    keep = [slice(None)] * y.ndim
    keep[axis] = slice(dropped, dropped + wanted)
    y = y[tuple(keep)]
    return y if background is None else y + background


def _low_pass(where: str, window: Any, up: int, down: int, x: Array, b: Backend) -> Array:
    if isinstance(window, list) or is_array(window):
        taps = window if is_array(window) else array_like(window, x, b)
        if taps.ndim > 1:
            raise bad_value(where, "window must be 1-D", f"{taps.ndim} axes", "pass the taps")
        return b.astype(taps, "float64") if is_integer(b.dtype_name(taps)) else taps
    rate = max(up, down)
    taps = lowpass(where, 20 * rate + 1, 1 / rate, window)
    name = b.dtype_name(x)
    name = "float64" if is_integer(name) else name
    return b.astype(array_like(taps, x, b), name)


def _statistic(name: str, x: Array, axis: int, b: Backend) -> Array:
    if name == "median":
        middle = np.median(np.asarray(b.to_host(x)), axis=axis, keepdims=True)
        return array_like(middle, x, b)
    function = {"mean": b.xp.mean, "minimum": b.xp.min, "maximum": b.xp.max}[name]
    return function(x, axis=axis, keepdims=True)


def decimate(
    x: Any, q: int, n: int | None = None, ftype: Any = "iir", axis: int = -1,
    zero_phase: bool = True,
) -> Array:  # fmt: skip
    """Keep every q-th element after a low-pass filter, as `scipy.signal.decimate(ftype="fir")`.

    Parameters
    ----------
    x : array
        The signals.
    q : int
        The factor of downsampling.
    n : int, optional
        The order of the filter, by default 20 * q: a Hamming window of n + 1 taps.
    ftype : {"fir"}, or a system of `scipy.signal.dlti` without feedback
        The kind of the filter, or its taps. SciPy's default, "iir", has feedback: it is no
        convolution, and refused.
    axis : int
        The axis of the signals.
    zero_phase : bool
        True centres the filter, so that nothing is delayed.

    Returns
    -------
    array
        ceil(N / q) elements along the axis.
    """
    where = "decimate"
    b, (signal,) = together(where, x=x)
    if not hasattr(q, "__index__"):
        raise TypeError(f"decimate: q must be an integer; got {shown(q)}; pass e.g. 2")
    if n is not None and not hasattr(n, "__index__"):
        raise TypeError(f"decimate: n must be an integer; got {shown(n)}; pass e.g. 20")
    own = _own_taps(ftype)
    if own is None and (not isinstance(ftype, str) or ftype != "fir"):
        raise bad_value(
            where, "ftype must be 'fir': a filter with feedback is no convolution", shown(ftype),
            "pass ftype='fir', or use scipy.signal.decimate",
        )  # fmt: skip
    name = b.dtype_name(signal)
    name = "float64" if is_integer(name) or name == "float16" else name
    real = {"complex64": "float32", "complex128": "float64"}.get(name, name)
    order = 20 * int(q) if n is None else int(n)
    taps = lowpass(where, order + 1, 1 / int(q), "hamming") if own is None else own
    taps = array_like(taps, signal, b)
    taps = b.astype(taps, _dtype_of_taps(real, taps, b))
    signal = b.astype(signal, name)
    if zero_phase:
        return resample_poly(signal, 1, int(q), axis, taps)
    y = upfirdn(taps, signal, 1, int(q), axis)
    keep = [slice(None)] * y.ndim
    keep[axis] = slice(0, -(-signal.shape[axis] // int(q)))
    return y[tuple(keep)]


def _own_taps(system: Any) -> Any:
    """Return the taps of a discrete system of `scipy.signal` without feedback, or None."""
    if not hasattr(system, "to_tf") or not hasattr(system, "dt"):
        return None
    fraction = system.to_tf()
    feedback = np.atleast_1d(fraction.den)
    if np.count_nonzero(feedback) != 1 or feedback[0] == 0:
        return None
    return np.atleast_1d(fraction.num) / feedback[0]


def _dtype_of_taps(real: str, taps: Array, b: Backend) -> str:
    """Return the dtype of taps for signals whose real parts have the dtype `real`."""
    if not is_complex(b.dtype_name(taps)):
        return real
    return "complex64" if real == "float32" else "complex128"
