"""Writes a failing call as a Python program that needs only NumPy and einstride."""

from __future__ import annotations

from typing import Any

import numpy as np

from .cases import Call, Case, to_json
from .memory import Memory, strides

HEAD = """import numpy as np, einstride as es
"""
PLACE = '''
def place(values, strides, offset, extent, shift=0, dtype=None):
    """Store the values in a larger buffer whose other bytes are 0xFF."""
    buffer = np.full(extent + shift + 128, 255, np.uint8)
    dtype = dtype or values.dtype
    array = np.ndarray(values.shape, dtype, buffer, 64 + shift + offset, strides)
    array[...] = values
    return array

'''


def snippet(case: Case, call: Call, problem: str) -> str:
    """Return the program of a call; `problem` becomes its first comment."""
    from .calls import OPERANDS, Attempt, Reference, Runner

    reference = Reference(case)
    if call.function.startswith(("conv4d", "windows")) and reference.plain is not None:
        reference = reference.plain
    attempt = Attempt(Runner(), reference, call)
    lines: list[str] = []
    roles = list(OPERANDS[call.function]) + ([attempt.biased] if attempt.biased else [])
    if call.how == "backward":
        roles.append("gy")
    names = {"bias of a transpose": "bias"}
    memories = [*call.memory, *call.memory][: len(OPERANDS[call.function])]
    memories += [call.memory[2]] * (attempt.biased is not None)
    memories += [call.memory[1]] * (call.how == "backward")
    bf = any(reference.case.dtype_of(r) == "bfloat16" for r in roles)
    uses_place = any(m.kind != "c" or m.swapped for m in memories)
    for role, memory in zip(roles, memories, strict=True):
        lines += _operand(attempt, names.get(role, role), role, memory)
    more = _more(attempt)
    if call.out is not None:
        uses_place |= call.out.kind != "c"
        lines += _result(attempt, call.out)
        more.append("out=out")
    if call.workspace:
        lines.append(f"LIMIT = None  # {call.workspace}: see the error or the plan")
    lines += _call(attempt, [names.get(r, r) for r in roles], more)
    head = HEAD + ("import ml_dtypes\n" if bf or attempt.result == "bfloat16" else "")
    lines.append(f"# {problem.splitlines()[0]}")
    return head + (PLACE if uses_place else "") + "\n".join(lines) + "\n"


def _name(dtype: str) -> str:
    return "ml_dtypes.bfloat16" if dtype == "bfloat16" else repr(dtype)


def _operand(attempt: Any, name: str, role: str, memory: Memory) -> list[str]:
    case = attempt.case
    values = attempt.reference.array(role).transpose(attempt._order(role))
    kind = case.dtype_of(role)
    if values.size and (values == 1).all():
        made = f"np.ones({values.shape}, {_name(kind)})"
    elif values.size <= 256:
        made = f"np.array({values.tolist()}, {_name(kind)}).reshape({values.shape})"
    else:
        data = dict(to_json(case))
        return [
            "from tests.fuzz.cases import case_from",
            f"{name} = case_from({data!r}).array({role!r}).transpose({attempt._order(role)})",
            *_placed(attempt, name, role, memory, values),
        ]
    return [f"{name} = {made}", *_placed(attempt, name, role, memory, values)]


def _placed(attempt: Any, name: str, role: str, memory: Memory, values: np.ndarray) -> list[str]:
    placed = attempt._placed(role, memory)
    lines = []
    if memory.kind != "c" or memory.swapped:
        kind = placed.array.dtype
        s = _strides(attempt, role, memory, values, kind.itemsize)
        swapped = f", {kind.str!r}" if memory.swapped and not kind.isnative else ""
        lines.append(
            f"{name} = place({name}, {s.strides}, {s.offset}, {s.extent}, {s.shift}{swapped})"
        )
    if memory.readonly:
        lines.append(f"{name}.flags.writeable = False")
    return lines


def _strides(attempt: Any, role: str, memory: Memory, values: np.ndarray, itemsize: int) -> Any:
    order, case = attempt._order(role), attempt.case
    repeats = () if role in case.hankel else dict(case.repeats).get(role, ())
    hankel = (order.index(0), order.index(1)) if role in case.hankel else ()
    axes = tuple(order.index(a) for a in repeats)
    return strides(memory, values.shape, itemsize, axes, hankel)


def _result(attempt: Any, memory: Memory) -> list[str]:
    made = f"out = np.zeros({attempt.wanted.shape}, {_name(attempt.result)})"
    if memory.kind == "c":
        return [made]
    s = strides(memory, attempt.wanted.shape, attempt.wanted.itemsize, (), ())
    return [made, f"out = place(out, {s.strides}, {s.offset}, {s.extent}, {s.shift})"]


def _more(attempt: Any) -> list[str]:
    _, more = attempt.arguments_of_names()
    found = [f"{k}={v!r}" for k, v in {**more, **attempt.keywords}.items()]
    if attempt.call.workspace:
        found.append("max_workspace=LIMIT")
    return found


def _call(attempt: Any, names: list[str], more: list[str]) -> list[str]:
    call, name = attempt.call, attempt.name
    extra, _ = attempt.arguments_of_names()
    operands = names[: len(attempt.roles)]
    text = ", ".join([*operands, *map(repr, extra), *names[len(operands) :], *more])
    if call.hostile >= 0:
        from .hostile import HOSTILE

        return [f"# with {HOSTILE[call.hostile]}", f"print(es.{name}({text}))"]
    if call.how in ("function", "plan", "saved plan"):
        lines = [f"# by a {call.how}"] * (call.how != "function")
        lines += [f"result = es.{name}({text})"] * call.repeat
        if call.threads > 1:
            lines.append("# and from four threads at the same time")
        return [*lines, "print(result)"]
    keywords = ", ".join([*names[1 : 2 + (attempt.biased is not None)], *more])
    return [
        "import copy, pickle",
        f"layer = es.Conv({keywords})",
        f"y = layer.forward({names[0]})",
        {
            "layer": f"print(layer({names[0]}))",
            "backward": "print(layer.backward(gy))",
            "copied layer": f"other = copy.deepcopy(layer); print(other({names[0]}))",
            "pickled layer": f"text = pickle.dumps(layer); print(len(text)); "
            f"other = pickle.loads(text); print(other({names[0]}))",
        }[call.how],
        "# then other.f[...] = another filter; other(x)"
    ]  # fmt: skip
