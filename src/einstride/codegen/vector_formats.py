"""Load and store vectors of every dtype, with conversions, gathers, scatters and shuffles.

Elements are stored in one dtype and multiplied in another: `conversions` converts between the two.
A complex number is a pair of floats; `Format.pairs` is true for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.ir_types import INT64, POINTER, bytes_of, letter

I32 = ir.IntType(32)


@dataclass(frozen=True)
class Format:
    """The dtype of elements in memory, and the dtype that they are computed in.

    Attributes
    ----------
    stored : str
        The real dtype in memory.
    computed : str
        The real dtype of products and sums.
    pairs : bool
        True if two neighbouring elements are a complex number.
    """

    stored: str
    computed: str
    pairs: bool = False


def shuffle(value: Value, order: Sequence[int]) -> Value:
    """Rearrange the lanes of a vector: lane i of the result is lane order[i]."""
    kind = value.ir.type
    if list(order) == list(range(kind.count)):
        return value
    lanes = ir.Constant(ir.VectorType(I32, len(order)), list(order))
    undefined = ir.Constant(kind, ir.Undefined)
    return Value(value.code, value.code.builder.shuffle_vector(value.ir, undefined, lanes))


def swap_parts(value: Value) -> Value:
    """Exchange the real and imaginary parts of complex numbers."""
    return shuffle(value, [i ^ 1 for i in range(value.ir.type.count)])


def combine_parts(real: Value, imaginary: Value) -> Value:
    """Make the sum of x * f from the sums of x * Re f and of x * Im f.

    So lanes are swapped once for each sum, not for each product.
    """
    kind = real.ir.type
    sign = ir.Constant(kind, [-1.0, 1.0] * (kind.count // 2))
    return swap_parts(imaginary).multiply_add(Value(real.code, sign), real)


def combine_conjugate(first: Value, second: Value) -> Value:
    """Make the sum of conj(x) * g from the lane-wise sums of x * g and of x * swap_parts(g)."""
    count = first.ir.type.count
    real = ir.Constant(ir.VectorType(ir.IntType(1), count), [1, 0] * (count // 2))
    return Value(first.code, real).select(first + swap_parts(first), swap_parts(second) - second)


def lane(value: Value, index: int) -> Value:
    """Extract one lane of a vector."""
    index = ir.Constant(I32, index)
    return Value(value.code, value.code.builder.extract_element(value.ir, index))


def load(pointer: Pointer, f: Format, lanes: int, mask: Mask | None, stride: Value | None) -> Value:
    """Load a vector and convert it to the dtype of the products; zero where the mask is off.

    `stride` is the stride in elements (for pairs, in complex numbers); None stands for one.
    """
    if stride is None:
        value = pointer.load(lanes, mask)
    else:
        enabled = all_lanes(pointer.code, lanes) if mask is None else mask
        kind = ir.VectorType(pointer.element, lanes)
        pointers = addresses(pointer, f, lanes, stride)
        zero = Value(pointer.code, ir.Constant(kind, None))
        name = f"llvm.masked.gather.{_type_suffix(kind)}.v{lanes}p0"
        value = pointer.code.intrinsic(
            name, kind, [pointers, bytes_of(pointer.element), enabled, zero]
        )
    return pointer.code.convert(value, f.stored, f.computed)


def store(
    pointer: Pointer, value: Value, f: Format, mask: Mask | None, stride: Value | None
) -> None:
    """Convert a vector to the dtype in memory and store it; parameters as for `load`."""
    converted = pointer.code.convert(value, f.computed, f.stored)
    if stride is None:
        pointer.store(converted, mask)
        return
    lanes = converted.ir.type.count
    enabled = all_lanes(pointer.code, lanes) if mask is None else mask
    pointers = addresses(pointer, f, lanes, stride)
    name = f"llvm.masked.scatter.{_type_suffix(converted.ir.type)}.v{lanes}p0"
    arguments = [converted, pointers, bytes_of(pointer.element), pointer.store_mask(enabled)]
    pointer.code.intrinsic(name, ir.VoidType(), arguments)


def all_lanes(code: Code, lanes: int) -> Mask:
    """Make a mask of all lanes."""
    return code.every_lane(True, lanes)


def addresses(pointer: Pointer, f: Format, lanes: int, stride: Value) -> Value:
    """Return the addresses of `lanes` elements at a stride in elements."""
    code = pointer.code
    kind = ir.VectorType(INT64, lanes)
    numbers = [i // 2 for i in range(lanes)] if f.pairs else list(range(lanes))
    part = [i % 2 if f.pairs else 0 for i in range(lanes)]
    offsets = Value(code, ir.Constant(kind, numbers)) * code.splat(stride, lanes)
    return at(pointer, offsets + Value(code, ir.Constant(kind, part)))


def broadcast_parts(code: Code, numbers: Sequence[Value], lanes: int) -> Value:
    """Broadcast a scalar, or a pair of them, to a vector."""
    real = code.splat(numbers[0], lanes)
    if len(numbers) == 1:
        return real
    odd = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [0, 1] * (lanes // 2))
    return Value(code, odd).select(code.splat(numbers[1], lanes), real)


def at(pointer: Pointer, offsets: Value) -> Value:
    """Return the addresses of elements at a vector of offsets."""
    code, kind = pointer.code, offsets.ir.type
    first = Value(code, code.builder.ptrtoint(pointer.ir, INT64))
    size = Value(code, ir.Constant(kind, [bytes_of(pointer.element)] * kind.count))
    sums = code.splat(first, kind.count) + offsets * size
    pointers = ir.VectorType(POINTER, kind.count)
    return Value(code, code.builder.inttoptr(sums.ir, pointers))


def gather(pointer: Pointer, f: Format, offsets: Value, mask: Value) -> Value:
    """Load elements at a vector of offsets, zero where the mask is off, and convert them."""
    lanes = offsets.ir.type.count
    kind = ir.VectorType(pointer.element, lanes)
    zero = Value(pointer.code, ir.Constant(kind, None))
    name = f"llvm.masked.gather.{_type_suffix(kind)}.v{lanes}p0"
    pointers = at(pointer, offsets)
    arguments = [pointers, bytes_of(pointer.element), mask, zero]
    value = pointer.code.intrinsic(name, kind, arguments)
    return pointer.code.convert(value, f.stored, f.computed)


def scatter(pointer: Pointer, value: Value, f: Format, offsets: Value, mask: Mask) -> None:
    """Convert elements and store them at a vector of offsets, where the mask is on."""
    converted = pointer.code.convert(value, f.computed, f.stored)
    name = f"llvm.masked.scatter.{_type_suffix(converted.ir.type)}.v{converted.ir.type.count}p0"
    arguments = [
        converted,
        at(pointer, offsets),
        bytes_of(pointer.element),
        pointer.store_mask(mask),
    ]
    pointer.code.intrinsic(name, ir.VoidType(), arguments)


def _type_suffix(kind: Any) -> str:
    return f"v{kind.count}{letter(kind.element)}"
