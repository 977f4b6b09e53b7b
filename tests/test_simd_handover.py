"""Kernels on several threads do every chunk once, with late, sleeping or interrupted threads."""

import threading
import time

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from llvmlite import ir

from einstride import _testing
from einstride.arrays.backends import spin_helpers
from einstride.codegen import jit
from einstride.codegen.function_builder import Code
from einstride.codegen.ir_types import INT64
from einstride.cpu.runtime import spin_handoff
from einstride.cpu.runtime.argument_block import address, make_block

KEPT = []  # arrays are never freed: a late helper fails a test, and does not crash the process
NAMES = ("counter", "chunks", "marks", "steps", "work", "late")


def marking(_):
    """Write a kernel whose chunk i adds one to marks[i], after some work; helpers take longer."""
    code = Code("marking", NAMES)
    with code.chunks(code["chunks"]) as i:
        with code.loop(0, code["work"] + code.worker * code["late"]):
            steps = code.array("steps", "int64")
            code.builder.atomic_rmw("add", steps.ir, ir.Constant(INT64, 1), "monotonic")
        place = code.array("marks", "int64").at(i)
        place.store(place.load() + 1)
    return code.text()


def marked(threads, chunks=64, work=1, late=0):
    kernel = jit.kernel("marking", marking, NAMES, target=jit.host_target())
    marks, steps = np.zeros(chunks, "int64"), np.zeros(1, "int64")
    given = {"counter": 0, "chunks": chunks, "work": work, "late": late}
    block = make_block(NAMES, given | {"marks": address(marks), "steps": address(steps)})
    KEPT.append((block, marks, steps))
    spin_helpers.launch(kernel, block, threads)
    return marks.copy()


@pytest.mark.parametrize("threads", [1, 2, 3, 9])
def test_each_chunk_is_done_once(threads):
    for work in (1, 1000):
        for _ in range(200):
            assert (marked(threads, work=work) == 1).all()


def test_a_helper_that_takes_longer_is_waited_for():
    for _ in range(60):  # on a busy machine, a helper begins in some of the calls only
        assert (marked(2, chunks=30, work=20_000, late=100_000) == 1).all()
        time.sleep(0.002)


@pytest.mark.parametrize("pause", [0, 3e-5, 1e-4, 1e-2])
def test_helpers_that_watch_or_sleep_or_are_about_to(pause):
    for _ in range(100):
        assert (marked(2) == 1).all()
        time.sleep(pause)


def test_callers_side_by_side():
    wrong = []

    def many():
        wrong.extend(1 for _ in range(300) if (marked(3, work=20) != 1).any())

    callers = [threading.Thread(target=many) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_a_helper_that_is_woken_late_is_not_waited_for():
    """The caller does the work of a late helper, which then accesses no memory of the caller."""
    idle = []
    with (
        _testing.use(constants={"idle helpers": idle}),
        _testing.replacing("wake a helper", lambda real, lock: None),
    ):
        for _ in range(20):
            assert (marked(2) == 1).all()
    (helper,) = idle
    assert helper.mailbox[0] == 0  # the helper sleeps


def test_the_caller_writes_every_argument_of_launch():
    """The addresses of helpers follow the fixed arguments, whose number is written twice."""
    assert len(spin_handoff.LAUNCH_ARGUMENTS) == spin_helpers.LAUNCH_ARGUMENT_COUNT
