"""Compute a filter gradient by matrix products: transposed rows of windows times gy, in blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from einstride.algorithms.gemm.im2col import Rows, slab_elements
from einstride.arrays.ops import (
    add,
    box_index,
    conjugate,
    groups_first,
    has_contiguous_axis,
    is_complex,
    merged,
)
from einstride.geometry.blocking import SMALL, Box, Boxes, Tiling, tile
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Job
from einstride.support.caches import cached

if TYPE_CHECKING:
    from einstride.arrays.backends import Array, Backend, Traits

UNIT_BYTES = 1 << 20
"""Bytes of the filter gradient that one unit computes: they are read and written once per block, so
they must stay in the second-level cache. Smaller units copy the windows more often."""

FEW_BYTES = 1 << 19
"""Bytes of a filter gradient up to which each thread sums some positions into a copy of its own.
The copies are added in order, so this number changes the order of sums, and with it bits."""


@dataclass(frozen=True)
class Unit:
    """Some taps and channels of the filter gradient, summed over some boxes of positions."""

    part: int
    taps: Box
    channels: tuple[int, int]
    boxes: Boxes


@dataclass(frozen=True)
class Units:
    """All units of a filter gradient.

    The units of one part cover all of F'; the parts are partial sums, added in order.
    """

    units: tuple[Unit, ...]
    parts: int
    tiling: Tiling
    elements: int
    taps: tuple[int, ...]
    channels: int


@cached(1024)
def filter_units(job: Job, traits: Traits) -> Units:
    """Split a filter gradient into taps and channels, or for small filters into positions."""
    g, item = job.geometry, job.itemsize
    whole = prod(g.f_shape) * item
    workers = job.threads if g.multiply_adds > SMALL and traits.mutable else 1
    parts = workers if whole <= FEW_BYTES else 1
    pieces = 1 if parts > 1 or not traits.mutable else -(-whole // UNIT_BYTES)
    first_taps = -(-g.kernel[0] // pieces)  # taps on the first axis that one unit has
    pieces = 1 if not traits.mutable else -(-pieces * first_taps // g.kernel[0])
    channels = g.channels if g.groups > 1 else max(-(-g.channels // pieces), min(16, g.channels))
    if parts == 1 and workers > 1 and g.groups == 1 and channels >= 32:
        count = -(-g.kernel[0] // first_taps) * -(-g.channels // channels)
        if count % workers and count < 4 * workers:  # an odd unit would leave threads waiting
            channels = -(-channels // workers)
    taps = (first_taps, *g.kernel[1:])
    row = prod(taps) * channels * item
    elements = prod(taps) * (channels // g.groups if g.groups > 1 else channels) * g.filters

    converted = any(name != job.arithmetic.compute for name in job.operands)
    conjugated = is_complex(job.arithmetic.compute)

    def bytes_of(lengths: tuple[int, ...]) -> int:
        slab = slab_elements(g, lengths, taps) * job.operand_itemsize
        gradient = prod(lengths) * g.filters * item * (1 + converted + conjugated)
        return (
            prod(lengths) * row
            + slab
            + gradient
            + (2 + (g.groups > 1) + 2 * conjugated) * elements * item
        )

    tiling = tile(
        (g.batch, *g.out),
        max(traits.block_bytes // max(row, 1), 1),
        workers,
        job.limit,
        bytes_of,
        parts * whole if parts > 1 else 0,
    )
    per_part = -(-len(tiling.boxes) // parts)
    box_lists = [tiling.boxes.part(i, i + per_part) for i in range(0, len(tiling.boxes), per_part)]
    tap_axes = [
        ((lo, min(lo + first_taps, g.kernel[0])),) for lo in range(0, g.kernel[0], first_taps)
    ]
    rest = tuple((0, k) for k in g.kernel[1:])
    units = tuple(
        Unit(part, lead + rest, (c, min(c + channels, g.channels)), boxes)
        for part, boxes in enumerate(box_lists)
        for lead in tap_axes
        for c in range(0, g.channels, channels)
    )
    return Units(units, len(box_lists), tiling, elements, taps, channels)


def reduce(x: Array, gy: Array, job: Job, b: Backend, out: Array | None) -> Array:
    """Compute gf (*K, C // G, D) = sum of conj(rows)^T gy over all blocks, before any flip."""
    g, compute = job.geometry, job.arithmetic.compute
    plan = filter_units(job, b.traits)
    parts: list[Array] = [out] * plan.parts
    if plan.parts > 1:
        parts = [b.empty(g.f_shape, job.sums, x) for _ in range(plan.parts)]

    def make() -> Callable[[Unit], Array | None]:
        slab = slab_elements(g, plan.tiling.lengths, plan.taps)
        size = plan.tiling.rows * prod(plan.taps) * plan.channels
        rows = Rows(x, g, size, slab, compute, True, b)
        buffers = (
            [b.empty((plan.elements,), job.sums, x) for _ in range(2)] if out is not None else []
        )

        def one(unit: Unit) -> Array | None:
            shape = _unit_shape(unit, g)
            total, product = [b.xp.reshape(s[: prod(shape)], shape) for s in buffers] or [None] * 2
            for i, box in enumerate(unit.boxes):
                r = b.xp.matrix_transpose(rows.of(box, unit.taps, unit.channels))
                c = _gradient_rows(gy[box_index(box)], g, compute, b)
                term = b.matmul(r, c, product if i else total)
                total = add(total, term, b) if i else term
            found = conjugate(_as_filter(total, unit, g, b), b)
            if out is None:
                return found
            lo, hi = unit.channels if g.groups == 1 else (0, g.channels // g.groups)
            parts[unit.part][(*box_index(unit.taps), slice(lo, hi), slice(None))] = found
            return None

        return one

    found = b.run(make, plan.units, plan.tiling.threads)
    if out is None:
        return b.astype(found[0], job.arithmetic.result)
    if plan.parts > 1:
        for other in parts[1:]:
            parts[0] += other
        out[...] = parts[0]
    return out


def _unit_shape(unit: Unit, g: Geometry) -> tuple[int, ...]:
    """Return the shape of a unit's matrix: (k * c, D), or (G, k * c, D // G)."""
    n = prod(k1 - k0 for k0, k1 in unit.taps) * (unit.channels[1] - unit.channels[0])
    return (n, g.filters) if g.groups == 1 else (g.groups, n // g.groups, g.filters // g.groups)


def _as_filter(total: Array, unit: Unit, g: Geometry, b: Backend) -> Array:
    """Return a unit's matrix as (*k, c, D)."""
    kernel = [k1 - k0 for k0, k1 in unit.taps]
    if g.groups == 1:
        return b.xp.reshape(total, (*kernel, -1, g.filters))
    n = g.rank
    total = b.xp.reshape(total, (g.groups, *kernel, g.channels // g.groups, g.filters // g.groups))
    total = b.xp.permute_dims(total, (*range(1, n + 2), 0, n + 2))
    return b.xp.reshape(total, (*kernel, g.channels // g.groups, g.filters))


def _gradient_rows(gy: Array, g: Geometry, compute: str, b: Backend) -> Array:
    """Return a box of gy (n, *o, D) as (p, D), or (G, p, D // G)."""
    matrix = merged(gy, g.rank + 1, b)
    if matrix is None:  # one copy: a copy made first would keep gy's memory order
        matrix = b.xp.reshape(gy, (prod(gy.shape[:-1]), g.filters))
    if not has_contiguous_axis(matrix, b):
        matrix = b.xp.asarray(matrix, copy=True)
    return groups_first(conjugate(b.astype(matrix, compute), b), g.groups, b)
