"""Adapt JAX: the memory of arrays on a CPU is lent to NumPy, and a primitive computes tracers.

JAX's own convolution and array code compute what is left: arrays on other devices.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jax import lax

from einstride.arrays.backends import generic, jax_primitive, numpy
from einstride.arrays.backends.adapter import Array, Exchange
from einstride.arrays.backends.passes import PASSES
from einstride.geometry.convolution import Direction, Geometry
from einstride.support.errors import bad_type

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
    return _only_device(x) if has_values(x) and x.committed else None


def _only_device(x: Array) -> Any:
    devices = x.devices()
    return next(iter(devices)) if len(devices) == 1 else None


def is_plain(*arrays: Array | None) -> bool:
    """True if the arrays, some of which may be None, have values in the memory of one CPU device.

    An array that nobody placed on a device belongs to the device of the others.
    """
    placed = set()
    for array in arrays:
        if array is None:
            continue
        if not (isinstance(array, jax.Array) and has_values(array)):
            return False
        found = _only_device(array)
        if found is None or found.platform != "cpu" or not isinstance(array.dtype, np.dtype):
            return False
        if array.committed:
            placed.add(found)
    return len(placed) <= 1


def has_values(x: Array) -> bool:
    """True unless x is a tracer, which stands for other arrays."""
    return not isinstance(x, jax.core.Tracer)


def lend(x: Array | None) -> Any:
    """Return a read-only NumPy view of an array on a CPU device."""
    return None if x is None else np.asarray(x)


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


def check(where: str, names: tuple[str, ...], arrays: tuple[Array | None, ...]) -> None:
    """Raise TypeError if a size is not a number yet, as in functions exported for any size."""
    operands = [a for a in arrays[:2] if a is not None]
    if not all(isinstance(n, int) for a in operands for n in a.shape):
        raise bad_type(
            where,
            "the shapes of jax's arrays must be numbers, from which a plan is made",
            f"shapes {', '.join(str(tuple(a.shape)) for a in operands)}",
            "trace the function for each shape",
        )


def operator(*call: Any) -> Array:
    """Compute a call by one primitive, which JAX differentiates, transforms and traces."""
    return PASSES[0].bilinear(jax_primitive.apply, *call)


def _copy(x: Array) -> Array:
    return jax.numpy.array(x, copy=True)


_OWN = replace(generic.of(jax.numpy), convolve=convolve, device=device)

BACKEND = replace(
    _OWN,
    frozen=_copy,
    exchange=Exchange(
        host=replace(numpy.BACKEND, traits=replace(numpy.BACKEND.traits, library="jax")),
        is_plain=is_plain,
        lend=lend,
        adopt=adopt,
        has_values=has_values,
        check=check,
        operator=operator,
        copy=_copy,
        refusal=refusal,
    ),
)

jax_primitive.register(_OWN, is_plain, lend, adopt)
