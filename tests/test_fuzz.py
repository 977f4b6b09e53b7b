"""The fuzzer: its oracle agrees with the loops, and faults of each kind are found and shrunk."""

import ctypes
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import einstride as es
import oracle
from einstride import _testing
from fuzz import calls, cases, memory, planted, shrink, snippet
from oracle import Case

SEEDS = range(60)


def loops_case(case):
    """Convert a case for the loops of `oracle`; None if the loops lack a keyword or are too
    slow."""
    if max(case.input_dilation) > 1 or case.multiply_adds > 40_000 or 0 in (*case.size, case.batch):
        return None
    return Case(
        case.batch, case.size, case.kernel, case.channels, case.filters, case.stride, case.pads,
        case.dilation, case.groups, case.flip, case.mode,
    )  # fmt: skip


def test_the_oracle_agrees_with_the_loops():
    done = 0
    for seed in SEEDS:
        case = cases.case(seed, 16)
        slow = loops_case(case)
        if slow is None or 0 in case.out:
            continue
        reference = calls.Reference(case)
        exact = reference.exact()
        x, f, gy = exact.x, exact.f, exact.gy
        np.testing.assert_array_equal(exact.forward, oracle.forward(x, f, slow))
        np.testing.assert_array_equal(exact.input_grad, oracle.input_grad(gy, f, slow))
        np.testing.assert_array_equal(exact.filter_grad, oracle.filter_grad(x, gy, slow))
        np.testing.assert_array_equal(exact.filter_grad_each.sum(0), exact.filter_grad)
        done += 1
    assert done > 15


def test_cases_and_calls_survive_serialization():
    for seed in SEEDS:
        case = cases.case(seed, 64)
        assert cases.case(seed, 64) == case
        assert cases.case_from(cases.to_json(case)) == case
        call = cases.call(case, seed, 3, 10)
        assert cases.call_from(cases.to_json(call)) == call


@pytest.mark.parametrize("kind", memory.KINDS)
def test_writes_around_memory_of_each_kind_are_found(kind):
    buffers, rng = memory.Buffers(), np.random.default_rng(0)
    for seed in range(20):
        values = rng.integers(1, 9, (2, 3, 4)).astype("f4")
        values[..., :] = values[..., :1]
        repeats, hankel = ((2,), ()) if kind == "broadcast" else ((), (0, 1))
        if kind == "overlapping":
            values = np.arange(5.0, dtype="f4")[np.add.outer(np.arange(2), np.arange(3))]
            values = np.repeat(values[..., None], 4, 2)
        given = memory.Memory(kind, seed, bool(seed % 2), swapped=seed % 3 == 0)
        placed = memory.place(buffers, values, given, repeats, hankel)
        np.testing.assert_array_equal(placed.array, values)
        assert not placed.changed()
        outside = np.flatnonzero(placed.window == 0xFF)
        if len(outside):
            placed.window[outside[-1]] = 0
            assert placed.changed()


X = calls.Reference(cases.Case(2, (6,), 3, 4, 1, (3,), (1,), (1,), (1,), (0,), values=7))
PLAIN = cases.Call("conv", out=memory.Memory("c", 3, end=False))


def wrong_number(result, first):
    result[0, 1, 1] += 1


def input_written(result, first):
    first[0, 0, 0] += 1


def beside_written(result, first):
    ctypes.memset(memory.address(result) + result.nbytes + 3, 5, 1)


def much_memory(result, first):
    np.zeros(1 << 22)


@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        (None, set()),
        (wrong_number, {"wrong"}),
        (input_written, {"written input"}),
        (beside_written, {"written beyond"}),
        (much_memory, {"workspace"}),
    ],
)
def test_a_fault_of_each_kind_is_found(fault, kinds):
    def compute(real, plan, b, first, second, bias, place, kept=None):
        found = real(plan, b, first, second, bias, place, kept)
        if fault is not None:
            fault(found if place is None else place, first)
        return found

    call = replace(PLAIN, workspace="least", repeat=3) if fault is much_memory else PLAIN
    if fault is much_memory:
        pytest.importorskip("llvmlite")
    with _testing.replacing("compute a plan's result", compute):
        found = {p.kind for p in calls.Runner().run(X, call)}
    assert (found & kinds) if kinds else not found, found


@pytest.mark.parametrize("how", ["function", "copied layer"])
def test_rounded_results_are_bounded_by_the_operands_that_made_them(how):
    """The tolerance follows the operands of each product: here f is zero, but df is not.

    df is the tangent of `conv_jvp`, and the filter that the copy of a layer gets later.
    """
    name = "conv" if how == "copied layer" else "conv_jvp"
    case = replace(X.case, size=(40,), values=4, repeats=(("f", (0, 1, 2)),))
    reference = calls.Reference(case)
    assert not reference.array("f").any()
    assert reference.array("df").any()
    call = cases.Call(name, how=how, algorithm="fft", memory=PLAIN.memory)
    assert calls.Runner().run(reference, call) == []


def test_shrinking_keeps_the_fault():
    case = replace(cases.case(5, 64), channels=24, groups=1, filters=6, batch=3)

    def ask(case, call):
        return [("wrong", "")] if case.channels > 8 and call.algorithm == "direct" else []

    call = cases.Call(algorithm="direct", repeat=4, bias=True)
    small, least = shrink.shrink(case, call, "wrong", ask)
    assert small.channels in range(9, 24)
    assert small.batch <= 1 == least.repeat
    assert not least.bias


def test_the_program_of_a_failure_runs():
    for seed in range(4):
        case = cases.case(seed, 64)
        call = cases.Call("conv", memory=(memory.Memory("record", 1), *PLAIN.memory[1:]))
        text = snippet.snippet(case, call, "what was wrong")
        done = subprocess.run(
            [sys.executable, "-c", text], cwd=planted.ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def test_planted_faults_are_in_the_sources(tmp_path):
    for fault in planted.FAULTS:
        assert planted.plant(fault, Path(tmp_path)).is_dir()


def test_every_public_function_is_called():
    """All public functions that take arrays and return an array are fuzzed."""
    seen = {f for f in dir(es) if f.startswith(("conv", "windows"))}
    assert seen <= set(cases.FUNCTIONS) | {"conv_vjp"}, seen - set(cases.FUNCTIONS)
