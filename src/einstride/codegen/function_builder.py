"""Write a function of LLVM IR with Python's operators: `Code`, and its values and pointers.

A kernel is written by arithmetic on `Value`, a scalar or a vector, and by loads and stores at a
`Pointer`. Each operation appends LLVM instructions to the `Code` of its operands; nothing is
computed here. A `Variable` is a stack slot, which LLVM keeps in a register.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from llvmlite import ir

from einstride.codegen import conversions, ir_types
from einstride.codegen.ir_types import ELEMENTS, INT64, POINTER, bytes_of, letter

Subroutine = Any
"""A private function of a kernel: see `Code.subroutine`."""


class Code:
    """Write the function ``void name(int64 *arguments, int64 worker, int64 address, ...)``.

    Parameters
    ----------
    name : str
        Name of the function.
    arguments : sequence of str
        Names of the integers in its argument block; the first counts the chunks taken.
    address_count : int
        Number of addresses that the function takes after these two.

    Attributes
    ----------
    worker : Value
        The worker's number.
    addresses : list of Value
        The addresses that the function takes.
    """

    def __init__(self, name: str, arguments: Sequence[str], address_count: int = 0) -> None:
        self.module = ir.Module(name)
        function_type = ir.FunctionType(ir.VoidType(), [POINTER, INT64] + [INT64] * address_count)
        function = ir.Function(self.module, function_type, name)
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self._block = Pointer(self, function.args[0], INT64)
        self.worker = Value(self, function.args[1])
        self.addresses = [Value(self, a) for a in function.args[2:]]
        self._arguments = {a: self._block.at(i).load() for i, a in enumerate(arguments)}

    def __getitem__(self, name: str) -> Value:
        """Return the value of an argument of the argument block, an integer."""
        return self._arguments[name]

    def text(self) -> str:
        """Finish the function, and return its LLVM IR."""
        self.builder.ret_void()
        return str(self.module)

    def argument(self, index: int) -> Pointer:
        """Return the address of an argument in the argument block."""
        return self._block.at(index)

    def number(self, value: int) -> Value:
        """Make an integer constant."""
        return Value(self, ir.Constant(INT64, value))

    def pointer(self, address: Value, element: str) -> Pointer:
        """Make a pointer to the address that an integer holds."""
        return Pointer(self, self.builder.inttoptr(address.ir, POINTER), ELEMENTS[element])

    def array(self, name: str, element: str) -> Pointer:
        """Make a pointer to the address that an argument holds."""
        return self.pointer(self[name], element)

    def variable(self, value: Value) -> Variable:
        """Make a local variable with an initial value."""
        return Variable(self, value)

    def zero(self, element: str, lanes: int) -> Value:
        """Make a vector of zeros, or a scalar zero for one lane."""
        if lanes == 1:
            return Value(self, ir.Constant(ELEMENTS[element], 0))
        return Value(self, ir.Constant(ir.VectorType(ELEMENTS[element], lanes), None))

    def scratch(self, element: str, count: int) -> Pointer:
        """Allocate an array of `count` elements on the stack."""
        with self.builder.goto_entry_block():
            b = self.builder
            array = b.inttoptr(b.ptrtoint(b.alloca(ELEMENTS[element], count), INT64), POINTER)
        return Pointer(self, array, ELEMENTS[element])

    def convert(self, value: Value, dtype: str, new_dtype: str) -> Value:
        """Convert a number or vector to another dtype that can hold it: see `conversions`."""
        return Value(self, conversions.convert(self.builder, value.ir, dtype, new_dtype))

    def splat(self, value: Value, lanes: int) -> Value:
        """Broadcast a scalar to every lane of a vector."""
        undefined = ir.Constant(ir.VectorType(value.ir.type, lanes), ir.Undefined)
        first_lane = self.builder.insert_element(
            undefined, value.ir, ir.Constant(ir.IntType(32), 0)
        )
        order = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        return Value(self, self.builder.shuffle_vector(first_lane, undefined, order))

    def first_lanes(self, count: Value, lanes: int) -> Mask:
        """Make a mask of the first `count` lanes: none if negative, all if more than `lanes`."""
        lane_numbers = ir.Constant(ir.VectorType(INT64, lanes), list(range(lanes)))

        def compare(number: Value) -> Any:
            return self.builder.icmp_signed("<", lane_numbers, self.splat(number, lanes).ir)

        leading_lanes = None
        if isinstance(count.ir, ir.Constant):
            leading_lanes = min(max(int(count.ir.constant), 0), lanes)
        return Mask(
            self,
            compare(count),
            lambda: compare(self.hide_from_llvm(count)),
            leading_lanes=leading_lanes,
        )

    def every_lane(self, condition: Value | bool, lanes: int) -> Mask:
        """Make a mask of all lanes if the condition holds, else of none."""
        if isinstance(condition, Value):
            bits: Any = self.splat(condition, lanes).ir
        else:
            bits = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [int(condition)] * lanes)
        return Mask(self, bits, lambda: bits)

    def mask(self, bits: Value) -> Mask:
        """Make a mask from bits, one for each lane."""
        lanes = bits.ir.type.count
        all_lanes = self.first_lanes(self.number(lanes), lanes)
        both = self.builder.and_(bits.ir, all_lanes.ir)
        return Mask(self, both, lambda all_on: self.builder.and_(bits.ir, all_on), (all_lanes,))

    def hide_from_llvm(self, number: Value) -> Value:
        """Pass an integer through empty inline assembly, so that LLVM knows nothing about it."""
        function_type = ir.FunctionType(INT64, [INT64])
        assembly = ir.InlineAsm(function_type, "", "=r,0")
        result = self.builder.call(assembly, [number.ir], attrs=("nounwind", "readnone"))
        return Value(self, result)

    def intrinsic(self, name: str, result_type: Any, arguments: Sequence[Any]) -> Value:
        """Call an LLVM intrinsic; Python integers are passed as 32-bit constants."""
        values = [ir.Constant(ir.IntType(32), a) if isinstance(a, int) else a.ir for a in arguments]
        function = self.module.globals.get(name)
        if function is None:
            function_type = ir.FunctionType(result_type, [v.type for v in values])
            function = ir.Function(self.module, function_type, name)
        return Value(self, self.builder.call(function, values))

    def call(self, function: Value, block: Pointer) -> None:
        """Call a kernel by its address with an argument block, as worker 0."""
        function_type = ir.FunctionType(ir.VoidType(), [POINTER, INT64])
        callee = self.builder.inttoptr(function.ir, function_type.as_pointer())
        self.builder.call(callee, [block.ir, ir.Constant(INT64, 0)])

    def call_words(self, function: Value, words: Sequence[Value]) -> None:
        """Call a kernel by its address: the argument block, the worker, and its addresses."""
        kinds = [POINTER, *[INT64] * (len(words) - 1)]
        callee = self.builder.inttoptr(
            function.ir, ir.FunctionType(ir.VoidType(), kinds).as_pointer()
        )
        block = self.builder.inttoptr(words[0].ir, POINTER)
        self.builder.call(callee, [block, *(word.ir for word in words[1:])])

    def subroutine(self, name: str, count: int, write: Callable[..., None]) -> Subroutine:
        """Write a private function of `count` integers, or addresses, which are passed to `write`.

        It cannot use the argument block, and is never inlined, since it is called more than once.
        """
        function_type = ir.FunctionType(ir.VoidType(), [INT64] * count)
        function = ir.Function(self.module, function_type, name)
        function.linkage = "internal"
        function.attributes.add("noinline")
        outer, self.builder = self.builder, ir.IRBuilder(function.append_basic_block("entry"))
        write(*(Value(self, argument) for argument in function.args))
        self.builder.ret_void()
        self.builder = outer
        return function

    def call_subroutine(self, function: Subroutine, words: Sequence[Value]) -> None:
        """Call a subroutine with integers and addresses."""
        self.builder.call(function, [word.ir for word in words])

    def call_case(
        self, value: Value, cases: Mapping[int, Subroutine], arguments: Sequence[Value | Pointer]
    ) -> None:
        """Call the subroutine of the case that an integer equals; none if there is no such case."""
        b = self.builder
        words = [a.address if isinstance(a, Pointer) else a for a in arguments]
        done = b.append_basic_block("called")
        switch = b.switch(value.ir, done)
        for case, function in cases.items():
            with b.goto_block(block := b.append_basic_block(f"case_{case}")):
                self.call_subroutine(function, words)
                b.branch(done)
            switch.add_case(ir.Constant(INT64, case), block)
        b.position_at_end(done)

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
        index = i.get()
        yield index
        i.set(index + step)
        b.branch(head)
        b.position_at_end(done)

    @contextmanager
    def loops(self, *ranges: tuple[Value | int, Value | int]) -> Iterator[list[Value]]:
        """Write nested loops over these ranges, the first of them outermost."""
        with ExitStack() as stack:
            yield [stack.enter_context(self.loop(*ends)) for ends in ranges]

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
        b, chunks_taken = self.builder, self.argument(counter)
        head, body, done = (b.append_basic_block(n) for n in ("next", "chunk", "end"))
        b.branch(head)
        b.position_at_end(head)
        i = Value(self, b.atomic_rmw("add", chunks_taken.ir, ir.Constant(INT64, 1), "monotonic"))
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

    def _binary(self, other: Value | int, float_operation: str, integer_operation: str) -> Value:
        """Append the instruction of IRBuilder for the type of the operands."""
        right = other.ir if isinstance(other, Value) else ir.Constant(self.ir.type, other)
        name = float_operation if ir_types.is_float(self.ir.type) else integer_operation
        return Value(self.code, getattr(self.code.builder, name)(self.ir, right))

    def __add__(self, other: Value | int) -> Value:
        return self._binary(other, "fadd", "add")

    def __sub__(self, other: Value | int) -> Value:
        return self._binary(other, "fsub", "sub")

    def __mul__(self, other: Value | int) -> Value:
        return self._binary(other, "fmul", "mul")

    def __floordiv__(self, other: Value | int) -> Value:
        return self._binary(other, "fdiv", "udiv")  # integers must not be negative

    def __mod__(self, other: Value | int) -> Value:
        return self._binary(other, "frem", "urem")

    def __or__(self, other: Value | int) -> Value:
        return self._binary(other, "", "or_")

    def __and__(self, other: Value | int) -> Value:
        return self._binary(other, "", "and_")

    def __xor__(self, other: Value | int) -> Value:
        return self._binary(other, "", "xor")

    def __lshift__(self, other: Value | int) -> Value:
        return self._binary(other, "", "shl")

    def __rshift__(self, other: Value | int) -> Value:
        return self._binary(other, "", "lshr")

    def _compare(self, operator: str, other: Value | int) -> Value:
        right = other.ir if isinstance(other, Value) else ir.Constant(self.ir.type, other)
        return Value(self.code, self.code.builder.icmp_signed(operator, self.ir, right))

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
        address = self.code.builder.select(self.ir, yes.ir, no.ir)
        return Pointer(self.code, address, yes.element)

    def minimum(self, other: Value | int) -> Value:
        """Return the smaller of two integers."""
        right = other if isinstance(other, Value) else self.code.number(other)
        return (self < right).select(self, right)

    def maximum(self, other: Value) -> Value:
        """Return the larger of two integers."""
        return (self < other).select(other, self)

    def multiply_add(self, factor: Value, addend: Value) -> Value:
        """Compute self * factor + addend, with one rounding on targets that have FMA.

        On other targets the product of floats is rounded, too: to round once, LLVM would call a
        library function for each lane.
        """
        value_type = self.ir.type
        if not ir_types.is_float(value_type):
            return self * factor + addend
        lanes = f"v{value_type.count}" if isinstance(value_type, ir.VectorType) else ""
        name = f"llvm.fmuladd.{lanes}{letter(ir_types.scalar(value_type))}"
        return self.code.intrinsic(name, value_type, [self, factor, addend])


class Mask(Value):
    """The lanes of a vector that a load or a store accesses, one bit for each lane.

    Two defects of LLVM up to 22.1 are avoided by `hidden_bits`, about which LLVM knows nothing:

    - A vector of integers that is truncated, then stored under a mask that LLVM knows to be a
      constant with one lane on, is stored in its wide type, beyond the end of the result (LLVM's
      issue 179489, for CPUs with AVX-512).
    - A vector larger than a register, loaded under a mask of two parts one of which is off in all
      lanes of a register, is read without a mask, or LLVM stops the process. Loads under a mask
      with parts therefore use `hidden_bits` too.

    Parameters
    ----------
    code : Code
        The function that is being written.
    value : instruction or constant
        The bits of the mask.
    write_hidden_bits : callable
        Writes the bits of the mask again, from integers that are hidden from LLVM and from the
        `hidden_bits` of each mask in `parts`.
    parts : tuple of Mask
        The masks that this mask is combined from.
    leading_lanes : int, optional
        The number of leading lanes that are on, if it is known while the kernel is written.
    """

    __slots__ = ("_hidden_bits", "_parts", "_write_hidden_bits", "leading_lanes")

    def __init__(
        self,
        code: Code,
        value: Any,
        write_hidden_bits: Callable[..., Any],
        parts: tuple[Mask, ...] = (),
        leading_lanes: int | None = None,
    ) -> None:
        super().__init__(code, value)
        self._write_hidden_bits, self._parts = write_hidden_bits, parts
        self.leading_lanes = leading_lanes
        self._hidden_bits: Any = None

    def __and__(self, other: Value | int) -> Mask:
        return self._combine(other, "and_")

    def __xor__(self, other: Value | int) -> Mask:
        return self._combine(other, "xor")

    def _combine(self, other: Value | int, operation: str) -> Mask:
        if not isinstance(other, Mask):
            raise TypeError(f"a mask is combined with {other!r}, which is no Mask")
        write = getattr(self.code.builder, operation)
        return Mask(self.code, write(self.ir, other.ir), write, (self, other))

    @property
    def has_parts(self) -> bool:
        """True if the mask is combined from other masks."""
        return bool(self._parts)

    @property
    def hidden_bits(self) -> Value:
        """The bits of the mask, computed from integers that are hidden from LLVM.

        If all hidden integers were zero, all lanes of the mask would be equal. LLVM must allow for
        that: it may deduce that all lanes are on or that none is, but never that one lane is on
        and another off.
        """
        if self._hidden_bits is None:
            builder, basic_block = self.code.builder, self.code.builder.block
            parts = [part.hidden_bits.ir for part in self._parts]
            if isinstance(self.ir, ir.Instruction):
                builder.position_after(self.ir)  # before every use of the mask
            self._hidden_bits = self._write_hidden_bits(*parts)
            builder.position_at_end(basic_block)
        return Value(self.code, self._hidden_bits)


class Pointer:
    """An address in memory, and the type of the elements there."""

    __slots__ = ("code", "element", "ir")

    def __init__(self, code: Code, address: Any, element: Any) -> None:
        self.code, self.ir, self.element = code, address, element

    def at(self, offset: Value | int) -> Pointer:
        """Return the address that lies `offset` elements behind this one."""
        index = offset.ir if isinstance(offset, Value) else ir.Constant(INT64, offset)
        address = self.code.builder.gep(self.ir, [index], source_etype=self.element)
        return Pointer(self.code, address, self.element)

    @property
    def address(self) -> Value:
        """The address as an integer."""
        return Value(self.code, self.code.builder.ptrtoint(self.ir, INT64))

    def _type(self, lanes: int) -> Any:
        return self.element if lanes == 1 else ir.VectorType(self.element, lanes)

    def load(self, lanes: int = 1, mask: Mask | None = None) -> Value:
        """Load a scalar, or a vector of `lanes` elements, zero where the mask is off."""
        value_type = self._type(lanes)
        alignment = bytes_of(self.element)
        if mask is not None:
            zero = Value(self.code, ir.Constant(value_type, None))
            name = f"llvm.masked.load.v{lanes}{letter(self.element)}.p0"
            load_mask = mask.hidden_bits if mask.has_parts else mask
            return self.code.intrinsic(name, value_type, [self, alignment, load_mask, zero])
        value = self.code.builder.load(self.ir, typ=value_type)
        value.align = alignment
        return Value(self.code, value)

    def load_as(
        self, dtype: str, new_dtype: str, lanes: int = 1, mask: Mask | None = None
    ) -> Value:
        """Load a scalar or a vector of one dtype, and convert it to another."""
        return self.code.convert(self.load(lanes, mask), dtype, new_dtype)

    def store(self, value: Value, mask: Mask | None = None) -> None:
        """Store a scalar, or the lanes of a vector where the mask is on."""
        alignment = bytes_of(self.element)
        if mask is not None:
            if mask.leading_lanes is not None and ir_types.is_narrow(self.element):
                self._store_first(value, mask.leading_lanes)
                return
            name = f"llvm.masked.store.v{value.ir.type.count}{letter(self.element)}.p0"
            arguments = [value, self, alignment, self.store_mask(mask)]
            self.code.intrinsic(name, ir.VoidType(), arguments)
            return
        self.code.builder.store(value.ir, self.ir).align = alignment

    def store_mask(self, mask: Mask) -> Value:
        """Return the bits of a mask for a store of elements of this type; see `Mask`."""
        return mask.hidden_bits if ir_types.is_narrow(self.element) or mask.has_parts else mask

    def _store_first(self, value: Value, count: int) -> None:
        """Store the first `count` elements of a vector without a mask, in powers of two."""
        start, b = 0, self.code.builder
        while start < count:
            size = 1 << (count - start).bit_length() - 1
            if size == 1:
                part = b.extract_element(value.ir, ir.Constant(ir.IntType(32), start))
            else:
                order_type = ir.VectorType(ir.IntType(32), size)
                order = ir.Constant(order_type, list(range(start, start + size)))
                part = b.shuffle_vector(value.ir, ir.Constant(value.ir.type, ir.Undefined), order)
            self.at(start).store(Value(self.code, part))
            start += size

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
        """Load the current value."""
        return Value(self.code, self.code.builder.load(self.slot, typ=self.type))

    def set(self, value: Value) -> None:
        """Store a new value."""
        self.code.builder.store(value.ir, self.slot)
