"""Write the kernel of the dense filter gradient: outer products of x and gy, summed in registers.

A register tile is P input channels by V vectors of output channels for one tap:

    acc[p, v] += x[position under the tap, channel p] * gy[position, vector v]

The positions are summed in regions that fit the cache. A region's sums begin at zero and are added
to gf in the order of the regions, for any number of threads. Ranges leave out the positions whose
tap lies in a border of zeros; for other padding modes, tables hold the offsets of border elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.jit import Target
from einstride.codegen.vector_formats import Format
from einstride.cpu.complex_as_real import real
from einstride.cpu.conv.dense import packed_filter_gradient
from einstride.cpu.conv.dense.pack import SLICE_BYTES, PanelLayout, panel_layout, panel_tables
from einstride.cpu.conv.loop_nest import (
    Region,
    block,
    look_up,
    loop_over_outputs_inside,
    loop_over_regions,
    loop_over_taps,
    split,
)
from einstride.cpu.conv.register_tile import RegisterTile, vector_masks
from einstride.cpu.conv.schedule import Schedule
from einstride.cpu.runtime.argument_block import Call, Layout, bind
from einstride.cpu.runtime.chunks import COARSE, chunk_count, chunk_size
from einstride.cpu.runtime.offset_tables import grid, offsets, output_ranges
from einstride.cpu.runtime.operands import element_strides
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.support.byte_cache import kept

REGION_BYTES = 80 << 10
"""Bytes of x and gy in a region, about, chosen to stay in a core's caches. Changing it changes the
order of sums, and so the bits."""


@dataclass(frozen=True)
class OuterProducts(Schedule):
    """The schedule of a dense filter gradient that reads x and gy in place.

    Attributes
    ----------
    rank : int
        Number of spatial axes.
    masked : bool
        True if the last panel of output channels is not full.
    """

    rank: int
    masked: bool

    in_lanes = "output channels"
    in_rows = "input channels"
    loops = "panel, slice of input channels, region of positions, tap, tile, position"
    operands = "x broadcast, vectors of gy, both read in place"
    edges = "ranges of positions leave out taps in zeros; tables of offsets for other borders"
    stores = "added to gf after each region"


def kernel(schedule: OuterProducts, names: tuple[str, ...]) -> str:
    """Write the LLVM IR of the kernel ``outer``."""
    code = Code("outer", names)
    with code.chunks(code["chunks"]) as chunk:
        panel, slice_number, example = split(chunk, code["panels"], code["slices"])
        _compute_slice(code, schedule, panel, slice_number, example)
    return code.text()


def _compute_slice(
    code: Code, schedule: OuterProducts, panel: Value, slice_number: Value, example: Value
) -> None:
    """Compute a slice of input channels of gf, for all taps and one panel of output channels."""
    x = code.array("x", schedule.x.stored).at(look_up(code, "panel_x", panel))
    gy = code.array("gy", schedule.y.stored).at(look_up(code, "panel_y", panel))
    gf = code.array("gf", schedule.compute).at(look_up(code, "panel_column", panel))
    gf = gf.at(example * code["gf_batch"])
    columns = look_up(code, "panel_columns", panel)
    masks = vector_masks(code, columns, schedule.lanes, schedule.vectors)
    c_first, c_last = block(slice_number, code["slice"], code["channels"])
    with loop_over_regions(code, example, code["out0"]) as (region, is_first):

        def compute_tap(tap: Value, taps: list[Value]) -> None:
            gf_tap = gf.at(look_up(code, "tap_offsets", tap))
            with code.loop(c_first, c_last, schedule.rows) as c:
                tile = _sum_region(code, schedule, x, gy, region, taps, c, masks)
                for p in range(schedule.rows):
                    with code.when(c + p < c_last):
                        tile.add_to(p, gf_tap.at((c + p) * code["gf_channel"]), masks, is_first)

        loop_over_taps(code, schedule.rank, compute_tap)


def _sum_region(
    code: Code, schedule: OuterProducts, x: Pointer, gy: Pointer, region: Region,
    taps: list[Value], c: Value, masks: list[Mask],
) -> RegisterTile:  # fmt: skip
    """Sum the products of a region's positions for one tap."""
    tile = schedule.register_tile(code)
    channels = [
        (c + p).minimum(code["channels"] - 1) * code["x_channel"] for p in range(schedule.rows)
    ]

    def add_outer_product(x_channels: list[Pointer], gy: Pointer) -> None:
        gy_row = [
            gy.at(v * schedule.lanes).load_as(
                schedule.y.stored, schedule.compute, schedule.lanes,
                mask if schedule.masked else None,
            )
            for v, mask in enumerate(masks)
        ]  # fmt: skip
        for p, pointer in enumerate(x_channels):
            number = pointer.load_as(schedule.x.stored, schedule.compute)
            tile.add_products(p, code.splat(number, schedule.lanes), gy_row)

    def add_position(x_offset: Value, gy_offset: Value) -> None:
        add_outer_product([x.at(x_offset + q) for q in channels], gy.at(gy_offset))

    loop_over_outputs_inside(code, schedule.rank, taps, region, add_position)
    return tile


@kept
def gradient(
    g: Geometry, x: Layout, gy: Layout, gf: Layout, compute: str, per_example: bool, threads: int,
    target: Target, max_partial_sums: int = 1,
) -> tuple[Call, int]:  # fmt: skip
    """Make the call that computes gf (*K, C // G, D), (B, ...) if per example, in `compute`.

    The filter is not flipped. The call needs the arrays x, gy and gf. Where no tap leaves x it
    stores up to `max_partial_sums` partial sums, each over a part of the positions: their number is
    returned, too. For complex numbers gf is real, (*K, 2C // G, 2D): each part of x times each part
    of gy.
    """
    panel = panel_layout(compute, g.filters // g.groups, target)
    item = ITEMSIZE[real(compute)]
    x_strides = element_strides(x.strides, ITEMSIZE[real(x.dtype)])
    gy_strides = element_strides(gy.strides, ITEMSIZE[real(gy.dtype)])
    gf_strides = list(element_strides(gf.strides, item))
    formats = Format(real(x.dtype), real(compute)), Format(real(gy.dtype), real(compute))
    if packed_filter_gradient.fits(g, x_strides[-1], panel.parts):
        return packed_filter_gradient.call(
            g, panel, formats, x_strides, gy_strides, gf_strides, max_partial_sums, per_example,
            threads, target,
        )  # fmt: skip
    gf_batch = gf_strides.pop(0) if per_example else 0
    x_columns, y_columns, column, counts = panel_tables(g, panel, x_strides[-1], panel.parts)
    inner = g.channels // g.groups * panel.parts
    rows = min(panel.rows, inner)
    rows = -(-inner // -(-inner // rows))  # tiles of equal height
    masked = bool((counts != panel.width).any())
    schedule = OuterProducts(*formats, panel.lanes, rows, panel.vectors, g.rank, masked)
    taps = grid(g.kernel, gf_strides[: g.rank])
    in_cache = max(SLICE_BYTES // (len(taps) * panel.width * item), rows)
    slice_size = min(-(-min(in_cache, inner) // rows) * rows, inner)
    examples = g.batch if per_example else 1
    panels = len(column) * examples
    # Chunks above four tiles are halved for even work, smaller ones only if threads were idle.
    for min_size, min_chunks in ((4 * rows, chunk_count(threads, COARSE)), (rows, threads)):
        slice_size = chunk_size(
            slice_size, rows, lambda n: -(-inner // n) * panels, min_chunks, min_size
        )
    batch, lines = _choose_region(g, panel, item)
    slices = -(-inner // slice_size)
    axes: dict[str, Any] = {}
    base = 0
    for a in range(g.rank):
        table, lowest = offsets(g, a, x_strides[a + 1])
        base += lowest
        first, last = output_ranges(g, a)
        axes |= {
            f"table{a}": table, f"taps{a}": g.kernel[a], f"out{a}": g.out[a], f"first{a}": first,
            f"last{a}": last, f"gy_stride{a}": gy_strides[a + 1],
        }  # fmt: skip
    arguments = {
        "chunks": len(column) * slices * examples, "panels": len(column), "slices": slices,
        "slice": slice_size, "channels": inner, "examples": examples,
        "x": base * ITEMSIZE[real(x.dtype)], "gy": 0, "gf": 0,
        "x_channel": 1 if panel.parts == 2 else x_strides[-1], "x_batch": x_strides[0],
        "gy_batch": gy_strides[0], "gf_batch": gf_batch, "gf_channel": gf_strides[-2],
        "tap_offsets": taps, "batch": g.batch, "region_batch": batch, "region_rows": lines,
        "panel_x": x_columns, "panel_y": y_columns, "panel_column": column,
        "panel_columns": counts, **axes,
    }  # fmt: skip
    return bind("outer", kernel, schedule, arguments, threads, target), 1


def _choose_region(g: Geometry, layout: PanelLayout, item: int) -> tuple[int, int]:
    """Choose the examples and first-axis outputs in a region; they do not depend on the threads."""
    inner = min(g.channels // g.groups * layout.parts, 64)
    row_bytes = (inner * prod(g.stride) + layout.width) * item * prod(g.out[1:])
    lines = max(REGION_BYTES // max(row_bytes, 1), 1)
    if lines >= g.out[0]:
        return max(lines // max(g.out[0], 1), 1), g.out[0]
    return 1, lines
