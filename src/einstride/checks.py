"""What must be looked at in the arrays themselves before a plan may run."""

from __future__ import annotations

from einstride import backends
from einstride._errors import bad_type, bad_value
from einstride.backends import Array, Backend
from einstride.dtypes import INTEGERS
from einstride.planner import Plan


def out_array(
    where: str, out: Array, shape: tuple[int, ...], result: str, b: Backend, *inputs: Array | None
) -> None:
    """Refuse an `out` that is not exactly where the result may go."""
    if not b.traits.mutable:
        raise bad_type(
            where,
            f"arrays of {b.traits.library} are treated as immutable, so there is no out=",
            f"out {type(out).__name__}",
            "leave out= away and use the result",
        )
    if tuple(out.shape) != shape:
        raise bad_value(
            where, "out must have the shape of the result", f"out {tuple(out.shape)}",
            f"allocate {shape}",
        )  # fmt: skip
    if b.dtype_name(out) != result:
        raise bad_type(
            where, "out must have the dtype of the result", f"out {b.dtype_name(out)}",
            f"allocate {result}",
        )  # fmt: skip
    if not b.writeable(out):
        raise bad_value(where, "out must be writeable", "a read-only out", "pass another array")
    if any(a is not None and b.overlap(out, a) for a in inputs):
        raise bad_value(
            where,
            "out must share no memory with the inputs",
            "an out that overlaps one of them",
            "pass an array of its own",
        )


def values(
    where: str, plan: Plan, b: Backend, first: Array, second: Array, bias: Array | None
) -> None:
    """Refuse integers whose sums could leave the result's dtype; needed where dtypes allow it."""
    job = plan.job
    terms = job.geometry.terms(job.direction)
    (lo_1, hi_1), (lo_2, hi_2) = extremes(first, b), extremes(second, b)
    products = [lo_1 * lo_2, lo_1 * hi_2, hi_1 * lo_2, hi_1 * hi_2, 0]
    low, high = terms * min(products), terms * max(products)
    if bias is not None:
        lo, hi = extremes(bias, b)
        low, high = low + lo, high + hi
    least, most = INTEGERS[job.arithmetic.result]
    if low < least or high > most:
        wider = job.arithmetic.result == "int32"
        raise bad_value(
            where,
            f"sums of {terms} products of these integers could leave {job.arithmetic.result}",
            f"values whose sums may lie in [{low}, {high}]",
            'pass accumulate="int64"' if wider else "scale them down or convert them to float64",
        )


def extremes(a: Array, b: Backend) -> tuple[int, int]:
    """The least and the greatest of some integers, as Python ints."""
    if b.dtype_name(a) == "bool" or 0 in a.shape:
        return 0, 1
    return int(b.xp.min(a)), int(b.xp.max(a))


def same_shape(where: str, name: str, change: Array | None, of: str, array: Array) -> None:
    """Refuse a change that has not the shape of what it changes."""
    if change is None:
        return
    backends.of(where, (of, name), array, change)
    if tuple(change.shape) != tuple(array.shape):
        raise bad_value(
            where,
            f"{name} must have the shape of {of}",
            f"{name} {tuple(change.shape)}, {of} {tuple(array.shape)}",
            "make them agree",
        )
