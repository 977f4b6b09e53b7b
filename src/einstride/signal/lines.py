"""Define filters of finite length along one axis, as `scipy.signal.lfilter` with a = 1."""

from __future__ import annotations

from typing import Any

from einstride.arrays.backends import Array
from einstride.filters import along_axes
from einstride.filters.operands import together
from einstride.support.errors import bad_type, bad_value


def lfilter(b: Any, a: Any, x: Any, axis: int = -1, zi: Any = None) -> Any:
    """Filter along one axis by taps of finite length, as `scipy.signal.lfilter`.

    Parameters
    ----------
    b : sequence or array
        The taps.
    a : number, or sequence of one number
        What the taps are divided by. A filter with feedback, of more numbers, is no convolution.
    x : array
        The signals.
    axis : int
        The axis that they run along.
    zi : array, optional
        What the taps still owe to the elements before: len(b) - 1 numbers along the axis.

    Returns
    -------
    y : array
        The filtered signals, of the shape of x.
    zf : array
        What they still owe to the elements after them; only if `zi` is given.

    Raises
    ------
    ValueError
        If `a` has more than one number, or `zi` another shape.
    TypeError
        If no operand is a float or complex: SciPy has no filters of integers either.
    """
    where = "lfilter"
    given = {"b": b, "a": a, "x": x}
    library, (taps, scale, signal, *states) = together(
        where, **given, **({} if zi is None else {"zi": zi})
    )
    if any(library.dtype_name(t) == "object" for t in (taps, scale, signal, *states)):
        raise bad_type(where, "operands must hold numbers", "objects", "convert them to float64")
    taps, scale = (library.xp.reshape(t, (1,)) if t.ndim == 0 else t for t in (taps, scale))
    for name, t in (("b", taps), ("a", scale)):
        if t.ndim != 1 or t.shape[0] == 0:
            raise bad_value(
                where, f"Parameter {name} is not a non-empty 1d array", f"{name}.shape={t.shape}",
                "pass a sequence of numbers",
            )  # fmt: skip
    if signal.ndim == 0:
        raise bad_value(where, "x must be at least 1-D", "a number", "pass a signal")
    if not -signal.ndim <= axis < signal.ndim:
        raise bad_value(where, "axis is out of range", axis, f"x has {signal.ndim} axes")
    axis %= signal.ndim
    expected = (*signal.shape[:axis], taps.shape[0] - 1, *signal.shape[axis + 1 :])
    for state in states:
        _check_state(where, state, signal, expected)
    name = library.dtype_name(
        library.xp.zeros(1, dtype=library.xp.result_type(taps, scale, signal, *states))
    )
    if name not in ("float32", "float64", "complex64", "complex128"):
        raise bad_type(
            where, "the operands must have a common dtype of floats or complex numbers", name,
            "convert x to float64",
        )  # fmt: skip
    if scale.shape[0] != 1:
        raise bad_value(
            where, "a must be one number: a filter with feedback is no convolution",
            f"{scale.shape[0]} numbers", "use scipy.signal.lfilter, or a=1",
        )  # fmt: skip
    taps, scale, signal, *states = (library.astype(t, name) for t in (taps, scale, signal, *states))
    taps = taps / scale
    n, k = signal.shape[axis], taps.shape[0]
    pads = ((k - 1, k - 1 if states else 0),)
    if 0 in signal.shape:
        length = n + (k - 1 if states else 0)
        whole = library.zeros((*expected[:axis], length, *expected[axis + 1 :]), name, signal)
    else:
        whole = along_axes.correlate(
            where, signal, taps, (axis,), pads, library, flip=True, accuracy="elementwise"
        )
    if not states:
        return whole
    xp = library.xp
    rest = xp.zeros_like(xp.take(whole, xp.arange(n), axis=axis)) if n else whole
    owed = xp.concat([xp.broadcast_to(states[0], expected), rest], axis=axis) if n else states[0]
    whole = whole + owed
    head = (slice(None),) * axis
    return whole[(*head, slice(0, n), ...)], whole[(*head, slice(n, n + k - 1), ...)]


def _check_state(where: str, zi: Array, x: Array, expected: tuple[int, ...]) -> None:
    if zi.ndim != x.ndim:
        raise bad_value(
            where, "Dimensions of parameters x and zi must match", f"{x.ndim} and {zi.ndim} axes",
            f"give zi the shape {expected}",
        )  # fmt: skip
    axis = next((i for i, (n, m) in enumerate(zip(x.shape, expected, strict=True)) if n != m), None)
    for i, (got, wanted) in enumerate(zip(zi.shape, expected, strict=True)):
        if got != wanted and (got != 1 or i == axis):
            raise bad_value(
                where, f"Unexpected shape for parameter zi: expected {expected}, found {zi.shape}.",
                f"zi {zi.shape}", "give it one state for each tap but the first",
            )  # fmt: skip
