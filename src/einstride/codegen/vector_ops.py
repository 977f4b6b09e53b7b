"""More words: constants, arrays on the stack, gathers, prefetches, transposes in registers."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from einstride.codegen.function_builder import Code, Place, Value
from einstride.codegen.ir_types import ELEMENTS, POINTER


def constant(code: Code, value: float, dtype: str, lanes: int) -> Value:
    """A vector with the same number in every lane."""
    kind = ir.VectorType(ELEMENTS[dtype], lanes)
    return Value(code, ir.Constant(kind, [float(value)] * lanes))


def local(code: Code, count: int, element: str, lanes: int = 1) -> Place:
    """An array of the function's own, on the stack, aligned for vectors."""
    with code.builder.goto_entry_block():
        slot = code.builder.alloca(ir.ArrayType(ELEMENTS[element], count * lanes))
        slot.align = 64
    slot.type = POINTER  # an opaque one: what it points to is said at each use
    return Place(code, slot, ELEMENTS[element])


def address(place: Place) -> Value:
    """A place as a whole number, to be kept in memory."""
    return Value(place.code, place.code.builder.ptrtoint(place.ir, ir.IntType(64)))


def spaced(place: Place, step: Value, count: Value, lanes: int) -> Value:
    """`count` numbers that stand `step` elements apart, in the first lanes; zeros in the others."""
    code = place.code
    slot = local(code, 1, _name(place), lanes)
    slot.store(_zeros(place, lanes))
    with code.loop(0, count.least(lanes)) as i:
        slot.at(i).store(place.at(step * i).load())
    return slot.load(lanes)


def transposed(rows: Sequence[Value]) -> list[Value]:
    """As many vectors as each has lanes, with rows and columns exchanged, in log2(lanes) steps."""
    rows, lanes = list(rows), len(rows)
    code, half = rows[0].code, 1
    while half < lanes:
        low = [i if not i & half else lanes + i - half for i in range(lanes)]
        high = [i + half if not i & half else lanes + i for i in range(lanes)]
        for i in range(lanes):
            if not i & half:
                a, b = rows[i], rows[i + half]
                rows[i], rows[i + half] = (_shuffle(code, a, b, o) for o in (low, high))
        half *= 2
    return rows


def _shuffle(code: Code, a: Value, b: Value, order: Sequence[int]) -> Value:
    kind = ir.VectorType(ir.IntType(32), len(order))
    return Value(code, code.builder.shuffle_vector(a.ir, b.ir, ir.Constant(kind, list(order))))


def _name(place: Place) -> str:
    return next(name for name, element in ELEMENTS.items() if element == place.element)


def _zeros(place: Place, lanes: int) -> Value:
    return place.code.zero(_name(place), lanes)


def prefetch(place: Place, far: bool = False) -> None:
    """Ask for the line of the cache around a place, which may lie outside every array.

    `far`: into the second cache.
    """
    place.code.intrinsic("llvm.prefetch.p0", ir.VoidType(), [place, 0, 2 if far else 3, 1])
