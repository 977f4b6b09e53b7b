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

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.jit import Target
from einstride.codegen.vector_formats import Format
from einstride.cpu.complex_as_real import real
from einstride.cpu.conv import filter_gradient as nest
from einstride.cpu.conv.dense import packed_filter_gradient
from einstride.cpu.conv.dense.pack import SLICE_BYTES, PanelLayout, panel_layout, panel_tables
from einstride.cpu.conv.loop_nest import axis_arguments, look_up
from einstride.cpu.conv.register_tile import RegisterTile, vector_masks
from einstride.cpu.conv.schedule import Schedule
from einstride.cpu.runtime.argument_block import Call, Layout, bind
from einstride.cpu.runtime.chunks import COARSE, block_size, chunk_count, chunk_size
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
        panel, tiles, examples, gf = nest.locate_part(code, chunk, schedule.compute)
        x = code.array("x", schedule.x.stored).at(look_up(code, "panel_x", panel))
        gy = code.array("gy", schedule.y.stored).at(look_up(code, "panel_y", panel))
        gf = gf.at(look_up(code, "panel_column", panel))
        columns = look_up(code, "panel_columns", panel)
        masks = vector_masks(code, columns, schedule.lanes, schedule.vectors)
        axes = (*examples, code["region_batch"]), (0, code["out0"], code["region_rows"])
        with (
            nest.loop_over_regions(code, axes) as (region, is_first),
            nest.loop_over_taps(code, schedule.rank) as (tap, taps),
            code.loop(*tiles) as number,
        ):
            c = number * schedule.rows
            tile = _sum_region(code, schedule, x, gy, region, taps, c, masks)
            gf_tile = gf.at(look_up(code, "tap_offsets", tap)).at(c * code["gf_channel"])
            nest.add_rows(
                tile, range(schedule.rows), gf_tile, code["channels"] - c, masks, is_first
            )
    return code.text()


def _sum_region(
    code: Code, schedule: OuterProducts, x: Pointer, gy: Pointer, region: list[nest.Range],
    taps: list[Value], c: Value, masks: list[Mask],
) -> RegisterTile:  # fmt: skip
    """Sum the products of a region's positions for one tap."""
    tile = schedule.register_tile(code)
    channels = [
        (c + p).minimum(code["channels"] - 1) * code["x_channel"] for p in range(schedule.rows)
    ]
    with nest.loop_over_outputs_inside(code, taps, region) as (x_offset, y_offset):
        x_channels, gy = [x.at(x_offset + q) for q in channels], gy.at(y_offset)
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
    gf_strides = element_strides(gf.strides, item)
    formats = Format(real(x.dtype), real(compute)), Format(real(gy.dtype), real(compute))
    if packed_filter_gradient.fits(g, x_strides[-1], panel.parts):
        return packed_filter_gradient.call(
            g, panel, formats, x_strides, gy_strides, gf_strides, max_partial_sums, per_example,
            threads, target,
        )  # fmt: skip
    x_columns, y_columns, column, counts = panel_tables(g, panel, x_strides[-1], panel.parts)
    inner = g.channels // g.groups * panel.parts
    rows = block_size(inner, panel.rows)
    masked = bool((counts != panel.width).any())
    schedule = OuterProducts(*formats, panel.lanes, rows, panel.vectors, g.rank, masked)
    in_cache = max(SLICE_BYTES // (prod(g.kernel) * panel.width * item), rows)
    slice_size = min(-(-min(in_cache, inner) // rows) * rows, inner)
    examples = g.batch if per_example else 1
    panels = len(column) * examples
    # Chunks above four tiles are halved for even work, smaller ones only if threads were idle.
    for min_size, min_chunks in ((4 * rows, chunk_count(threads, COARSE)), (rows, threads)):
        slice_size = chunk_size(
            slice_size, rows, lambda n: -(-inner // n) * panels, min_chunks, min_size
        )
    batch, lines = _choose_region(g, panel, item)
    axes, base = axis_arguments(g, g.rank, x_strides, gy_strides)
    arguments = {
        **nest.chunk_arguments(len(column), -(-inner // rows), -(-slice_size // rows), examples),
        **nest.result_arguments(g, gf_strides, examples, g.batch, g.batch // examples),
        "channels": inner, "x": base * ITEMSIZE[real(x.dtype)], "gy": 0,
        "x_channel": 1 if panel.parts == 2 else x_strides[-1], "x_batch": x_strides[0],
        "y_batch": gy_strides[0], "region_batch": batch, "region_rows": lines,
        "panel_x": x_columns, "panel_y": y_columns, "panel_column": column,
        "panel_columns": counts, **axes, **nest.tap_arguments(g, g.rank),
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
