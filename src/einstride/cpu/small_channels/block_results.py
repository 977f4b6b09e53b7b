"""How the sums of blocks are written (`small_channels.blocks`): in runs, cut off at the ends."""

from __future__ import annotations

from llvmlite import ir

from einstride.codegen.float_ops import is_nan
from einstride.codegen.function_builder import Code, Pointer, Value, Variable
from einstride.codegen.ir_types import is_float
from einstride.codegen.vector_formats import every
from einstride.cpu.small_channels.block_tile import BlockTile, Row


def check(code: Code, acc: list[Variable]) -> None:
    """Set the flag if a sum is NaN."""
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
    """The runs of each block, as far as they lie in gx."""
    sums = [a.get() for a in acc]
    for e, count in enumerate(here.counts):
        with code.when(code.number(0) < count):
            for p in range(t.positions):
                with code.when(start + p < last):
                    one = sums[p * t.vectors :][: t.vectors]
                    _run(code, t, here, e, start + p, one)


def _run(code: Code, t: BlockTile, here: Row, e: int, q: Value, sums: list[Value]) -> None:
    """One run of block q; a part of it may lie before or behind the line of gx."""
    if t.forward:
        _outputs(code, t, here.gx.at(q * code["step"] + here.places[e]), here.counts[e], sums)
        return
    begin = q * code["step"] - code["before"] + here.firsts[e]
    low = (code.number(0) - begin).most(code.number(0))
    high = (code["line"] - begin).least(here.counts[e])
    pointer = here.gx.at(q * code["step"] - code["before"] + here.places[e])
    for i in range(0, t.piece, t.lanes):
        mask = code.first_lanes(high - i, t.lanes)
        below = code.first_lanes(low - i, t.lanes)
        mask = mask & (below ^ every(code, t.lanes))
        found = _columns(sums, e * t.piece + i, t.lanes)
        pointer.at(i).store(code.convert(found, t.compute, t.result), mask)


def _outputs(code: Code, t: BlockTile, pointer: Pointer, count: Value, sums: list[Value]) -> None:
    """The output channels of one output."""
    found = [code.convert(each, t.compute, t.result) for each in sums]
    if t.stream:
        for v, each in enumerate(found):
            pointer.at(v * t.lanes).stream(each)
        return
    for v, each in enumerate(found):
        pointer.at(v * t.lanes).store(each, code.first_lanes(count - v * t.lanes, t.lanes))


def _columns(sums: list[Value], first: int, lanes: int) -> Value:
    """A vector of columns from two neighbours."""
    v, shift = divmod(first, lanes)
    if shift == 0:
        return sums[v]
    one, two = sums[v], sums[min(v + 1, len(sums) - 1)]
    order = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [shift + i for i in range(lanes)])
    return Value(one.code, one.code.builder.shuffle_vector(one.ir, two.ir, order))
