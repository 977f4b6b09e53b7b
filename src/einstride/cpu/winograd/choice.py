"""Which axes are filtered by F(m, r), and by which m: the fastest within the error allowed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import prod

from einstride.calibration import rates
from einstride.codegen.jit import Machine
from einstride.codegen.linear_combinations import operations
from einstride.cpu.winograd.plan import C_BLOCK, D_BLOCK, register_tile
from einstride.cpu.winograd.tables import Pair, Split, counted
from einstride.geometry.convolution import Geometry
from einstride.geometry.cook_toom import LARGEST, matrices
from einstride.geometry.winograd_error import MOST_GROWTH, expected_error, growth
from einstride.support.caches import cached

WORTH = 1.06
"""How many times the seconds of the fastest way a more accurate one may take. Chosen: below the
scatter of the model's seconds against measured ones."""


def error(g: Geometry, split: Split, gradient: bool) -> float:
    """The root mean square error to be expected, in unit roundoffs: see `winograd_error`."""
    inner, outer, taps = counted(g, split)
    terms = g.batch * outer * prod(inner) if gradient else g.channels * taps
    return expected_error(split.axes, gradient, terms)


def candidates(g: Geometry, gradient: bool) -> Iterator[Split]:
    """Every way to filter one or two axes whose error is allowed."""
    ready = [a for a in range(g.rank) if g.stride[a] == 1 and 2 <= g.kernel[a] < LARGEST]
    pairs: list[tuple[int | None, int | None]] = [*((None, a) for a in ready)]
    pairs += combinations(ready, 2)
    for inner in pairs:
        outer = tuple(a for a in range(g.rank) if a not in inner)
        for first in _sizes(g, inner[0]):
            for second in _sizes(g, inner[1]):
                split = Split(inner, outer, (first, second))
                if growth(split.axes, gradient) <= MOST_GROWTH:
                    yield split


def _sizes(g: Geometry, axis: int | None) -> list[Pair]:
    """m and r of an axis: an even number of points, whose transforms halve by symmetry."""
    if axis is None:
        return [(1, 1)]
    r = g.kernel[axis]
    return [(a - r + 1, r) for a in (4, 6, 8) if a - r + 1 >= 2]


@cached(1024)
def choose(
    g: Geometry, dtype_bytes: int, threads: int, on: Machine, gradient: bool, prepared: bool
) -> tuple[Split, float] | None:
    """A way and its seconds; None if no axis can be filtered so.

    Of those that take at most `WORTH` times the least, the most accurate; whatever the threads.
    """
    found = [
        (
            seconds(g, split, dtype_bytes, 1, on, gradient, prepared),
            growth(split.axes, gradient),
            i,
            split,
        )
        for i, split in enumerate(candidates(g, gradient))
    ]
    if not found:
        return None
    limit = WORTH * min(found)[0]
    split = min((e, i, split) for s, e, i, split in found if s <= limit)[2]
    return split, seconds(g, split, dtype_bytes, threads, on, gradient, prepared)


def seconds(
    g: Geometry, split: Split, dtype_bytes: int, threads: int, on: Machine, gradient: bool,
    prepared: bool, transforms: int = 1,
) -> float:  # fmt: skip
    """What a pass takes by the calibration's rates, on so many threads.

    A filter that is not prepared is transformed once, or by each block anew: so many `transforms`.
    """
    known = rates("numpy", "float32")  # of vectors, whatever they hold
    transform, filters = known["winograd_data"], known["winograd_filter"]
    lanes = on.lanes(dtype_bytes)
    inner, outer, taps = counted(g, split)
    tiles = g.batch * outer * prod(inner)
    height, vectors = register_tile(g.filters, lanes, on.registers)
    c_vectors, d_vectors = (-(-n // lanes) for n in (g.channels, g.filters))
    columns = -(-d_vectors // vectors) * vectors
    data, result, filter_ = _each(split)
    if gradient:
        rows = -(-g.channels // height) * height
        products = split.points * tiles * taps * rows * columns
        again = (-(-g.filters // D_BLOCK), -(-g.channels // C_BLOCK))
        spent = (
            transform * tiles * taps * (again[0] * c_vectors * data + again[1] * d_vectors * result)
            + filters / 2 * taps * g.channels * d_vectors * filter_
        )
        stored = 8 * split.points * taps * g.channels * d_vectors * lanes
    else:
        products = split.points * -(-tiles // height) * height * taps * g.channels * columns
        spent = transform * tiles * (taps * c_vectors * data + d_vectors * result)
        stored = dtype_bytes * split.points * taps * g.channels * columns * lanes
        if not prepared:
            spent += filters * taps * g.channels * d_vectors * filter_ * transforms
    total = products * known["vector"] + spent + stored * known["winograd_panel"]
    return known["kernel"] + total / threads


@cached(256)
def _each(split: Split) -> tuple[int, int, int]:
    """Vector instructions of the transforms of a patch, an output tile and a filter."""
    (m0, r0), (m1, r1) = split.axes
    a0, a1 = m0 + r0 - 1, m1 + r1 - 1
    first, second = matrices(m0, r0), matrices(m1, r1)
    points = a0 * a1
    data = a1 * operations(first.data) + a0 * operations(second.data) + 3 * points
    result = a1 * operations(first.output) + m0 * operations(second.output) + points + 3 * m0 * m1
    taps = r1 * operations(first.taps) + a0 * operations(second.taps) + points + r0 * r1
    return data, result, taps
