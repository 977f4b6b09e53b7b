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


def check(code: Code, acc: list[Variable]) -> None:
    """Generate code that sets `flag` if a sum is NaN."""
    values = [sums.get() for sums in acc]
    if not is_float(values[0].ir.type):
        return
    found = is_nan(values[0])
    for value in values[1:]:
        found = found | is_nan(value)
    lanes = values[0].ir.type.count
    some = code.intrinsic(f"llvm.vector.reduce.or.v{lanes}i1", ir.IntType(1), [found])
    with code.when(some):
        code.array("flag", "int64").store(code.number(1))


def write(
    code: Code, t: BlockTile, here: Row, start: Value, last: Value, acc: list[Variable]
) -> None:
    """Store the spans of each block, as far as they lie in gx."""
    sums = [a.get() for a in acc]
    for e, count in enumerate(here.counts):
        with code.when(code.number(0) < count):
            for p in range(t.positions):
                with code.when(start + p < last):
                    one = sums[p * t.vectors :][: t.vectors]
                    _span(code, t, here, e, start + p, one)


def _span(code: Code, t: BlockTile, here: Row, e: int, q: Value, sums: list[Value]) -> None:
    """Store span e of block q; a part of it may lie before or behind the line of gx."""
    if t.forward:
        _outputs(code, t, here.gx.at(q * code["step"] + here.offsets[e]), here.counts[e], sums)
        return
    begin = q * code["step"] - code["before"] + here.firsts[e]
    low = (code.number(0) - begin).maximum(code.number(0))
    high = (code["line"] - begin).minimum(here.counts[e])
    pointer = here.gx.at(q * code["step"] - code["before"] + here.offsets[e])
    for i in range(0, t.span, t.lanes):
        mask = code.first_lanes(high - i, t.lanes)
        below = code.first_lanes(low - i, t.lanes)
        mask = mask & (below ^ all_lanes(code, t.lanes))
        found = _columns(sums, e * t.span + i, t.lanes)
        pointer.at(i).store(code.convert(found, t.compute, t.result), mask)


def _outputs(code: Code, t: BlockTile, pointer: Pointer, count: Value, sums: list[Value]) -> None:
    """Store the output channels of one output."""
    found = [code.convert(each, t.compute, t.result) for each in sums]
    if t.stream:
        for v, each in enumerate(found):
            pointer.at(v * t.lanes).stream(each)
        return
    for v, each in enumerate(found):
        pointer.at(v * t.lanes).store(each, code.first_lanes(count - v * t.lanes, t.lanes))


def _columns(sums: list[Value], first: int, lanes: int) -> Value:
    """The vector of columns from `first` on, from two neighbouring vectors."""
    v, shift = divmod(first, lanes)
    if shift == 0:
        return sums[v]
    one, two = sums[v], sums[min(v + 1, len(sums) - 1)]
    order = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [shift + i for i in range(lanes)])
    return Value(one.code, one.code.builder.shuffle_vector(one.ir, two.ir, order))
