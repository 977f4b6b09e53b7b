"""Hand kernels to helper threads without a lock: helpers spin some microseconds before they sleep.

Waking a thread takes as long as many kernels run. A helper that has just finished is likely to be
needed again soon, so it polls an integer in memory for a while, without holding the GIL, and takes
the next kernel from there. The integer is the helper's state:

    ASLEEP   waits for a lock          READY    polls
    GIVEN    a kernel is to be run     RUNNING  runs the kernel

A kernel that was given and not begun is taken back (GIVEN -> ASLEEP), so the caller never waits for
a helper that wakes late.

The caller gives the kernel, does its own chunks and waits for the helpers in one C function. No
Python signal handler runs in between, so no helper writes once the caller has its arrays back.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.ir_types import INT64, POINTER

NAME = "handover"

ASLEEP, GIVEN, READY, RUNNING = 0, 1, 2, 3

MAILBOX = ("state", "function", "block", "number")
"""The integers in a helper's mailbox: its state, the kernel, its argument block, the worker."""

LAUNCH_ARGUMENTS = ("helpers", "function", "block", "polls", "sleep", "duration", "launch")
"""Arguments of the caller's function: the number of helpers, the kernel and its argument block, the
polls of a running helper before the caller sleeps, the system's sleep function and its argument,
and for compiled programs the address of the caller's function itself; the addresses of the helpers'
mailboxes follow."""


@dataclass(frozen=True)
class Spec:
    """Choose one of the two functions of the hand-off.

    Attributes
    ----------
    function : str
        ``serve``, run by the helper until it has polled a number of times in vain; or ``launch``,
        run by the caller.
    pause : str
        LLVM's intrinsic for the CPU's spin-wait hint; empty for none.
    """

    function: str
    pause: str


def kernel(spec: Spec) -> str:
    """The LLVM IR of the function ``handover(block, polls)``."""
    code = Code(NAME, ())
    {"serve": _serve, "launch": _launch}[spec.function](code, spec)
    return code.text()


def pause(features: str) -> str:
    """The intrinsic for the spin-wait hint on a CPU with these features; empty for none."""
    return "llvm.x86.sse2.pause" if "+sse2" in features.split(",") else ""


def _exchanged(code: Code, at: Pointer, old: int, new: int) -> Value:
    """Set the state to `new` if it is `old` (compare-and-swap); true if it was."""
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
    callee = code.builder.inttoptr(function.ir, kind.as_pointer())
    code.builder.call(callee, [code.builder.inttoptr(block.ir, POINTER), number.ir])


def _serve(code: Code, spec: Spec) -> None:
    """Run each kernel that is given; return after ``worker`` polls without one."""
    b, polls, state = code.builder, code.variable(code.number(0)), code.argument(0)
    head, idle, done = (b.append_basic_block(name) for name in ("look", "tired", "done"))
    b.branch(head)
    b.position_at_end(head)
    with code.when(_exchanged(code, state, GIVEN, RUNNING)):
        _run(code, *(code.argument(i).load() for i in (1, 2, 3)))
        _set(code, state, READY)
        polls.set(code.number(0))
    with code.when(_state(code, state).equals(ASLEEP)):
        _exchanged(code, state, ASLEEP, READY)
    _pause(code, spec)
    polls.set(polls.get() + 1)
    b.cbranch((polls.get() < code.worker).ir, head, idle)
    b.position_at_end(idle)
    b.cbranch(_exchanged(code, state, READY, ASLEEP).ir, done, head)
    b.position_at_end(done)


def _launch(code: Code, spec: Spec) -> None:
    """Give the kernel to the helpers, run it here too, and wait until no helper runs it."""
    count = len(LAUNCH_ARGUMENTS)
    helpers, function, block, polls, sleep, duration, _ = (
        code.argument(i).load() for i in range(count)
    )

    def helper(i: Value) -> Pointer:
        return code.pointer(code.argument(count).at(i).load(), "int64")

    with code.loop(0, helpers) as i:
        mailbox = helper(i)
        for at, value in enumerate((function, block, i + 1), 1):
            mailbox.at(at).store(value)
        _set(code, mailbox, GIVEN)  # it was ASLEEP or READY, and only this caller gives
    _run(code, function, block, code.number(0))
    with code.loop(0, helpers) as i:
        _finish(code, spec, helper(i), polls, sleep, duration)


def _finish(
    code: Code, spec: Spec, state: Pointer, most: Value, sleep: Value, duration: Value
) -> None:
    """Take the kernel back from a helper that has not begun, or wait until it has finished."""
    _exchanged(code, state, GIVEN, ASLEEP)
    b, polls = code.builder, code.variable(code.number(0))
    head, wait, done = (b.append_basic_block(name) for name in ("look", "running", "done"))
    polls.set(code.number(0))  # from zero for each helper
    b.branch(head)
    b.position_at_end(head)
    running = _state(code, state).equals(RUNNING)
    b.cbranch(running.ir, wait, done)
    b.position_at_end(wait)
    _pause(code, spec)
    polls.set(polls.get() + 1)
    with code.when(polls.get() >= most):
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
        callee = b.inttoptr(sleep.ir, kind.as_pointer())
        b.call(callee, [b.trunc(duration.ir, ir.IntType(32))])
    b.branch(head)
    b.position_at_end(done)
