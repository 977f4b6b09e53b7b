"""Check what a plan does not know: values, strides and memory of arrays; a layer's arguments."""

from __future__ import annotations

from collections.abc import Callable

from einstride.algorithms import ALGORITHMS
from einstride.arrays import backends
from einstride.arrays.backends import Array, Backend
from einstride.geometry import keywords as parse
from einstride.geometry import layout as layouts
from einstride.geometry.arithmetic import INTEGERS, ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Keywords, Shape
from einstride.geometry.padding import padding_pairs
from einstride.planning.select import Decision
from einstride.support.errors import bad_type, bad_value


def out_array(
    where: str, out: Array, shape: tuple[int, ...], result: str, b: Backend, *inputs: Array | None
) -> None:
    """Raise unless the result may be written to `out`: shape, dtype, strides, shared memory."""
    if not b.traits.mutable:
        raise immutable(where, out, b)
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
    if not b.native(out):
        raise bad_type(
            where, "out must be in the machine's byte order", f"out {out.dtype}", f"use {result}"
        )
    if b.strides is not None and overlaps_itself(shape, b.strides(out), ITEMSIZE[result]):
        raise bad_value(
            where,
            "out must not overlap itself",
            f"out {shape} with strides {b.strides(out)}",
            "pass an array of its own",
        )
    if not b.writeable(out):
        raise bad_value(where, "out must be writeable", "a read-only out", "pass another array")
    if any(a is not None and b.overlap(out, a) for a in inputs):
        raise bad_value(
            where,
            "out must share no memory with the inputs",
            "an out that overlaps one of them",
            "pass an array of its own",
        )


def immutable(where: str, out: Array, b: Backend) -> TypeError:
    """Return the error of a call with `out` to a library whose arrays are not written."""
    return bad_type(
        where,
        f"arrays of {b.traits.library} are treated as immutable, so there is no out=",
        f"out {type(out).__name__}",
        "leave out= away and use the result",
    )


def overlaps_itself(shape: Shape, strides: Shape, itemsize: int) -> bool:
    """True if two elements may share memory; strides that do not nest are taken to overlap."""
    reach = itemsize
    for step, n in sorted((abs(t), n) for t, n in zip(strides, shape, strict=True) if n > 1):
        if step < reach:
            return 0 not in shape
        reach += step * (n - 1)
    return False


def values(
    where: str, plan: Decision, b: Backend, first: Array, second: Array, bias: Array | None
) -> None:
    """Raise if sums of these integers could overflow the result's dtype.

    Called only for dtypes that do not rule an overflow out (`Arithmetic.check_values`).
    """
    job = plan.job
    terms = job.geometry.terms(job.direction)
    (lo_1, hi_1), (lo_2, hi_2) = extremes(where, first, b), extremes(where, second, b)
    if job.fills_border and job.geometry.border is not None:
        fill = int(job.geometry.border.fill.real)
        lo_1, hi_1 = min(lo_1, fill), max(hi_1, fill)
    products = [lo_1 * lo_2, lo_1 * hi_2, hi_1 * lo_2, hi_1 * hi_2, 0]
    low, high = terms * min(products), terms * max(products)
    if bias is not None:  # the sums must fit before it is added, and after
        lo, hi = extremes(where, bias, b)
        low, high = min(low, low + lo), max(high, high + hi)
    least, most = INTEGERS[job.arithmetic.result]
    if low < least or high > most:
        wider = job.arithmetic.result == "int32"
        raise bad_value(
            where,
            f"sums of {terms} products of these integers could leave {job.arithmetic.result}",
            f"values whose sums may lie in [{low}, {high}]",
            'pass accumulate="int64"' if wider else "scale them down or convert them to float64",
        )


def checked(where: str, check: Callable[..., None], *arrays: Array) -> Array:
    """Return the first array after `check(*arrays)`, which looks at their values.

    Where arrays are computed later, their tasks call it, with blocks.
    """
    found = [backends.of(where, ("x",), a).exchange for a in arrays]
    later = next((e.checked for e in found if e is not None and e.checked is not None), None)
    if later is not None:
        return later(check, *arrays)
    check(*arrays)
    return arrays[0]


def sum_fits(where: str, one: Array, other: Array) -> None:
    """Raise if the sum of two integer results could overflow their dtype."""
    b = backends.of(where, ("x",), one)
    result = b.dtype_name(one)
    (lo_1, hi_1), (lo_2, hi_2) = extremes(where, one, b), extremes(where, other, b)
    least, most = INTEGERS[result]
    if lo_1 + lo_2 < least or hi_1 + hi_2 > most:
        raise bad_value(
            where,
            f"the sum of the two changes could leave {result}",
            f"values whose sums may lie in [{lo_1 + lo_2}, {hi_1 + hi_2}]",
            "scale them down or convert them to float64",
        )


def extremes(where: str, a: Array, b: Backend) -> tuple[int, int]:
    """Return the least and the greatest of an array of integers, as Python ints."""
    if b.dtype_name(a) == "bool" or 0 in a.shape:
        return 0, 1
    try:
        return int(b.xp.min(a)), int(b.xp.max(a))
    except (TypeError, RuntimeError) as error:  # what libraries say of a tracer's values
        raise bad_type(
            where,
            "sums of these integers could overflow, so their values must be looked at",
            f"{type(a).__name__} of {b.dtype_name(a)} without values",
            "convert it to float64, or call the function on arrays",
        ) from error


def same_shape(where: str, name: str, change: Array | None, of: str, array: Array) -> None:
    """Raise unless a tangent (`dx` of `x`, `df` of `f`) has the shape of its array."""
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


def layer(where: str, f: Array, bias: Array | None, k: Keywords) -> None:
    """Raise if a layer's filter, bias and keywords fit no input at all."""
    b = backends.of(where, ("f", "bias"), f, bias)
    shape = tuple(f.shape)
    got = f"f {shape}"
    if len(shape) < 3:
        raise bad_value(
            where, "f needs at least three axes (spatial, input and output channels)", got,
            "reshape it",
        )  # fmt: skip
    names = [b.dtype_name(a) for a in (f, bias) if a is not None]
    if any(n not in ITEMSIZE for n in names):
        raise bad_type(
            where, "arrays must hold bools, integers, floats or complex numbers",
            f"dtypes {', '.join(names)}", "convert them first, e.g. f.astype('float32')",
        )  # fmt: skip
    rank = len(shape) - 2
    order = layouts.parse(where, layouts.check(where, k.layout), rank)
    *kernel, inner, length = layouts.canonical(shape, order.f)
    shared = False
    if isinstance(k.groups, str):
        parse.groups(where, k.groups)
        if inner != 1:
            raise bad_value(
                where, 'f must have one input channel where groups is "depthwise"', got,
                "give it shape (*K, 1, 1), one filter for every channel, or (*K, 1, D)",
            )  # fmt: skip
        shared = length == 1
        k = k._replace(groups=max(length, 1))
    s = parse.settings(where, k)
    gaps = parse.per_axis(where, "dilation", s.dilation, rank, 1)
    size = tuple(d * (n - 1) + 1 for d, n in zip(gaps, kernel, strict=True))
    padding_pairs(where, s.padding, size, size, size)  # one entry per axis, known names
    parse.modes_per_axis(where, s.padding_mode, rank)
    plain = s._replace(padding="valid", padding_mode="zeros", input_dilation=1)
    Geometry.of(where, (1, *size, inner * s.groups), (*kernel, inner, length), plain, got)
    parse.per_axis(where, "input_dilation", s.input_dilation, rank, 1)
    parse.choice(where, "algorithm", k.algorithm, ("auto", *ALGORITHMS))
    parse.choice(where, "accuracy", k.accuracy, parse.ACCURACIES)
    parse.optional(where, "accumulate", k.accumulate, parse.name)
    parse.flag(where, "batch_invariant", k.batch_invariant)
    parse.optional(where, "max_workspace", k.max_workspace, parse.size_in_bytes)
    if shared and bias is not None and len(bias.shape) == 1:
        length = bias.shape[0]  # one number for each channel of inputs to come
    if bias is not None and tuple(bias.shape) != (length,):
        raise bad_value(
            where, f"bias must have one number for each of the {length} output channels",
            f"bias {tuple(bias.shape)}, {got}", f"give it shape ({length},)",
        )  # fmt: skip
