"""Matrix products of a convolution, block by block: rows times filter, and rows times gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING

from einstride.geometry import Geometry
from einstride.job import Job
from einstride.primitives import (
    cells,
    conjugate,
    dense,
    merged,
    split_groups,
)
from einstride.rows import Rows, slab_elements
from einstride.tiling import Box, Boxes, Tiling, tile

if TYPE_CHECKING:
    from einstride.backends import Array, Backend, Traits

SMALL = 1 << 21
"""Multiply-adds below which handing blocks to a pool of threads costs more than it brings."""

UNIT_BYTES = 1 << 20
"""A unit's share of the filter gradient: it is read and written once a block, so it must stay in
the second-level cache."""

FEW_BYTES = 1 << 19
"""A filter gradient below this is summed in several copies side by side."""


def filter_matrix(f: Array, g: Geometry, compute: str, b: Backend) -> tuple[Array, bool]:
    """F, and whether its rows run over (K, C) rather than (C, K).

    (K * C, D) for one group, else (G, K * C // G, D // G). A view wherever f allows one.
    """
    n, xp = g.rank, b.xp
    if g.groups > 1:
        split = xp.permute_dims(split_groups(f, g.groups, b), (n + 1, *range(n + 1), n + 2))
        shape = (g.groups, prod(g.f_shape[:-1]), g.filters // g.groups)
        return xp.reshape(b.astype(split, compute), shape), True
    if b.dtype_name(f) == compute:
        orders: tuple[tuple[tuple[int, ...], bool], ...] = (
            (tuple(range(n + 2)), True),
            ((n, *range(n), n + 1), False),
        )
        for order, inner in orders:
            matrix = merged(xp.permute_dims(f, order), n + 1, b)
            if matrix is not None and dense(matrix, b):
                return matrix, inner
    rows = prod(g.f_shape[:-1])
    if b.strides is not None and abs(b.strides(f)[-2]) < abs(b.strides(f)[-1]):
        # The inner channels lie closest in memory: copying them as runs is many times faster.
        turned = xp.permute_dims(f, (n + 1, *range(n + 1)))
        turned = xp.reshape(b.astype(turned, compute), (g.filters, rows))
        return xp.matrix_transpose(turned), True
    return xp.reshape(b.astype(f, compute), (rows, g.filters)), True


@lru_cache(maxsize=1024)
def position_tiles(g: Geometry, job: Job, traits: Traits) -> Tiling:
    """Blocks of output positions for `correlate`."""
    row = prod(g.f_shape[:-1]) * g.groups * job.itemsize
    operand = job.operand_itemsize
    matrix = prod(g.f_shape) * job.itemsize

    def bytes_of(lengths: tuple[int, ...]) -> int:
        slab = slab_elements(g, lengths, g.kernel) * operand
        return prod(lengths) * (row + g.filters * job.itemsize) + slab

    return tile(
        (g.batch, *g.out),
        max(traits.block_bytes // max(row, 1), 1),
        job.threads if g.multiply_adds > SMALL else 1,
        job.ceiling if job.hard else job.ceiling + matrix,
        bytes_of,
        matrix,
    )


def correlate(
    x: Array, f: Array, g: Geometry, job: Job, b: Backend, bias: Array | None, out: Array | None
) -> Array:
    """y (B, *O, D) = conv(x, f) + bias of a geometry that does not flip; in `out` if given."""
    plan = position_tiles(g, job, b.traits)
    compute, result = job.arithmetic.compute, job.arithmetic.result
    matrix, inner = filter_matrix(f, g, compute, b)
    taps = tuple((0, k) for k in g.kernel)
    bias = None if bias is None else b.astype(bias, compute)
    width = prod(g.f_shape[:-1]) * g.groups

    def make() -> Callable[[Box], Array | None]:
        slab = slab_elements(g, plan.lengths, g.kernel)
        rows = Rows(x, g, plan.rows * width, slab, compute, inner, b)
        spare: list[Array] = []  # for results that cannot be multiplied into their place

        def one(box: Box) -> Array | None:
            r = rows.of(box, taps)
            if out is None:
                y = _flat(b.matmul(r, matrix, None), g, b)
                return b.astype(y if bias is None else y + bias, result)
            place = out[cells(box)]  # (n, *o, D)
            y = merged(place, g.rank + 1, b) if result == compute else None
            direct = y is not None and dense(y, b)
            if not direct:
                if not spare:
                    spare.append(b.empty((plan.rows * g.filters,), compute, x))
                p = prod(place.shape[:-1])
                y = b.xp.reshape(spare[0][: p * g.filters], (p, g.filters))
            b.matmul(r, matrix, by_group(y, g.groups, b))
            if bias is not None:
                y += bias
            if not direct:
                place[...] = b.xp.reshape(y, place.shape)
            return None

        return one

    blocks = b.run(make, plan.boxes, plan.threads)
    return out if out is not None else b.xp.reshape(b.xp.concat(blocks, axis=0), g.y_shape)


def by_group(matrix: Array, groups: int, b: Backend) -> Array:
    """(p, C) as (G, p, C // G); as it is for one group."""
    if groups == 1:
        return matrix
    return b.xp.permute_dims(split_groups(matrix, groups, b), (1, 0, 2))


def _flat(product: Array, g: Geometry, b: Backend) -> Array:
    """(G, p, D // G) as (p, D)."""
    if g.groups == 1:
        return product
    return b.xp.reshape(b.xp.permute_dims(product, (1, 0, 2)), (product.shape[1], g.filters))


@dataclass(frozen=True)
class Unit:
    """A share of the filter gradient: some taps and channels, summed over some boxes."""

    part: int
    taps: Box
    channels: tuple[int, int]
    boxes: Boxes


@dataclass(frozen=True)
class Units:
    """All shares. Units of one part together cover F'; the parts are added in their order."""

    units: tuple[Unit, ...]
    parts: int
    tiling: Tiling
    elements: int
    taps: tuple[int, ...]
    channels: int


@lru_cache(maxsize=1024)
def filter_units(job: Job, traits: Traits) -> Units:
    """How `reduce` cuts its work: into taps and channels, or for small filters into positions."""
    g, item = job.geometry, job.itemsize
    whole = prod(g.f_shape) * item
    workers = job.threads if g.multiply_adds > SMALL and traits.mutable else 1
    parts = workers if whole <= FEW_BYTES else 1
    cut = 1 if parts > 1 or not traits.mutable else -(-whole // UNIT_BYTES)
    first = -(-g.kernel[0] // cut)  # taps on the first axis that one unit has
    cut = 1 if not traits.mutable else -(-cut * first // g.kernel[0])
    channels = g.channels if g.groups > 1 else max(-(-g.channels // cut), min(16, g.channels))
    if parts == 1 and workers > 1 and g.groups == 1 and channels >= 32:
        count = -(-g.kernel[0] // first) * -(-g.channels // channels)
        if count % workers and count < 4 * workers:  # an odd unit would leave threads waiting
            channels = -(-channels // workers)
    taps = (first, *g.kernel[1:])
    row = prod(taps) * channels * item
    elements = prod(taps) * (channels // g.groups if g.groups > 1 else channels) * g.filters

    def bytes_of(lengths: tuple[int, ...]) -> int:
        slab = slab_elements(g, lengths, taps) * job.operand_itemsize
        gradient = prod(lengths) * g.filters * item
        return prod(lengths) * row + slab + gradient + 2 * elements * item

    tiling = tile(
        (g.batch, *g.out),
        max(traits.block_bytes // max(row, 1), 1),
        workers,
        job.ceiling,
        bytes_of,
        parts * whole if parts > 1 else 0,
    )
    share = -(-len(tiling.boxes) // parts)
    shares = [tiling.boxes.part(i, i + share) for i in range(0, len(tiling.boxes), share)]
    tap_axes = [((lo, min(lo + first, g.kernel[0])),) for lo in range(0, g.kernel[0], first)]
    rest = tuple((0, k) for k in g.kernel[1:])
    units = tuple(
        Unit(part, lead + rest, (c, min(c + channels, g.channels)), boxes)
        for part, boxes in enumerate(shares)
        for lead in tap_axes
        for c in range(0, g.channels, channels)
    )
    return Units(units, len(shares), tiling, elements, taps, channels)


def reduce(x: Array, gy: Array, job: Job, b: Backend, out: Array | None) -> Array:
    """gf (*K, C // G, D) = sum of conj(rows)^T gy over all blocks, before any flip."""
    g, compute = job.geometry, job.arithmetic.compute
    plan = filter_units(job, b.traits)
    parts: list[Array] = [out] * plan.parts
    if plan.parts > 1:
        parts = [b.empty(g.f_shape, compute, x) for _ in range(plan.parts)]

    def make() -> Callable[[Unit], Array | None]:
        slab = slab_elements(g, plan.tiling.lengths, plan.taps)
        size = plan.tiling.rows * prod(plan.taps) * plan.channels
        rows = Rows(x, g, size, slab, compute, True, b)
        buffers = (
            [b.empty((plan.elements,), compute, x) for _ in range(2)] if out is not None else []
        )

        def one(unit: Unit) -> Array | None:
            shape = _share(unit, g)
            total, product = [b.xp.reshape(s[: prod(shape)], shape) for s in buffers] or [None] * 2
            for i, box in enumerate(unit.boxes):
                r = b.xp.matrix_transpose(rows.of(box, unit.taps, unit.channels))
                c = _gradient_rows(gy[cells(box)], g, compute, b)
                term = b.matmul(r, c, product if i else total)
                total = _add(total, term, b) if i else term
            found = conjugate(_as_filter(total, unit, g, b), b)
            if out is None:
                return found
            lo, hi = unit.channels if g.groups == 1 else (0, g.channels // g.groups)
            parts[unit.part][(*cells(unit.taps), slice(lo, hi), slice(None))] = found
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


def _add(total: Array, product: Array, b: Backend) -> Array:
    if not b.traits.mutable:
        return total + product
    total += product
    return total


def _share(unit: Unit, g: Geometry) -> tuple[int, ...]:
    """The shape of a unit's matrix: (k * c, D), or (G, k * c, D // G)."""
    n = prod(k1 - k0 for k0, k1 in unit.taps) * (unit.channels[1] - unit.channels[0])
    return (n, g.filters) if g.groups == 1 else (g.groups, n // g.groups, g.filters // g.groups)


def _as_filter(total: Array, unit: Unit, g: Geometry, b: Backend) -> Array:
    """A unit's matrix as (*k, c, D)."""
    kernel = [k1 - k0 for k0, k1 in unit.taps]
    if g.groups == 1:
        return b.xp.reshape(total, (*kernel, -1, g.filters))
    n = g.rank
    total = b.xp.reshape(total, (g.groups, *kernel, g.channels // g.groups, g.filters // g.groups))
    total = b.xp.permute_dims(total, (*range(1, n + 2), 0, n + 2))
    return b.xp.reshape(total, (*kernel, g.channels // g.groups, g.filters))


def _gradient_rows(gy: Array, g: Geometry, compute: str, b: Backend) -> Array:
    """A box of gy (n, *o, D) as (p, D), or (G, p, D // G)."""
    matrix = merged(gy, g.rank + 1, b)
    if matrix is None or not dense(matrix, b):
        matrix = b.xp.reshape(b.xp.asarray(gy, copy=True), (prod(gy.shape[:-1]), g.filters))
    return by_group(conjugate(b.astype(matrix, compute), b), g.groups, b)
