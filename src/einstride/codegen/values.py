"""Numbers, places in memory and local variables of a kernel while it is written: see `code`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from llvmlite import ir

from einstride.codegen import ir_types
from einstride.codegen.ir_types import WORD, bytes_of, letter

if TYPE_CHECKING:
    from einstride.codegen.function_builder import Code


class Value:
    """A number or a vector of numbers, with the operators of arithmetic."""

    __slots__ = ("code", "ir")

    def __init__(self, code: Code, value: Any) -> None:
        self.code, self.ir = code, value

    def _two(self, other: Value | int, floating: str, whole: str) -> Value:
        right = other.ir if isinstance(other, Value) else ir.Constant(self.ir.type, other)
        name = floating if ir_types.is_float(self.ir.type) else whole
        return Value(self.code, getattr(self.code.builder, name)(self.ir, right))

    def __add__(self, other: Value | int) -> Value:
        return self._two(other, "fadd", "add")

    def __sub__(self, other: Value | int) -> Value:
        return self._two(other, "fsub", "sub")

    def __mul__(self, other: Value | int) -> Value:
        return self._two(other, "fmul", "mul")

    def __floordiv__(self, other: Value | int) -> Value:
        return self._two(other, "fdiv", "udiv")  # of numbers that are not negative

    def __mod__(self, other: Value | int) -> Value:
        return self._two(other, "frem", "urem")

    def __or__(self, other: Value | int) -> Value:
        return self._two(other, "", "or_")

    def __and__(self, other: Value | int) -> Value:
        return self._two(other, "", "and_")

    def __xor__(self, other: Value | int) -> Value:
        return self._two(other, "", "xor")

    def _compare(self, sign: str, other: Value | int) -> Value:
        right = other.ir if isinstance(other, Value) else ir.Constant(self.ir.type, other)
        return Value(self.code, self.code.builder.icmp_signed(sign, self.ir, right))

    def __lt__(self, other: Value | int) -> Value:
        return self._compare("<", other)

    def __ge__(self, other: Value | int) -> Value:
        return self._compare(">=", other)

    def equals(self, other: Value | int) -> Value:
        """Whether two whole numbers are the same."""
        return self._compare("==", other)

    def pick(self, yes: Value, no: Value) -> Value:
        """`yes` where this condition holds, else `no`."""
        return Value(self.code, self.code.builder.select(self.ir, yes.ir, no.ir))

    def pick_place(self, yes: Place, no: Place) -> Place:
        """One of two addresses."""
        found = self.code.builder.select(self.ir, yes.ir, no.ir)
        return Place(self.code, found, yes.element)

    def least(self, other: Value | int) -> Value:
        """The smaller of two whole numbers."""
        right = other if isinstance(other, Value) else self.code.number(other)
        return (self < right).pick(self, right)

    def most(self, other: Value) -> Value:
        """The larger of two whole numbers."""
        return (self < other).pick(other, self)

    def times_plus(self, factor: Value, sum_: Value) -> Value:
        """self * factor + sum_, rounded once."""
        if not ir_types.is_float(self.ir.type):
            return self * factor + sum_
        kind = self.ir.type
        lanes = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
        name = f"llvm.fma.{lanes}{letter(ir_types.scalar(kind))}"
        return self.code.intrinsic(name, kind, [self, factor, sum_])


class Mask(Value):
    """The lanes of a vector that are read or written, one bit each.

    LLVM up to 22.1 stores the wide integer instead of the truncated one, and so writes behind the
    result, where a vector of integers is truncated, then stored under a mask that LLVM knows to be
    a constant with one lane on (LLVM's issue 179489, for CPUs with AVX-512). `stored` is a mask
    of which LLVM cannot know that.

    LLVM up to 22.1 also reads without a mask, or stops the process, where a vector larger than a
    register is loaded under a mask of two parts, one of which leaves out all lanes of a register.
    So the mask of an access is `stored` as well if it has parts.

    Parameters
    ----------
    code : Code
        The function that is being written.
    value : instruction or constant
        The bits.
    hide : callable
        Writes the same bits, from numbers that are hidden from LLVM and the bits `stored` of
        the masks in `parts`.
    parts : tuple of Mask
        The masks that this one is made of.
    first : int, optional
        The number of lanes that are on, the first ones of the vector, if it is known as the kernel
        is written.
    """

    __slots__ = ("_hidden", "_hide", "_parts", "first")

    def __init__(
        self,
        code: Code,
        value: Any,
        hide: Callable[..., Any],
        parts: tuple[Mask, ...] = (),
        first: int | None = None,
    ) -> None:
        super().__init__(code, value)
        self._hide, self._parts, self.first = hide, parts, first
        self._hidden: Any = None

    def __and__(self, other: Value | int) -> Mask:
        return self._with(other, "and_")

    def __xor__(self, other: Value | int) -> Mask:
        return self._with(other, "xor")

    def _with(self, other: Value | int, name: str) -> Mask:
        if not isinstance(other, Mask):
            raise TypeError(f"a mask is combined with {other!r}, which is no Mask")
        write = getattr(self.code.builder, name)
        return Mask(self.code, write(self.ir, other.ir), write, (self, other))

    @property
    def has_parts(self) -> bool:
        """True if it is made of other masks."""
        return bool(self._parts)

    @property
    def stored(self) -> Value:
        """The mask for a store of integers that may have been truncated.

        Were all hidden numbers zero, all lanes of the mask would be alike. LLVM must allow for
        that, so it may find out that every lane is on or that none is, but never that one is
        on and another one off.
        """
        if self._hidden is None:
            builder, here = self.code.builder, self.code.builder.block
            parts = [part.stored.ir for part in self._parts]
            if isinstance(self.ir, ir.Instruction):
                builder.position_after(self.ir)  # there the mask is ready for all of its uses
            self._hidden = self._hide(*parts)
            builder.position_at_end(here)
        return Value(self.code, self._hidden)


class Place:
    """An address of elements of one type."""

    __slots__ = ("code", "element", "ir")

    def __init__(self, code: Code, address: Any, element: Any) -> None:
        self.code, self.ir, self.element = code, address, element

    def at(self, offset: Value | int) -> Place:
        """The address so many elements further."""
        step = offset.ir if isinstance(offset, Value) else ir.Constant(WORD, offset)
        found = self.code.builder.gep(self.ir, [step], source_etype=self.element)
        return Place(self.code, found, self.element)

    def _type(self, lanes: int) -> Any:
        return self.element if lanes == 1 else ir.VectorType(self.element, lanes)

    def load(self, lanes: int = 1, mask: Mask | None = None) -> Value:
        """The number here, or a vector of numbers; zero where the mask is off."""
        kind = self._type(lanes)
        size = bytes_of(self.element)
        if mask is not None:
            zero = Value(self.code, ir.Constant(kind, None))
            name = f"llvm.masked.load.v{lanes}{letter(self.element)}.p0"
            given = mask.stored if mask.has_parts else mask
            return self.code.intrinsic(name, kind, [self, size, given, zero])
        found = self.code.builder.load(self.ir, typ=kind)
        found.align = size
        return Value(self.code, found)

    def load_as(self, dtype: str, wanted: str, lanes: int = 1, mask: Mask | None = None) -> Value:
        """The number or vector of one dtype here, in another."""
        return self.code.convert(self.load(lanes, mask), dtype, wanted)

    def store(self, value: Value, mask: Mask | None = None) -> None:
        """Put a number or a vector here, where the mask is on."""
        size = bytes_of(self.element)
        if mask is not None:
            if mask.first is not None and ir_types.is_narrow(self.element):
                self._store_first(value, mask.first)
                return
            name = f"llvm.masked.store.v{value.ir.type.count}{letter(self.element)}.p0"
            given = [value, self, size, self.stored_mask(mask)]
            self.code.intrinsic(name, ir.VoidType(), given)
            return
        self.code.builder.store(value.ir, self.ir).align = size

    def stored_mask(self, mask: Mask) -> Value:
        """The mask to store elements of this type with."""
        return mask.stored if ir_types.is_narrow(self.element) or mask.has_parts else mask

    def _store_first(self, value: Value, count: int) -> None:
        """Put the first `count` numbers of a vector here: without a mask, in powers of two."""
        at, b = 0, self.code.builder
        while at < count:
            size = 1 << (count - at).bit_length() - 1
            if size == 1:
                part = b.extract_element(value.ir, ir.Constant(ir.IntType(32), at))
            else:
                lanes = ir.VectorType(ir.IntType(32), size)
                order = ir.Constant(lanes, list(range(at, at + size)))
                part = b.shuffle_vector(value.ir, ir.Constant(value.ir.type, ir.Undefined), order)
            self.at(at).store(Value(self.code, part))
            at += size

    def prefetch(self, write: bool = False) -> None:
        """Ask for its line of the cache; any address will do."""
        self.code.intrinsic("llvm.prefetch.p0", ir.VoidType(), [self, int(write), 3, 1])

    def stream(self, value: Value) -> None:
        """Put a vector here, past the caches; the address is a multiple of 16 bytes."""
        store = self.code.builder.store(value.ir, self.ir)
        store.align = 16
        one = ir.Constant(ir.IntType(32), 1)
        store.set_metadata("nontemporal", self.code.module.add_metadata([one]))


class Variable:
    """A local that is assigned more than once."""

    __slots__ = ("code", "slot", "type")

    def __init__(self, code: Code, value: Value) -> None:
        self.code, self.type = code, value.ir.type
        with code.builder.goto_entry_block():
            self.slot = code.builder.alloca(self.type)
        self.set(value)

    def get(self) -> Value:
        """Its value now."""
        return Value(self.code, self.code.builder.load(self.slot, typ=self.type))

    def set(self, value: Value) -> None:
        """Assign."""
        self.code.builder.store(value.ir, self.slot)
