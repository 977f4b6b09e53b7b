"""A child of a process whose threads compile and convolve computes the right numbers, and ends."""

import os

import pytest

from storms import programs
from storms.programs import ALGORITHMS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

HEAD = """
    import faulthandler, os, signal, sys, threading, time, warnings
    import numpy as np, einstride as es
    from storms import programs

    warnings.simplefilter("ignore")  # Python warns of any fork beside threads

    def bounded(seconds):
        # By a signal: the thread of faulthandler.dump_traceback_later would be the parent's.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        faulthandler.register(signal.SIGALRM, chain=True)
        signal.alarm(seconds)

    def fork(work, seconds=30):
        child = os.fork()
        if child == 0:
            bounded(seconds)
            try:
                good = work()
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                good = False
            os._exit(0 if good else 3)
        _, status = os.waitpid(child, 0)
        assert status == 0, f"the child's status is {status}"
"""

BESIDE_BLOCKS = """
    algorithm, forks = sys.argv[1], int(sys.argv[2])
    call, right = programs.case(algorithm, "forward")
    watch, going = programs.Watch(), True

    def convolve():
        out = np.empty_like(right)
        while going:
            call(out)

    callers = [threading.Thread(target=convolve, daemon=True) for _ in range(3)]
    for caller in callers:
        caller.start()

    def child():
        out = np.empty_like(right)
        for _ in range(3):
            call(out)
        watch.quick()
        return (out == right).all()

    for i in range(forks):
        time.sleep(0.003 * (i % 3))
        fork(child)
    going = False
    for caller in callers:
        caller.join()
    print("ok")
"""


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_beside_threads_that_convolve(algorithm, full_length):
    if algorithm in ("direct", "program"):
        pytest.importorskip("llvmlite")
    forks = 100 if full_length else 12
    assert programs.run(HEAD + BESIDE_BLOCKS, algorithm, forks, seconds=500) == ["ok"]


BESIDE_LIMITS = """
    from einstride.arrays.backends import blas_threads, thread_pool

    if sys.argv[1] == "slow":  # as OpenBLAS, which takes its lock for a moment only
        lock, number = threading.Lock(), [2]

        def change(wanted):
            assert lock.acquire(timeout=5), "another thread, which is not here, has the lock"
            time.sleep(1e-3)
            number[0] = wanted
            lock.release()

        thread_pool.threads()
        library = blas_threads._Library(lambda: number[0], change, False)
        thread_pool._blas._shared = [library]

    def nothing():
        thread_pool.run(lambda: lambda box: None, [0], 1)  # sets and restores BLAS's threads

    def turn():
        while going:
            nothing()

    going, before = True, thread_pool.threads()
    threads = [threading.Thread(target=turn, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()

    def child():
        nothing()
        return thread_pool.threads() == before

    for i in range(int(sys.argv[2])):
        fork(child)
    going = False
    for thread in threads:
        thread.join()
    print("ok")
"""


@pytest.mark.parametrize("library", ["own", "slow"])
def test_beside_threads_that_limit_blas(library, full_length):
    """The fork waits until no thread changes BLAS's number of threads: OpenBLAS has a lock of its
    own, which would stay taken in the child."""
    forks = 300 if full_length else 30
    assert programs.run(HEAD + BESIDE_LIMITS, library, forks) == ["ok"]


BESIDE_LLVM = """
    from einstride import _testing
    from einstride.codegen import disk_cache, jit
    from einstride.cpu.runtime import spin_handoff

    def compiled():
        _testing.clear_caches("code")
        for file in disk_cache.folder().glob("*.kernel"):
            file.unlink(missing_ok=True)
        spec = spin_handoff.Spec("serve", "")
        return bool(jit.kernel(spin_handoff.NAME, spin_handoff.kernel, spec, on=jit.machine()))

    def compile():
        while going:
            compiled()

    going = True
    threads = [threading.Thread(target=compile, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(int(sys.argv[1])):
        time.sleep(0.004 * (i % 5))
        fork(compiled)
    going = False
    for thread in threads:
        thread.join()
    print("ok")
"""


def test_beside_threads_that_compile(tmp_path, full_length):
    """The fork waits until LLVM is at rest, so that the child has a whole LLVM, and its lock."""
    pytest.importorskip("llvmlite")
    forks = 100 if full_length else 25
    cache = str(tmp_path / "cache")
    assert programs.run(HEAD + BESIDE_LLVM, forks, EINSTRIDE_CACHE=cache) == ["ok"]


WITHIN_A_CALL = """
    from einstride.arrays.backends import thread_pool

    children = []

    def handler(number, frame):
        child = os.fork()
        if child == 0:
            bounded(30)
        else:
            children.append(child)

    parent = os.getpid()
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    done = np.zeros(40)

    def make():
        def one(i):
            time.sleep(0.02)
            done[i] += 1
        return one

    try:
        thread_pool.run(make, range(40), 2)
        told = False
    except RuntimeError as error:
        told = "forked" in str(error)
    if os.getpid() != parent:
        os._exit(0 if told or (done == 1).all() else 3)
    assert (done == 1).all() and not told
    assert [os.waitpid(child, 0)[1] for child in children] == [0]
    print("ok")
"""


def test_within_a_call():
    """A signal's handler that forks in the midst of blocks: the child's call ends, with the whole
    result or an error."""
    assert programs.run(HEAD + WITHIN_A_CALL) == ["ok"]


ARENA = """
    from einstride.nn.arena import Arena

    arena = Arena()
    arena._lock.acquire()  # as another thread would, in the midst of a step
    fork(lambda: arena.clear() is None)
    print("ok")
"""


def test_a_model_that_another_thread_is_training():
    assert programs.run(HEAD + ARENA) == ["ok"]
