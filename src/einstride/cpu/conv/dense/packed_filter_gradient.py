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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.ir_types import ELEMENTS, bytes_of
from einstride.codegen.jit import Target
from einstride.codegen.vector_formats import Format
from einstride.codegen.vector_ops import local, prefetch
from einstride.cpu.complex_as_real import PARTS, real
from einstride.cpu.conv.dense.pack import PanelLayout, panel_tables
from einstride.cpu.conv.loop_nest import block, look_up, split
from einstride.cpu.conv.register_tile import RegisterTile, vector_masks
from einstride.cpu.conv.schedule import Schedule
from einstride.cpu.runtime.argument_block import Call, bind
from einstride.cpu.runtime.chunks import COARSE, chunk_count
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


def kernel(spec: PackedOuterProducts, names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``blocked``."""
    code = Code("blocked", names)
    buffers = (
        local(code, spec.chunk_panels * REGION * spec.width, spec.compute),
        local(code, (REGION + spec.lanes) * spec.rows, spec.compute),
    )
    with code.chunks(code["chunks"]) as chunk:
        group, slice_number, partial_sum, example = split(
            chunk, code["panel_groups"], code["slices"], code["partial_sums"]
        )
        begin, end = block(partial_sum, code["sum_length"], code["out0"])
        x = code.array("x", spec.x.stored).at(example * code["x_example"])
        gy = code.array("gy", spec.y.stored).at(example * code["gy_example"])
        gf = code.array("gf", spec.compute).at(example * code["gf_example"])
        gf = gf.at(partial_sum * code["gf_sum"])
        panel = group * spec.chunk_panels
        x = x.at(look_up(code, "panel_x", panel))
        last = (panel + spec.chunk_panels).minimum(code["panels"])
        c_first, c_last = block(slice_number, code["slice"], code["channels"])

        def loop_over_axes(
            a: int, x_start: Pointer, gy_start: Pointer, positions_before: Value
        ) -> None:
            """Loop over the axes before `split`, one element at a time, then over regions.

            `positions_before` is 0 in the first region of a partial sum.
            """
            first, stop = (begin, end) if a == 0 else (code.number(0), code[f"out{a}"])
            with code.loop(first, stop, code["region"] if a == spec.split else 1) as o:
                x_inner = x_start.at(o * code[f"x_stride{a}"])
                gy_inner = gy_start.at(o * code[f"gy_stride{a}"])
                position = positions_before + (o - first)
                if a < spec.split:
                    loop_over_axes(a + 1, x_inner, gy_inner, position)
                    return
                lines = (stop - o).minimum(code["region"])
                is_first = position.equals(0)
                _add_region(code, spec, x_inner, gy_inner, gf, lines, (panel, last),
                        (c_first, c_last), is_first, buffers)  # fmt: skip

        loop_over_axes(0, x, gy, code.number(0))
    return code.text()


def _add_region(
    code: Code, spec: PackedOuterProducts, x: Pointer, gy: Pointer, gf: Pointer, lines: Value,
    panels: tuple[Value, Value], channels: tuple[Value, Value], is_first: Value,
    buffers: tuple[Pointer, Pointer],
) -> None:  # fmt: skip
    """Add the products of one region's positions to gf."""
    (first, last), (c_first, c_last), (packed_gy, packed_x) = panels, channels, buffers
    size = lines
    for a in range(spec.split + 1, spec.axes):
        size = size * code[f"out{a}"]

    def loop_positions(stride: str, visit: Callable[[Value, Value], None]) -> None:
        """Call `visit` with the number of each position in the region, and its offset."""
        position_number = code.variable(code.number(0))

        def loop_over_axes(a: int, offset: Value) -> None:
            with code.loop(0, lines if a == spec.split else code[f"out{a}"]) as o:
                inner = offset + o * code[f"{stride}{a}"]
                if a + 1 < spec.axes:
                    loop_over_axes(a + 1, inner)
                    return
                visit(position_number.get(), inner)
                position_number.set(position_number.get() + 1)

        loop_over_axes(spec.split, code.number(0))

    with code.loop(first, last) as panel:
        columns = look_up(code, "panel_columns", panel)
        masks = vector_masks(code, columns, spec.lanes, spec.vectors)
        gy_panel = gy.at(look_up(code, "panel_y", panel))
        panel_buffer = packed_gy.at((panel - first) * (REGION * spec.width))

        def pack_gy(k: Value, offset: Value, panel_buffer: Pointer = panel_buffer,
                    masks: list[Mask] = masks, gy_panel: Pointer = gy_panel) -> None:  # fmt: skip
            for v, mask in enumerate(masks):
                vector = gy_panel.at(offset + v * spec.lanes)
                panel_buffer.at(k * spec.width + v * spec.lanes).store(
                    vector.load_as(spec.y.stored, spec.compute, spec.lanes, mask)
                )

        loop_positions("gy_stride", pack_gy)
    with code.loop(0, code["taps"]) as tap:
        x_tap = x.at(look_up(code, "tap_x", tap))
        gf_tap = gf.at(look_up(code, "tap_gf", tap))
        with code.loop(c_first, c_last, spec.rows) as c:
            count = c_last - c
            x_masks = [
                code.first_lanes(count.minimum(spec.rows) - q, spec.lanes)
                for q in range(0, spec.rows, spec.lanes)
            ]

            def pack_x(k: Value, offset: Value) -> None:
                for i, mask in enumerate(x_masks):
                    vector = x_tap.at(offset + c + i * spec.lanes)
                    if i == 0 and spec.prefetch:
                        prefetch(vector.at(size * code[f"x_stride{spec.axes - 1}"]), far=True)
                    packed_x.at(k * spec.rows + i * spec.lanes).store(
                        vector.load_as(spec.x.stored, spec.compute, spec.lanes, mask)
                    )

            loop_positions("x_stride", pack_x)
            with code.loop(first, last) as panel:
                columns = look_up(code, "panel_columns", panel)
                gf_panel = gf_tap.at(look_up(code, "panel_column", panel))
                panel_gy = packed_gy.at((panel - first) * (REGION * spec.width))
                sums = spec.register_tile(code)
                if spec.prefetch:  # gy of the next region, one cache line for each tile
                    stride = code[f"gy_stride{spec.axes - 1}"]
                    line = (c - c_first) // spec.rows * (64 // bytes_of(ELEMENTS[spec.y.stored]))
                    next_gy = gy.at(look_up(code, "panel_y", panel) + line).at(size * stride)
                    with code.when(line < spec.width):
                        _sum_region(spec, packed_x, panel_gy, size, sums, (next_gy, stride))
                    with code.when(line >= spec.width):
                        _sum_region(spec, packed_x, panel_gy, size, sums)
                else:
                    _sum_region(spec, packed_x, panel_gy, size, sums)
                masks = vector_masks(code, columns, spec.lanes, spec.vectors)
                gf_tile = gf_panel.at(c * code["gf_channel"])
                for p in range(spec.rows):
                    with code.when(count >= p + 1):
                        sums.add_to(p, gf_tile.at(code["gf_channel"] * p), masks, is_first)


def _sum_region(
    spec: PackedOuterProducts, x: Pointer, gy: Pointer, size: Value, sums: RegisterTile,
    next_gy: tuple[Pointer, Value] | None = None,
) -> None:  # fmt: skip
    """Sum the outer products of a region; `next_gy`: a pointer and a stride to prefetch."""
    code = sums.code
    with code.loop(0, size) as k:
        if next_gy is not None:
            prefetch(next_gy[0].at(k * next_gy[1]), far=True)
        row = [gy.at(k * spec.width + v * spec.lanes).load(spec.lanes) for v in range(spec.vectors)]
        for p in range(spec.rows):
            sums.add_products(p, code.splat(x.at(k * spec.rows + p).load(), spec.lanes), row)


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

    With `per_example`, the strides of gf begin with the stride of the examples. Several partial
    sums are stored contiguously, each a row-major gf.
    """
    inner = g.channels // g.groups * layout.parts
    x_columns, y_columns, column, counts = panel_tables(g, layout, x_strides[-1], layout.parts)
    axes = _merge_axes(g, x_strides, gy_strides, per_example)
    split_axis, inner_positions = len(axes) - 1, 1  # positions behind `split_axis`
    while split_axis and inner_positions * axes[split_axis][0] * 2 <= REGION:
        inner_positions *= axes[split_axis][0]
        split_axis -= 1
    sum_length = -(-axes[0][0] // max_partial_sums)
    region = max(REGION // inner_positions, 1)
    lines = sum_length if split_axis == 0 else axes[split_axis][0]
    region = -(-lines // -(-lines // region))  # regions of equal size
    sum_length = -(-sum_length // region) * region if split_axis == 0 else sum_length
    count = -(-axes[0][0] // sum_length)
    shape = (count, *g.kernel, inner, g.filters * layout.parts)
    if count > 1:
        gf_strides = [0, *(prod(shape[i:]) for i in range(2, len(shape))), 1]
    gf_example, *gf_taps = gf_strides if per_example or count > 1 else (0, *gf_strides)
    rows = min(layout.rows, inner)
    rows = -(-inner // -(-inner // rows))  # tiles of equal height
    chunk_panels = min(MAX_PANELS, layout.per_group) if g.groups == 1 else 1
    panel_groups = -(-len(column) // chunk_panels)
    chunk_panels = -(-len(column) // panel_groups)
    tiles = -(-inner // rows)
    examples = g.batch if per_example else 1
    unsliced = panel_groups * examples * count  # chunks
    slices = min(max(-(-chunk_count(threads, COARSE) // unsliced), 1), tiles)
    slice_channels = -(-tiles // slices) * rows
    slices = -(-inner // slice_channels)
    schedule = PackedOuterProducts(
        *formats, layout.lanes, rows, layout.vectors, len(axes), split_axis, chunk_panels,
        count >= MAX_PARTIAL_SUMS,
    )  # fmt: skip
    base = sum(-low * t for (low, _), t in zip(g.padding, x_strides[1:-1], strict=True))
    arguments = {
        "chunks": unsliced * slices, "panels": len(column), "panel_groups": panel_groups,
        "slices": slices, "slice": slice_channels, "channels": inner, "taps": prod(g.kernel),
        "x": base * ITEMSIZE[formats[0].stored], "gy": 0, "gf": 0,
        "x_example": x_strides[0] if per_example else 0,
        "gy_example": gy_strides[0] if per_example else 0, "gf_example": gf_example,
        "gf_channel": gf_taps[-2],
        "tap_x": grid(g.kernel, [d * t for d, t in zip(g.dilation, x_strides[1:-1], strict=True)]),
        "tap_gf": grid(g.kernel, gf_taps[: g.rank]), "region": region, "partial_sums": count,
        "sum_length": sum_length, "gf_sum": prod(shape[1:]), "panel_x": x_columns,
        "panel_y": y_columns, "panel_column": column, "panel_columns": counts,
    }  # fmt: skip
    for a, (length, x_stride, gy_stride) in enumerate(axes):
        arguments |= {f"out{a}": length, f"x_stride{a}": x_stride, f"gy_stride{a}": gy_stride}
    return bind("blocked", kernel, schedule, arguments, threads, target), count


def _merge_axes(
    g: Geometry, x_strides: Sequence[int], gy_strides: Sequence[int], per_example: bool
) -> list[tuple[int, int, int]]:
    """Return (positions, stride in x, stride in gy) of the batch and the axes.

    Neighbouring axes become one if their strides allow.
    """
    separate_axes = [(g.batch, x_strides[0], gy_strides[0])] if not per_example else []
    separate_axes += [
        (g.out[a], x_strides[a + 1] * g.stride[a], gy_strides[a + 1]) for a in range(g.rank)
    ]
    axes = [separate_axes[0]]
    for count, x_stride, gy_stride in separate_axes[1:]:
        last_axis = axes[-1]
        if last_axis[0] == 1 or last_axis[1:] == (x_stride * count, gy_stride * count):
            axes[-1] = (last_axis[0] * count, x_stride, gy_stride)
        elif count > 1:
            axes.append((count, x_stride, gy_stride))
    return axes
