"""Kernels on several threads: every chunk once, whoever comes late, sleeps or is interrupted."""

import threading
import time

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from einstride.backends import _helpers
from einstride.simd import compiler
from einstride.simd.code import Code
from einstride.simd.host import address, words

NAMES = ("counter", "chunks", "marks", "work")


def marking(_):
    """Chunk i adds one to marks[i], after some work."""
    code = Code("marking", NAMES)
    with code.chunks(code["chunks"]) as i:
        place = code.array("marks", "int64").at(i)
        with code.loop(0, code["work"]):
            place.store(place.load() + 1)
    return code.text()


def marked(threads, chunks=64, work=1):
    kernel = compiler.kernel("marking", marking, "marks", on=compiler.machine())
    marks = np.zeros(chunks, "int64")
    block = words(NAMES, {"counter": 0, "chunks": chunks, "marks": address(marks), "work": work})
    _helpers.launch(kernel, block, threads)
    return marks


@pytest.mark.parametrize("threads", [1, 2, 3, 9])
def test_each_chunk_is_done_once(threads):
    for work in (1, 1000):
        for _ in range(200):
            assert (marked(threads, work=work) == work).all()


@pytest.mark.parametrize("pause", [0, 3e-5, 1e-4, 1e-2])
def test_helpers_that_watch_or_sleep_or_are_about_to(pause):
    for _ in range(100):
        assert (marked(2) == 1).all()
        time.sleep(pause)


def test_callers_side_by_side():
    wrong = []

    def many():
        wrong.extend(1 for _ in range(300) if (marked(3, work=20) != 20).any())

    callers = [threading.Thread(target=many) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_a_helper_that_is_woken_late_is_not_waited_for(monkeypatch):
    """Its work is taken back, and it never touches what the caller has again."""
    monkeypatch.setattr(_helpers, "_idle", [])
    monkeypatch.setattr(_helpers, "_wake", lambda lock: None)
    for _ in range(20):
        assert (marked(2) == 1).all()
    (helper,) = _helpers._idle
    assert list(helper._words)[0] == 0  # asleep


def test_an_interrupt_waits_for_those_who_write(monkeypatch):
    real, calls = _helpers._Helper.wait, []

    def wait(self):
        calls.append(self)
        if len(calls) == 1:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(_helpers._Helper, "wait", wait)
    with pytest.raises(KeyboardInterrupt):
        marked(2, work=100)
    assert len(calls) == 2
    monkeypatch.undo()
    assert (marked(2) == 1).all()
