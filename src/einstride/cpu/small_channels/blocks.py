"""Input gradient kernel for few input channels, whose vectors span (position in a block, channel).

With vectors along the C channels of a position an input gradient would fill C lanes, often three of
sixteen. Here a column is (position in a block, channel), for blocks of some strides on each axis:

    acc[block p, column] += gy[output of block p under the tap, d] * f[tap, d, column]

The filter is rearranged into such columns, with zeros where a tap does not meet a position of the
block. A tile is several blocks of the last axis; what a row of blocks has in common is computed
once per row. Columns are stored in contiguous spans of gx, cut off where they leave it. Every
element is summed in the same order wherever it lies. Zero taps would spread a NaN or an infinity
over a block: where a sum is NaN, `flag` is set, and the caller must compute the result otherwise.

The kernel also computes forward passes (`line_calls`), with blocks of one output.
"""

from __future__ import annotations

from einstride.codegen.function_builder import Code, Pointer, Value, Variable
from einstride.cpu.small_channels.block_results import check_nan, store_spans
from einstride.cpu.small_channels.block_tile import BlockTile, Row

UNROLLED = 4
"""Channels of gy by which the innermost loop is unrolled."""

TILES = 12
"""Tiles per chunk, at most, if channels are summed in several slices: the sums of all tiles wait in
a staging buffer on the stack from one slice to the next."""


def arguments(rank: int) -> tuple[str, ...]:
    """List the names of the kernel arguments."""
    every = (f"{name}{a}" for a in range(rank) for name in ("table", "taps", "blocks"))
    outer = (
        f"{name}{a}" for a in range(rank - 1) for name in ("span_at", "size", "low", "block", "to")
    )
    return (
        "counter", "chunks", "rows", "segments", "segment", "panels", "panels_inside",
        "gy", "gx", "f", "bias", "zeros", "flag", "f_panel", "channels", "slice",
        "gy_batch", "gx_batch", "span_first", "span_to", "span_count", "line", "before", "step",
        "inside_first", "inside_last", "move", "start", *every, *outer,
    )  # fmt: skip


def kernel(spec: BlockTile) -> str:
    """Write the LLVM IR of the kernel ``blocks``."""
    code = Code("blocks", arguments(spec.rank))
    with code.chunks(code["chunks"]) as chunk:
        inside = code["panels_inside"].equals(
            1
        )  # consecutive chunks: the panels of a row, or the rows of a panel
        strips = code["rows"] * code["segments"]
        count = inside.select(code["panels"], strips)
        fast, slow = chunk % count, chunk // count
        panel, strip = inside.select(fast, slow), inside.select(slow, fast)
        _compute_segment(code, spec, panel, strip // code["segments"], strip % code["segments"])
    if spec.stream:
        code.builder.fence("seq_cst")
    return code.text()


def _locate_row(code: Code, spec: BlockTile, panel: Value, row: Value) -> Row:
    outer = range(spec.rank - 1)
    remaining, indices = row, {}
    for a in reversed(outer):
        indices[a] = remaining % code[f"blocks{a}"]
        remaining = remaining // code[f"blocks{a}"]
    starts = {a: indices[a] * code[f"block{a}"] - code[f"low{a}"] for a in outer}
    gx = code.array("gx", spec.result).at(remaining * code["gx_batch"])
    for a in outer:
        gx = gx.at(starts[a] * code[f"to{a}"])
    gy = code.array("gy", spec.operand).at(remaining * code["gy_batch"])
    tables = [code.array(f"table{a}", "int64").at(indices[a] * code[f"taps{a}"]) for a in outer]
    tile_row = Row(gy, gx, tables, [], [], [])
    for e in range(spec.spans):
        span = panel * spec.spans + e
        count, first, pointer = (
            code.array(f"span_{name}", "int64").at(span).load() for name in ("count", "first", "to")
        )
        for a in outer:
            position = starts[a] + code.array(f"span_at{a}", "int64").at(span).load()
            inside = (position >= 0) & (position < code[f"size{a}"])
            count = inside.select(count, code.number(0))
        tile_row.counts.append(count)
        tile_row.firsts.append(first)
        tile_row.offsets.append(pointer)
    return tile_row


def _compute_segment(code: Code, spec: BlockTile, panel: Value, row: Value, segment: Value) -> None:
    """Compute a segment of a row of blocks, for one panel of columns."""
    last_axis = spec.rank - 1
    tile_row = _locate_row(code, spec, panel, row)
    f = code.array("f", spec.compute).at(panel * code["f_panel"])
    bias = code.array("bias", spec.compute).at(panel * spec.width)
    first = segment * code["segment"]
    last = (first + code["segment"]).minimum(code[f"blocks{last_axis}"])
    staging = code.scratch(spec.compute, TILES * spec.positions * spec.width)
    taps = code[f"taps{last_axis}"]
    with code.loop(0, code["channels"], code["slice"]) as c0:
        depth = (code["channels"] - c0).minimum(code["slice"])
        is_last_slice = (c0 + depth).equals(code["channels"])
        with code.loop(first, last, spec.positions) as start:
            blocks = [(start + p).minimum(last - 1) for p in range(spec.positions)]
            ends = [code.array(f"table{last_axis}", "int64").at(q * taps) for q in blocks]
            count = spec.positions * spec.vectors
            acc = [code.variable(code.zero(spec.compute, spec.lanes)) for _ in range(count)]
            staged_sums = staging.at((start - first) * spec.width)
            with code.when(c0.equals(0) & (code["bias"].equals(0) ^ 1)):
                for i, sums in enumerate(acc):
                    sums.set(bias.at(i % spec.vectors * spec.lanes).load(spec.lanes))
            with code.when(code.number(0) < c0):
                for i, sums in enumerate(acc):
                    sums.set(staged_sums.at(i * spec.lanes).load(spec.lanes))
            f_slice = f.at(c0 * spec.width)
            if spec.forward:
                inside = start >= code["inside_first"]
                inside = inside & (code["inside_last"] >= (start + spec.positions).minimum(last))
                with code.when(inside):
                    _loop_over_spans(code, spec, tile_row, f, blocks, acc)
                with code.when(inside ^ 1):
                    _loop_over_taps(code, spec, tile_row, f_slice, c0, depth, ends, acc)
            else:
                _loop_over_taps(code, spec, tile_row, f_slice, c0, depth, ends, acc)
            with code.when(is_last_slice ^ 1):
                for i, sums in enumerate(acc):
                    staged_sums.at(i * spec.lanes).store(sums.get())
            with code.when(is_last_slice):
                if not spec.forward:
                    check_nan(code, acc)
                store_spans(code, spec, tile_row, start, last, acc)


def _loop_over_taps(
    code: Code, spec: BlockTile, tile_row: Row, f: Pointer, c0: Value, depth: Value,
    ends: list[Pointer], acc: list[Variable],
) -> None:  # fmt: skip
    """Add the products of every tap to the sums."""
    tap_size = code["channels"] * spec.width
    zeros = code.array("zeros", spec.operand)

    def loop_over_axes(a: int, offset: Value, tap: Value) -> None:
        with code.loop(0, code[f"taps{a}"]) as k:
            tap_number = tap * code[f"taps{a}"] + k
            if a < spec.rank - 1:
                tap_offset = tile_row.tables[a].at(k).load()
                with code.when(tap_offset >= 0):
                    loop_over_axes(a + 1, offset + tap_offset, tap_number)
                return
            block_offsets = [end.at(k).load() for end in ends]
            common = block_offsets[0]
            for block_offset in block_offsets[1:]:
                common = common & block_offset  # negative only if all are
            with code.when(common >= 0):
                gy_tap = tile_row.gy.at(offset + c0)
                pointers = [(o >= 0).select_pointer(gy_tap.at(o), zeros) for o in block_offsets]
                _add_products(code, spec, pointers, f.at(tap_number * tap_size), depth, acc)

    loop_over_axes(0, code.number(0), code.number(0))


def _loop_over_spans(
    code: Code, spec: BlockTile, tile_row: Row, f: Pointer, blocks: list[Value], acc: list[Variable]
) -> None:
    """Add the products of every tap, with those of the last axis and their channels as one sum."""
    depth = code[f"taps{spec.rank - 1}"] * code["channels"]
    starts = [q * code["move"] - code["start"] for q in blocks]

    def loop_over_axes(a: int, offset: Value, tap: Value) -> None:
        if a == spec.rank - 1:
            pointers = [tile_row.gy.at(offset + start) for start in starts]
            _add_products(code, spec, pointers, f.at(tap * depth * spec.width), depth, acc)
            return
        with code.loop(0, code[f"taps{a}"]) as k:
            tap_offset = tile_row.tables[a].at(k).load()
            with code.when(tap_offset >= 0):
                loop_over_axes(a + 1, offset + tap_offset, tap * code[f"taps{a}"] + k)

    loop_over_axes(0, code.number(0), code.number(0))


def _add_products(
    code: Code,
    spec: BlockTile,
    pointers: list[Pointer],
    f: Pointer,
    depth: Value,
    acc: list[Variable],
) -> None:
    """Add gy[p, d] * f[d, v] to acc[p, v] for every channel d."""

    def add_channel(c: Value, i: int) -> None:
        row = f.at(c * spec.width).at(i * spec.width)
        f_vectors = [row.at(v * spec.lanes).load(spec.lanes) for v in range(spec.vectors)]
        for p, pointer in enumerate(pointers):
            number = pointer.at(c).at(i).load_as(spec.operand, spec.compute)
            broadcast = code.splat(number, spec.lanes)
            for v in range(spec.vectors):
                sums = acc[p * spec.vectors + v]
                sums.set(broadcast.multiply_add(f_vectors[v], sums.get()))

    unrolled_end = depth // UNROLLED * UNROLLED
    with code.loop(0, unrolled_end, UNROLLED) as c:
        for i in range(UNROLLED):
            add_channel(c, i)
    with code.loop(unrolled_end, depth) as c:
        add_channel(c, 0)
