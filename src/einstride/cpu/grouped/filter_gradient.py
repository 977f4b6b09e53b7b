"""Write the filter-gradient kernel of many small groups: sums in registers, over positions.

A register tile is all taps k of the last axis and a block of input channels c, by a vector of
output channels:

    acc[k, c] += broadcast(x[position p under tap k, channel c of each lane's group]) * gy[p]

One broadcast serves all pairs (position, tap) that read the same element of x; see
`einstride.cpu.grouped.rows`. Rows are summed in regions. The x and gy of a panel and a region are
packed first: in the arrays they lie so far apart that they would share few sets of the cache. A
region's sums are added to gf in the order of the regions. A pair in the border has no product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable
from einstride.cpu.grouped.rows import (
    Source,
    Spec,
    TileKind,
    broadcast_channel,
    load_x,
    range_arguments,
)


def arguments(rank: int) -> tuple[str, ...]:
    """List the argument names; ``packed`` is the memory of packed x and gy, of each thread."""
    names = (
        "table", "taps", "size", "out", "first", "last", "x_stride", "y_stride", "packed_x",
        "packed_y",
    )  # fmt: skip
    axis_names = (f"{name}{a}" for a in range(rank) for name in names)
    return (
        "counter", "chunks", "panels", "parts", "part", "examples", "batch",
        "region_batch", "region_rows", "low_rows", "high_rows", "packed", "packed_bytes",
        "packed_gy", "packed_x_batch", "packed_y_batch", "x", "y", "gf", "zeros", "x_batch",
        "y_batch", "gf_batch", "gf_channel", "tap_offsets", "channel_blocks", "row_offsets",
        "row_positions", "panel_x", "panel_column", "panel_columns", "panel_inputs",
        *range_arguments(), *axis_names,
    )  # fmt: skip


def kernel(spec: Spec) -> str:
    """Write the LLVM IR of the kernel ``grouped_gradient``."""
    code = Code("grouped_gradient", arguments(spec.rank))
    packed = code.pointer(code["packed"] + code.worker * code["packed_bytes"], spec.compute)
    with code.chunks(code["chunks"]) as chunk:
        panel, remaining = chunk % code["panels"], chunk // code["panels"]
        part, example = remaining % code["parts"], remaining // code["parts"]
        all_examples = code["examples"].equals(1)
        first = all_examples.select(code.number(0), example)
        end = all_examples.select(code["batch"], example + 1)
        row_count = code["out0"] if spec.rank > 1 else code.number(1)
        with (
            code.loop(first, end, code["region_batch"]) as n0,
            code.loop(0, row_count, code["region_rows"]) as r0,
        ):
            ends = (
                (n0 + code["region_batch"]).minimum(end),
                (r0 + code["region_rows"]).minimum(row_count),
            )
            is_first = n0.equals(first) & r0.equals(0)
            _add_region(
                code, spec, panel, part, example, (n0, ends[0], r0, ends[1]), is_first, packed
            )
    return code.text()


def _add_region(
    code: Code, spec: Spec, panel: Value, part: Value, example: Value, region: Sequence[Value],
    is_first: Value, packed: Pointer,
) -> None:  # fmt: skip
    """Add a region's products to gf, for blocks of input channels, all taps and one panel."""
    column = code.array("panel_column", "int64").at(panel).load()
    columns = code.array("panel_columns", "int64").at(panel).load()
    mask = None if spec.full_y else code.first_lanes(columns, spec.layout.lanes)
    x = code.array("x", spec.x_dtype).at(code.array("panel_x", "int64").at(panel).load())
    inputs = code.array("panel_inputs", "int64").at(panel).load()
    zeros = code.array("zeros", spec.x_dtype)
    unused = inputs  # constant strides are not used here
    source = Source(x, code.array("row_offsets", "int64"), zeros, inputs, unused, unused)
    packed_gy = packed.at(code["packed_gy"])
    _n0, _, r0, _r1 = region
    low, high = code.number(0), code.number(0)
    if spec.rank > 1:
        region_number = r0 // code["region_rows"]
        low = code.array("low_rows", "int64").at(region_number).load()
        high = code.array("high_rows", "int64").at(region_number).load()
    _copy_x(code, spec, source, region, (low, high), packed)
    gy = code.array("y", spec.y_dtype).at(column)
    _copy_gy(code, spec, gy, region, packed_gy, mask)
    packed_x = packed
    if spec.rank > 1:
        packed_x, packed_gy = (
            packed.at(low * -1 * code["packed_x0"]),
            packed_gy.at(r0 * -1 * code["packed_y0"]),
        )
    gf = code.array("gf", spec.compute).at(column + example * code["gf_batch"])
    begin = part * code["part"]
    blocks = begin, (begin + code["part"]).minimum(code["channel_blocks"])

    def loop_over_axes(a: int, tap: Value, taps: list[Value]) -> None:
        if a == spec.rank - 1:
            with code.loop(*blocks) as block:
                shift = block * (spec.layout.lanes if spec.layout.groups > 1 else spec.layout.block)
                sums = _sum_region(code, spec, packed_x.at(shift), packed_gy, region, taps)
                _store_sums(code, spec, gf, tap, block, sums, is_first, mask)
            return
        with code.loop(0, code[f"taps{a}"]) as k:
            loop_over_axes(a + 1, tap * code[f"taps{a}"] + k, [*taps, k])

    loop_over_axes(0, code.number(0), [])


def _copy_x(
    code: Code, spec: Spec, source: Source, region: Sequence[Value], rows: tuple[Value, Value],
    packed: Pointer,
) -> None:  # fmt: skip
    """Pack the x of a panel's groups at each position of the padded rows that a region reads."""
    layout, n0, n1 = spec.layout, region[0], region[1]

    def copy_axis(a: int, x: Pointer, packed_row: Pointer) -> None:
        if a == spec.rank - 1:
            row = replace(source, x=x)
            with (
                code.loop(0, code["row_positions"]) as q,
                code.loop(0, layout.x_width // layout.lanes) as v,
            ):
                if layout.groups > 1:
                    vector = load_x(code, spec, row, v * layout.block, source.offsets.at(q).load())
                else:
                    vector = load_x(code, spec, row, v * layout.lanes, source.offsets.at(q).load())
                packed_row.at(q * layout.x_width + v * layout.lanes).store(vector)
            return
        first, last = rows if a == 0 else (code.number(0), code[f"size{a}"])
        with code.loop(first, last) as i:
            copy_axis(
                a + 1,
                x.at(i * code[f"x_stride{a}"]),
                packed_row.at((i - first) * code[f"packed_x{a}"]),
            )

    with code.loop(n0, n1) as n:
        copy_axis(0, source.x.at(n * code["x_batch"]), packed.at((n - n0) * code["packed_x_batch"]))


def _copy_gy(
    code: Code, spec: Spec, gy: Pointer, region: Sequence[Value], packed: Pointer, mask: Mask | None
) -> None:
    """Pack the gy of a panel, one vector for each position of a region."""
    layout, (n0, n1, r0, r1) = spec.layout, region

    def copy_axis(a: int, y: Pointer, packed_row: Pointer) -> None:
        first, last = (r0, r1) if a == 0 and spec.rank > 1 else (code.number(0), code[f"out{a}"])
        step = layout.lanes if a == spec.rank - 1 else code[f"packed_y{a}"]
        with code.loop(first, last) as o:
            gy_row, position = y.at(o * code[f"y_stride{a}"]), packed_row.at((o - first) * step)
            if a == spec.rank - 1:
                position.store(gy_row.load_as(spec.y_dtype, spec.compute, layout.lanes, mask))
            else:
                copy_axis(a + 1, gy_row, position)

    with code.loop(n0, n1) as n:
        copy_axis(0, gy.at(n * code["y_batch"]), packed.at((n - n0) * code["packed_y_batch"]))


def _sum_region(
    code: Code, spec: Spec, x: Pointer, gy: Pointer, region: Sequence[Value], taps: list[Value]
) -> list[Variable]:
    """Sum the products of a region's packed x and gy for one outer tap."""
    layout, last = spec.layout, spec.rank - 1
    acc = [
        code.variable(code.zero(spec.compute, layout.lanes))
        for _ in range(spec.taps * layout.block)
    ]
    n0, n1, r0, r1 = region

    def loop_over_axes(a: int, x: Pointer, y: Pointer) -> None:
        if a == last:
            for i, kind in enumerate(spec.tile_kinds):
                with code.loop(code[f"kind_start{i}"], code[f"kind_stop{i}"], len(kind)) as w:
                    row = x.at(w * (spec.stride * layout.x_width))
                    _add_products(spec, kind, row, y.at(w * layout.lanes), acc)
            return
        first_output = code.array(f"first{a}", "int64").at(taps[a]).load()
        last_output = code.array(f"last{a}", "int64").at(taps[a]).load()
        if a == 0:
            first_output, last_output = first_output.maximum(r0), last_output.minimum(r1)
        table = code.array(f"table{a}", "int64").at(taps[a])
        with code.loop(first_output, last_output) as o:
            offset = table.at(o * code[f"taps{a}"]).load()
            loop_over_axes(a + 1, x.at(offset), y.at(o * code[f"packed_y{a}"]))

    with code.loop(0, n1 - n0) as n:
        loop_over_axes(0, x.at(n * code["packed_x_batch"]), gy.at(n * code["packed_y_batch"]))
    return acc


def _add_products(spec: Spec, kind: TileKind, x: Pointer, y: Pointer, acc: list[Variable]) -> None:
    """Add the products of a tile of positions to the accumulators."""
    layout = spec.layout
    gy: dict[int, Value] = {}
    for q, pairs in spec.positions_read(kind).items():
        for p, _ in pairs:
            if p not in gy:
                gy[p] = y.at(p * layout.lanes).load(layout.lanes)
        for c in range(layout.block):
            x_vector = broadcast_channel(spec, x.at(q * layout.x_width), c)
            for p, k in pairs:
                sums = acc[k * layout.block + c]
                sums.set(x_vector.multiply_add(gy[p], sums.get()))


def _store_sums(
    code: Code, spec: Spec, gf: Pointer, tap: Value, block: Value, acc: list[Variable],
    is_first: Value, mask: Mask | None,
) -> None:  # fmt: skip
    """Store the first region's sums in gf, or add those of a later region to gf."""
    layout = spec.layout
    table = code.array("tap_offsets", "int64").at(tap * spec.taps)
    for k in range(spec.taps):
        gf_tap = gf.at(table.at(k).load())
        for c in range(layout.block):
            channel = block * layout.block + c
            with code.when(channel < layout.inputs):
                pointer, sums = gf_tap.at(channel * code["gf_channel"]), acc[k * layout.block + c]
                with code.when(is_first ^ 1):
                    sums.set(sums.get() + pointer.load(layout.lanes, mask))
                pointer.store(sums.get(), mask)
