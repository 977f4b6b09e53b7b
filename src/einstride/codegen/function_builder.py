"""Write a function of LLVM IR with Python's operators: `Code`, and its values and pointers.

A kernel is written by arithmetic on `Value`, a scalar or a vector, and by loads and stores at a
`Pointer`. Each operation appends LLVM instructions to the `Code` of its operands; nothing is
computed here. A `Variable` is a stack slot, which LLVM keeps in a register.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from einstride.codegen import conversions, ir_types
from einstride.codegen.ir_types import ELEMENTS, INT64, POINTER, bytes_of, letter


class Code:
    """A function ``void name(int64 *arguments, int64 worker)`` that is being written.

    Parameters
    ----------
    name : str
        Name of the function.
    arguments : sequence of str
        Names of the integers in its argument block; the first counts the chunks taken.
    addresses : int
        Number of addresses that the function takes after these two, as integers in `given`.
    """

    def __init__(self, name: str, arguments: Sequence[str], addresses: int = 0) -> None:
        self.module = ir.Module(name)
        kind = ir.FunctionType(ir.VoidType(), [POINTER, INT64] + [INT64] * addresses)
        function = ir.Function(self.module, kind, name)
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self._block = Pointer(self, function.args[0], INT64)
        self.worker = Value(self, function.args[1])
        self.given = [Value(self, a) for a in function.args[2:]]
        self._named = {a: self._block.at(i).load() for i, a in enumerate(arguments)}

    def __getitem__(self, name: str) -> Value:
        """The integer argument of a name."""
        return self._named[name]

    def text(self) -> str:
        """Finish the function, and return its LLVM IR."""
        self.builder.ret_void()
        return str(self.module)

    def argument(self, number: int) -> Pointer:
        """The address of an argument in the argument block."""
        return self._block.at(number)

    def number(self, value: int) -> Value:
        """An integer constant."""
        return Value(self, ir.Constant(INT64, value))

    def pointer(self, address: Value, element: str) -> Pointer:
        """A pointer to the address that an integer holds."""
        return Pointer(self, self.builder.inttoptr(address.ir, POINTER), ELEMENTS[element])

    def array(self, name: str, element: str) -> Pointer:
        """A pointer to the address that an argument holds."""
        return self.pointer(self[name], element)

    def variable(self, value: Value) -> Variable:
        """A local variable with an initial value."""
        return Variable(self, value)

    def zero(self, element: str, lanes: int) -> Value:
        """A vector of zeros, or a scalar zero for one lane."""
        kind = ELEMENTS[element] if lanes == 1 else ir.VectorType(ELEMENTS[element], lanes)
        return Value(self, ir.Constant(kind, 0 if lanes == 1 else None))

    def scratch(self, element: str, count: int) -> Pointer:
        """Allocate an array of `count` elements on the stack."""
        with self.builder.goto_entry_block():
            b = self.builder
            found = b.inttoptr(b.ptrtoint(b.alloca(ELEMENTS[element], count), INT64), POINTER)
        return Pointer(self, found, ELEMENTS[element])

    def convert(self, value: Value, dtype: str, wanted: str) -> Value:
        """A number or vector of one dtype in another that can hold it: see `conversions`."""
        return Value(self, conversions.convert(self.builder, value.ir, dtype, wanted))

    def splat(self, value: Value, lanes: int) -> Value:
        """Broadcast a scalar to every lane of a vector."""
        kind = ir.VectorType(value.ir.type, lanes)
        one = self.builder.insert_element(
            ir.Constant(kind, ir.Undefined), value.ir, ir.Constant(ir.IntType(32), 0)
        )
        order = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        return Value(self, self.builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), order))

    def first_lanes(self, count: Value, lanes: int) -> Mask:
        """A mask of the first `count` lanes: none if negative, all if more than `lanes`."""
        numbers = ir.Constant(ir.VectorType(INT64, lanes), list(range(lanes)))

        def compared(number: Value) -> Any:
            return self.builder.icmp_signed("<", numbers, self.splat(number, lanes).ir)

        known = None
        if isinstance(count.ir, ir.Constant):
            known = min(max(int(count.ir.constant), 0), lanes)
        return Mask(self, compared(count), lambda: compared(self.hidden(count)), first=known)

    def every_lane(self, condition: Value | bool, lanes: int) -> Mask:
        """A mask of all lanes if the condition holds, else of none."""
        if isinstance(condition, Value):
            bits: Any = self.splat(condition, lanes).ir
        else:
            bits = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [int(condition)] * lanes)
        return Mask(self, bits, lambda: bits)

    def mask(self, bits: Value) -> Mask:
        """A mask with the given bits, one for each lane."""
        lanes = bits.ir.type.count
        every = self.first_lanes(self.number(lanes), lanes)
        both = self.builder.and_(bits.ir, every.ir)
        return Mask(self, both, lambda all_on: self.builder.and_(bits.ir, all_on), (every,))

    def hidden(self, number: Value) -> Value:
        """Pass an integer through empty inline assembly, so that LLVM knows nothing about it."""
        kind = ir.FunctionType(INT64, [INT64])
        empty = ir.InlineAsm(kind, "", "=r,0")
        found = self.builder.call(empty, [number.ir], attrs=("nounwind", "readnone"))
        return Value(self, found)

    def intrinsic(self, name: str, result: Any, given: Sequence[Any]) -> Value:
        """Call an LLVM intrinsic; Python integers are passed as 32-bit constants."""
        values = [ir.Constant(ir.IntType(32), v) if isinstance(v, int) else v.ir for v in given]
        function = self.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(result, [v.type for v in values])
            function = ir.Function(self.module, kind, name)
        return Value(self, self.builder.call(function, values))

    def call(self, function: Value, block: Pointer) -> None:
        """Call a kernel by its address with an argument block, as worker 0."""
        kind = ir.FunctionType(ir.VoidType(), [POINTER, INT64])
        callee = self.builder.inttoptr(function.ir, kind.as_pointer())
        self.builder.call(callee, [block.ir, ir.Constant(INT64, 0)])

    @contextmanager
    def loop(self, start: Value | int, stop: Value | int, step: Value | int = 1) -> Iterator[Value]:
        """Write a loop, for i in range(start, stop, step)."""
        b = self.builder
        i = self.variable(start if isinstance(start, Value) else self.number(start))
        head, body, done = (b.append_basic_block(n) for n in ("head", "body", "done"))
        b.branch(head)
        b.position_at_end(head)
        b.cbranch((i.get() < stop).ir, body, done)
        b.position_at_end(body)
        now = i.get()
        yield now
        i.set(now + step)
        b.branch(head)
        b.position_at_end(done)

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """Write code that runs only if the condition holds."""
        with self.builder.if_then(condition.ir):
            yield

    @contextmanager
    def chunks(self, count: Value, counter: int = 0) -> Iterator[Value]:
        """Write a loop over the chunks that this thread takes from a counter in the block.

        All threads add to the counter atomically, so each chunk is taken by one thread.
        """
        b, taken = self.builder, self.argument(counter)
        head, body, done = (b.append_basic_block(n) for n in ("next", "chunk", "end"))
        b.branch(head)
        b.position_at_end(head)
        i = Value(self, b.atomic_rmw("add", taken.ir, ir.Constant(INT64, 1), "monotonic"))
        b.cbranch((i < count).ir, body, done)
        b.position_at_end(body)
        yield i
        b.branch(head)
        b.position_at_end(done)


class Value:
    """A scalar or a vector in a function, with Python's arithmetic operators."""

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
        return self._two(other, "fdiv", "udiv")  # integers must not be negative

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
        """True if two integers are equal, for each lane."""
        return self._compare("==", other)

    def select(self, yes: Value, no: Value) -> Value:
        """Select `yes` where this condition holds, else `no`."""
        return Value(self.code, self.code.builder.select(self.ir, yes.ir, no.ir))

    def select_pointer(self, yes: Pointer, no: Pointer) -> Pointer:
        """Select the pointer `yes` if this condition holds, else `no`."""
        found = self.code.builder.select(self.ir, yes.ir, no.ir)
        return Pointer(self.code, found, yes.element)

    def minimum(self, other: Value | int) -> Value:
        """The smaller of two integers."""
        right = other if isinstance(other, Value) else self.code.number(other)
        return (self < right).select(self, right)

    def maximum(self, other: Value) -> Value:
        """The larger of two integers."""
        return (self < other).select(other, self)

    def times_plus(self, factor: Value, sum_: Value) -> Value:
        """self * factor + sum_, rounded once (FMA)."""
        if not ir_types.is_float(self.ir.type):
            return self * factor + sum_
        kind = self.ir.type
        lanes = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
        name = f"llvm.fma.{lanes}{letter(ir_types.scalar(kind))}"
        return self.code.intrinsic(name, kind, [self, factor, sum_])


class Mask(Value):
    """The lanes of a vector that a load or a store accesses, one bit for each lane.

    Two defects of LLVM up to 22.1 are avoided by `stored`, a mask about which LLVM knows nothing:

    - A vector of integers that is truncated, then stored under a mask that LLVM knows to be a
      constant with one lane on, is stored in its wide type, beyond the end of the result (LLVM's
      issue 179489, for CPUs with AVX-512).
    - A vector larger than a register, loaded under a mask of two parts one of which is off in all
      lanes of a register, is read without a mask, or LLVM stops the process. A mask with parts is
      therefore `stored` for loads too.

    Parameters
    ----------
    code : Code
        The function that is being written.
    value : instruction or constant
        The bits of the mask.
    hide : callable
        Writes the bits of the mask again, from integers that are hidden from LLVM and the bits
        `stored` of the masks in `parts`.
    parts : tuple of Mask
        The masks that this mask is combined from.
    first : int, optional
        The number of leading lanes that are on, if it is known while the kernel is written.
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
        """True if the mask is combined from other masks."""
        return bool(self._parts)

    @property
    def stored(self) -> Value:
        """The bits of the mask, computed from integers that are hidden from LLVM.

        If all hidden integers were zero, all lanes of the mask would be equal. LLVM must allow for
        that: it may deduce that all lanes are on or that none is, but never that one lane is on
        and another off.
        """
        if self._hidden is None:
            builder, here = self.code.builder, self.code.builder.block
            parts = [part.stored.ir for part in self._parts]
            if isinstance(self.ir, ir.Instruction):
                builder.position_after(self.ir)  # before every use of the mask
            self._hidden = self._hide(*parts)
            builder.position_at_end(here)
        return Value(self.code, self._hidden)


class Pointer:
    """An address in memory, and the type of the elements there."""

    __slots__ = ("code", "element", "ir")

    def __init__(self, code: Code, address: Any, element: Any) -> None:
        self.code, self.ir, self.element = code, address, element

    def at(self, offset: Value | int) -> Pointer:
        """The address `offset` elements further."""
        step = offset.ir if isinstance(offset, Value) else ir.Constant(INT64, offset)
        found = self.code.builder.gep(self.ir, [step], source_etype=self.element)
        return Pointer(self.code, found, self.element)

    def _type(self, lanes: int) -> Any:
        return self.element if lanes == 1 else ir.VectorType(self.element, lanes)

    def load(self, lanes: int = 1, mask: Mask | None = None) -> Value:
        """Load a scalar, or a vector of `lanes` elements, zero where the mask is off."""
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
        """Load a scalar or a vector of one dtype, and convert it to another."""
        return self.code.convert(self.load(lanes, mask), dtype, wanted)

    def store(self, value: Value, mask: Mask | None = None) -> None:
        """Store a scalar, or the lanes of a vector where the mask is on."""
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
        """The bits of a mask for a store of elements of this type; see `Mask`."""
        return mask.stored if ir_types.is_narrow(self.element) or mask.has_parts else mask

    def _store_first(self, value: Value, count: int) -> None:
        """Store the first `count` elements of a vector without a mask, in powers of two."""
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
        """Prefetch the cache line of this address, which need not be valid."""
        self.code.intrinsic("llvm.prefetch.p0", ir.VoidType(), [self, int(write), 3, 1])

    def stream(self, value: Value) -> None:
        """Store a vector past the caches (non-temporal); the address is a multiple of 16 bytes."""
        store = self.code.builder.store(value.ir, self.ir)
        store.align = 16
        one = ir.Constant(ir.IntType(32), 1)
        store.set_metadata("nontemporal", self.code.module.add_metadata([one]))


class Variable:
    """A local variable on the stack, which LLVM keeps in a register."""

    __slots__ = ("code", "slot", "type")

    def __init__(self, code: Code, value: Value) -> None:
        self.code, self.type = code, value.ir.type
        with code.builder.goto_entry_block():
            self.slot = code.builder.alloca(self.type)
        self.set(value)

    def get(self) -> Value:
        """The current value."""
        return Value(self.code, self.code.builder.load(self.slot, typ=self.type))

    def set(self, value: Value) -> None:
        """Assign a value."""
        self.code.builder.store(value.ir, self.slot)
