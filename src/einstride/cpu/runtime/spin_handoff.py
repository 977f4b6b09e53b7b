"""Work handed to helper threads without a lock: they look for some microseconds before they sleep.

Waking a thread takes as long as many kernels run. A helper that has just finished is likely to be
wanted again, so it watches a word of memory for a while, without Python's lock, and takes the next
kernel from there. What the word says: `ASLEEP`, `READY` (the helper watches), `GIVEN` (work lies
there), `RUNNING`. Work that was given and not begun can be taken back, so a helper that wakes late
is not waited for.

The caller gives, does its own share and waits for the helpers in one function: no signal handler
of Python's can come between, so nobody writes when the caller has its arrays back.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.ir_types import INT64, POINTER

NAME = "handover"

ASLEEP, GIVEN, READY, RUNNING = 0, 1, 2, 3

WORDS = ("state", "function", "block", "number")
"""What lies in a helper's memory."""

TEAM = ("helpers", "function", "block", "sleep", "moment")
"""What the caller's function is given: how many helpers, the kernel and its argument block, a
function of the system's that sleeps, and for how long; behind these, the helpers' addresses."""


@dataclass(frozen=True)
class Spec:
    """Which of the two functions.

    Attributes
    ----------
    role : str
        ``attend`` (by the helper, for so many looks) or ``launch`` (by the caller, which sleeps
        after so many looks at a helper that is still running).
    pause : str
        The processor's own word for waiting in a loop; empty for none.
    """

    role: str
    pause: str


def kernel(spec: Spec) -> str:
    """The text of the function ``handover(words, looks)``."""
    code = Code(NAME, ())
    {"attend": _attend, "launch": _launch}[spec.role](code, spec)
    return code.text()


def pause(features: str) -> str:
    """How this machine waits in a loop."""
    return "llvm.x86.sse2.pause" if "+sse2" in features.split(",") else ""


def _exchanged(code: Code, at: Pointer, old: int, new: int) -> Value:
    """Make the state `new` if it is `old`: was it?"""
    given = [ir.Constant(INT64, n) for n in (old, new)]
    found = code.builder.cmpxchg(at.ir, *given, "acq_rel", "acquire")
    return Value(code, code.builder.extract_value(found, 1))


def _state(code: Code, at: Pointer) -> Value:
    return Value(code, code.builder.load_atomic(at.ir, "acquire", 8, typ=INT64))


def _pause(code: Code, spec: Spec) -> None:
    if spec.pause:
        code.intrinsic(spec.pause, ir.VoidType(), [])


def _set(code: Code, at: Pointer, state: int) -> None:
    code.builder.atomic_rmw("xchg", at.ir, ir.Constant(INT64, state), "acq_rel")


def _run(code: Code, function: Value, block: Value, number: Value) -> None:
    kind = ir.FunctionType(ir.VoidType(), [POINTER, INT64])
    target = code.builder.inttoptr(function.ir, kind.as_pointer())
    code.builder.call(target, [code.builder.inttoptr(block.ir, POINTER), number.ir])


def _attend(code: Code, spec: Spec) -> None:
    """Run what is given, until nothing has been for so many looks."""
    b, looks, state = code.builder, code.variable(code.number(0)), code.argument(0)
    head, more, done = (b.append_basic_block(name) for name in ("look", "tired", "done"))
    b.branch(head)
    b.position_at_end(head)
    with code.when(_exchanged(code, state, GIVEN, RUNNING)):
        _run(code, *(code.argument(i).load() for i in (1, 2, 3)))
        _set(code, state, READY)
        looks.set(code.number(0))
    with code.when(_state(code, state).equals(ASLEEP)):
        _exchanged(code, state, ASLEEP, READY)
    _pause(code, spec)
    looks.set(looks.get() + 1)
    b.cbranch((looks.get() < code.worker).ir, head, more)
    b.position_at_end(more)
    b.cbranch(_exchanged(code, state, READY, ASLEEP).ir, done, head)
    b.position_at_end(done)


def _launch(code: Code, spec: Spec) -> None:
    """Give to the helpers, do a share, and wait until no helper is running."""
    helpers, function, block, sleep, moment = (code.argument(i).load() for i in range(len(TEAM)))

    def helper(i: Value) -> Pointer:
        return code.pointer(code.argument(len(TEAM)).at(i).load(), "int64")

    with code.loop(0, helpers) as i:
        words = helper(i)
        for at, value in enumerate((function, block, i + 1), 1):
            words.at(at).store(value)
        _set(code, words, GIVEN)  # asleep or ready: in both cases nobody else gives
    _run(code, function, block, code.number(0))
    with code.loop(0, helpers) as i:
        _finish(code, spec, helper(i), sleep, moment)


def _finish(code: Code, spec: Spec, state: Pointer, sleep: Value, moment: Value) -> None:
    """Take back what was not begun; wait for the rest."""
    _exchanged(code, state, GIVEN, ASLEEP)
    b, looks = code.builder, code.variable(code.number(0))
    head, more, done = (b.append_basic_block(name) for name in ("look", "running", "done"))
    looks.set(code.number(0))  # of each helper
    b.branch(head)
    b.position_at_end(head)
    running = _state(code, state).equals(RUNNING)
    b.cbranch(running.ir, more, done)
    b.position_at_end(more)
    _pause(code, spec)
    looks.set(looks.get() + 1)
    with code.when(looks.get() >= code.worker):
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
        target = b.inttoptr(sleep.ir, kind.as_pointer())
        b.call(target, [b.trunc(moment.ir, ir.IntType(32))])
    b.branch(head)
    b.position_at_end(done)
