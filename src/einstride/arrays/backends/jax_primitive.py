"""Define the primitive by which JAX's transformations know a convolution.

Derivatives of a bilinear operation are operations of the same kind, so that forward mode, reverse
mode, `linear_transpose` and any nesting of them need no rules but these. On a CPU the compiled
function calls back to the kernels for NumPy where that is predicted faster than XLA's convolution.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from einstride.arrays.backends.adapter import Array, Backend
from einstride.arrays.backends.passes import Bilinear, Place
from einstride.support.caches import cached

CONVOLUTION = Primitive("einstride_convolution")


def apply(op: Bilinear, first: Array, second: Array) -> Array:
    """Compute an operation as one step that JAX's transformations know.

    Inside `jax.shard_map` an operand that is equal on all devices becomes one that may differ, if
    the other one may: the adjoint of that step is a sum over the devices.
    """
    axes = _varying(jax.typeof(first)) | _varying(jax.typeof(second))
    if axes:
        first, second = (_vary(array, axes) for array in (first, second))
    return CONVOLUTION.bind(first, second, op=op)


def _varying(aval: Any) -> frozenset[Any]:
    """Return the axes of a mesh over which an array inside `jax.shard_map` may differ."""
    axes: frozenset[Any] = getattr(getattr(aval, "mat", None), "varying", frozenset())
    return axes


def _vary(array: Array, axes: frozenset[Any]) -> Array:
    missing = axes - _varying(jax.typeof(array))
    return jax.lax.pcast(array, tuple(missing), to="varying") if missing else array


def register(
    device: Backend,
    is_plain: Callable[..., bool],
    lend: Callable[[Array], Any],
    adopt: Callable[..., Array],
) -> None:
    """Register the rules of the primitive, whose values are computed on lent memory if possible.

    `device` computes with JAX's own functions; the others are those of JAX's `Exchange`.
    """

    @cached(256, "code")
    def compiled(op: Bilinear) -> Callable[[Array, Array], Array]:
        function: Callable[[Array, Array], Array] = jax.jit(partial(op.on_device, device))
        return function

    def compute(first: Array, second: Array, *, op: Bilinear) -> Array:
        if is_plain(first, second):
            return adopt(op.on_host(lend(first), lend(second)), first, second)
        return compiled(op)(first, second)

    CONVOLUTION.def_impl(compute)
    CONVOLUTION.def_abstract_eval(_abstract)
    ad.defbilinear(CONVOLUTION, partial(_transpose, 0), partial(_transpose, 1))
    batching.primitive_batchers[CONVOLUTION] = _batch
    mlir.register_lowering(CONVOLUTION, partial(_lower, device), cacheable=False)
    mlir.register_lowering(
        CONVOLUTION, partial(_lower_for_cpu, device), platform="cpu", cacheable=False
    )


def _abstract(first: Any, second: Any, *, op: Bilinear) -> Any:
    if _varying(first):
        return first.update(shape=op.shape, dtype=jnp.dtype(op.dtype), weak_type=False)
    return jax.core.ShapedArray(op.shape, jnp.dtype(op.dtype))


def _transpose(operand: int, cotangent: Array, first: Any, second: Any, *, op: Bilinear) -> Array:
    """Apply the adjoint in one operand to a cotangent."""
    other = first if operand else second
    if op.per_example:
        return _transpose_examples(operand, cotangent, other, op)
    adjoint, other_first = op.transposed(operand)
    pair = (other, cotangent) if other_first else (cotangent, other)
    return apply(adjoint, *pair)


def _transpose_examples(operand: int, cotangent: Array, other: Array, op: Bilinear) -> Array:
    """Apply the adjoint of each example's gradient to the example's cotangent."""
    canonical, orders = op.canonical()
    adjoint, other_first = canonical.of_one_example().transposed(operand)

    def one(cotangent: Array, other: Array) -> Array:
        pair = (other[None], cotangent) if other_first else (cotangent, other[None])
        return apply(adjoint, *pair)[0]

    found = jax.vmap(one)(_permuted(cotangent, orders[2]), _permuted(other, orders[1 - operand]))
    return _permuted_back(found, orders[operand])


def _batch(
    arrays: tuple[Array, Array], axes: tuple[int | None, int | None], *, op: Bilinear
) -> tuple[Array, int]:
    """Compute the results of operands with an axis of examples as one larger operation."""
    canonical, orders = op.canonical()
    is_mapped = [axis is not None for axis in axes]
    count = next(a.shape[i] for a, i in zip(arrays, axes, strict=True) if i is not None)
    larger, places = canonical.batched(count, *is_mapped)
    operands = []
    for array, axis, order, place in zip(arrays, axes, orders[:2], places[:2], strict=True):
        if axis is None:
            operands.append(_permuted(array, order))
            continue
        array = _permuted(jnp.moveaxis(array, axis, 0), order, start=1)
        operands.append(array if place is None else _merged(array, place))
    found = apply(larger, *operands)
    found = found if places[2] is None else _split(found, places[2], count)
    return _permuted_back(found, orders[2], start=1), 0


def _permuted(array: Array, order: tuple[int, ...] | None, start: int = 0) -> Array:
    """Permute the axes of an array from axis `start` on."""
    if order is None:
        return array
    return jnp.permute_dims(array, (*range(start), *(start + i for i in order)))


def _permuted_back(array: Array, order: tuple[int, ...] | None, start: int = 0) -> Array:
    """Undo `_permuted`."""
    return _permuted(array, order and tuple(map(order.index, range(len(order)))), start)


def _merged(array: Array, place: Place) -> Array:
    """Merge the first axis into another one, as (before, first axis, after)."""
    count, *shape = array.shape
    axis, before = place[0] % len(shape), place[1]
    parts = (before, shape[axis] // before)
    array = jnp.reshape(array, (count, *shape[:axis], *parts, *shape[axis + 1 :]))
    shape[axis] *= count
    return jnp.reshape(jnp.moveaxis(array, 0, axis + 1), shape)


def _split(array: Array, place: Place, count: int) -> Array:
    """Undo `_merged`."""
    shape = list(array.shape)
    axis, before = place[0] % len(shape), place[1]
    parts = (before, count, shape[axis] // (before * count))
    array = jnp.reshape(array, (*shape[:axis], *parts, *shape[axis + 1 :]))
    shape[axis] //= count
    return jnp.reshape(jnp.moveaxis(array, axis + 1, 0), (count, *shape))


def _lower(device: Backend, ctx: Any, first: Any, second: Any, *, op: Bilinear) -> Any:
    """Lower the operation to JAX's own functions, on the part of the arrays that a device has."""
    if any(map(_varying, ctx.avals_in)):
        ctx = ctx.replace(avals_in=[jax.core.ShapedArray(a.shape, a.dtype) for a in ctx.avals_in])
    compute = partial(op.on_device, device)
    return mlir.lower_fun(compute, multiple_results=False)(ctx, first, second)


def _lower_for_cpu(device: Backend, ctx: Any, first: Any, second: Any, *, op: Bilinear) -> Any:
    """Lower the operation to a call of the kernels for NumPy, or to JAX's own functions.

    Arrays that JAX distributes over several devices are not gathered on one; inside `shard_map`,
    each device calls the kernels for its part.
    """
    context = ctx.module_context.axis_context
    on_each_device = hasattr(context, "mesh") and set(context.manual_axes) == set(
        context.mesh.axis_names
    )
    on_one_device = getattr(context, "num_devices", 2) == 1
    if not (on_one_device or on_each_device) or not op.prefers_host(device):
        return _lower(device, ctx, first, second, op=op)
    if on_each_device:
        result = jax.ShapeDtypeStruct(op.shape, jnp.dtype(op.dtype))
        call = partial(jax.pure_callback, lambda *arrays: op.on_host(*map(np.asarray, arrays)))
        return mlir.lower_fun(partial(call, result), multiple_results=False)(ctx, first, second)
    results, _, _ = mlir.emit_python_callback(  # a sixth of the time of `jax.pure_callback`
        ctx,
        lambda first, second: (op.on_host(first, second),),
        None,
        [first, second],
        ctx.avals_in,
        ctx.avals_out,
        has_side_effect=False,
        returns_token=False,
    )
    return results
