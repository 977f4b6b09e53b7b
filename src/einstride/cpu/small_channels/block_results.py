"""Generate the stores of the sums of blocks (`small_channels.blocks`).

Sums are stored in contiguous spans, which masks cut off where they leave the line of gx.
"""

from __future__ import annotations

from llvmlite import ir

from einstride.codegen.float_ops import is_nan
from einstride.codegen.function_builder import Code, Pointer, Value, Variable
from einstride.codegen.ir_types import is_float
from einstride.codegen.vector_formats import all_lanes
from einstride.cpu.small_channels.block_tile import BlockTile, Row


def check_nan(code: Code, acc: list[Variable]) -> None:
    """Generate code that sets `flag` if a sum is NaN."""
    values = [sums.get() for sums in acc]
    if not is_float(values[0].ir.type):
        return
    is_any_nan = is_nan(values[0])
    for value in values[1:]:
        is_any_nan = is_any_nan | is_nan(value)
    lanes = values[0].ir.type.count
    any_lane = code.intrinsic(f"llvm.vector.reduce.or.v{lanes}i1", ir.IntType(1), [is_any_nan])
    with code.when(any_lane):
        code.array("flag", "int64").store(code.number(1))


def store_spans(
    code: Code, t: BlockTile, tile_row: Row, start: Value, last: Value, acc: list[Variable]
) -> None:
    """Store the spans of each block, as far as they lie in gx."""
    sums = [a.get() for a in acc]
    for e, count in enumerate(tile_row.counts):
        with code.when(code.number(0) < count):
            for p in range(t.positions):
                with code.when(start + p < last):
                    block_sums = sums[p * t.vectors :][: t.vectors]
                    _store_span(code, t, tile_row, e, start + p, block_sums)


def _store_span(
    code: Code, t: BlockTile, tile_row: Row, e: int, q: Value, sums: list[Value]
) -> None:
    """Store span e of block q; a part of it may lie before or behind the line of gx."""
    if t.forward:
        _store_channels(
            code,
            t,
            tile_row.gx.at(q * code["step"] + tile_row.offsets[e]),
            tile_row.counts[e],
            sums,
        )
        return
    begin = q * code["step"] - code["before"] + tile_row.firsts[e]
    low = (code.number(0) - begin).maximum(code.number(0))
    high = (code["line"] - begin).minimum(tile_row.counts[e])
    pointer = tile_row.gx.at(q * code["step"] - code["before"] + tile_row.offsets[e])
    for i in range(0, t.span, t.lanes):
        mask = code.first_lanes(high - i, t.lanes)
        lanes_before = code.first_lanes(low - i, t.lanes)
        mask = mask & (lanes_before ^ all_lanes(code, t.lanes))
        vector = _select_columns(sums, e * t.span + i, t.lanes)
        pointer.at(i).store(code.convert(vector, t.compute, t.result), mask)


def _store_channels(
    code: Code, t: BlockTile, pointer: Pointer, count: Value, sums: list[Value]
) -> None:
    """Store the output channels of one output."""
    results = [code.convert(vector, t.compute, t.result) for vector in sums]
    if t.stream:
        for v, vector in enumerate(results):
            pointer.at(v * t.lanes).stream(vector)
        return
    for v, vector in enumerate(results):
        pointer.at(v * t.lanes).store(vector, code.first_lanes(count - v * t.lanes, t.lanes))


def _select_columns(sums: list[Value], first: int, lanes: int) -> Value:
    """The vector of columns from `first` on, from two neighbouring vectors."""
    v, shift = divmod(first, lanes)
    if shift == 0:
        return sums[v]
    low, high = sums[v], sums[min(v + 1, len(sums) - 1)]
    order = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [shift + i for i in range(lanes)])
    return Value(low.code, low.code.builder.shuffle_vector(low.ir, high.ir, order))
