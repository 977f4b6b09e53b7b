"""Work handed to a helper thread without a lock: it looks for some microseconds before it sleeps.

Waking a thread takes as long as many kernels run. A helper that has just finished is likely to be
wanted again, so it watches a word of memory for a while, without Python's lock, and takes the next
kernel from there. What the word says: `ASLEEP`, `READY` (the helper watches), `GIVEN` (work lies
there), `RUNNING`. Work that was given and not begun can be taken back, so a helper that wakes late
is not waited for.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir

from einstride.simd.code import Code, Value
from einstride.simd.elements import POINTER, WORD

NAME = "handover"

ASLEEP, GIVEN, READY, RUNNING = 0, 1, 2, 3

WORDS = ("state", "function", "block", "number", "answer")
"""What lies in a helper's memory. The answer of `give` is one if the helper must be woken, that of
`finish` if it is still running."""


@dataclass(frozen=True)
class Spec:
    """Which of the three functions.

    Attributes
    ----------
    role : str
        ``give``, ``attend`` (by the helper, for so many looks) or ``finish`` (likewise).
    pause : str
        The processor's own word for waiting in a loop; empty for none.
    """

    role: str
    pause: str


def kernel(spec: Spec) -> str:
    """The text of the function ``handover(words, looks)``."""
    code = Code(NAME, ())
    {"give": _give, "attend": _attend, "finish": _finish}[spec.role](code, spec)
    return code.text()


def pause(features: str) -> str:
    """How this machine waits in a loop."""
    return "llvm.x86.sse2.pause" if "+sse2" in features.split(",") else ""


def _exchanged(code: Code, old: int, new: int) -> Value:
    """Make the state `new` if it is `old`: was it?"""
    given = [ir.Constant(WORD, n) for n in (old, new)]
    found = code.builder.cmpxchg(code.word(0).ir, *given, "acq_rel", "acquire")
    return Value(code, code.builder.extract_value(found, 1))


def _state(code: Code) -> Value:
    return Value(code, code.builder.load_atomic(code.word(0).ir, "acquire", 8, typ=WORD))


def _pause(code: Code, spec: Spec) -> None:
    if spec.pause:
        code.intrinsic(spec.pause, ir.VoidType(), [])


def _set(code: Code, state: int) -> None:
    code.builder.atomic_rmw("xchg", code.word(0).ir, ir.Constant(WORD, state), "acq_rel")


def _give(code: Code, spec: Spec) -> None:
    """Function, block and number are there; say so."""
    answer = code.word(WORDS.index("answer"))
    answer.store(code.number(0))
    with code.when(_exchanged(code, READY, GIVEN) ^ 1):
        answer.store(code.number(1))
        _set(code, GIVEN)  # asleep, or ready since a moment: in both cases nobody else writes it


def _attend(code: Code, spec: Spec) -> None:
    """Run what is given, until nothing has been for so many looks."""
    b, looks = code.builder, code.variable(code.number(0))
    head, more, done = (b.append_basic_block(name) for name in ("look", "tired", "done"))
    b.branch(head)
    b.position_at_end(head)
    with code.when(_exchanged(code, GIVEN, RUNNING)):
        function, block, number = (code.word(i).load() for i in (1, 2, 3))
        kind = ir.FunctionType(ir.VoidType(), [POINTER, WORD])
        target = b.inttoptr(function.ir, kind.as_pointer())
        b.call(target, [b.inttoptr(block.ir, POINTER), number.ir])
        _set(code, READY)
        looks.set(code.number(0))
    with code.when(_state(code).equals(ASLEEP)):
        _exchanged(code, ASLEEP, READY)
    _pause(code, spec)
    looks.set(looks.get() + 1)
    b.cbranch((looks.get() < code.worker).ir, head, more)
    b.position_at_end(more)
    b.cbranch(_exchanged(code, READY, ASLEEP).ir, done, head)
    b.position_at_end(done)


def _finish(code: Code, spec: Spec) -> None:
    """Take back what was not begun; wait for the rest, for so many looks."""
    answer = code.word(WORDS.index("answer"))
    _exchanged(code, GIVEN, ASLEEP)
    b, looks = code.builder, code.variable(code.number(0))
    head, more, done = (b.append_basic_block(name) for name in ("look", "running", "done"))
    b.branch(head)
    b.position_at_end(head)
    running = _state(code).equals(RUNNING)
    answer.store(running.pick(code.number(1), code.number(0)))
    looks.set(looks.get() + 1)
    b.cbranch((running & (looks.get() < code.worker)).ir, more, done)
    b.position_at_end(more)
    _pause(code, spec)
    b.branch(head)
    b.position_at_end(done)
