"""Compute a public call: find the backend, check the arrays, plan, and run the plan."""

from __future__ import annotations

from functools import partial
from logging import DEBUG, getLogger
from math import prod
from time import perf_counter
from typing import Any

from einstride.arrays import backends
from einstride.arrays.backends import Array, Backend
from einstride.dispatch import array_checks, run_plan
from einstride.dispatch.filter_cache import Prepared
from einstride.geometry import arithmetic as dtypes
from einstride.geometry import keywords as parse
from einstride.geometry import layout as layouts
from einstride.geometry.arithmetic import INTEGERS
from einstride.geometry.convolution import Direction
from einstride.geometry.keywords import Keywords, Shape, Transposed
from einstride.planning import execution, select
from einstride.planning.select import Decision
from einstride.support.errors import bad_type, bad_value, no_memory

NAMES: dict[Direction, tuple[str, ...]] = {
    "forward": ("x", "f", "bias", "out"),
    "input_grad": ("gy", "f", "bias", "out"),
    "filter_grad": ("x", "gy", "bias", "out"),
}
LOG = getLogger("einstride")
"""At DEBUG it tells of each call which algorithm ran, on which engine, why, and in which time."""

TRANSPOSED = ("x", "f", "bias", "out")


def call(
    where: str,
    direction: Direction,
    first: Array,
    second: Array,
    bias: Array | None,
    out: Array | None,
    k: Keywords,
    extra: Any = None,
    kept: Prepared | None = None,
    b: Backend | None = None,
) -> Array:
    """Compute the result of one public function; `where` is its name, for errors.

    `b` is the backend of the arrays if it is not the one that follows from their type.
    """
    prepared = kept is not None
    b, plan = prepare(where, direction, first, second, bias, out, k, extra, prepared, b)
    if not LOG.isEnabledFor(DEBUG):
        return run_plan.run(where, plan, b, first, second, bias, out, kept)
    start = perf_counter()
    result = run_plan.run(where, plan, b, first, second, bias, out, kept)
    b.finish(result)
    _log(where, plan, perf_counter() - start)
    return result


def _log(where: str, plan: Decision, seconds: float) -> None:
    """Log how a call was computed, why, and what it took."""
    chosen = next(c for c in plan.candidates if c.algorithm == plan.algorithm)
    others = [f"{c.algorithm} {c.verdict}" for c in plan.candidates if c is not chosen]
    how = execution.text(plan.algorithm, execution.execution(plan)).replace("\n", " ")
    cost = chosen.cost
    predicted = "" if cost is None else f", predicted {cost.seconds * 1e3:.3f} ms"
    LOG.debug(
        "%s: %s (%s); %s; workspace %d bytes; %.3f ms%s; %s", where, plan.algorithm, chosen.verdict,
        how, 0 if cost is None else cost.workspace, seconds * 1e3, predicted, ", ".join(others),
    )  # fmt: skip


def prepare(
    where: str,
    direction: Direction,
    first: Array,
    second: Array,
    bias: Array | None,
    out: Array | None,
    k: Keywords,
    extra: Any = None,
    prepared: bool = False,
    b: Backend | None = None,
) -> tuple[Backend, Decision]:
    """Return the backend and the plan of a call, after every check that needs no values."""
    if b is None:
        names = TRANSPOSED if isinstance(extra, Transposed) else NAMES[direction]
        b = backends.of(where, names, first, second, bias, out)
    plan = decide(
        where,
        direction,
        (tuple(first.shape), tuple(second.shape)),
        (
            b.dtype_name(first),
            b.dtype_name(second),
            None if bias is None else b.dtype_name(bias),
        ),
        k,
        extra,
        b,
        prepared,
        0 if k.max_workspace is None else copied(direction, b, first, second, out),
        bias is None or b.copied(bias, contiguous=True) == 0,
    )
    if bias is not None:
        check_bias(where, tuple(bias.shape), plan.job.shape[-1])
    return b, plan


def check_bias(where: str, shape: tuple[int, ...], length: int) -> None:
    """Raise unless a bias has one number for each of `length` channels."""
    if shape != (length,):
        raise bad_value(
            where,
            f"bias must have one number for each of the {length} channels of the result",
            f"bias {shape}",
            f"give it shape ({length},)",
        )


def copied(direction: Direction, b: Backend, first: Array, second: Array, out: Array | None) -> int:
    """Count the bytes of arrays that compiled kernels cannot address and copy; see `Job.copied`.

    A filter and its gradient do not count: kernels pack a filter in any case, and the cost of their
    algorithms includes it.
    """
    return b.copied(first, second if direction == "filter_grad" else out)


def decide(
    where: str,
    direction: Direction,
    shapes: Any,
    names: tuple[str, str, str | None],
    k: Keywords,
    extra: Any,
    b: Backend,
    prepared: bool = False,
    copied: int = 0,
    packed_bias: bool = True,
) -> Decision:
    """Return the cached plan for operands of these shapes and dtypes.

    It is for the backend that computes if the arrays of `b` lend their memory. `prepared` and
    `copied` are as in `Job`, `packed_bias` as in `select.plan`.
    """
    b = backends.computing(b)
    try:
        return select.plan(
            where,
            direction,
            shapes,
            extra,
            parse.settings(where, k),
            layouts.check(where, k.layout),
            names,
            parse.name(where, "algorithm", k.algorithm),
            parse.choice(where, "accuracy", k.accuracy, parse.ACCURACIES),
            parse.optional(where, "accumulate", k.accumulate, parse.name),
            parse.flag(where, "batch_invariant", k.batch_invariant),
            parse.optional(where, "max_workspace", k.max_workspace, parse.size_in_bytes),
            b.threads(),
            b.traits,
            prepared,
            copied,
            packed_bias,
        )
    except MemoryError as error:
        raise no_memory(
            where, "the plan must fit into memory", f"shapes {shapes}", "use smaller shapes"
        ) from error


ACCUMULATE = ", or pass accumulate='int32'"
"""A remedy for results of integers that a library cannot hold, in functions with the keyword."""


def check_result(where: str, b: Backend, name: str, otherwise: str = "") -> None:
    """Raise if the library cannot hold results of a dtype at present.

    `otherwise` is another remedy, where the result is an integer.
    """
    remedy = None if b.exchange is None else b.exchange.refusal(name)
    if remedy is None:
        return
    raise bad_type(
        where,
        f"the result has a dtype that {b.traits.library} cannot hold at present",
        name,
        remedy + (otherwise if name in INTEGERS else ""),
    )


def bias_grad(where: str, gy: Array, layout: object) -> Array:
    """Return the sum of gy over all axes but the channels."""
    b = backends.of(where, ("gy",), gy)
    shape = tuple(gy.shape)
    if len(shape) < 3:
        raise bad_value(
            where, "gy needs a batch axis, at least one spatial axis and a channel axis",
            f"gy {shape}", "add axes of length 1, e.g. gy[None]",
        )  # fmt: skip
    order = layouts.parse(where, layouts.check(where, layout), len(shape) - 2).y
    gy = gy if order is None else b.xp.permute_dims(gy, order)
    given = b.dtype_name(gy)
    terms = prod(gy.shape[:-1])
    arithmetic = dtypes.resolve(where, (given, given, None), terms, None, False)
    compute, result = arithmetic.compute, arithmetic.result
    if given in INTEGERS:
        compute = result = "uint64" if given == "uint64" else "int64"
        check_result(where, b, result)
        check = partial(_check_terms, where, terms, result)
        gy = array_checks.checked(where, check, gy)
    with b.on(gy):
        axes = tuple(range(gy.ndim - 1))
        return b.astype(b.xp.sum(b.astype(gy, compute), axis=axes), result)


def _check_terms(where: str, terms: int, result: str, gy: Array) -> None:
    """Raise if a sum of so many elements of gy could leave the dtype of the result."""
    low, high = array_checks.extremes(where, gy, backends.of(where, ("gy",), gy))
    least, most = INTEGERS[result]
    if terms * low < least or terms * high > most:
        raise bad_value(
            where, f"sums of {terms} of these integers could leave {result}",
            f"values in [{low}, {high}]", "scale them down or convert them to float64",
        )  # fmt: skip


def sizes(where: str, x: Array, f: Array, k: Keywords) -> tuple[Shape, Shape]:
    """Return the spatial sizes of x and of f in the keywords' layout."""
    rank = max(len(x.shape) - 2, 1)
    order = layouts.parse(where, layouts.check(where, k.layout), rank)
    if len(x.shape) != len(f.shape):
        raise bad_value(
            where, "x and f need the same number of axes",
            f"x {tuple(x.shape)}, f {tuple(f.shape)}", "reshape one of them",
        )  # fmt: skip
    x_shape = layouts.canonical(tuple(x.shape), order.x)
    f_shape = layouts.canonical(tuple(f.shape), order.f)
    return x_shape[1:-1], f_shape[:-2]
