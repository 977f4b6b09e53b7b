"""Write the kernel of the filter gradient that packs x and gy, for filters whose taps stay in x.

A region of positions of gy is packed for a few panels of output channels, and of x for a few input
channels under one tap; then a register tile is summed from packed data in the first-level cache:

    acc[p, v] += x[k, channel p] * gy[k, vector v]

Without packing, positions are a row of channels apart, often a power of two of bytes, and evict
each other from the cache. The sums of a region are added to gf in the order of the regions. If gf
is small against x and gy, the positions are divided into partial sums with a gf each, so that a
thread reads its positions once. Partial sums depend on shapes alone, not on the threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.ir_types import ELEMENTS, bytes_of
from einstride.codegen.jit import Target
from einstride.codegen.vector_formats import Format
from einstride.codegen.vector_ops import local, prefetch
from einstride.cpu.complex_as_real import PARTS, real
from einstride.cpu.conv import filter_gradient as nest
from einstride.cpu.conv.dense.pack import PanelLayout, panel_tables
from einstride.cpu.conv.loop_nest import look_up
from einstride.cpu.conv.register_tile import RegisterTile, vector_masks
from einstride.cpu.conv.schedule import Schedule
from einstride.cpu.runtime.argument_block import Call, bind
from einstride.cpu.runtime.chunks import COARSE, block_size, chunk_count
from einstride.cpu.runtime.offset_tables import grid
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.problem import Job
from einstride.support.caches import cached

REGION = 128
"""Positions in a region, at most; chosen so that packed data stays in the first-level cache.
Changing it changes the order of sums, and so the bits."""

MAX_PANELS = 4
"""Panels that are computed with the same packed x, at most; chosen. More panels pack x less often,
and need more of the first-level cache for gy."""

MAX_PARTIAL_SUMS = 8
"""Partial sums, at most; chosen. Changing it changes the order of sums, and so the bits."""

ELEMENTS_PER_SUM = 16
"""Elements of x and gy for each element of all partial sums, at least; chosen, so that adding them
costs little against reading x and gy."""

MIN_POSITIONS = 16
"""Positions of all examples below which packing takes longer than it saves; chosen."""


@dataclass(frozen=True)
class PackedOuterProducts(Schedule):
    """The schedule of a dense filter gradient that packs x and gy.

    Attributes
    ----------
    axes, split : int
        Number of axes of positions, the batch among them, and the axis that is divided into
        regions: a region takes a range of it, one element of each axis before, and all of the axes
        behind.
    chunk_panels : int
        Panels that a chunk computes with the same packed x.
    prefetch : bool
        True if the operands of the next region are prefetched while a region is summed.
    """

    axes: int
    split: int
    chunk_panels: int
    prefetch: bool

    in_lanes = "output channels"
    in_rows = "input channels"
    loops = (
        "group of panels, slice of input channels, partial sum, region of positions, tap, tile, "
        "panel, position"
    )
    operands = "x broadcast, vectors of gy, both packed by regions of positions"
    edges = "none: no tap leaves x"
    stores = "added to gf, or to a partial sum, after each region"


def kernel(schedule: PackedOuterProducts, names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``blocked``."""
    code = Code("blocked", names)
    buffers = (
        local(code, schedule.chunk_panels * REGION * schedule.width, schedule.compute),
        local(code, (REGION + schedule.lanes) * schedule.rows, schedule.compute),
    )
    with code.chunks(code["chunks"]) as chunk:
        group, tiles, outer, gf = nest.locate_part(code, chunk, schedule.compute)
        panel = group * schedule.chunk_panels
        panels = panel, (panel + schedule.chunk_panels).minimum(code["all_panels"])
        x = code.array("x", schedule.x.stored).at(look_up(code, "panel_x", panel))
        gy = code.array("gy", schedule.y.stored)
        axes: list[tuple[Value | int, Value, Value | int]] = [(*outer, 1)]
        axes += [(0, code[f"out{a}"], 1) for a in range(1, schedule.split + 1)]
        axes[-1] = (*axes[-1][:2], code["region"])
        with nest.loop_over_regions(code, axes) as (region, is_first):
            starts = [first for first, _ in region]
            x_region = nest.at_index(x, starts, (code[f"x_stride{a}"] for a in range(len(axes))))
            gy_region = nest.at_index(gy, starts, (code[f"y_stride{a}"] for a in range(len(axes))))
            lines = region[-1][1] - region[-1][0]
            _add_region(
                code, schedule, x_region, gy_region, gf, lines, panels, tiles, is_first, buffers
            )
    return code.text()


@contextmanager
def _loop_over_positions(
    code: Code, schedule: PackedOuterProducts, lines: Value, operand: str
) -> Iterator[tuple[Value, Value]]:
    """Loop over the positions of a region; yield a position's number, and its offset in x or gy."""
    axes = range(schedule.split + 1, schedule.axes)
    with code.loops((0, lines), *((0, code[f"out{a}"]) for a in axes)) as indices:
        number, offset = indices[0], indices[0] * code[f"{operand}_stride{schedule.split}"]
        for a, index in zip(axes, indices[1:], strict=True):
            number = number * code[f"out{a}"] + index
            offset = offset + index * code[f"{operand}_stride{a}"]
        yield number, offset


def _add_region(
    code: Code, schedule: PackedOuterProducts, x: Pointer, gy: Pointer, gf: Pointer, lines: Value,
    panels: nest.Range, tiles: nest.Range, is_first: Value, buffers: tuple[Pointer, Pointer],
) -> None:  # fmt: skip
    """Add the products of one region's positions to gf."""
    (first_panel, _), (first_tile, _), (packed_gy, packed_x) = panels, tiles, buffers
    lanes, rows, width = schedule.lanes, schedule.rows, schedule.width
    size = lines
    for a in range(schedule.split + 1, schedule.axes):
        size = size * code[f"out{a}"]

    def masks_of(panel: Value) -> list[Mask]:
        columns = look_up(code, "panel_columns", panel)
        return vector_masks(code, columns, lanes, schedule.vectors)

    with code.loop(*panels) as panel:
        masks, gy_panel = masks_of(panel), gy.at(look_up(code, "panel_y", panel))
        packed_panel = packed_gy.at((panel - first_panel) * (REGION * width))
        with _loop_over_positions(code, schedule, lines, "y") as (k, offset):
            for v, mask in enumerate(masks):
                vector = gy_panel.at(offset + v * lanes)
                packed_panel.at(k * width + v * lanes).store(
                    vector.load_as(schedule.y.stored, schedule.compute, lanes, mask)
                )
    with code.loop(0, code["taps"]) as tap, code.loop(*tiles) as tile:
        c = tile * rows
        x_tile, count = x.at(look_up(code, "tap_x", tap) + c), code["channels"] - c
        firsts = range(0, rows, lanes)
        x_masks = [code.first_lanes(count.minimum(rows) - q, lanes) for q in firsts]
        with _loop_over_positions(code, schedule, lines, "x") as (k, offset):
            for q, mask in zip(firsts, x_masks, strict=True):
                vector = x_tile.at(offset + q)
                if q == 0 and schedule.prefetch:
                    prefetch(vector.at(size * code[f"x_stride{schedule.axes - 1}"]), far=True)
                packed_x.at(k * rows + q).store(
                    vector.load_as(schedule.x.stored, schedule.compute, lanes, mask)
                )
        gf_tile = gf.at(look_up(code, "tap_offsets", tap)).at(c * code["gf_channel"])
        with code.loop(*panels) as panel:
            packed_panel = packed_gy.at((panel - first_panel) * (REGION * width))
            sums = schedule.register_tile(code)
            if schedule.prefetch:  # gy of the next region, one cache line for each tile
                stride = code[f"y_stride{schedule.axes - 1}"]
                line = (tile - first_tile) * (64 // bytes_of(ELEMENTS[schedule.y.stored]))
                next_gy = gy.at(look_up(code, "panel_y", panel) + line).at(size * stride)
                with code.when(line < width):
                    _sum_region(schedule, packed_x, packed_panel, size, sums, (next_gy, stride))
                with code.when(line >= width):
                    _sum_region(schedule, packed_x, packed_panel, size, sums)
            else:
                _sum_region(schedule, packed_x, packed_panel, size, sums)
            gf_panel = gf_tile.at(look_up(code, "panel_column", panel))
            nest.add_rows(sums, range(rows), gf_panel, count, masks_of(panel), is_first)


def _sum_region(
    schedule: PackedOuterProducts, x: Pointer, gy: Pointer, size: Value, sums: RegisterTile,
    next_gy: tuple[Pointer, Value] | None = None,
) -> None:  # fmt: skip
    """Sum the outer products of a region; `next_gy`: a pointer and a stride to prefetch."""
    code = sums.code
    with code.loop(0, size) as k:
        if next_gy is not None:
            prefetch(next_gy[0].at(k * next_gy[1]), far=True)
        row = [
            gy.at(k * schedule.width + v * schedule.lanes).load(schedule.lanes)
            for v in range(schedule.vectors)
        ]
        for p in range(schedule.rows):
            sums.add_products(
                p, code.splat(x.at(k * schedule.rows + p).load(), schedule.lanes), row
            )


def inside(g: Geometry) -> bool:
    """True if every tap of every position lies in x."""
    return all(
        low <= 0 and (out - 1) * stride + (taps - 1) * dilation - low < size
        for out, stride, taps, dilation, (low, _), size in zip(
            g.out, g.stride, g.kernel, g.dilation, g.padding, g.size, strict=True
        )
    )


def fits(g: Geometry, x_channel: int, parts: int) -> bool:
    """True if the kernel applies: no tap leaves x, and the channels of x are contiguous."""
    return inside(g) and x_channel == parts and g.batch * prod(g.out) >= MIN_POSITIONS


def partial_sum_count(g: Geometry, parts: int, per_example: bool) -> int:
    """Return the number of partial sums that the positions are divided into, a power of two."""
    if per_example or not inside(g):
        return 1
    filters = prod(g.f_shape) * parts**2
    operands = (prod(g.x_shape) + prod(g.y_shape)) * parts
    regions = g.batch * prod(g.out) // (4 * REGION)
    max_sums = min(MAX_PARTIAL_SUMS, operands // (ELEMENTS_PER_SUM * filters), regions)
    return 1 << (max_sums.bit_length() - 1) if max_sums > 1 else 1


def gradient_bytes(job: Job) -> int:
    """Count the bytes of the filter gradient; for complex numbers, of the products of all parts."""
    compute = job.arithmetic.compute
    return prod(job.shape) * ITEMSIZE[real(compute)] * (4 if compute in PARTS else 1)


@cached(1024)
def allowed_partial_sums(job: Job, besides: int) -> int:
    """Return the `partial_sum_count` of a job, or 1 if it and `besides` bytes exceed the limit."""
    parts = 2 if job.arithmetic.compute in PARTS else 1
    count = partial_sum_count(job.geometry, parts, job.per_example)
    return count if besides + (1 + count) * gradient_bytes(job) <= job.limit else 1


def call(
    g: Geometry, layout: PanelLayout, formats: tuple[Format, Format], x_strides: Sequence[int],
    gy_strides: Sequence[int], gf_strides: Sequence[int], max_partial_sums: int,
    per_example: bool, threads: int, target: Target,
) -> tuple[Call, int]:  # fmt: skip
    """Make the call for these strides, in elements, and the number of partial sums that it stores.

    With `per_example`, the strides of gf begin with the stride of the examples, and there is one
    partial sum. Several partial sums are stored contiguously, each a row-major gf.
    """
    inner = g.channels // g.groups * layout.parts
    x_columns, y_columns, column, counts = panel_tables(g, layout, x_strides[-1], layout.parts)
    axes = _merge_axes(g, x_strides, gy_strides)
    # The outermost axis is divided into results: the positions of an example, or a partial sum.
    outer = axes[0][0]
    result_outer = outer // g.batch if per_example else -(-outer // max_partial_sums)
    split_axis, inner_positions = len(axes) - 1, 1  # positions behind `split_axis`
    while split_axis and inner_positions * axes[split_axis][0] * 2 <= REGION:
        inner_positions *= axes[split_axis][0]
        split_axis -= 1
    lines = axes[split_axis][0] if split_axis else result_outer
    region = block_size(lines, max(REGION // inner_positions, 1))
    if split_axis == 0 and not per_example:
        result_outer = -(-result_outer // region) * region
    results = -(-outer // result_outer)
    partial_sums = 1 if per_example else results
    if partial_sums > 1:
        shape = (results, *g.kernel, inner, g.filters * layout.parts)
        gf_strides = [prod(shape[i:]) for i in range(1, len(shape) + 1)]
    rows = block_size(inner, layout.rows)
    max_panels = min(MAX_PANELS, layout.per_group) if g.groups == 1 else 1
    panel_groups = -(-len(column) // max_panels)
    tiles = -(-inner // rows)
    slices = -(-chunk_count(threads, COARSE) // (panel_groups * results))
    schedule = PackedOuterProducts(
        *formats, layout.lanes, rows, layout.vectors, len(axes), split_axis,
        -(-len(column) // panel_groups), partial_sums >= MAX_PARTIAL_SUMS,
    )  # fmt: skip
    base = sum(-low * t for (low, _), t in zip(g.padding, x_strides[1:-1], strict=True))
    arguments = {
        **nest.chunk_arguments(panel_groups, tiles, -(-tiles // min(slices, tiles)), results),
        **nest.result_arguments(g, gf_strides, results, outer, result_outer),
        "all_panels": len(column), "channels": inner, "taps": prod(g.kernel),
        "x": base * ITEMSIZE[formats[0].stored], "gy": 0, "region": region,
        "tap_x": grid(g.kernel, [d * t for d, t in zip(g.dilation, x_strides[1:-1], strict=True)]),
        "panel_x": x_columns, "panel_y": y_columns, "panel_column": column,
        "panel_columns": counts,
    }  # fmt: skip
    for a, (length, x_stride, y_stride) in enumerate(axes):
        arguments |= {f"out{a}": length, f"x_stride{a}": x_stride, f"y_stride{a}": y_stride}
    return bind("blocked", kernel, schedule, arguments, threads, target), partial_sums


def _merge_axes(
    g: Geometry, x_strides: Sequence[int], gy_strides: Sequence[int]
) -> list[tuple[int, int, int]]:
    """Return (positions, stride in x, stride in gy) of the batch and the axes.

    Neighbouring axes become one if their strides allow.
    """
    axes = [(g.batch, x_strides[0], gy_strides[0])]
    for a in range(g.rank):
        count, x_stride, gy_stride = g.out[a], x_strides[a + 1] * g.stride[a], gy_strides[a + 1]
        last_axis = axes[-1]
        if last_axis[0] == 1 or last_axis[1:] == (x_stride * count, gy_stride * count):
            axes[-1] = (last_axis[0] * count, x_stride, gy_stride)
        elif count > 1:
            axes.append((count, x_stride, gy_stride))
    return axes
