"""The few words that kernels are written in: whole numbers, vectors, memory, loops.

Each word appends instructions of LLVM's intermediate language to a function; nothing is computed
here. Local variables are stack slots, which LLVM keeps in registers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from einstride.codegen import ir_types
from einstride.codegen.ir_types import ELEMENTS, POINTER, WORD
from einstride.codegen.values import Mask as Mask
from einstride.codegen.values import Place as Place
from einstride.codegen.values import Value as Value
from einstride.codegen.values import Variable as Variable


class Code:
    """One function ``void name(int64 *arguments, int64 worker)`` while it is written.

    Parameters
    ----------
    name : str
        Of the function.
    arguments : sequence of str
        What the words of its argument block are called; the first counts the chunks handed out.
    addresses : int
        How many addresses the function gets behind these two, as whole numbers in `given`.
    """

    def __init__(self, name: str, arguments: Sequence[str], addresses: int = 0) -> None:
        self.module = ir.Module(name)
        kind = ir.FunctionType(ir.VoidType(), [POINTER, WORD] + [WORD] * addresses)
        function = ir.Function(self.module, kind, name)
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self._block = Place(self, function.args[0], WORD)
        self.worker = Value(self, function.args[1])
        self.given = [Value(self, a) for a in function.args[2:]]
        self._named = {a: self._block.at(i).load() for i, a in enumerate(arguments)}

    def __getitem__(self, name: str) -> Value:
        """An argument, as a whole number."""
        return self._named[name]

    def text(self) -> str:
        """The finished function."""
        self.builder.ret_void()
        return str(self.module)

    def word(self, number: int) -> Place:
        """Where a word of the argument block lies."""
        return self._block.at(number)

    def number(self, value: int) -> Value:
        """A whole number."""
        return Value(self, ir.Constant(WORD, value))

    def place(self, address: Value, element: str) -> Place:
        """A whole number as an address."""
        return Place(self, self.builder.inttoptr(address.ir, POINTER), ELEMENTS[element])

    def array(self, name: str, element: str) -> Place:
        """An argument as an address."""
        return self.place(self[name], element)

    def variable(self, value: Value) -> Variable:
        """A local with its first value."""
        return Variable(self, value)

    def zero(self, element: str, lanes: int) -> Value:
        """A vector of zeros."""
        kind = ELEMENTS[element] if lanes == 1 else ir.VectorType(ELEMENTS[element], lanes)
        return Value(self, ir.Constant(kind, 0 if lanes == 1 else None))

    def scratch(self, element: str, count: int) -> Place:
        """Room on the stack for so many numbers."""
        with self.builder.goto_entry_block():
            b = self.builder
            found = b.inttoptr(b.ptrtoint(b.alloca(ELEMENTS[element], count), WORD), POINTER)
        return Place(self, found, ELEMENTS[element])

    def convert(self, value: Value, dtype: str, wanted: str) -> Value:
        """Numbers of one dtype in another that can hold them (floats to integers: whole ones)."""
        name = ir_types.conversion(dtype, wanted)
        if name is None:
            return value
        target = ELEMENTS[wanted]
        if isinstance(value.ir.type, ir.VectorType):
            target = ir.VectorType(target, value.ir.type.count)
        return Value(self, getattr(self.builder, name)(value.ir, target))

    def splat(self, value: Value, lanes: int) -> Value:
        """A vector with the number in every lane."""
        kind = ir.VectorType(value.ir.type, lanes)
        one = self.builder.insert_element(
            ir.Constant(kind, ir.Undefined), value.ir, ir.Constant(ir.IntType(32), 0)
        )
        order = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
        return Value(self, self.builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), order))

    def first_lanes(self, count: Value, lanes: int) -> Mask:
        """A mask that is on in the first `count` lanes, for any whole number."""
        numbers = ir.Constant(ir.VectorType(WORD, lanes), list(range(lanes)))

        def compared(number: Value) -> Any:
            return self.builder.icmp_signed("<", numbers, self.splat(number, lanes).ir)

        known = None
        if isinstance(count.ir, ir.Constant):
            known = min(max(int(count.ir.constant), 0), lanes)
        return Mask(self, compared(count), lambda: compared(self.hidden(count)), first=known)

    def every_lane(self, condition: Value | bool, lanes: int) -> Mask:
        """A mask that is on in every lane if the condition holds, else in none."""
        if isinstance(condition, Value):
            bits: Any = self.splat(condition, lanes).ir
        else:
            bits = ir.Constant(ir.VectorType(ir.IntType(1), lanes), [int(condition)] * lanes)
        return Mask(self, bits, lambda: bits)

    def mask(self, bits: Value) -> Mask:
        """A mask of any bits, one for each lane."""
        lanes = bits.ir.type.count
        every = self.first_lanes(self.number(lanes), lanes)
        both = self.builder.and_(bits.ir, every.ir)
        return Mask(self, both, lambda all_on: self.builder.and_(bits.ir, all_on), (every,))

    def hidden(self, number: Value) -> Value:
        """The same whole number, of which LLVM knows nothing: it goes through empty assembly."""
        kind = ir.FunctionType(WORD, [WORD])
        empty = ir.InlineAsm(kind, "", "=r,0")
        found = self.builder.call(empty, [number.ir], attrs=("nounwind", "readnone"))
        return Value(self, found)

    def intrinsic(self, name: str, result: Any, given: Sequence[Any]) -> Value:
        """A call of one of LLVM's own functions; plain integers are passed as 32 bits."""
        values = [ir.Constant(ir.IntType(32), v) if isinstance(v, int) else v.ir for v in given]
        function = self.module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(result, [v.type for v in values])
            function = ir.Function(self.module, kind, name)
        return Value(self, self.builder.call(function, values))

    def call(self, function: Value, block: Place) -> None:
        """Call another kernel, by its address, with an argument block, as the first worker."""
        kind = ir.FunctionType(ir.VoidType(), [POINTER, WORD])
        target = self.builder.inttoptr(function.ir, kind.as_pointer())
        self.builder.call(target, [block.ir, ir.Constant(WORD, 0)])

    @contextmanager
    def loop(self, start: Value | int, stop: Value | int, step: Value | int = 1) -> Iterator[Value]:
        """for i in range(start, stop, step)."""
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
        """Only if the condition holds."""
        with self.builder.if_then(condition.ir):
            yield

    @contextmanager
    def chunks(self, count: Value, counter: int = 0) -> Iterator[Value]:
        """Take chunks until none is left; other threads take from the same word of the block."""
        b, taken = self.builder, self.word(counter)
        head, body, done = (b.append_basic_block(n) for n in ("next", "chunk", "end"))
        b.branch(head)
        b.position_at_end(head)
        i = Value(self, b.atomic_rmw("add", taken.ir, ir.Constant(WORD, 1), "monotonic"))
        b.cbranch((i < count).ir, body, done)
        b.position_at_end(body)
        yield i
        b.branch(head)
        b.position_at_end(done)
