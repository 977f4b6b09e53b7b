"""Write kernels of two sweeps in one launch, with a barrier between the sweeps.

The thread that finishes the last chunk of the first sweep adds the partial sums; the other threads
spin until it has. A thread that starts late or never has taken no chunk, so no thread waits for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir

from einstride.codegen.function_builder import Code, Value
from einstride.codegen.ir_types import INT64

COUNTERS = ("first", "finished", "ready", "second")
"""The first arguments of a kernel with two sweeps; all are zero before the launch."""


@contextmanager
def first_sweep(code: Code, count: Value) -> Iterator[Value]:
    """Loop over the chunks of the first sweep that this thread takes."""
    with code.chunks(count) as i:
        yield i


@contextmanager
def between_sweeps(code: Code, count: Value) -> Iterator[None]:
    """Run a block once, in the thread that finishes the first sweep; open it in every chunk."""
    b = code.builder
    finished, ready = code.argument(1), code.argument(2)
    finished_before = Value(
        code, b.atomic_rmw("add", finished.ir, ir.Constant(INT64, 1), "acq_rel")
    )
    with code.when((finished_before + 1).equals(count)):
        yield
        b.atomic_rmw("xchg", ready.ir, ir.Constant(INT64, 1), "release")


@contextmanager
def second_sweep(code: Code, count: Value) -> Iterator[Value]:
    """Wait for the end of `between_sweeps`, then loop over chunks of the second sweep."""
    b, ready = code.builder, code.argument(2)
    wait, begin = b.append_basic_block("wait"), b.append_basic_block("go")
    b.branch(wait)
    b.position_at_end(wait)
    state = b.load_atomic(ready.ir, "acquire", 8, typ=INT64)
    b.cbranch(b.icmp_signed("!=", state, ir.Constant(INT64, 0)), begin, wait)
    b.position_at_end(begin)
    with code.chunks(count, 3) as i:
        yield i
