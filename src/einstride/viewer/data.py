"""Collect everything that a page shows, in the form that JSON holds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from einstride.api import open_batch
from einstride.api.plan import DirectionArguments, arguments
from einstride.api.saved_plan import Plan, make_plan
from einstride.arrays.backends import Array
from einstride.arrays.backends.numpy import dtype_name, unallocated
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Keywords
from einstride.geometry.layout import Layout, inverse
from einstride.viewer.axes import drawn_axes, gathered
from einstride.viewer.exercises import exercises
from einstride.viewer.memory import Memory, memory
from einstride.viewer.numbers import Part, fill_of, numbers, part, written
from einstride.viewer.plans import planned

LIBRARY = "numpy"

AXIS_NAMES = {1: ("positions",), 2: ("rows", "columns"), 3: ("slices", "rows", "columns")}
"""{number of spatial axes: what they are called on the page}."""


def collect(
    g: Geometry,
    order: Layout,
    arrays: tuple[Array, Array, Array | None],
    known: tuple[bool, bool, bool],
    k: Keywords,
    direction: str,
    at: tuple[int, ...],
    title: str | None,
    any_batch: bool,
) -> dict[str, Any]:
    """Collect the data of a page.

    Parameters
    ----------
    g : Geometry
        The convolution.
    order : Layout
        The permutations of the caller's axes.
    arrays : tuple of array
        x and f in canonical order, and gy in the caller's order or None.
    known : tuple of bool
        Whether x, f and gy have values.
    k : Keywords
        The keywords of `plan`.
    direction : str
        The pass that is shown first.
    at : tuple of int
        The first output that is drawn of a large input.
    title : str or None
        The title, or None for the shapes.
    any_batch : bool
        True if the plans are for any batch, of which one example is drawn.
    """
    x, f, gy = arrays
    m = memory(x, g)
    axes = drawn_axes(g, at)
    p = part(g, axes)
    plan = partial(_plan, k, any_batch)
    forward = plan("forward", _given(x, order.x), _given(f, order.f))
    if gy is None:
        gy = unallocated([1 if n is None else n for n in forward.output_shape], forward.dtype)
    canonical_gy = gy if order.y is None else gy.transpose(order.y)
    values = numbers(g, p, x, f, canonical_gy, known)
    name = "padded" if m.copied else "x"
    dtypes = (dtype_name(x), dtype_name(f), forward.dtype)
    makers: dict[str, Callable[[], Plan]] = {
        "forward": lambda: forward,
        "input_grad": partial(
            plan, "input_grad", gy, _given(f, order.f), input_size=g.given_shape[1:-1]
        ),
        "filter_grad": partial(
            plan, "filter_grad", _given(x, order.x), gy, kernel_size=g.kernel
        ),
    }  # fmt: skip
    batch = None if any_batch else g.batch
    text = f"x {(batch, *g.given_shape[1:])} * f {g.f_shape} → y {(batch, *g.y_shape[1:])}"
    return {
        "title": title or text,
        "summary": text,
        "direction": direction,
        "settings": _settings(g, k),
        "order": _order_text(order),
        "rank": g.rank,
        "shapes": {"x": g.given_shape, "f": g.f_shape, "y": g.y_shape},
        "dtypes": dict(zip("xfy", dtypes, strict=True)),
        "groups": g.groups,
        "flip": g.flip,
        "repeats": g.repeats_input,
        "fill": written(np.array([fill_of(g, a) for a in range(g.rank)], object)),
        "bordered": any(low or high for low, high in g.padding),
        "drawn": {
            "whole": p.whole, "batch": p.batch, "groups": p.groups,
            "channels": p.channels, "filters": p.filters, "text": _drawn_text(g, p, any_batch),
        },
        "axes": [_axis(g, a, p) for a in range(g.rank)],
        "memory": _memory(m, name),
        "gradient": {"strides": list(map(str, canonical_gy.strides)),
                     "itemsize": canonical_gy.itemsize},
        "values": {n: written(getattr(values, n))
                   for n in ("x", "f", "y", "gy", "scattered", "gx", "gf")},
        "complex": any(getattr(values, n).dtype.kind == "c" for n in ("x", "f", "gy")),
        "plans": {n: planned(make, LIBRARY, dtypes) for n, make in makers.items()},
        "exercises": [e._asdict() | {"answer": str(e.answer)} for e in exercises(g, m, name)],
    }  # fmt: skip


def _plan(
    k: Keywords, any_batch: bool, direction: str, first: Array, second: Array, **sizes: Any
) -> Plan:
    """Plan one pass, as `einstride.plan` does; errors name `show`."""
    where = "show"
    more = DirectionArguments(**sizes)
    given = arguments(where, first, second, direction, None, LIBRARY, more, k)
    if any_batch:
        given["shapes"] = open_batch.opened(where, direction, given["shapes"], k.layout)
    return make_plan(where, given, k)


def _order_text(order: Layout) -> str:
    """Say which views of the caller's arrays the page shows, if their channels are not last."""
    axes_of = order.x, order.f, order.y
    moved = [f"{n}.transpose{axes}" for n, axes in zip("xfy", axes_of, strict=True) if axes]
    if not moved:
        return ""
    return f"Shown with channels last, by views of the arrays: {', '.join(moved)}."


def _given(a: Array, order: tuple[int, ...] | None) -> Array:
    """Return an array with its axes in the caller's order."""
    back = inverse(order)
    return a if back is None else a.transpose(back)


def _axis(g: Geometry, a: int, p: Part) -> dict[str, Any]:
    axis = p.axes[a]
    pairs = gathered(g, a, axis)
    return {
        "size": g.given_shape[1 + a], "kernel": g.kernel[a], "out": g.out[a],
        "stride": g.stride[a], "dilation": g.dilation[a],
        "low": g.padding[a][0], "high": g.padding[a][1],
        "start": axis.start, "stop": axis.stop,
        "outputs": axis.outputs, "taps": axis.taps,
        "sources": axis.sources, "kinds": axis.kinds,
        "phases": None if pairs is None else [q.phase for q in pairs],
        "pairs": None if pairs is None else [q.pairs for q in pairs],
    }  # fmt: skip


def _memory(m: Memory, name: str) -> dict[str, Any]:
    """Write bytes as texts: JavaScript reads them as integers of any size."""
    return {
        "name": name,
        "copied": m.copied,
        "shape": m.shape,
        "strides": list(map(str, m.strides)),
        "windows_shape": m.windows_shape,
        "windows_strides": list(map(str, m.windows_strides)),
        "base": str(m.base),
        "itemsize": m.itemsize,
    }


def _settings(g: Geometry, k: Keywords) -> list[tuple[str, str]]:
    """List the hyperparameters that are not the default, as the caller wrote them."""
    default = Keywords()._asdict()
    found = [(n, str(v)) for n, v in k._asdict().items() if v != default[n]]
    if any(low or high for low, high in g.padding):
        found.append(("pads", str(g.padding)))
    return found


def _drawn_text(g: Geometry, p: Part, any_batch: bool) -> str:
    """Say which part is drawn; empty if everything is."""
    batch = (
        "The batch may be any: one example is drawn, and the figures of plans are for one example."
        * any_batch
    )
    if p.whole:
        return batch
    inner, outer = g.channels // g.groups, g.filters // g.groups
    parts = [
        f"{drawn} of {there} {what}"
        for what, drawn, there in (
            ("examples", p.batch, g.batch),
            ("groups", p.groups, g.groups),
            ("input channels", p.channels, inner),
            ("output channels", p.filters, outer),
        )
        if drawn != there
    ]
    for a, (axis, name) in enumerate(zip(p.axes, AXIS_NAMES[g.rank], strict=True)):
        first, last = axis.outputs
        if (first, last) != (0, g.out[a]):
            parts.append(f"output {name} {first} to {last - 1} of {g.out[a]}")
        if axis.taps != g.kernel[a]:
            parts.append(f"{axis.taps} of {g.kernel[a]} tap {name}")
    return (
        f"{batch}{' ' * any_batch}This convolution is too large to draw whole. Drawn: "
        f"{'; '.join(parts)}. Sums run over what is drawn; offsets, strides and plans are those of "
        "the whole arrays."
    )
