"""Two sweeps in one launch: the second begins when every chunk of the first is done.

Whoever finishes the last chunk of the first sweep brings the partial sums together; the others
wait for him. A thread that never came took no chunk, so nobody waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir

from einstride.codegen.function_builder import Code, Value
from einstride.codegen.ir_types import INT64

COUNTERS = ("first", "finished", "ready", "second")
"""The words that an argument block of two sweeps begins with."""


@contextmanager
def first(code: Code, count: Value) -> Iterator[Value]:
    """The chunks of the first sweep."""
    with code.chunks(count) as i:
        yield i


@contextmanager
def between(code: Code, count: Value) -> Iterator[None]:
    """What is done once, after all chunks of the first sweep; to be opened in each of them."""
    b = code.builder
    finished, ready = code.argument(1), code.argument(2)
    before = Value(code, b.atomic_rmw("add", finished.ir, ir.Constant(INT64, 1), "acq_rel"))
    with code.when((before + 1).equals(count)):
        yield
        b.atomic_rmw("xchg", ready.ir, ir.Constant(INT64, 1), "release")


@contextmanager
def second(code: Code, count: Value) -> Iterator[Value]:
    """The chunks of the second sweep."""
    b, ready = code.builder, code.argument(2)
    wait, go = b.append_basic_block("wait"), b.append_basic_block("go")
    b.branch(wait)
    b.position_at_end(wait)
    found = b.load_atomic(ready.ir, "acquire", 8, typ=INT64)
    b.cbranch(b.icmp_signed("!=", found, ir.Constant(INT64, 0)), go, wait)
    b.position_at_end(go)
    with code.chunks(count, 3) as i:
        yield i
