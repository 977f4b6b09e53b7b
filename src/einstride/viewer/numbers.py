"""Compute the numbers of the drawing: elements, outputs and gradients of the part that is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from itertools import product
from string import ascii_letters
from typing import Any

import numpy as np

from einstride.arrays.backends import Array
from einstride.geometry.convolution import Geometry
from einstride.geometry.padding_modes import Number
from einstride.viewer.axes import DrawnAxis

MOST_EXAMPLES, MOST_GROUPS, MOST_CHANNELS = 3, 3, 4
"""Examples, groups, and channels of one group (input and output ones) that are drawn."""

SEED = 4
"""Seed of the small integers that stand for arrays of which only the shape is known."""


@dataclass(frozen=True)
class Part:
    """Hold which part of a convolution is drawn: sizes from the start of each axis that is no
    spatial one, and the drawn part of each spatial axis.

    Attributes
    ----------
    batch, groups, channels, filters : int
        Examples, groups, and the input and output channels of each group that are drawn.
    axes : tuple of DrawnAxis
        The spatial axes.
    whole : bool
        True if everything is drawn.
    """

    batch: int
    groups: int
    channels: int
    filters: int
    axes: tuple[DrawnAxis, ...]
    whole: bool


def part(g: Geometry, axes: tuple[DrawnAxis, ...]) -> Part:
    """Choose what is drawn beside the spatial axes."""
    inner, outer = g.channels // g.groups, g.filters // g.groups
    sizes = (
        min(g.batch, MOST_EXAMPLES),
        min(g.groups, MOST_GROUPS),
        min(inner, MOST_CHANNELS),
        min(outer, MOST_CHANNELS),
    )
    whole = sizes == (g.batch, g.groups, inner, outer) and all(
        a.outputs == (0, o) and a.taps == k for a, o, k in zip(axes, g.out, g.kernel, strict=True)
    )
    return Part(*sizes, axes, whole)


@dataclass(frozen=True)
class Numbers:
    """Hold the drawn numbers, with the group as an axis of its own.

    Integers and bools are Python's integers, which never overflow; floats are float64.

    Attributes
    ----------
    x : array, shape (B, *P, G, c)
        What each drawn position holds, border included.
    f : array, shape (*K, G, c, d)
        The filter as the windows meet it: reversed if `flip`.
    y : array, shape (B, *O, G, d)
        Sums over the drawn taps and channels.
    gy : array, shape (B, *O, G, d)
        The gradient of the output.
    scattered : array, shape (B, *P, G, c)
        The gradient of every drawn position.
    gx : array, shape (B, *P, G, c)
        The same with the border folded back: each position has the gradient of its element.
    gf : array, shape (*K, G, c, d)
        The gradient of the filter, in the order of `f`.
    """

    x: Array
    f: Array
    y: Array
    gy: Array
    scattered: Array
    gx: Array
    gf: Array


def numbers(
    g: Geometry, p: Part, x: Array, f: Array, gy: Array, known: tuple[bool, ...]
) -> Numbers:
    """Compute the drawn numbers from arrays in canonical order.

    `known` says which of the three arrays have values; small integers stand for the others.
    """
    rng = np.random.default_rng(SEED)
    n = g.rank
    inner, outer = g.channels // g.groups, g.filters // g.groups
    members = [j * inner + c for j in range(p.groups) for c in range(p.channels)]
    results = [j * outer + d for j in range(p.groups) for d in range(p.filters)]
    examples = list(range(p.batch))
    taps = [
        [k - 1 - i if g.flip else i for i in range(a.taps)]
        for a, k in zip(p.axes, g.kernel, strict=True)
    ]
    outputs = [list(range(*a.outputs)) for a in p.axes]
    elements = [list(a.elements) for a in p.axes]
    xs = _taken(x, known[0], [examples, *elements, members], (0, 9), rng)
    fs = _taken(f, known[1], [*taps, list(range(p.channels)), results], (-2, 3), rng)
    gys = _taken(gy, known[2], [examples, *outputs, results], (-3, 4), rng)
    for axis, a in enumerate(p.axes, start=1):
        xs = _placed(xs, axis, a, fill_of(g, axis - 1))
    xs = xs.reshape(*xs.shape[:-1], p.groups, p.channels)
    gys = gys.reshape(*gys.shape[:-1], p.groups, p.filters)
    fs = np.moveaxis(fs.reshape(*fs.shape[:-1], p.groups, p.filters), n, n + 1)
    with np.errstate(all="ignore"):  # elements may be infinite, as in a call
        return _computed(g, p, xs, fs, gys)


def _computed(g: Geometry, p: Part, xs: Array, fs: Array, gys: Array) -> Numbers:
    """Compute the three results from the drawn operands."""
    n = g.rank
    windows = _windows(xs, g, p)
    o, k = ascii_letters[7 : 7 + n], ascii_letters[7 + n : 7 + 2 * n]
    y = np.einsum(f"b{o}{k}gc,{k}gcd->b{o}gd", windows, fs)
    gf = np.einsum(f"b{o}{k}gc,b{o}gd->{k}gcd", windows.conj(), gys)
    scattered = np.zeros(xs.shape, np.result_type(gys, fs))
    for tap in product(*map(range, fs.shape[:n])):
        at = _positions(g, p, tap)
        scattered[(slice(None), *at)] += np.einsum("...gd,gcd->...gc", gys, fs[tap].conj())
    return Numbers(xs, fs, y, gys, scattered, _folded(scattered, p), gf)


def _taken(
    array: Array, known: bool, index: list[list[int]], span: tuple[int, int], rng: Any
) -> Array:
    """Take the drawn elements of an array in a dtype whose sums do not overflow."""
    kind = array.dtype.kind
    if known:
        values = array[np.ix_(*index)]
        if kind in "bui":
            return values.astype(int).astype(object) if kind == "b" else values.astype(object)
        return values.astype(np.complex128 if kind == "c" else np.float64)
    low, high = (0, 2) if kind == "b" else (max(span[0], 0) if kind == "u" else span[0], span[1])
    if low < 0:  # without zeros, whose products show nothing
        values = rng.integers(low, high - 1, tuple(map(len, index)))
        values += values >= 0
    else:
        values = rng.integers(low, high, tuple(map(len, index)))
    if kind == "c":
        return values + 1j * rng.integers(-1, 2, values.shape)
    return values.astype(object)


def fill_of(g: Geometry, axis: int) -> Number:
    """Return the number in the border of an axis that holds no elements of x."""
    return g.border.fill if g.border is not None and g.modes[axis] == "constant" else 0


def _placed(x: Array, axis: int, a: DrawnAxis, fill: Number) -> Array:
    """Put elements, zeros, or the number of a constant border at the positions of one axis."""
    index: tuple[Any, ...] = (slice(None),) * axis
    row = {element: i for i, element in enumerate(a.elements)}
    shape = (*x.shape[:axis], len(a.sources), *x.shape[axis + 1 :])
    placed = np.zeros(shape, x.dtype)
    for position, (source, kind) in enumerate(zip(a.sources, a.kinds, strict=True)):
        if source < 0 and kind == "border":
            placed[(*index, position)] = fill
        if source >= 0:
            placed[(*index, position)] = x[(*index, row[source])]
    return placed


def _positions(g: Geometry, p: Part, tap: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the drawn positions that one tap reads, as an index."""
    found = []
    for a, k, s, r, (low, _) in zip(p.axes, tap, g.stride, g.dilation, g.padding, strict=True):
        first = a.outputs[0] * s + k * r - low - a.start
        found.append(slice(first, first + (a.outputs[1] - a.outputs[0] - 1) * s + 1, s))
    return tuple(found)


def _windows(x: Array, g: Geometry, p: Part) -> Array:
    """Copy the drawn windows, (B, *O, *K, G, c), tap by tap."""
    taps = [a.taps for a in p.axes]
    outputs = [a.outputs[1] - a.outputs[0] for a in p.axes]
    found = np.zeros((x.shape[0], *outputs, *taps, *x.shape[-2:]), x.dtype)
    for tap in product(*map(range, taps)):
        index: Any = (..., *tap, slice(None), slice(None))
        found[index] = x[(slice(None), *_positions(g, p, tap))]
    return found


def _folded(gradient: Array, p: Part) -> Array:
    """Add up the gradients of positions that hold the same element; zeros have none."""
    for axis, a in enumerate(p.axes, start=1):
        index: tuple[Any, ...] = (slice(None),) * axis
        total: dict[int, Array] = {}
        for position, source in enumerate(a.sources):
            if source >= 0:
                total.setdefault(source, []).append(gradient[(*index, position)])
        folded = np.zeros_like(gradient)
        for position, source in enumerate(a.sources):
            if source in total:
                folded[(*index, position)] = reduce(np.add, total[source])
        gradient = folded
    return gradient


def written(array: Array) -> list[Any]:
    """Return the elements as JSON can hold them: numbers, [real, imaginary] pairs, or texts."""
    return [_number(v) for v in array.ravel().tolist()]


def _number(value: Any) -> Any:
    if isinstance(value, complex):
        return [_number(value.real), _number(value.imag)]
    if isinstance(value, int):
        return value if abs(value) <= 2**53 else str(value)
    if value != value or value in (float("inf"), float("-inf")):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    short = float(f"{value:.6g}")
    return int(short) if short.is_integer() and abs(short) < 1e6 else short
