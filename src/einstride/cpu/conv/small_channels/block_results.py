"""Generate the stores of the sums of blocks (`small_channels.blocks`).

Sums are stored in contiguous spans, which masks cut off where they leave the line of gx.
"""

from __future__ import annotations

from llvmlite import ir

from einstride.codegen.float_ops import is_nan
from einstride.codegen.function_builder import Code, Pointer, Value, Variable
from einstride.codegen.ir_types import is_float
from einstride.codegen.vector_formats import all_lanes
from einstride.cpu.conv.small_channels.block_tile import BlockTile, Row


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
    code: Code, spec: BlockTile, tile_row: Row, start: Value, last: Value, acc: list[Variable]
) -> None:
    """Store the spans of each block, as far as they lie in gx."""
    sums = [a.get() for a in acc]
    for e, count in enumerate(tile_row.counts):
        with code.when(code.number(0) < count):
            for p in range(spec.positions):
                with code.when(start + p < last):
                    block_sums = sums[p * spec.vectors :][: spec.vectors]
                    _store_span(code, spec, tile_row, e, start + p, block_sums)


def _store_span(
    code: Code, spec: BlockTile, tile_row: Row, e: int, q: Value, sums: list[Value]
) -> None:
    """Store span e of block q; a part of it may lie before or behind the line of gx."""
    if spec.forward:
        _store_channels(
            code,
            spec,
            tile_row.gx.at(q * code["step"] + tile_row.offsets[e]),
            tile_row.counts[e],
            sums,
        )
        return
    begin = q * code["step"] - code["before"] + tile_row.firsts[e]
    low = (code.number(0) - begin).maximum(code.number(0))
    high = (code["line"] - begin).minimum(tile_row.counts[e])
    pointer = tile_row.gx.at(q * code["step"] - code["before"] + tile_row.offsets[e])
    for i in range(0, spec.span, spec.lanes):
        mask = code.first_lanes(high - i, spec.lanes)
        lanes_before = code.first_lanes(low - i, spec.lanes)
        mask = mask & (lanes_before ^ all_lanes(code, spec.lanes))
        vector = _select_columns(sums, e * spec.span + i, spec.lanes)
        pointer.at(i).store(code.convert(vector, spec.compute, spec.result), mask)


def _store_channels(
    code: Code, spec: BlockTile, pointer: Pointer, count: Value, sums: list[Value]
) -> None:
    """Store the output channels of one output."""
    results = [code.convert(vector, spec.compute, spec.result) for vector in sums]
    if spec.stream:
        for v, vector in enumerate(results):
            pointer.at(v * spec.lanes).stream(vector)
        return
    for v, vector in enumerate(results):
        pointer.at(v * spec.lanes).store(
            vector, code.first_lanes(count - v * spec.lanes, spec.lanes)
        )


def _select_columns(sums: list[Value], first: int, lanes: int) -> Value:
    """Return the vector of columns from `first` on, from two neighbouring vectors."""
    v, shift = divmod(first, lanes)
    if shift == 0:
        return sums[v]
    low, high = sums[v], sums[min(v + 1, len(sums) - 1)]
    order = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [shift + i for i in range(lanes)])
    return Value(low.code, low.code.builder.shuffle_vector(low.ir, high.ir, order))
