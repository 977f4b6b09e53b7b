"""Adapt JAX: arrays in host memory are read by the kernels for NumPy, tracers by a primitive.

The adapter for any array-API library computes what is left: arrays on other devices.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax import lax

from einstride.arrays.backends import jax_primitive
from einstride.arrays.backends.adapter import Array, Backend
from einstride.geometry.convolution import Direction, Geometry
from einstride.support.caches import cached

WIDE = {"int64", "uint64", "float64", "complex128"}
"""Dtypes that JAX holds only in its 64-bit mode."""


SHARED_FROM = 1 << 16
"""Bytes of a result from which sharing its memory with JAX is faster than a copy of it: sharing
takes 30 microseconds longer, measured on an x86 core."""


def device(x: Array) -> Any:
    """Return the device that x is committed to.

    None for a tracer, for an array on several devices, and for an array that JAX moves to where the
    others are, because nobody chose its device.
    """
    return None if isinstance(x, jax.core.Tracer) or not x.committed else _only_device(x)


def _only_device(x: Array) -> Any:
    devices = x.devices()
    return next(iter(devices)) if len(devices) == 1 else None


def borrow(*arrays: Array | None) -> tuple[Any, ...] | None:
    """Return read-only NumPy views of arrays that lie on one CPU device, else None."""
    for array in arrays:
        if array is None:
            continue
        if isinstance(array, jax.core.Tracer) or not isinstance(array.dtype, np.dtype):
            return None
        found = _only_device(array)
        if found is None or found.platform != "cpu":
            return None
    return tuple(None if array is None else np.asarray(array) for array in arrays)


def adopt(y: Any, *operands: Array | None) -> Array:
    """Hand a new NumPy array to JAX, which shares its memory if it is large and aligned.

    The result is committed to a device if an operand is.
    """
    for like in operands:
        if like is not None and like.committed:
            return jax.device_put(y, like.sharding, may_alias=True)
    if y.nbytes < SHARED_FROM:
        return jax.numpy.asarray(y)
    return jax.device_put(y, may_alias=True)


def refusal(dtype: str) -> str | None:
    """Return the remedy where JAX's 64-bit mode is off and a result would need it."""
    if dtype not in WIDE or jax.dtypes.canonicalize_dtype(dtype) == dtype:
        return None
    return "call jax.config.update('jax_enable_x64', True)"


def convolve(g: Geometry, direction: Direction, first: Array, second: Array) -> Array:
    """Compute a pass by `lax.conv_general_dilated` or its adjoints, without conjugation."""
    if direction == "forward":
        return _forward(g, first, second)
    if direction == "input_grad":
        x = jax.ShapeDtypeStruct(g.given_shape, first.dtype)
        return jax.linear_transpose(lambda x: _forward(g, x, second), x)(first)[0]
    f = jax.ShapeDtypeStruct(g.f_shape, first.dtype)
    return jax.linear_transpose(lambda f: _forward(g, first, f), f)(second)[0]


def _forward(g: Geometry, x: Array, f: Array) -> Array:
    n = g.rank
    spatial = tuple(range(1, n + 1))
    return lax.conv_general_dilated(
        x,
        lax.rev(f, tuple(range(n))) if g.flip else f,
        window_strides=g.stride,
        padding=g.padding,
        lhs_dilation=g.input_dilation or None,
        rhs_dilation=g.dilation,
        dimension_numbers=lax.ConvDimensionNumbers(
            (0, n + 1, *spatial), (n + 1, n, *range(n)), (0, n + 1, *spatial)
        ),
        feature_group_count=g.groups,
        precision=lax.Precision.HIGHEST,
    )


@cached(2, "process")  # JAX has one namespace
def extended(general: Backend, numpy: Backend) -> Backend:
    """Return JAX's backend, from the general one of its namespace and the one of NumPy."""
    own = replace(general, convolve=convolve)
    return replace(
        own,
        device=device,
        copied=lambda *arrays, contiguous=False: numpy.copied(
            *(borrow(*arrays) or ()), contiguous=contiguous
        ),
        frozen=lambda x: jax.numpy.array(x, copy=True),
        host=replace(numpy, traits=replace(numpy.traits, library=general.traits.library)),
        borrow=borrow,
        adopt=adopt,
        apply=jax_primitive.registered(own, borrow, adopt),
        refusal=refusal,
    )
