"""Compute calls on arrays that lend their memory to NumPy or CuPy: PyTorch's tensors, JAX's arrays.

A plain call is computed on the memory of its arrays at once. Any other call goes through an
operator of the library (`Exchange.operator`), which differentiates, transforms and traces it as a
whole; the operator is built from the functions here (`Passes`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from einstride.arrays import backends
from einstride.arrays.backends import Array, Backend
from einstride.arrays.backends.adapter import Exchange
from einstride.arrays.backends.passes import Passes
from einstride.dispatch import array_checks, bilinear, execute
from einstride.geometry import arithmetic as dtypes
from einstride.geometry import keywords as parse
from einstride.geometry import layout as layouts
from einstride.geometry.convolution import Direction
from einstride.geometry.keywords import KEYWORDS, Keywords, PerExample, Transposed
from einstride.planning import select
from einstride.planning.select import Decision
from einstride.support.errors import bad_type

Compute = Callable[..., Array]
"""The function that computes a call on arrays, `einstride.dispatch.call_cache.call`."""


def call(
    compute: Compute,
    theirs: Backend,
    where: str,
    direction: Direction,
    first: Array,
    second: Array,
    bias: Array | None,
    out: Array | None,
    given: tuple[Any, ...],
    read: parse.Read | None,
    *more: Any,
) -> Array:
    """Compute a call on arrays of a backend that has an exchange, by `compute` on their memory.

    `more` are the cache and the prepared filter of `compute`.
    """
    exchange = _of(theirs)
    may_write = out is None or exchange.written is not None
    if may_write and exchange.is_plain(first, second, bias, out):
        return _on_memory(
            compute, theirs, where, direction, first, second, bias, out, given, read, *more
        )
    extra = None if read is None else read(where, given[KEYWORDS:])
    transposed = isinstance(extra, Transposed)
    names = execute.TRANSPOSED if transposed else execute.NAMES[direction]
    arrays = (first, second, bias, out)
    if exchange.one_library:
        backends.of(where, names, *arrays)
    if not may_write:
        raise array_checks.immutable(where, out, theirs)
    exchange.check(where, names, arrays)
    k = parse.plain(where, Keywords._make(given[:KEYWORDS]))
    return exchange.operator(where, direction, first, second, bias, k, extra)


def _of(theirs: Backend) -> Exchange:
    if theirs.exchange is None:
        raise RuntimeError(f"arrays of {theirs.traits.library} lend no memory")
    return theirs.exchange


def _on_memory(
    compute: Compute,
    theirs: Backend,
    where: str,
    direction: Direction,
    first: Array,
    second: Array,
    bias: Array | None,
    out: Array | None,
    given: tuple[Any, ...],
    read: parse.Read | None,
    *more: Any,
) -> Array:
    """Compute a call on the memory of its arrays, and return the result as their library's."""
    exchange = _of(theirs)
    lend, computing = exchange.lend, exchange.computing
    b = exchange.host if computing is None else computing(where, first)
    with exchange.on(first):
        found = compute(
            where, direction, lend(first), lend(second), lend(bias), lend(out), given, read,
            *more, b=b,
        )  # fmt: skip
        if out is None:
            execute.check_result(where, theirs, b.dtype_name(found), execute.ACCUMULATE)
            return exchange.adopt(found, first, second, bias)
    if exchange.written is not None:
        exchange.written(out)
    return out


def passes(compute: Compute) -> Passes:
    """Return what an operator of another library calls, to be computed by `compute`."""

    def values(
        where: str, direction: Direction, first: Array, second: Array, bias: Array | None,
        k: Keywords, extra: Any,
    ) -> Array:  # fmt: skip
        theirs = backends.of(where, execute.NAMES[direction][:1], first)
        given = (*k, extra)
        return _on_memory(
            compute, theirs, where, direction, first, second, bias, None, given, parse.checked
        )

    def call(
        where: str, direction: Direction, first: Array, second: Array, bias: Array | None,
        k: Keywords, extra: Any, b: Backend, out: Array | None = None,
    ) -> Array:  # fmt: skip
        given = (*k, extra)
        return compute(where, direction, first, second, bias, out, given, parse.checked, b=b)

    return Passes(values, call, plan, infer, bilinear.compute)


def plan(
    where: str,
    direction: Direction,
    first: Array,
    second: Array,
    bias: Array | None,
    k: Keywords,
    extra: Any,
) -> Decision:
    """Return the plan of a call after all checks that need no values, as `Passes.plan`."""
    b = backends.of(where, execute.NAMES[direction][:1], first)
    return execute.prepare(where, direction, first, second, bias, None, k, extra, b=b)[1]


def infer(
    where: str,
    direction: Direction,
    first: Array,
    second: Array,
    bias: Array | None,
    k: Keywords,
    extra: Any,
) -> tuple[tuple[Any, ...], str]:
    """Return the shape and the dtype of a result after all checks, as `Passes.infer`."""
    theirs = backends.of(where, execute.NAMES[direction][:1], first)
    name = theirs.dtype_name
    names = name(first), name(second), None if bias is None else name(bias)
    arrays = (first, second, bias)
    if all(type(n) is int for a in arrays if a is not None for n in a.shape):
        _, plan = execute.prepare(where, direction, *arrays, None, k, extra, b=theirs)
        shape, order, arithmetic = plan.job.shape, plan.orders[2], plan.job.arithmetic
    else:  # sizes that are symbols cannot be keys of the cache of plans
        shapes, host = (tuple(first.shape), tuple(second.shape)), backends.computing(theirs)
        layout = layouts.parse(where, k.layout, max(len(shapes[0]) - 2, 1))
        g = select.geometry(where, direction, shapes, extra, parse.settings(where, k), layout)
        order, shape = select.orders(direction, layout, extra)[2], g.shape_of_result(direction)
        shape = (g.batch, *shape) if isinstance(extra, PerExample) else shape
        arithmetic = dtypes.resolve(where, names, 1, k.accumulate, host.traits.half_sums)
        if bias is not None:
            execute.check_bias(where, tuple(bias.shape), shape[-1])
    if arithmetic.check_values and not (theirs.exchange and theirs.exchange.has_values(first)):
        raise bad_type(
            where, "sums of these integers could overflow, so their values must be looked at",
            f"{type(first).__name__} of {names[0]} without values",
            "convert it to float64, or call the function on arrays",
        )  # fmt: skip
    return layouts.canonical(shape, layouts.inverse(order)), arithmetic.result
