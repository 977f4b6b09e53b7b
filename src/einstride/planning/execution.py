"""Describe how a planned job would be computed here: the engine, its kernel and register tile.

The chosen algorithm describes itself from the objects that it computes with. It is given arrays
with the memory layout that a plan assumes: packed, aligned, in native byte order, in the caller's
layout. They are stand-ins without memory, and no kernel is compiled.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from einstride.algorithms import ALGORITHMS
from einstride.arrays import backends
from einstride.geometry.layout import canonical, inverse
from einstride.planning.select import Decision

if TYPE_CHECKING:
    from einstride.arrays.backends import Array
    from einstride.geometry.keywords import Shape
    from einstride.geometry.problem import Facts

ASSUMED = "packed, aligned arrays in native byte order; no bias"
"""The arrays that a description assumes: others may be copied, or go to another kernel."""


def execution(decision: Decision) -> Facts:
    """Return the facts about one decision as plain values, in the order in which they print."""
    job, inner = decision.job, decision.inner
    if job.empty:
        return {"compiled": False, "kernel": "none: nothing is to be multiplied"}
    from einstride.arrays.backends import numpy

    own = backends.computing(backends.by_name("plan", decision.library))
    b = replace(numpy.PLANNED, traits=own.traits, copy_rows=own.copy_rows)
    g = inner.geometry
    shapes = {
        "forward": (g.x_shape, g.f_shape, g.y_shape),
        "input_grad": (g.y_shape, g.f_shape, g.x_shape),
        "filter_grad": (g.x_shape, g.y_shape, inner.shape),
    }[job.direction]
    first, second, out = decision.orders
    if job.extends_input:
        out = None  # the gradient of the padded and dilated input is an array of its own
    elif g.input_dilation or job.fills_border:
        first = None  # the dilated input, or the one with its border, is an array of its own, too
    names = (*inner.operands, inner.arithmetic.result)
    arrays = map(_unread, shapes, names, (first, second, out))
    found = ALGORITHMS[decision.algorithm].describe(inner, b, *arrays)
    if own.traits.kernels == "cpu" and not own.traits.compiled:
        from einstride.codegen.jit import MISSING

        found["extra"] = MISSING
    if job.extends_input:
        found["afterwards"] = "the gradient's border is folded back, or its zeros left out"
    elif g.input_dilation:
        found["first"] = "zeros are put between the elements of x"
    if job.fills_border:
        found["border"] = "x is copied with its border"
    found["assumes"] = ASSUMED
    return found


def _unread(shape: Shape, name: str, order: Shape | None) -> Array:
    """Make a stand-in for an array in the caller's layout; return its view in canonical order."""
    from einstride.arrays.backends import numpy

    array = numpy.unallocated(canonical(shape, inverse(order)), name)
    return array if order is None else array.transpose(order)


def text(algorithm: str, facts: Facts) -> str:
    """Format facts under the algorithm's name, one a line, with values aligned."""
    rows = {}
    for name, value in facts.items():
        if isinstance(value, dict):
            sides = [f"{v} {k}" if isinstance(v, int) else f"{k} {v}" for k, v in value.items()]
            numbers = all(isinstance(v, int) for v in value.values())
            rows[name] = (" x " if numbers else ", ").join(sides)
        elif isinstance(value, bool):
            rows[name] = "yes" if value else "no"
        else:
            rows[name] = str(value)
    width = max(map(len, rows))
    return "\n".join([f"{algorithm}:", *(f"  {n.ljust(width)}  {v}" for n, v in rows.items())])
