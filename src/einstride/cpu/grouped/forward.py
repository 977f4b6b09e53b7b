"""Write the forward kernel of many small groups: a tile is positions of a row by a panel's lanes.

In the loops over outer taps, input channels c and taps k of the last axis,

    acc[p] += broadcast(x[position p under tap k, channel c of each lane's group]) * f[c, k]

One broadcast, a shuffle, serves all positions that read the same element of x; see
`einstride.cpu.grouped.rows`. Tiles are parts of a row, so no tile computes coordinates. Outer taps
in the border are skipped, and so are the products of the last axis that are known to lie there.
Every output is summed in the same order.
"""

from __future__ import annotations

from dataclasses import replace

from einstride.codegen.function_builder import Code, Mask, Pointer, Value, Variable
from einstride.cpu.grouped.rows import (
    Source,
    Spec,
    TileKind,
    allocate_aligned,
    broadcast_channel,
    fill_staging,
    range_arguments,
)


def arguments(rank: int) -> tuple[str, ...]:
    """List the argument names; those with a number belong to a spatial axis or a kind of tile."""
    names = ("table", "taps", "out", "y_stride")
    axis_names = [f"{name}{a}" for a in range(rank) for name in names]
    axis_names.remove(f"table{rank - 1}")
    return (
        "counter", "chunks", "blocks", "block", "rows", "panels", "parts", "part", "x", "y", "f",
        "bias", "zeros", "row_offsets", "x_first", "window_stride", "x_stride", "x_batch",
        "y_batch", "f_panel", "channel_blocks", "panel_x", "panel_column", "panel_columns",
        "panel_inputs", *range_arguments(), *axis_names,
    )  # fmt: skip


def kernel(spec: Spec) -> str:
    """Write the LLVM IR of the kernel ``grouped``."""
    code = Code("grouped", arguments(spec.rank))
    staging = allocate_aligned(code, spec.compute, spec.staging_vectors * spec.layout.lanes)
    with code.chunks(code["chunks"]) as chunk:
        single_panel = code["part"].equals(
            1
        )  # 1: blocks are the inner loop of chunks; else parts are
        count = single_panel.select(code["blocks"], code["parts"])
        inner, outer = chunk % count, chunk // count
        first_panel, first_row = (
            single_panel.select(outer, inner) * code["part"],
            single_panel.select(inner, outer) * code["block"],
        )
        last_panel, last_row = first_panel + code["part"], first_row + code["block"]
        # A row stays in the cache for all panels of a part; or one large panel, for all rows.
        with (
            code.loop(first_row, last_row.minimum(code["rows"])) as row,
            code.loop(first_panel, last_panel.minimum(code["panels"])) as panel,
        ):
            _compute_row(code, spec, panel, row, staging)
    return code.text()


def _compute_row(code: Code, spec: Spec, panel: Value, row: Value, staging: Pointer) -> None:
    """Compute a row of positions for one panel."""
    layout, last = spec.layout, spec.rank - 1
    column = code.array("panel_column", "int64").at(panel).load()
    columns = code.array("panel_columns", "int64").at(panel).load()
    masks = [
        code.first_lanes(columns - v * layout.lanes, layout.lanes) for v in range(layout.vectors)
    ]
    x = code.array("x", spec.x_dtype).at(code.array("panel_x", "int64").at(panel).load())
    y = code.array("y", spec.y_dtype).at(column)
    f = code.array("f", spec.compute).at(panel * code["f_panel"])
    tables: list[Pointer] = []
    remaining, table_row = row, (row, f)
    for a in reversed(range(last)):
        index, remaining = remaining % code[f"out{a}"], remaining // code[f"out{a}"]
        tables.insert(0, code.array(f"table{a}", "int64").at(index * code[f"taps{a}"]))
        table_row = table_row if a + 1 < last else (index, tables[0])
        y = y.at(index * code[f"y_stride{a}"])
    x, y = x.at(remaining * code["x_batch"]), y.at(remaining * code["y_batch"])
    if last and spec.prefetch:
        _prefetch_next_row(code, spec, x, y, table_row)
    inputs = code.array("panel_inputs", "int64").at(panel).load()
    for i, kind in enumerate(spec.tile_kinds):
        with code.loop(code[f"kind_start{i}"], code[f"kind_stop{i}"], len(kind)) as w:
            offsets = code.array("row_offsets", "int64").at(w * spec.stride)
            start = code["x_first"] + w * code["window_stride"]
            zeros = code.array("zeros", spec.x_dtype)
            source = Source(x, offsets, zeros, inputs, start, code["x_stride"])
            sums = _start_sums(code, spec, kind, column, masks)
            _loop_over_taps(code, spec, kind, source, tables, f, sums, staging)
            _store_sums(code, spec, y.at(w * code[f"y_stride{last}"]), sums, masks)


def _prefetch_next_row(
    code: Code, spec: Spec, x: Pointer, y: Pointer, row: tuple[Value, Pointer]
) -> None:
    """Prefetch the cache lines that the row behind `row` is the first to access.

    `row`: its index on the last axis but one, and its entries in the offset table of that axis.
    """
    index, table = row
    a = spec.rank - 2
    taps = code[f"taps{a}"]
    offset = table.at(taps + taps - 1).load()
    with (
        code.when(index + 1 < code[f"out{a}"]),
        code.loop(0, code[f"out{a + 1}"]) as w,
    ):
        y.at(code[f"y_stride{a}"] + w * code[f"y_stride{a + 1}"]).prefetch(write=True)
        for i in range(spec.stride):
            x.at(offset + (w * spec.stride + i) * code["x_stride"]).prefetch()


def _start_sums(
    code: Code, spec: Spec, kind: TileKind, column: Value, masks: list[Mask]
) -> list[Variable]:
    """Initialise the sums of a tile with the bias."""
    layout = spec.layout
    acc = [
        code.variable(code.zero(spec.compute, layout.lanes))
        for _ in range(len(kind) * layout.vectors)
    ]
    with code.when(code["bias"].equals(0) ^ 1):
        for v, mask in enumerate(masks):
            initial = (
                code.array("bias", spec.compute)
                .at(column + v * layout.lanes)
                .load(layout.lanes, mask)
            )
            for p in range(len(kind)):
                acc[p * layout.vectors + v].set(initial)
    return acc


def _loop_over_taps(
    code: Code, spec: Spec, kind: TileKind, source: Source, tables: list[Pointer], f: Pointer,
    acc: list[Variable], staging: Pointer,
) -> None:  # fmt: skip
    """Add the products of every outer tap that does not lie in the border."""
    layout = spec.layout

    def loop_taps(a: int, x: Pointer, tap: Value) -> None:
        if a == spec.rank - 1:
            at_taps = replace(source, x=x)
            with code.loop(0, code["channel_blocks"]) as block:
                fill_staging(code, spec, at_taps, block, kind, staging)
                offset = (tap * code["channel_blocks"] + block) * (
                    layout.block * spec.taps * layout.width
                )
                _add_products(code, spec, kind, staging, f.at(offset), acc)
            return
        with code.loop(0, code[f"taps{a}"]) as k:
            offset = tables[a].at(k).load()
            with code.when(offset >= 0):
                loop_taps(a + 1, x.at(offset), tap * code[f"taps{a}"] + k)

    loop_taps(0, source.x, code.number(0))


def _add_products(
    code: Code, spec: Spec, kind: TileKind, staging: Pointer, f: Pointer, acc: list[Variable]
) -> None:
    """Add the products of a block of channels."""
    layout = spec.layout
    if layout.groups > 1:
        for i in range(layout.block):
            _add_channel(code, spec, kind, staging, f.at(i * spec.taps * layout.width), i, acc)
        return
    with code.loop(0, layout.block) as c:
        _add_channel(code, spec, kind, staging, f.at(c * (spec.taps * layout.width)), c, acc)


def _add_channel(
    code: Code, spec: Spec, kind: TileKind, staging: Pointer, f: Pointer, c: Value | int,
    acc: list[Variable],
) -> None:  # fmt: skip
    """Add the products of one channel; each broadcast serves all positions that read it."""
    layout, reads = spec.layout, spec.positions_read(kind)
    staged = {pair: i for i, pairs in enumerate(reads.values()) for pair in pairs}

    def load_row(k: int) -> list[Value]:
        return [
            f.at(k * layout.width + v * layout.lanes).load(layout.lanes)
            for v in range(layout.vectors)
        ]

    def add_product(p: int, x_vector: Value, f_row: list[Value]) -> None:
        for v, f_vector in enumerate(f_row):
            sums = acc[p * layout.vectors + v]
            sums.set(x_vector.multiply_add(f_vector, sums.get()))

    if layout.vectors == 1:
        f_rows = [load_row(k) for k in range(spec.taps)]
        for i, pairs in enumerate(reads.values()):
            x_vector = broadcast_channel(spec, staging.at(i * layout.lanes), c)
            for p, k in pairs:
                add_product(p, x_vector, f_rows[k])
        return
    for k in range(spec.taps):  # sums and a row of f fill the registers
        f_row = load_row(k)
        for p in range(len(kind)):
            if kind[p][k]:
                add_product(
                    p, broadcast_channel(spec, staging.at(staged[p, k] * layout.lanes), c), f_row
                )


def _store_sums(code: Code, spec: Spec, y: Pointer, acc: list[Variable], masks: list[Mask]) -> None:
    """Store the sums of a tile, rounded to the dtype of the result."""
    layout, stride = spec.layout, code[f"y_stride{spec.rank - 1}"]
    for i, sums in enumerate(acc):
        p, v = divmod(i, layout.vectors)
        value = code.convert(sums.get(), spec.compute, spec.y_dtype)
        pointer = y.at(stride * p).at(v * layout.lanes)
        pointer.store(value, None if spec.full_y else masks[v])
