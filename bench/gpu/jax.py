"""Runs JAX under jit, channels_last; gradients are JAX's transposes of the convolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.case import Row
from bench.gpu.timing import Clock, WallClock

NAME = "jax"
_last: list[Any] = []


def start(small: bool) -> tuple[Clock, dict[str, str]]:
    """Return the clock and the versions. JAX shows no events: it is timed around a queue of
    calls."""
    import jax

    jax.config.update("jax_enable_x64", True)
    if not small and jax.default_backend() != "gpu":
        raise RuntimeError(f"JAX runs on {jax.default_backend()}, not on a GPU")
    return WallClock(lambda: [a.block_until_ready() for a in _last]), {"jax": jax.__version__}


def variants(row: Row) -> list[str]:
    """TF32 is JAX's default precision for float32 on a GPU."""
    if row.case.dtype == "complex64" and row.pass_ != "forward":
        return []  # complex gradients are skipped: they differ by a conjugate
    return ["highest", "default (tf32)"] if row.case.dtype == "float32" else ["default"]


def prepare(row: Row, variant: str, arrays: dict[str, Any], sets: int) -> Callable[[int], Any]:
    """Return a function of the number of a set of arrays, which starts a call and returns its
    result."""
    import jax
    from jax import lax
    from jax import numpy as jnp

    letters = "HWDT"[: row.rank]
    spec = (f"N{letters}C", f"{letters}IO", f"N{letters}C")
    precision = lax.Precision.HIGHEST if variant == "highest" else None

    def conv(x: Any, f: Any) -> Any:
        return lax.conv_general_dilated(
            x, f, row.stride, row.pads, rhs_dilation=row.dilation, dimension_numbers=spec,
            feature_group_count=row.case.groups, precision=precision,
        )  # fmt: skip

    def of(name: str) -> list[Any]:
        one = jnp.asarray(arrays[name], dtype=row.case.dtype)
        return [one, *(jnp.array(one, copy=True) for _ in range(sets - 1))]

    shapes = {
        name: jax.ShapeDtypeStruct(shape, jnp.dtype(row.case.dtype))
        for name, shape in (("x", row.x_shape), ("f", row.f_shape))
    }
    if row.pass_ == "forward":
        function, a, b = jax.jit(conv), of("x"), of("f")
    elif row.pass_ == "input_grad":
        a, b = of("gy"), of("f")
        function = jax.jit(
            lambda gy, f: jax.linear_transpose(lambda x: conv(x, f), shapes["x"])(gy)[0]
        )
    else:
        a, b = of("x"), of("gy")
        function = jax.jit(
            lambda x, gy: jax.linear_transpose(lambda f: conv(x, f), shapes["f"])(gy)[0]
        )

    def call(i: int) -> Any:
        _last[:] = [function(a[i], b[i])]
        return _last[0]

    return call


def checksum(result: Any) -> float:
    """Return the sum of magnitudes, in float64."""
    whole = np.asarray(result)
    whole = whole if whole.dtype.kind == "c" else whole.astype("float64")
    return float(np.abs(whole).sum(dtype="float64"))
