"""Runs JAX on the CPU: compiled, in both layouts; gradients are the compiled transposes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.case import Row
from bench.data import Arrays
from bench.options import Options
from bench.peers import Variant

LETTERS = "HWD"


def start(options: Options) -> dict[str, str]:
    """Import JAX with 64-bit types; it takes as many threads as the process has processors."""
    import jax
    import jaxlib

    jax.config.update("jax_enable_x64", True)
    return {"jax": jax.__version__, "jaxlib": jaxlib.__version__}


def builders(row: Row) -> dict[str, Callable[[Arrays], Variant]]:
    """List the variants: channels last and channels first."""
    space = LETTERS[: row.rank]
    return {
        layout: lambda arrays, first=first: _build(row, arrays, first)
        for layout, first in ((f"N{space}C", False), (f"NC{space}", True))
    }


def gemm(dtype: str, size: int) -> Callable[[], Any]:
    """Return a call of JAX's matrix product."""
    import jax
    from jax import numpy as jnp

    a = jnp.ones((size, size), dtype)
    multiply = jax.jit(jnp.matmul)
    return lambda: multiply(a, a).block_until_ready()


def _build(row: Row, arrays: Arrays, channels_first: bool) -> Variant:
    import jax
    from jax import numpy as jnp

    space = LETTERS[: row.rank]
    specs = ("NC" + space, "OI" + space) if channels_first else ("N" + space + "C", space + "IO")
    wide = jnp.dtype(row.result_dtype)
    mixed = arrays.x.dtype != arrays.f.dtype

    def convolve(x: Any, f: Any) -> Any:
        return jax.lax.conv_general_dilated(
            x.astype(f.dtype) if mixed else x,
            f,
            window_strides=row.stride,
            padding=row.pads,
            rhs_dilation=row.dilation,
            dimension_numbers=(specs[0], specs[1], specs[0]),
            feature_group_count=row.case.groups,
            preferred_element_type=wide if row.is_integer else None,
        )

    x, gy = (_place(a, channels_first) for a in (arrays.x, arrays.gy))
    f = arrays.f
    if channels_first:
        f = np.transpose(f, (f.ndim - 1, f.ndim - 2, *range(f.ndim - 2)))
    x, f, gy = (jnp.asarray(np.ascontiguousarray(a)) for a in (x, f, gy))
    # the adjoint conjugates the other operand; JAX's transpose does not
    if row.pass_ == "forward":
        call, operands = jax.jit(convolve), (x, f)
    elif row.pass_ == "input_grad":
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)

        def input_grad(gy: Any, f: Any) -> Any:
            return jax.linear_transpose(lambda x: convolve(x, f.conj()), shape)(gy)[0]

        call, operands = jax.jit(input_grad), (gy, f)
    else:
        shape = jax.ShapeDtypeStruct(f.shape, f.dtype)

        def filter_grad(gy: Any, x: Any) -> Any:
            return jax.linear_transpose(lambda f: convolve(x.conj(), f), shape)(gy)[0]

        call, operands = jax.jit(filter_grad), (gy, x)
    return Variant(
        lambda: call(*operands).block_until_ready(),
        lambda result: _canonical(row, np.asarray(result), channels_first),
    )


def _place(a: np.ndarray, channels_first: bool) -> np.ndarray:
    return np.moveaxis(a, -1, 1) if channels_first else a


def _canonical(row: Row, result: np.ndarray, channels_first: bool) -> np.ndarray:
    if not channels_first:
        return result
    if row.pass_ == "filter_grad":
        return np.transpose(result, (*range(2, result.ndim), 1, 0))
    return np.moveaxis(result, 1, -1)
