"""Load and store vectors of every dtype, with conversions, gathers, scatters and shuffles.

Elements are stored in one dtype and multiplied in another: small integers and 16-bit floats are
widened by the load, and results narrowed by the store. A complex number is a pair of floats;
`Format.pairs` is true for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from einstride.codegen.function_builder import Code, Mask, Pointer, Value
from einstride.codegen.ir_types import ELEMENTS, INT64, POINTER

HALF = ir.HalfType()
I32 = ir.IntType(32)

IN_MEMORY = {
    "bool": "int8",
    "uint8": "int8",
    "uint16": "int16",
    "uint32": "int32",
    "uint64": "int64",
    "float16": "int16",
    "bfloat16": "int16",
}
"""The integer type in which elements of a dtype are loaded and stored; others are their own."""


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

    @property
    def element(self) -> str:
        """The name of the type that loads and stores use."""
        return IN_MEMORY.get(self.stored, self.stored)


def shuffle(value: Value, order: Sequence[int]) -> Value:
    """Rearrange the lanes of a vector: lane i of the result is lane order[i]."""
    kind = value.ir.type
    if list(order) == list(range(kind.count)):
        return value
    lanes = ir.Constant(ir.VectorType(I32, len(order)), list(order))
    nothing = ir.Constant(kind, ir.Undefined)
    return Value(value.code, value.code.builder.shuffle_vector(value.ir, nothing, lanes))


def swapped(value: Value) -> Value:
    """Exchange the real and imaginary parts of complex numbers."""
    return shuffle(value, [i ^ 1 for i in range(value.ir.type.count)])


def combined(real: Value, imaginary: Value) -> Value:
    """Make the sum of x * f from the sums of x * Re f and of x * Im f.

    So lanes are swapped once for each sum, not for each product.
    """
    kind = real.ir.type
    sign = ir.Constant(kind, [-1.0, 1.0] * (kind.count // 2))
    return swapped(imaginary).times_plus(Value(real.code, sign), real)


def conjugated(first: Value, second: Value) -> Value:
    """Make the sum of conj(x) * g from the lane-wise sums of x * g and of x * swapped(g)."""
    count = first.ir.type.count
    real = ir.Constant(ir.VectorType(ir.IntType(1), count), [1, 0] * (count // 2))
    return Value(first.code, real).pick(first + swapped(first), swapped(second) - second)


def lane(value: Value, number: int) -> Value:
    """Extract one lane of a vector."""
    index = ir.Constant(I32, number)
    return Value(value.code, value.code.builder.extract_element(value.ir, index))


def load(pointer: Pointer, f: Format, lanes: int, mask: Mask | None, step: Value | None) -> Value:
    """Load a vector and convert it to the dtype of the products; zero where the mask is off.

    `step` is the stride in elements (for pairs, in complex numbers); None stands for one.
    """
    if step is None:
        found = pointer.load(lanes, mask)
    else:
        on = every(pointer.code, lanes) if mask is None else mask
        kind = ir.VectorType(pointer.element, lanes)
        where = addresses(pointer, f, lanes, step)
        zero = Value(pointer.code, ir.Constant(kind, None))
        name = f"llvm.masked.gather.{_suffix(kind)}.v{lanes}p0"
        found = pointer.code.intrinsic(name, kind, [where, _size(pointer), on, zero])
    return widened(found, f)


def store(pointer: Pointer, value: Value, f: Format, mask: Mask | None, step: Value | None) -> None:
    """Convert a vector to the dtype in memory and store it; parameters as for `load`."""
    found = narrowed(value, f)
    if step is None:
        pointer.store(found, mask)
        return
    lanes = found.ir.type.count
    on = every(pointer.code, lanes) if mask is None else mask
    where = addresses(pointer, f, lanes, step)
    name = f"llvm.masked.scatter.{_suffix(found.ir.type)}.v{lanes}p0"
    given = [found, where, _size(pointer), pointer.stored_mask(on)]
    pointer.code.intrinsic(name, ir.VoidType(), given)


def every(code: Code, lanes: int) -> Mask:
    """A mask of all lanes."""
    return code.every_lane(True, lanes)


def addresses(pointer: Pointer, f: Format, lanes: int, step: Value) -> Value:
    """The addresses of `lanes` elements with a stride of `step`."""
    code = pointer.code
    kind = ir.VectorType(INT64, lanes)
    number = [i // 2 for i in range(lanes)] if f.pairs else list(range(lanes))
    part = [i % 2 if f.pairs else 0 for i in range(lanes)]
    offsets = Value(code, ir.Constant(kind, number)) * code.splat(step, lanes)
    return at(pointer, offsets + Value(code, ir.Constant(kind, part)))


def repeated(code: Code, numbers: Sequence[Value], lanes: int) -> Value:
    """Broadcast a scalar, or a pair of them, to a vector."""
    one = code.splat(numbers[0], lanes)
    if len(numbers) == 1:
        return one
    odd = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [0, 1] * (lanes // 2))
    return Value(code, odd).pick(code.splat(numbers[1], lanes), one)


def at(pointer: Pointer, offsets: Value) -> Value:
    """The addresses of elements at a vector of offsets."""
    code, kind = pointer.code, offsets.ir.type
    first = Value(code, code.builder.ptrtoint(pointer.ir, INT64))
    size = Value(code, ir.Constant(kind, [_size(pointer)] * kind.count))
    sums = code.splat(first, kind.count) + offsets * size
    pointers = ir.VectorType(POINTER, kind.count)
    return Value(code, code.builder.inttoptr(sums.ir, pointers))


def gathered(pointer: Pointer, f: Format, offsets: Value, mask: Value) -> Value:
    """Load elements at a vector of offsets, zero where the mask is off, and convert them."""
    lanes = offsets.ir.type.count
    kind = ir.VectorType(pointer.element, lanes)
    zero = Value(pointer.code, ir.Constant(kind, None))
    name = f"llvm.masked.gather.{_suffix(kind)}.v{lanes}p0"
    where = at(pointer, offsets)
    return widened(pointer.code.intrinsic(name, kind, [where, _size(pointer), mask, zero]), f)


def scattered(pointer: Pointer, value: Value, f: Format, offsets: Value, mask: Mask) -> None:
    """Convert elements and store them at a vector of offsets, where the mask is on."""
    found = narrowed(value, f)
    name = f"llvm.masked.scatter.{_suffix(found.ir.type)}.v{found.ir.type.count}p0"
    given = [found, at(pointer, offsets), _size(pointer), pointer.stored_mask(mask)]
    pointer.code.intrinsic(name, ir.VoidType(), given)


def widened(value: Value, f: Format) -> Value:
    """Convert from the type in memory to the dtype of the products."""
    if f.stored == f.computed:
        return value
    b, to = value.code.builder, _like(value, ELEMENTS[f.computed])
    floating = f.computed.startswith("float")
    now = value.ir
    if f.stored == "float16":
        return Value(value.code, b.fpext(b.bitcast(now, _like(value, HALF)), to))
    if f.stored == "bfloat16":
        bits = b.shl(b.zext(now, _like(value, I32)), _constant(value, I32, 16))
        single = b.bitcast(bits, _like(value, ir.FloatType()))
        return Value(value.code, single if f.computed == "float32" else b.fpext(single, to))
    if f.stored == "float32":
        return Value(value.code, b.fpext(now, to))
    unsigned = f.stored.startswith("u") or f.stored == "bool"
    width = value.ir.type.element.width if _is_vector(value) else value.ir.type.width
    if floating:
        if width < 32:  # they fit into signed 32 bits, which convert faster
            grow = b.zext if unsigned else b.sext
            return Value(value.code, b.sitofp(grow(now, _like(value, I32)), to))
        return Value(value.code, (b.uitofp if unsigned else b.sitofp)(now, to))
    if width >= ELEMENTS[f.computed].width:
        return value if width == ELEMENTS[f.computed].width else Value(value.code, b.trunc(now, to))
    return Value(value.code, (b.zext if unsigned else b.sext)(now, to))


def narrowed(value: Value, f: Format) -> Value:
    """Convert from the dtype of the sums to the type in memory; integers must fit."""
    if f.stored == f.computed:
        return value
    b, to = value.code.builder, _like(value, ELEMENTS[f.element])
    now = value.ir
    if f.stored == "float16":
        return Value(value.code, b.bitcast(b.fptrunc(now, _like(value, HALF)), to))
    if f.stored == "bfloat16":
        return _brain(value, f)
    if f.stored == "float32":
        return Value(value.code, b.fptrunc(now, to))
    if f.computed.startswith("float"):
        return Value(value.code, b.fptosi(now, to))
    width, wanted = ELEMENTS[f.computed].width, ELEMENTS[f.element].width
    if width == wanted:
        return value
    return Value(value.code, b.trunc(now, to) if width > wanted else b.sext(now, to))


def _brain(value: Value, f: Format) -> Value:
    """Round float32 to bfloat16, to nearest, ties to even; NaN stays NaN."""
    b = value.code.builder
    bits = Value(value.code, b.bitcast(value.ir, _like(value, I32)))

    def constant(n: int) -> Value:
        return Value(value.code, _constant(value, I32, n))

    def down(v: Value) -> Value:
        return Value(value.code, b.lshr(v.ir, constant(16).ir))

    rounded = down(bits + constant(0x7FFF) + (down(bits) & constant(1)))
    nan = Value(value.code, b.fcmp_unordered("uno", value.ir, value.ir))
    found = nan.pick(down(bits) | constant(0x40), rounded)
    return Value(value.code, b.trunc(found.ir, _like(value, ir.IntType(16))))


def _is_vector(value: Value) -> bool:
    return isinstance(value.ir.type, ir.VectorType)


def _like(value: Value, element: Any) -> Any:
    return ir.VectorType(element, value.ir.type.count) if _is_vector(value) else element


def _constant(value: Value, element: Any, number: int) -> Any:
    kind = _like(value, element)
    return ir.Constant(kind, [number] * kind.count if _is_vector(value) else number)


def _size(pointer: Pointer) -> int:
    element = pointer.element
    if isinstance(element, ir.IntType):
        return int(element.width) // 8
    return 4 if isinstance(element, ir.FloatType) else 8


def _suffix(kind: Any) -> str:
    e = kind.element
    letter = (
        f"i{e.width}"
        if isinstance(e, ir.IntType)
        else "f32"
        if isinstance(e, ir.FloatType)
        else "f64"
    )
    return f"v{kind.count}{letter}"
