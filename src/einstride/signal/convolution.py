"""Define convolution and correlation over all axes or some, as `scipy.signal` does."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from time import perf_counter
from typing import Any

import numpy as np

from einstride.api.plan import plan
from einstride.api.saved_plan import Plan
from einstride.arrays import ops
from einstride.arrays.backends import Array, Backend
from einstride.filters.along_axes import convolve as convolved
from einstride.filters.operands import common, converted, is_complex, is_integer, together
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.padding import Pads
from einstride.support.errors import bad_type, bad_value, shown

MODES = ("valid", "same", "full")
METHODS = ("auto", "direct", "fft")
MANY_TAPS = 128
"""Taps from which complex operands may be convolved as real ones: fewer are quicker as they are."""

REPEATS = 3
"""Measurements of each method, of which the least counts: `choose_conv_method(measure=True)`."""


class Method(str):
    """Hold the name of a method, "direct" or "fft", and the plan that it was read from.

    Attributes
    ----------
    plan : Plan
        The plan of the call, whose text gives the cost of each algorithm and the reasons.
    """

    plan: Plan


def convolve(in1: Any, in2: Any, mode: str = "full", method: str = "auto") -> Array:
    """Convolve two arrays of any number of axes, as `scipy.signal.convolve`.

    Parameters
    ----------
    in1, in2 : array or sequence
        Two arrays with the same number of axes.
    mode : {"full", "valid", "same"}
        Every overlap; complete overlaps; or the middle of "full", of the shape of in1.
    method : {"auto", "direct", "fft"}
        "auto" takes the algorithm with the least predicted time (`choose_conv_method`). "direct"
        bounds the error of each element by its own terms, so that a NaN stays in its windows.

    Returns
    -------
    array
        The result, in the common dtype of the operands; integers are exact and wrap as SciPy's do.

    Raises
    ------
    ValueError
        If the operands differ in their number of axes, or a name is unknown.
    """
    return _by_method("convolve", in1, in2, mode, method, conjugated=False)


def correlate(in1: Any, in2: Any, mode: str = "full", method: str = "auto") -> Array:
    """Correlate two arrays of any number of axes, as `scipy.signal.correlate`.

    Parameters
    ----------
    in1, in2, mode, method : as in `convolve`
        The second array is conjugated.

    Returns
    -------
    array
        The result; `correlation_lags` gives the lag of each element.
    """
    return _by_method("correlate", in1, in2, mode, method, conjugated=True)


def _by_method(where: str, in1: Any, in2: Any, mode: str, method: str, conjugated: bool) -> Array:
    b, (x, f) = _operands(where, in1, in2)
    check_mode(where, mode)
    if method not in METHODS:
        raise bad_value(
            where, "Acceptable method flags are 'auto', 'direct', or 'fft'.", shown(method),
            "use 'auto'",
        )  # fmt: skip
    f = ops.conjugate(f, b) if conjugated else f
    if x.ndim == 0:
        return x * f
    if x.shape and 0 in (*x.shape, *f.shape):
        raise bad_value(
            where, "both arrays need elements", f"in1 {tuple(x.shape)}, in2 {tuple(f.shape)}",
            "leave empty arrays out",
        )  # fmt: skip
    name = common(x, f, b)
    axes = tuple(range(x.ndim))
    return _convolved(where, x, f, mode, axes, name, b, conjugated, method == "direct")


def fftconvolve(in1: Any, in2: Any, mode: str = "full", axes: Any = None) -> Array:
    """Convolve two arrays in floats over some axes, as `scipy.signal.fftconvolve`.

    Parameters
    ----------
    in1, in2, mode : as in `convolve`
        Integers are converted to float64.
    axes : int or sequence of ints, optional
        The axes that are convolved over, by default all; along each other axis the arrays have the
        same length, or one of them has length 1.

    Returns
    -------
    array
        The result. Its algorithm is the one with the least predicted time, by FFT or not.
    """
    return _over_axes("fftconvolve", in1, in2, mode, axes)


def oaconvolve(in1: Any, in2: Any, mode: str = "full", axes: Any = None) -> Array:
    """Convolve two arrays of different lengths over some axes, as `scipy.signal.oaconvolve`.

    Parameters
    ----------
    in1, in2, mode, axes : as in `fftconvolve`
        The same; the plan decides whether blocks are overlapped.

    Returns
    -------
    array
        As `fftconvolve`.
    """
    return _over_axes("oaconvolve", in1, in2, mode, axes)


def _over_axes(where: str, in1: Any, in2: Any, mode: str, axes: Any) -> Array:
    b, (x, f) = _operands(where, in1, in2)
    if x.ndim == 0:
        return x * f
    if 0 in (*x.shape, *f.shape):
        return b.xp.asarray([])
    check_mode(where, mode)
    chosen = _axes(where, axes, x.ndim)
    chosen = tuple(a for a in chosen if x.shape[a] != 1 and f.shape[a] != 1)
    if any(
        a not in chosen and n != k and 1 not in (n, k)
        for a, (n, k) in enumerate(zip(x.shape, f.shape, strict=True))
    ):
        raise bad_value(
            where,
            f"incompatible shapes for in1 and in2: {tuple(x.shape)} and {tuple(f.shape)}",
            f"axes {shown(axes)}", "make them agree along the other axes",
        )  # fmt: skip
    name = common(x, f, b)
    name = {"float16": "float32", "bfloat16": "float32"}.get(name, name)
    name = "float64" if is_integer(name) and chosen else name
    return _convolved(where, x, f, mode, chosen, name, b, False, False)


def _axes(where: str, axes: Any, rank: int) -> tuple[int, ...]:
    if axes is None:
        return tuple(range(rank))
    given = tuple(axes) if np.iterable(axes) else (axes,)
    if not given:
        raise bad_value(where, "when provided, axes cannot be empty", "()", "name an axis")
    if not all(hasattr(a, "__index__") and not isinstance(a, bool) for a in given):
        raise bad_value(
            where, "axes must be a scalar or iterable of integers", shown(axes), "use integers"
        )
    if not all(-rank <= a < rank for a in given):
        raise bad_value(
            where, "axes exceeds dimensionality of input", shown(axes), f"there are {rank} axes"
        )
    found = tuple(int(a) % rank for a in given)
    if len(set(found)) != len(found):
        raise bad_value(where, "all axes must be unique", shown(axes), "name each axis once")
    return found


def _operands(where: str, in1: Any, in2: Any) -> tuple[Backend, list[Array]]:
    b, (x, f) = together(where, in1=in1, in2=in2)
    for name, a in (("in1", x), ("in2", f)):
        if b.dtype_name(a) not in ITEMSIZE:
            raise bad_type(
                where, f"{name} must hold bools, integers, floats or complex numbers",
                f"dtype {a.dtype}", "convert it first",
            )  # fmt: skip
    if x.ndim != f.ndim:
        raise bad_value(
            where, "in1 and in2 should have the same dimensionality (volume and kernel)",
            f"{x.ndim} and {f.ndim} axes", "add axes of length 1",
        )  # fmt: skip
    return b, [x, f]


def check_mode(where: str, mode: object) -> None:
    """Raise unless a mode is one of SciPy's."""
    if not isinstance(mode, str) or mode not in MODES:
        raise bad_value(
            where, "acceptable mode flags are 'valid', 'same', or 'full'", shown(mode),
            "use 'full'",
        )  # fmt: skip


def swapped(where: str, mode: str, s1: Sequence[int], s2: Sequence[int]) -> bool:
    """True if a "valid" convolution slides in1 along in2: neither may be larger on some axes."""
    if mode != "valid":
        return False
    pairs = list(zip(s1, s2, strict=True))
    if all(n >= k for n, k in pairs):
        return False
    if all(k >= n for n, k in pairs):
        return True
    raise bad_value(
        where,
        "For 'valid' mode, one must be at least as large as the other in every dimension",
        f"{tuple(s1)} and {tuple(s2)}", "use mode='full'",
    )  # fmt: skip


def pads_of(mode: str, sizes: Sequence[int]) -> Pads:
    """Return the padding of a filter of these sizes in a mode: "same" drops more at the end."""
    if mode == "valid":
        return ((0, 0),) * len(sizes)
    if mode == "full":
        return tuple((k - 1, k - 1) for k in sizes)
    return tuple((k - 1 - (k - 1) // 2, (k - 1) // 2) for k in sizes)


def _convolved(
    where: str, x: Array, f: Array, mode: str, axes: tuple[int, ...], name: str, b: Backend,
    reverse: bool, elementwise: bool,
) -> Array:  # fmt: skip
    """Convolve over `axes`; along the others the arrays are multiplied. `reverse` correlates.

    The arrays may change places in a convolution: the smaller one is the filter. After the change
    a correlation is the other one, conjugated before, read backwards.
    """
    shape = tuple(x.shape)
    s1, s2 = ([a.shape[i] for i in axes] for a in (x, f))
    change = swapped(where, mode, s1, s2) or (mode == "full" and prod(s2) > prod(s1))
    if change:
        x, f, s1, s2 = f, x, s2, s1
    integers = is_integer(b.dtype_name(x)) and is_integer(b.dtype_name(f))
    compute = name if not is_integer(name) else None
    if compute is not None and not (integers and is_integer(name)):
        x, f = (a if b.dtype_name(a) == compute else b.astype(a, compute) for a in (x, f))
    others = [i for i in range(x.ndim) if i not in axes]
    order = (*others, *axes)
    batch = tuple(max(x.shape[i], f.shape[i]) for i in others)
    x, f = (b.xp.permute_dims(a, order) if order != tuple(range(a.ndim)) else a for a in (x, f))
    pads = pads_of(mode, s2)
    accuracy = "elementwise" if elementwise else "normwise"
    given: dict[str, Any] = {"padding": pads, "flip": not reverse, "accuracy": accuracy}
    y = _batched(where, x, f, batch, len(others), given, b) if axes else x * f
    back = tuple(sorted(range(y.ndim), key=order.__getitem__))
    y = y if order == tuple(range(y.ndim)) else b.xp.permute_dims(y, back)
    if change and reverse:
        y = b.xp.flip(y, axis=axes)
    if mode == "same":  # the middle along the other axes, too
        starts = [(m - n) // 2 for m, n in zip(y.shape, shape, strict=True)]
        y = y[tuple(slice(i, i + n) for i, n in zip(starts, shape, strict=True))]
    return converted(y, name, b)


def _batched(
    where: str, x: Array, f: Array, batch: tuple[int, ...], count: int, given: dict[str, Any],
    b: Backend,
) -> Array:  # fmt: skip
    """Convolve x (*batch, *S) with f (*batch, *K): one filter for all examples, or one for each."""
    sizes, kernel = x.shape[count:], f.shape[count:]
    if all(n == 1 for n in f.shape[:count]):
        x = b.xp.reshape(x, (prod(x.shape[:count]), *sizes, 1))
        f = b.xp.reshape(f, (*kernel, 1, 1))
        in_parts = _prefers_real_parts(x, f, given, b)
        y = (_by_real_parts if in_parts else convolved)(where, x, f, **given)
        return b.xp.reshape(y, (*batch, *y.shape[1:-1]))
    groups = prod(batch)
    x = b.xp.reshape(b.xp.broadcast_to(x, (*batch, *sizes)), (1, groups, *sizes))
    f = b.xp.reshape(b.xp.broadcast_to(f, (*batch, *kernel)), (groups, 1, *kernel))
    y = convolved(where, x, f, groups=groups, layout="channels_first", **given)
    return b.xp.reshape(y, (*batch, *y.shape[2:]))


def _prefers_real_parts(x: Array, f: Array, given: dict[str, Any], b: Backend) -> bool:
    """True for long complex filters, of whose transforms only the real ones are compiled."""
    dtype = b.dtype_name(x)
    if not is_complex(dtype) or prod(f.shape) < MANY_TAPS or given["accuracy"] == "elementwise":
        return False
    return (
        b.traits.on_host
        and b.traits.compiled
        and plan(tuple(x.shape), tuple(f.shape), dtype=dtype, **given).algorithm == "fft"
    )


def _by_real_parts(where: str, x: Any, f: Any, **given: Any) -> Any:
    """Convolve complex arrays of NumPy as four real convolutions, two in a batch."""
    parts = np.concatenate([x.real, x.imag])
    by_real, by_imaginary = (convolved(where, parts, np.ascontiguousarray(p), **given)
                             for p in (f.real, f.imag))  # fmt: skip
    n = x.shape[0]
    y = np.empty(by_real[:n].shape, x.dtype)
    np.subtract(by_real[:n], by_imaginary[n:], out=y.real)
    np.add(by_real[n:], by_imaginary[:n], out=y.imag)
    return y


def choose_conv_method(
    in1: Any, in2: Any, mode: str = "full", measure: bool = False
) -> Method | tuple[Method, dict[str, float]]:
    """Return "fft" or "direct", the method of the algorithm that the plan chooses.

    Parameters
    ----------
    in1, in2, mode : as in `convolve`
        The operands of the convolution.
    measure : bool
        True measures both methods instead, and returns their times in seconds, too.

    Returns
    -------
    Method, or (Method, dict)
        A string, whose attribute `plan` says what each algorithm costs and why it was not chosen.
    """
    where = "choose_conv_method"
    b, (x, f) = _operands(where, in1, in2)
    check_mode(where, mode)
    if x.ndim == 0:
        x, f = b.xp.reshape(x, (1,)), b.xp.reshape(f, (1,))
    if swapped(where, mode, x.shape, f.shape) or (mode == "full" and prod(f.shape) > prod(x.shape)):
        x, f = f, x
    name = common(x, f, b)
    decided = plan(
        (1, *x.shape, 1), (*f.shape, 1, 1), dtype="int64" if is_integer(name) else name,
        library=b.traits.library, padding=pads_of(mode, f.shape),
    )  # fmt: skip
    if measure:
        times = {m: _seconds(x, f, mode, m) for m in ("fft", "direct")}
        method = Method(min(times, key=times.__getitem__))
        method.plan = decided
        return method, times
    method = Method("fft" if decided.algorithm == "fft" else "direct")
    method.plan = decided
    return method


def _seconds(x: Array, f: Array, mode: str, method: str) -> float:
    taken = []
    for _ in range(REPEATS):
        start = perf_counter()
        convolve(x, f, mode, method)
        taken.append(perf_counter() - start)
    return min(taken)


def correlation_lags(in1_len: int, in2_len: int, mode: str = "full") -> Any:
    """List the lag of each element of a correlation in one axis, as an array of NumPy.

    Parameters
    ----------
    in1_len, in2_len : int
        The lengths of the two signals.
    mode : {"full", "valid", "same"}
        As in `correlate`.

    Returns
    -------
    array of int64
        The lags.
    """
    if mode not in MODES:
        raise bad_value("correlation_lags", f"Mode {mode} is invalid", shown(mode), "use 'full'")
    if mode == "valid":
        most = in1_len - in2_len
        return np.arange(min(most, 0), max(most, 0) + 1)
    lags = np.arange(-in2_len + 1, in1_len)
    if mode == "full":
        return lags
    middle, half = lags.size // 2, in1_len // 2
    return lags[middle - half : middle + half + in1_len % 2]
