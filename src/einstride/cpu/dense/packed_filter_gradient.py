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

from collections.abc import Callable
from dataclasses import dataclass

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable
from einstride.codegen.ir_types import ELEMENTS, bytes_of
from einstride.codegen.vector_ops import local, prefetch

REGION = 128
"""Positions in a region, at most; chosen so that packed data stays in the first-level cache.
Changing it changes the order of sums, and so the bits."""


@dataclass(frozen=True)
class BlockedTile:
    """The parameters of a packed filter-gradient kernel.

    Attributes
    ----------
    x_dtype, gy_dtype, compute : str
        The dtypes of x, of gy, and of the sums and gf.
    lanes, channels, vectors : int
        Elements in a vector, input channels and vectors in a register tile.
    axes, split : int
        Number of axes of positions, the batch among them, and the axis that is divided into
        regions: a region takes a range of it, one element of each axis before, and all of the axes
        behind.
    chunk_panels : int
        Panels that a chunk computes with the same packed x.
    prefetch : bool
        True if the operands of the next region are prefetched while a region is summed.
    """

    x_dtype: str
    gy_dtype: str
    compute: str
    lanes: int
    channels: int
    vectors: int
    axes: int
    split: int
    chunk_panels: int
    prefetch: bool

    @property
    def width(self) -> int:
        """The number of output channels in a panel."""
        return self.lanes * self.vectors


def arguments(axes: int) -> tuple[str, ...]:
    """List the argument names; ``sum_length`` counts the first axis' positions of a partial sum."""
    axis_names = (f"{name}{a}" for a in range(axes) for name in ("out", "x_stride", "gy_stride"))
    return (
        "counter", "chunks", "panels", "panel_groups", "slices", "slice", "channels", "taps",
        "x", "gy", "gf", "x_example", "gy_example", "gf_example", "gf_channel", "tap_x", "tap_gf",
        "region", "partial_sums", "sum_length", "gf_sum",
        "panel_x", "panel_y", "panel_column", "panel_columns", *axis_names,
    )  # fmt: skip


def kernel(spec: BlockedTile) -> str:
    """Write the LLVM IR of the kernel ``blocked``."""
    code = Code("blocked", arguments(spec.axes))
    buffers = (
        local(code, spec.chunk_panels * REGION * spec.width, spec.compute),
        local(code, (REGION + spec.lanes) * spec.channels, spec.compute),
    )
    with code.chunks(code["chunks"]) as chunk:
        group, remaining = chunk % code["panel_groups"], chunk // code["panel_groups"]
        slice_number, remaining = remaining % code["slices"], remaining // code["slices"]
        partial_sum, example = remaining % code["partial_sums"], remaining // code["partial_sums"]
        begin = partial_sum * code["sum_length"]
        end = (begin + code["sum_length"]).minimum(code["out0"])
        x = code.array("x", spec.x_dtype).at(example * code["x_example"])
        gy = code.array("gy", spec.gy_dtype).at(example * code["gy_example"])
        gf = code.array("gf", spec.compute).at(example * code["gf_example"])
        gf = gf.at(partial_sum * code["gf_sum"])
        panel = group * spec.chunk_panels
        x = x.at(code.array("panel_x", "int64").at(panel).load())
        last = (panel + spec.chunk_panels).minimum(code["panels"])
        c_first = slice_number * code["slice"]
        c_last = (c_first + code["slice"]).minimum(code["channels"])

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
    code: Code, spec: BlockedTile, x: Pointer, gy: Pointer, gf: Pointer, lines: Value,
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
        columns = code.array("panel_columns", "int64").at(panel).load()
        masks = [
            code.first_lanes(columns - v * spec.lanes, spec.lanes) for v in range(spec.vectors)
        ]
        gy_panel = gy.at(code.array("panel_y", "int64").at(panel).load())
        panel_buffer = packed_gy.at((panel - first) * (REGION * spec.width))

        def pack_gy(k: Value, offset: Value, panel_buffer: Pointer = panel_buffer,
                    masks: list[Mask] = masks, gy_panel: Pointer = gy_panel) -> None:  # fmt: skip
            for v, mask in enumerate(masks):
                vector = gy_panel.at(offset + v * spec.lanes)
                panel_buffer.at(k * spec.width + v * spec.lanes).store(
                    vector.load_as(spec.gy_dtype, spec.compute, spec.lanes, mask)
                )

        loop_positions("gy_stride", pack_gy)
    with code.loop(0, code["taps"]) as tap:
        x_tap = x.at(code.array("tap_x", "int64").at(tap).load())
        gf_tap = gf.at(code.array("tap_gf", "int64").at(tap).load())
        with code.loop(c_first, c_last, spec.channels) as c:
            count = c_last - c
            x_masks = [
                code.first_lanes(count.minimum(spec.channels) - q, spec.lanes)
                for q in range(0, spec.channels, spec.lanes)
            ]

            def pack_x(k: Value, offset: Value) -> None:
                for i, mask in enumerate(x_masks):
                    vector = x_tap.at(offset + c + i * spec.lanes)
                    if i == 0 and spec.prefetch:
                        prefetch(vector.at(size * code[f"x_stride{spec.axes - 1}"]), far=True)
                    packed_x.at(k * spec.channels + i * spec.lanes).store(
                        vector.load_as(spec.x_dtype, spec.compute, spec.lanes, mask)
                    )

            loop_positions("x_stride", pack_x)
            with code.loop(first, last) as panel:
                columns = code.array("panel_columns", "int64").at(panel).load()
                gf_panel = gf_tap.at(code.array("panel_column", "int64").at(panel).load())
                panel_gy = packed_gy.at((panel - first) * (REGION * spec.width))
                acc = [
                    code.variable(code.zero(spec.compute, spec.lanes))
                    for _ in range(spec.channels * spec.vectors)
                ]
                if spec.prefetch:  # gy of the next region, one cache line for each tile
                    stride = code[f"gy_stride{spec.axes - 1}"]
                    line = (
                        (c - c_first) // spec.channels * (64 // bytes_of(ELEMENTS[spec.gy_dtype]))
                    )
                    next_gy = gy.at(code.array("panel_y", "int64").at(panel).load() + line)
                    with code.when(line < spec.width):
                        _sum_region(
                            code,
                            spec,
                            packed_x,
                            panel_gy,
                            size,
                            acc,
                            (next_gy.at(size * stride), stride),
                        )
                    with code.when(line >= spec.width):
                        _sum_region(code, spec, packed_x, panel_gy, size, acc)
                else:
                    _sum_region(code, spec, packed_x, panel_gy, size, acc)
                _store_sums(
                    code, spec, gf_panel.at(c * code["gf_channel"]), count, columns, acc, is_first
                )


def _sum_region(
    code: Code, spec: BlockedTile, x: Pointer, gy: Pointer, size: Value, acc: list[Variable],
    next_gy: tuple[Pointer, Value] | None = None,
) -> None:  # fmt: skip
    """Sum the outer products of a region; `next_gy`: a pointer and a stride to prefetch."""
    with code.loop(0, size) as k:
        if next_gy is not None:
            prefetch(next_gy[0].at(k * next_gy[1]), far=True)
        row = [gy.at(k * spec.width + v * spec.lanes).load(spec.lanes) for v in range(spec.vectors)]
        for p in range(spec.channels):
            x_vector = code.splat(x.at(k * spec.channels + p).load(), spec.lanes)
            for v, vector in enumerate(row):
                sums = acc[p * spec.vectors + v]
                sums.set(x_vector.multiply_add(vector, sums.get()))


def _store_sums(
    code: Code, spec: BlockedTile, gf_tile: Pointer, count: Value, columns: Value,
    acc: list[Variable], is_first: Value,
) -> None:  # fmt: skip
    """Store the first region's sums in gf, or add those of a later region to gf."""
    masks = [code.first_lanes(columns - v * spec.lanes, spec.lanes) for v in range(spec.vectors)]
    for p in range(spec.channels):
        with code.when(count >= p + 1):
            row = gf_tile.at(code["gf_channel"] * p)
            for v, mask in enumerate(masks):
                pointer, sums = row.at(v * spec.lanes), acc[p * spec.vectors + v]
                with code.when(is_first ^ 1):
                    sums.set(sums.get() + pointer.load(spec.lanes, mask))
                pointer.store(sums.get(), mask)
