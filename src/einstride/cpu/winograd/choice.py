"""Choose the axes that are filtered by F(m, r), and m: the fastest within the allowed error."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import prod

from einstride.calibration import rates
from einstride.codegen.jit import Target
from einstride.codegen.linear_combinations import operations
from einstride.cpu.winograd.plan import C_BLOCK, D_BLOCK, register_tile
from einstride.cpu.winograd.tables import FilteredAxes, Pair, tile_counts
from einstride.geometry.convolution import Geometry
from einstride.geometry.cook_toom import LARGEST, matrices
from einstride.geometry.winograd_error import MOST_GROWTH, expected_error, growth
from einstride.support.caches import cached

TIME_TOLERANCE = 1.06
"""Predicted seconds of a more accurate choice of axes and m, over the seconds of the fastest.
Chosen: less than the scatter of predictions against measurements. A larger value chooses smaller
tiles."""


def error(g: Geometry, axes: FilteredAxes, gradient: bool) -> float:
    """Return the expected root mean square error in unit roundoffs: see `winograd_error`."""
    inner, outer, taps = tile_counts(g, axes)
    terms = g.batch * outer * prod(inner) if gradient else g.channels * taps
    return expected_error(axes.outputs_and_taps, gradient, terms)


def candidates(g: Geometry, gradient: bool) -> Iterator[FilteredAxes]:
    """Yield every choice of one or two inner axes, and of m, whose error growth is allowed."""
    possible = [a for a in range(g.rank) if g.stride[a] == 1 and 2 <= g.kernel[a] < LARGEST]
    inner_axes: list[tuple[int | None, int | None]] = [*((None, a) for a in possible)]
    inner_axes += combinations(possible, 2)
    for inner in inner_axes:
        outer = tuple(a for a in range(g.rank) if a not in inner)
        for first in _tile_sizes(g, inner[0]):
            for second in _tile_sizes(g, inner[1]):
                axes = FilteredAxes(inner, outer, (first, second))
                if growth(axes.outputs_and_taps, gradient) <= MOST_GROWTH:
                    yield axes


def _tile_sizes(g: Geometry, axis: int | None) -> list[Pair]:
    """List (m, r) of an axis with m + r - 1 = 4, 6, 8: in even sizes symmetry halves transforms."""
    if axis is None:
        return [(1, 1)]
    r = g.kernel[axis]
    return [(a - r + 1, r) for a in (4, 6, 8) if a - r + 1 >= 2]


@cached(1024)
def choose_axes(
    g: Geometry, dtype_bytes: int, threads: int, target: Target, gradient: bool, prepared: bool
) -> tuple[FilteredAxes, float] | None:
    """Choose axes and m, and predict their seconds; None if no axis can be filtered by F(m, r).

    The choice is the most accurate one that takes at most `TIME_TOLERANCE` times the least
    seconds on one thread, so that the choice, and with it the bits, does not depend on the threads.
    """
    choices = [
        (
            seconds(g, axes, dtype_bytes, 1, target, gradient, prepared),
            growth(axes.outputs_and_taps, gradient),
            i,
            axes,
        )
        for i, axes in enumerate(candidates(g, gradient))
    ]
    if not choices:
        return None
    limit = TIME_TOLERANCE * min(choices)[0]
    axes = min((e, i, axes) for s, e, i, axes in choices if s <= limit)[2]
    return axes, seconds(g, axes, dtype_bytes, threads, target, gradient, prepared)


def seconds(
    g: Geometry, axes: FilteredAxes, dtype_bytes: int, threads: int, target: Target, gradient: bool,
    prepared: bool, transforms: int = 1,
) -> float:  # fmt: skip
    """Predict the seconds of a pass on a number of threads, by the calibrated rates.

    `transforms`: how many times a filter that is not prepared is transformed, once or per block.
    """
    rate = rates("numpy", "float32")  # per vector: the same for every dtype
    transform, filters = rate["winograd_data"], rate["winograd_filter"]
    lanes = target.lanes(dtype_bytes)
    inner, outer, taps = tile_counts(g, axes)
    tiles = g.batch * outer * prod(inner)
    height, vectors = register_tile(g.filters, lanes, target.registers)
    c_vectors, d_vectors = (-(-n // lanes) for n in (g.channels, g.filters))
    columns = -(-d_vectors // vectors) * vectors
    data, result, filter_ = _count_transform_operations(axes)
    if gradient:
        rows = -(-g.channels // height) * height
        products = axes.points * tiles * taps * rows * columns
        repeats = (-(-g.filters // D_BLOCK), -(-g.channels // C_BLOCK))
        transform_time = (
            transform
            * tiles
            * taps
            * (repeats[0] * c_vectors * data + repeats[1] * d_vectors * result)
            + filters / 2 * taps * g.channels * d_vectors * filter_
        )
        stored = 8 * axes.points * taps * g.channels * d_vectors * lanes
    else:
        products = axes.points * -(-tiles // height) * height * taps * g.channels * columns
        transform_time = transform * tiles * (taps * c_vectors * data + d_vectors * result)
        stored = dtype_bytes * axes.points * taps * g.channels * columns * lanes
        if not prepared:
            transform_time += filters * taps * g.channels * d_vectors * filter_ * transforms
    total = products * rate["vector"] + transform_time + stored * rate["winograd_panel"]
    return rate["kernel"] + total / threads


@cached(256)
def _count_transform_operations(axes: FilteredAxes) -> tuple[int, int, int]:
    """Vector instructions of the transforms of an input tile, an output tile and a filter."""
    (m0, r0), (m1, r1) = axes.outputs_and_taps
    a0, a1 = m0 + r0 - 1, m1 + r1 - 1
    first, second = matrices(m0, r0), matrices(m1, r1)
    points = a0 * a1
    data = a1 * operations(first.data) + a0 * operations(second.data) + 3 * points
    result = a1 * operations(first.output) + m0 * operations(second.output) + points + 3 * m0 * m1
    taps = r1 * operations(first.taps) + a0 * operations(second.taps) + points + r0 * r1
    return data, result, taps
