"""Run a plan on arrays: the chosen algorithm on canonical views, and what surrounds it.

Algorithms see arrays in canonical order (channels last) as transposed views. A result is allocated
in the caller's layout and written through such a view, so no layout costs a copy of an array.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from einstride.algorithms import ALGORITHMS
from einstride.arrays import ops
from einstride.arrays.backends import Array, Backend
from einstride.dispatch import array_checks
from einstride.dispatch.filter_cache import Prepared
from einstride.geometry import layout as layouts
from einstride.planning.select import Decision
from einstride.support.errors import no_memory


def run(
    where: str,
    plan: Decision,
    b: Backend,
    first: Array,
    second: Array,
    bias: Array | None,
    out: Array | None,
    kept: Prepared | None = None,
) -> Array:
    """Run a plan on arrays that it was made for; `kept` holds transforms of the filter."""
    try:
        with b.on(first):
            return _run(where, plan, b, first, second, bias, out, kept)
    except MemoryError as error:
        if not b.traits.on_host:  # CuPy's own error says which device is full
            raise
        raise no_memory(
            where,
            "the result and the workspace must fit into memory",
            f"a result of shape {plan.job.shape} and dtype {plan.job.arithmetic.result}"
            f"{f', {error}' if str(error) else ''}",
            "use smaller shapes, or give max_workspace",
        ) from error


def _run(
    where: str,
    plan: Decision,
    b: Backend,
    first: Array,
    second: Array,
    bias: Array | None,
    out: Array | None,
    kept: Prepared | None,
) -> Array:
    job, xp = plan.job, b.xp
    if job.accuracy == "tf32" and b.tf32 is not None and not job.arithmetic.exact:
        b = b.tf32
    order_1, order_2, order_out = plan.orders
    shape = job.shape
    back = layouts.inverse(order_out)
    if out is not None:
        array_checks.out_array(
            where,
            out,
            layouts.canonical(shape, back),
            job.arithmetic.result,
            b,
            first,
            second,
            bias,
        )
    if job.arithmetic.check_values:
        array_checks.values(where, plan, b, first, second, bias)
    first = first if order_1 is None else xp.permute_dims(first, order_1)
    second = second if order_2 is None else xp.permute_dims(second, order_2)
    result = out
    if b.traits.mutable:
        if result is None:
            make = b.result or b.empty
            result = make(layouts.canonical(shape, back), job.arithmetic.result, first)
        destination = result if order_out is None else xp.permute_dims(result, order_out)
    else:
        destination = None
    if job.empty:
        found = nothing(shape, job.arithmetic.result, bias, b, first, destination)
    else:
        found = compute(plan, b, first, second, bias, destination, kept)
    if destination is not None:
        return result
    return found if back is None else xp.permute_dims(found, back)


def compute(
    plan: Decision,
    b: Backend,
    first: Array,
    second: Array,
    bias: Array | None,
    out: Any,
    kept: Prepared | None = None,
) -> Array:
    """Call the plan's algorithm on canonical arrays; its result lies in `out` if given."""
    job, inner = plan.job, plan.inner
    function = getattr(ALGORITHMS[plan.algorithm], job.direction)
    if kept is not None and job.prepared:
        prepared = kept.of(plan.algorithm, second, inner, b)
        function = function if prepared is None else partial(function, prepared=prepared)
    g = job.geometry
    if job.extends_input:
        wide = None
        if out is not None:
            wide = b.empty(inner.geometry.x_shape, inner.arithmetic.result, first)
        wide = function(first, second, inner, b, None, wide)
        found = wide
        if g.repeats_input:
            found = ops.fold(wide, g.size, g.padding, g.modes, b)
        if g.input_dilation:
            found = found[(slice(None), *(slice(None, None, t) for t in g.input_dilation), ...)]
        if bias is not None:
            found = ops.add_bias(found, bias, b)
        return written(found, job.arithmetic.result, b, out)
    if g.input_dilation:
        first = ops.dilate(first, g.input_dilation, b)
    if job.fills_border and g.border is not None:
        first = ops.pad(first, g.padding, g.modes, b, g.border.fill)
    if bias is not None and job.arithmetic.exact:  # the bias of integers is added in integers
        found = function(first, second, inner, b, None, out)
        return ops.add_bias(found, bias, b)
    return function(first, second, inner, b, bias, out)


def written(found: Array, result: str, b: Backend, out: Any) -> Array:
    """Return `found` in the dtype `result`, copied to `out` if given."""
    if out is None:
        return b.astype(found, result)
    out[...] = found
    return out


def nothing(
    shape: tuple[int, ...],
    result: str,
    bias: Array | None,
    b: Backend,
    like: Array,
    out: Any,
) -> Array:
    """Return the result of sums without terms: zeros, plus the bias."""
    if out is not None:
        out[...] = 0 if bias is None else bias
        return out
    zeros = b.zeros(shape, result, like)
    return zeros if bias is None else ops.add_bias(zeros, bias, b)
