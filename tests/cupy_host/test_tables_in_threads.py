"""The host's tables stay right in four threads: ten thousand calls, with frees in any thread."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest

from .events import Allocate, Free, Launch
from .host import Host

pytest_plugins = ["cupy_host.fixtures"]

THREADS, CALLS = 4, 2500


@pytest.fixture
def eager() -> Iterator[None]:
    """Switch threads and collect garbage as often as possible."""
    before, often = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(50)
    yield
    sys.setswitchinterval(before)
    gc.set_threshold(*often)


def together(work: Callable[[int], None]) -> None:
    """Call `work(number)` in every thread, and raise the first exception."""
    meet, failures = threading.Barrier(THREADS), []

    def one(number: int) -> None:
        try:
            meet.wait(60)
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_memory(host: Host, eager: None) -> None:
    """Allocations, frees, messages and guard checks lose no memory and give none out twice."""
    memory = host.memory
    before = memory.live[0], memory.reserved[0], len(memory.chunks), len(memory.arrays)

    def work(number: int) -> None:
        random = np.random.default_rng(number)
        mine: list[int] = []
        for call in range(CALLS // 4):
            block = memory.allocate(0, int(random.integers(1, 9)) * 1000)
            memory.adopt(block.address, block.size, block.extent, 0)
            assert block.address not in mine
            assert memory.chunk_at(block.address) is block
            assert memory.chunk_at(block.address + 5) is block
            mine.append(block.address)
            memory.describe(block.address - 7)
            if len(mine) > 8:
                address = mine.pop(int(random.integers(len(mine))))
                if call % 2:
                    memory.abandon(address)
                memory.free(address)
            if call % 16 == 0:
                memory.verify_all()
        for address in mine:
            memory.free(address)

    together(work)
    assert (memory.live[0], memory.reserved[0], len(memory.chunks), len(memory.arrays)) == before
    assert memory.peak[0] >= before[0]


def test_no_two_chunks_overlap(host: Host, eager: None) -> None:
    """Live chunks of all threads do not overlap."""
    memory, found = host.memory, [[] for _ in range(THREADS)]
    together(lambda n: found[n].extend(memory.allocate(0, 5000) for _ in range(300)))
    chunks = sorted((b.address, b.address + b.extent) for mine in found for b in mine)
    assert len(chunks) == THREADS * 300
    assert all(end <= start for (_, end), (start, _) in pairwise(chunks))
    together(lambda n: [memory.free(b.address) for b in found[n]])


def test_the_capacity_holds_for_all_together(host: Host, eager: None) -> None:
    memory, most, got = host.memory, 100, [0] * THREADS
    before, memory.capacity = memory.capacity, memory.reserved[0] + most * 4096
    blocks: list[int] = []

    def work(number: int) -> None:
        for _ in range(most):
            try:
                blocks.append(memory.allocate(0, 4096).address)
            except Exception:  # CUDA's out-of-memory
                continue
            got[number] += 1

    try:
        together(work)
    finally:
        memory.capacity = before
    for address in blocks:
        memory.free(address)
    assert sum(got) == most


def test_ten_thousand_calls_of_cupy(host: Host, cp: ModuleType, eager: None) -> None:
    """Arrays, reference cycles, kernels, products, copies, streams, events and pools at once."""
    left, right = np.arange(12.0).reshape(3, 4), np.arange(8.0).reshape(4, 2)
    cp.asnumpy(cp.asarray(left) @ cp.asarray(right) * 2 + 1)  # compiles and loads the kernels
    host.clear()
    reports: list[str] = []

    def work(number: int) -> None:
        stream = cp.cuda.Stream(non_blocking=True)
        with host.recording() as seen, stream:
            for call in range(CALLS // 10):  # each makes ten calls of the host or more
                a, b = cp.asarray(left + number), cp.asarray(right)
                cycle = [a[:2], None]
                cycle[1] = cycle  # freed by the garbage collector, at any time
                np.testing.assert_array_equal(cp.asnumpy(a @ b), (left + number) @ right)
                c = cp.full(1000 + call, number, "f4") * 2 + 1
                assert float(c[-1]) == 2 * number + 1
                event = cp.cuda.Event()
                event.record()
                event.synchronize()
                if call % 8 == 0:
                    with cp.cuda.Stream():
                        cp.zeros(50 * (call + 1))
                    reports.append(host.leak_report())
                    cp.get_default_memory_pool().free_all_blocks()
                    host.memory.verify_all()
        assert seen.of(Launch)
        assert seen.of(Allocate)
        assert seen.of(Free)
        assert seen.peak_growth() > 0

    together(work)
    cp.get_default_memory_pool().free_all_blocks()
    assert len(host.log) >= THREADS * CALLS
    assert len(reports) == THREADS * -(-CALLS // 80)


def test_faults_of_kernels_are_their_own(host: Host, cp: ModuleType, eager: None) -> None:
    """A fault names its own kernel, whatever other threads launch."""
    text = (
        r"""extern "C" __global__ void cross_the_end(float *p, int n) { p[threadIdx.x + n] = 1; }"""
    )
    cross = cp.RawKernel(text, "cross_the_end")
    a = cp.zeros(64, "f4")
    cross((1,), (64,), (a, 0))
    wrong: list[str] = []

    def work(number: int) -> None:
        mine = cp.zeros(64, "f4")
        for _ in range(50):
            said = ""
            try:
                cross((1,), (64,), (mine, number))
            except Exception as error:
                said = str(error)
            expected = f"thread ({64 - number}, 0, 0)" if number else ""
            if bool(said) != bool(number) or expected not in said:
                wrong.append(said)

    host.fibre_order = "forward"
    together(work)
    host.faults.clear()
    assert not wrong, wrong[:3]


def test_the_log_keeps_the_newest(host: Host, eager: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from . import host as module

    monkeypatch.setattr(module, "LOG_LIMIT", 1000)
    together(lambda n: [host.record(Launch(0, f"{n} {i}", (1,) * 3, (1,) * 3, 0, 0, "forward"))
                        for i in range(CALLS)])  # fmt: skip
    assert 1000 <= len(host.log) <= 1500
    for n in range(THREADS):
        mine = [int(e.kernel.split()[1]) for e in host.log if e.kernel.split()[0] == str(n)]
        assert mine == sorted(mine)
