"""Hand kernels to helper threads without a lock: helpers spin some microseconds before they sleep.

Waking a thread takes as long as many kernels run. A helper that has just finished is likely to be
needed again soon, so it polls an integer in memory for a while, without holding the GIL, and takes
the next kernel from there. The integer is the helper's state:

    SLEEPING  waits for a lock          POLLING  polls
    PENDING   has a kernel to run       RUNNING  runs the kernel

The caller takes a kernel back that a helper has not begun (PENDING -> SLEEPING), so it never waits
for a helper that wakes late.

The caller hands over the kernel, does its own chunks and waits for the helpers in one C function.
No Python signal handler runs in between, so no helper writes once the caller has its arrays back.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from einstride.codegen.function_builder import Code, Pointer, Value
from einstride.codegen.ir_types import INT64, POINTER

NAME = "handover"

SLEEPING, PENDING, POLLING, RUNNING = 0, 1, 2, 3

MAILBOX = ("state", "function", "block", "worker")
"""The integers in a helper's mailbox: its state, the kernel, its argument block, the number of the
worker."""

LAUNCH_ARGUMENTS = ("helpers", "function", "block", "max_polls", "sleep", "duration", "launch")
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
    pause_intrinsic : str
        LLVM's intrinsic for the CPU's spin-wait hint; empty for none.
    """

    function: str
    pause_intrinsic: str


def kernel(spec: Spec) -> str:
    """Write the LLVM IR of the function ``handover(block, polls)``."""
    code = Code(NAME, ())
    {"serve": _serve, "launch": _launch}[spec.function](code, spec)
    return code.text()


def pause_intrinsic(features: str) -> str:
    """Return LLVM's intrinsic for the spin-wait hint on a CPU with these features, or ""."""
    return "llvm.x86.sse2.pause" if "+sse2" in features.split(",") else ""


def _compare_and_swap(code: Code, state: Pointer, old: int, new: int) -> Value:
    """Set the state to `new` if it is `old`; true if it was."""
    values = [ir.Constant(INT64, n) for n in (old, new)]
    result = code.builder.cmpxchg(state.ir, *values, "acq_rel", "acquire")
    return Value(code, code.builder.extract_value(result, 1))


def _load_state(code: Code, state: Pointer) -> Value:
    return Value(code, code.builder.load_atomic(state.ir, "acquire", 8, typ=INT64))


def _store_state(code: Code, state: Pointer, value: int) -> None:
    code.builder.atomic_rmw("xchg", state.ir, ir.Constant(INT64, value), "acq_rel")


def _pause(code: Code, spec: Spec) -> None:
    if spec.pause_intrinsic:
        code.intrinsic(spec.pause_intrinsic, ir.VoidType(), [])


def _run(code: Code, function: Value, block: Value, worker: Value) -> None:
    function_type = ir.FunctionType(ir.VoidType(), [POINTER, INT64])
    callee = code.builder.inttoptr(function.ir, function_type.as_pointer())
    code.builder.call(callee, [code.builder.inttoptr(block.ir, POINTER), worker.ir])


def _serve(code: Code, spec: Spec) -> None:
    """Run each kernel that is handed over; return after ``worker`` polls without one."""
    b, polls, state = code.builder, code.variable(code.number(0)), code.argument(0)
    head, idle, done = (b.append_basic_block(name) for name in ("look", "tired", "done"))
    b.branch(head)
    b.position_at_end(head)
    with code.when(_compare_and_swap(code, state, PENDING, RUNNING)):
        _run(code, *(code.argument(i).load() for i in (1, 2, 3)))
        _store_state(code, state, POLLING)
        polls.set(code.number(0))
    with code.when(_load_state(code, state).equals(SLEEPING)):
        _compare_and_swap(code, state, SLEEPING, POLLING)
    _pause(code, spec)
    polls.set(polls.get() + 1)
    b.cbranch((polls.get() < code.worker).ir, head, idle)
    b.position_at_end(idle)
    b.cbranch(_compare_and_swap(code, state, POLLING, SLEEPING).ir, done, head)
    b.position_at_end(done)


def _launch(code: Code, spec: Spec) -> None:
    """Hand the kernel to the helpers, run it here too, and wait until no helper runs it."""
    count = len(LAUNCH_ARGUMENTS)
    helpers, function, block, max_polls, sleep, duration, _ = (
        code.argument(i).load() for i in range(count)
    )

    def mailbox_of(helper: Value) -> Pointer:
        return code.pointer(code.argument(count).at(helper).load(), "int64")

    with code.loop(0, helpers) as helper:
        mailbox = mailbox_of(helper)
        for i, value in enumerate((function, block, helper + 1), 1):
            mailbox.at(i).store(value)
        # it was SLEEPING or POLLING, and no other caller hands this helper a kernel
        _store_state(code, mailbox, PENDING)
    _run(code, function, block, code.number(0))
    with code.loop(0, helpers) as helper:
        _retract_or_wait(code, spec, mailbox_of(helper), max_polls, sleep, duration)


def _retract_or_wait(
    code: Code, spec: Spec, state: Pointer, max_polls: Value, sleep: Value, duration: Value
) -> None:
    """Take the kernel back from a helper that has not begun, or wait until it has finished."""
    _compare_and_swap(code, state, PENDING, SLEEPING)
    b, polls = code.builder, code.variable(code.number(0))
    head, wait, done = (b.append_basic_block(name) for name in ("look", "running", "done"))
    polls.set(code.number(0))  # from zero for each helper
    b.branch(head)
    b.position_at_end(head)
    is_running = _load_state(code, state).equals(RUNNING)
    b.cbranch(is_running.ir, wait, done)
    b.position_at_end(wait)
    _pause(code, spec)
    polls.set(polls.get() + 1)
    with code.when(polls.get() >= max_polls):
        function_type = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
        callee = b.inttoptr(sleep.ir, function_type.as_pointer())
        b.call(callee, [b.trunc(duration.ir, ir.IntType(32))])
    b.branch(head)
    b.position_at_end(done)
