"""Operations on vectors in kernels: constants, stack arrays, gathers, prefetches, transposes."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.ir_types import ELEMENTS, POINTER, bytes_of


def constant(code: Code, value: float, dtype: str, lanes: int) -> Value:
    """Make a constant vector with the same number in every lane."""
    kind = ir.VectorType(ELEMENTS[dtype], lanes)
    return Value(code, ir.Constant(kind, [float(value)] * lanes))


def local(code: Code, count: int, element: str, lanes: int = 1) -> Pointer:
    """Allocate an array of `count` vectors on the stack, aligned to 64 bytes."""
    with code.builder.goto_entry_block():
        slot = code.builder.alloca(ir.ArrayType(ELEMENTS[element], count * lanes))
        slot.align = 64
    slot.type = POINTER  # an opaque pointer: loads and stores name the element type
    return Pointer(code, slot, ELEMENTS[element])


def address(pointer: Pointer) -> Value:
    """Return a pointer as an integer, which can be stored in memory."""
    return Value(pointer.code, pointer.code.builder.ptrtoint(pointer.ir, ir.IntType(64)))


def load_strided(pointer: Pointer, stride: Value, count: Value, lanes: int) -> Value:
    """Load `count` strided elements to the first lanes, zeros to the others."""
    code = pointer.code
    slot = local(code, 1, _dtype_name(pointer), lanes)
    slot.store(_zeros(pointer, lanes))
    with code.loop(0, count.minimum(lanes)) as i:
        slot.at(i).store(pointer.at(stride * i).load())
    return slot.load(lanes)


def transpose(rows: Sequence[Value]) -> list[Value]:
    """Transpose a square of vectors, as many as each has lanes, in log2(lanes) steps."""
    rows, lanes = list(rows), len(rows)
    code, half = rows[0].code, 1
    while half < lanes:
        low = [i if not i & half else lanes + i - half for i in range(lanes)]
        high = [i + half if not i & half else lanes + i for i in range(lanes)]
        for i in range(lanes):
            if not i & half:
                a, b = rows[i], rows[i + half]
                rows[i], rows[i + half] = (_shuffle_pair(code, a, b, o) for o in (low, high))
        half *= 2
    return rows


def load_transposed(rows: Sequence[Pointer]) -> list[Value]:
    """Load a square of elements, as many columns as rows, and return its columns as vectors.

    A vector of 32 bytes is loaded in halves, row i beside row i + lanes / 2: then no element moves
    between the halves of a register, which takes three cycles, and half of the shuffles are saved.
    """
    lanes = len(rows)
    half, element = lanes // 2, rows[0].element
    if lanes * bytes_of(element) != 32:
        return transpose([row.load(lanes) for row in rows])
    columns: list[Value] = []
    order = ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(lanes)))
    for side in (0, half):
        joined = [
            Value(row.code, row.code.builder.shuffle_vector(
                row.at(side).load(half).ir, other.at(side).load(half).ir, order
            ))
            for row, other in zip(rows[:half], rows[half:], strict=True)
        ]  # fmt: skip
        columns += _transpose_halves(joined)
    return columns


def _transpose_halves(rows: list[Value]) -> list[Value]:
    """Transpose squares of half as many elements as a vector has, two at once, side by side."""
    code, size, step = rows[0].code, len(rows), 1
    while step < size:
        low = [i if not i & step else 2 * size + i - step for i in range(2 * size)]
        high = [i + step if not i & step else 2 * size + i for i in range(2 * size)]
        for i in range(size):
            if not i & step:
                a, b = rows[i], rows[i + step]
                rows[i], rows[i + step] = (_shuffle_pair(code, a, b, o) for o in (low, high))
        step *= 2
    return rows


def _shuffle_pair(code: Code, a: Value, b: Value, order: Sequence[int]) -> Value:
    kind = ir.VectorType(ir.IntType(32), len(order))
    return Value(code, code.builder.shuffle_vector(a.ir, b.ir, ir.Constant(kind, list(order))))


def _dtype_name(pointer: Pointer) -> str:
    return next(name for name, element in ELEMENTS.items() if element == pointer.element)


def _zeros(pointer: Pointer, lanes: int) -> Value:
    return pointer.code.zero(_dtype_name(pointer), lanes)


def prefetch(pointer: Pointer, far: bool = False) -> None:
    """Prefetch the cache line of an address, which may lie outside every array.

    With `far`, to the second-level cache only.
    """
    pointer.code.intrinsic("llvm.prefetch.p0", ir.VoidType(), [pointer, 0, 2 if far else 3, 1])
