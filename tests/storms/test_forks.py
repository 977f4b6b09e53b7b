"""A forked child of a process whose threads compile and convolve gets right results, and exits."""

import os

import pytest

from storms import programs
from storms.programs import ALGORITHMS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

HEAD = """
    import faulthandler, os, signal, sys, threading, time, warnings
    import numpy as np, einstride as es
    from storms import programs

    warnings.simplefilter("ignore")  # Python warns of every fork of a process with threads

    def limit_time(seconds):
        # By a signal: a child has no copy of the thread of faulthandler.dump_traceback_later.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        faulthandler.register(signal.SIGALRM, chain=True)
        signal.alarm(seconds)

    def check_in_child(check, seconds=30):
        child = os.fork()
        if child == 0:
            limit_time(seconds)
            try:
                passed = check()
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                passed = False
            os._exit(0 if passed else 3)
        _, status = os.waitpid(child, 0)
        assert status == 0, f"the child's status is {status}"
"""

BESIDE_CONVOLUTIONS = """
    algorithm, forks = sys.argv[1], int(sys.argv[2])
    call, right = programs.case(algorithm, "forward")
    state, running = programs.ThreadState(), True

    def convolve():
        out = np.empty_like(right)
        while running:
            call(out)

    threads = [threading.Thread(target=convolve, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()

    def convolves():
        out = np.empty_like(right)
        for _ in range(3):
            call(out)
        state.check_blas()
        return (out == right).all()

    for i in range(forks):
        time.sleep(0.003 * (i % 3))
        check_in_child(convolves)
    running = False
    for thread in threads:
        thread.join()
    print("ok")
"""


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_child_of_convolving_threads_convolves(algorithm, full_length):
    """A child convolves, whatever part of a call the threads of its parent are in."""
    if algorithm in ("direct", "program"):
        pytest.importorskip("llvmlite")
    forks = 100 if full_length else 12
    assert programs.run(HEAD + BESIDE_CONVOLUTIONS, algorithm, forks, seconds=500) == ["ok"]


BESIDE_LIMITS = """
    from einstride.arrays.backends import blas_threads, thread_pool

    if sys.argv[1] == "slow":  # a lock as OpenBLAS has, but held longer
        lock, number = threading.Lock(), [2]

        def change(wanted):
            assert lock.acquire(timeout=5), "a thread of the parent process holds BLAS's lock"
            time.sleep(1e-3)
            number[0] = wanted
            lock.release()

        thread_pool.threads()
        library = blas_threads._Library(lambda: number[0], change, False)
        thread_pool._blas._shared = [library]

    def limit_blas():
        thread_pool.run(lambda: lambda box: None, [0], 1)  # limits BLAS's threads, then restores

    def limit_blas_repeatedly():
        while running:
            limit_blas()

    running, before = True, thread_pool.threads()
    threads = [threading.Thread(target=limit_blas_repeatedly, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()

    def restores_blas():
        limit_blas()
        return thread_pool.threads() == before

    for i in range(int(sys.argv[2])):
        check_in_child(restores_blas)
    running = False
    for thread in threads:
        thread.join()
    print("ok")
"""


@pytest.mark.parametrize("library", ["own", "slow"])
def test_a_fork_waits_for_threads_that_limit_blas(library, full_length):
    """A fork waits until no thread changes BLAS's number of threads.

    OpenBLAS takes a lock of its own for the change, which would stay taken in the child.
    """
    forks = 300 if full_length else 30
    assert programs.run(HEAD + BESIDE_LIMITS, library, forks) == ["ok"]


BESIDE_LLVM = """
    from einstride import _testing
    from einstride.codegen import disk_cache, jit
    from einstride.cpu.runtime import spin_handoff

    def compiles():
        _testing.clear_caches("code")
        for file in disk_cache.folder().glob("*.kernel"):
            file.unlink(missing_ok=True)
        spec = spin_handoff.Spec("serve", "")
        target = jit.host_target()
        return bool(jit.kernel(spin_handoff.NAME, spin_handoff.kernel, spec, target=target))

    def compile_repeatedly():
        while running:
            compiles()

    running = True
    threads = [threading.Thread(target=compile_repeatedly, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for i in range(int(sys.argv[1])):
        time.sleep(0.004 * (i % 5))
        check_in_child(compiles)
    running = False
    for thread in threads:
        thread.join()
    print("ok")
"""


def test_a_fork_waits_for_threads_that_compile(tmp_path, full_length):
    """A fork waits until no thread compiles, so that LLVM and its lock are usable in the child."""
    pytest.importorskip("llvmlite")
    forks = 100 if full_length else 25
    cache = str(tmp_path / "cache")
    # Each child may take half a minute: this limit is for the program, on a busy machine, too.
    found = programs.run(HEAD + BESIDE_LLVM, forks, seconds=600, EINSTRIDE_CACHE=cache)
    assert found == ["ok"]


WITHIN_A_CALL = """
    from einstride.arrays.backends import thread_pool

    children = []

    def handler(number, frame):
        child = os.fork()
        if child == 0:
            limit_time(30)
        else:
            children.append(child)

    parent = os.getpid()
    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    done = np.zeros(40)

    def make():
        def process(i):
            time.sleep(0.02)
            done[i] += 1
        return process

    try:
        thread_pool.run(make, range(40), 2)
        refused = False
    except RuntimeError as error:
        refused = "forked" in str(error)
    if os.getpid() != parent:
        os._exit(0 if refused or (done == 1).all() else 3)
    assert (done == 1).all() and not refused
    assert [os.waitpid(child, 0)[1] for child in children] == [0]
    print("ok")
"""


def test_a_call_that_a_signal_handler_forks_ends_in_the_child():
    """A call that is forked by a signal handler ends in the child with all blocks or an error."""
    assert programs.run(HEAD + WITHIN_A_CALL) == ["ok"]


ARENA = """
    from einstride.nn.arena import Arena

    arena = Arena()
    arena._lock.acquire()  # as another thread holds it during a training step
    check_in_child(lambda: arena.clear() is None)
    print("ok")
"""


def test_a_child_takes_the_lock_of_an_arena_in_use():
    """A child can take the lock of an arena that a thread of its parent held."""
    assert programs.run(HEAD + ARENA) == ["ok"]


BESIDE_IMPORTS = """
    from pathlib import Path

    folder = Path(sys.argv[1])
    (folder / "slow.py").write_text("import time; time.sleep(0.5); done = True")
    es.__path__.append(str(folder))

    def imports():
        import einstride.slow
        return einstride.slow.done

    thread = threading.Thread(target=imports)
    thread.start()
    while "einstride.slow" not in sys.modules:
        time.sleep(1e-3)
    check_in_child(imports)
    thread.join()
    print("ok")
"""


def test_a_fork_waits_for_a_thread_that_imports(tmp_path):
    """The fork waits until a module of the package is imported, whose lock the child would need."""
    assert programs.run(HEAD + BESIDE_IMPORTS, tmp_path) == ["ok"]


WITHIN_AN_IMPORT = """
    from pathlib import Path

    folder = Path(sys.argv[1])
    (folder / "forks.py").write_text("import os; child = os.fork()")
    es.__path__.append(str(folder))
    begin = time.monotonic()
    from einstride.forks import child
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert time.monotonic() - begin < 5, "the fork waited for the thread that forks"
    print("ok")
"""


def test_a_fork_does_not_wait_for_its_own_thread_to_import(tmp_path):
    """A fork by a module while the module is imported does not wait for the import to end."""
    assert programs.run(HEAD + WITHIN_AN_IMPORT, tmp_path) == ["ok"]
