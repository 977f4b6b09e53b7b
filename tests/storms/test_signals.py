"""Signal handlers interrupt calls by exceptions, or call the library themselves.

After an exception nothing hangs, BLAS has the threads that it had, and no thread writes results.
"""

import signal

import pytest

from storms import programs
from storms.programs import ALGORITHMS, PASSES

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "setitimer"), reason="this system has no timers that send signals"
)

EVERY_POINT = """
    import sys, time
    import numpy as np
    from storms import injection, programs

    algorithm, which, full_length = sys.argv[1], sys.argv[2], sys.argv[3] == "True"
    call, right = programs.case(algorithm, which)
    out = np.empty_like(right)
    for _ in range(5):
        call(out)
    ours = ("workers.py", "thread_pool.py", "spin_helpers.py", "blas_threads.py", "jit.py")
    library = ("einstride", "threadpoolctl", "llvmlite", "threading.py", "contextlib.py")

    def is_chosen(file):
        if full_length:
            return any(name in file for name in library)
        return file.endswith(ours) or any(name in file for name in library[1:])

    with injection.Injector(is_chosen) as points:
        call(out)
    state, raised = programs.ThreadState(), 0
    limit = 100_000 if full_length else 400
    for point in range(0, points.count + 20, max(1, points.count // limit)):
        try:
            with injection.Injector(is_chosen, point) as injector:
                call(out)
        except injection.InjectedError:
            out[...] = 77
            raised += 1
            try:
                state.check_blas()
                if raised % 8 == 0:
                    time.sleep(1e-3)
                assert (out == 77).all(), "a thread wrote to the result after the exception"
                call(out)
                assert (out == right).all(), "the next call is wrong"
            except AssertionError as error:
                raise AssertionError(f"{error}: {injector.location}") from None
    state.check(new_threads=3)
    assert raised >= min(points.count, limit) // 2, (raised, points.count)
    print("ok")
"""


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_exception_at_any_point_leaves_threads_and_results_intact(algorithm, which, full_length):
    """Raise an exception at each point where CPython may run a signal handler, one per call."""
    if algorithm in ("direct", "program"):
        pytest.importorskip("llvmlite")
    assert programs.run(EVERY_POINT, algorithm, which, full_length, seconds=500) == ["ok"]


TIMERS = """
    import random, signal, sys, time
    import numpy as np
    from storms import programs

    algorithm, which, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
    call, right = programs.case(algorithm, which)
    out = np.empty_like(right)
    for _ in range(5):
        call(out)
    start = time.perf_counter()
    for _ in range(5):
        call(out)
    seconds = (time.perf_counter() - start) / 5  # of a call

    remaining = raised = 0  # exceptions to raise in this burst, exceptions raised in all

    def handler(number, frame):
        global remaining, raised
        while frame is not None and frame.f_code is not interrupted_call.__code__:
            frame = frame.f_back
        if frame is not None and remaining:
            remaining -= 1
            raised += 1
            if remaining:
                signal.setitimer(signal.ITIMER_REAL, rng.choice((3e-6, 1e-5, 3e-5, 2e-4)))
            raise KeyboardInterrupt

    def interrupted_call():
        call(out)

    signal.signal(signal.SIGALRM, handler)
    state, rng, calls = programs.ThreadState(), random.Random(0), 0
    interrupted = 0
    while raised < wanted:
        calls += 1
        remaining = (1, 1, 3, 30)[calls % 4]  # later ones interrupt the cleanup after the first
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(2e-6, 1.1 * seconds))
        try:
            interrupted_call()
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            signal.setitimer(signal.ITIMER_REAL, 0)
            interrupted += 1
            out[...] = 77
            state.check_blas()
            if calls % 16 == 0:
                time.sleep(1e-3)
            assert (out == 77).all(), "a thread wrote to the result after the exception"
        if calls % 16 == 0:
            call(out)
            assert (out == right).all(), "the next call is wrong"
    call(out)
    assert (out == right).all(), "the last call is wrong"
    state.check(new_threads=3)
    assert raised > interrupted, "no call was interrupted more than once"
    assert interrupted > wanted // 20, "nearly all exceptions were raised in bursts"
    print("ok")
"""


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_signals_at_random_times_leave_threads_and_results_intact(algorithm, which, full_length):
    """Timers send signals at random times, alone and in bursts that also interrupt the cleanup."""
    if algorithm in ("direct", "program"):
        pytest.importorskip("llvmlite")
    wanted = 10_000 if full_length else 150
    assert programs.run(TIMERS, algorithm, which, wanted, seconds=500) == ["ok"]


COMPILING = """
    import shutil, threading
    from einstride.arrays.backends import spin_helpers
    from einstride import _testing
    from einstride.codegen import disk_cache, jit
    from einstride.cpu.runtime import spin_handoff
    from storms import injection

    spec = spin_handoff.Spec("serve", "")

    def compile_kernel():
        return jit.kernel(spin_handoff.NAME, spin_handoff.kernel, spec, target=jit.host_target())

    def is_chosen(file):
        return file.endswith(("workers.py", "jit.py")) or "llvmlite/binding" in file

    def remove_kernels():
        _testing.clear_caches("code")
        for file in disk_cache.folder().glob("*.kernel"):
            file.unlink()

    compile_kernel()
    remove_kernels()
    with injection.Injector(is_chosen) as points:
        compile_kernel()
    raised = 0
    for point in range(0, points.count + 3, max(1, points.count // 100)):
        remove_kernels()
        try:
            with injection.Injector(is_chosen, point) as injector:
                compile_kernel()
        except injection.InjectedError:
            raised += 1
            remove_kernels()
            kernels = []
            other = threading.Thread(target=lambda: kernels.append(compile_kernel()), daemon=True)
            other.start()
            other.join(20)
            assert len(kernels) == 1, f"another thread cannot compile: {injector.location}"
    print("ok" if raised > 3 else (raised, points.count))
"""


def test_an_exception_during_a_compilation_frees_the_lock_of_llvm(tmp_path):
    """An exception during a compilation leaves LLVM's lock free: another thread can compile."""
    pytest.importorskip("llvmlite")
    assert programs.run(COMPILING, EINSTRIDE_CACHE=str(tmp_path / "cache")) == ["ok"]


CALLED_AGAIN = """
    import itertools, sys
    import numpy as np, einstride as es
    from einstride import nn
    from einstride.arrays.backends import thread_pool
    from storms import injection, programs

    faulthandler.register(signal.SIGALRM, chain=True)
    what, full_length = sys.argv[1], sys.argv[2] == "True"
    ours = ("workers.py", "thread_pool.py", "blas_threads.py", "byte_cache.py", "arena.py")
    lengths = itertools.count(20)  # a new length for each call, so that caches store new plans

    def integers(*shape):
        return np.random.default_rng(0).integers(-2, 3, shape).astype("float32")

    f = integers(3, 2, 2)
    model = nn.Model(nn.Sequential(nn.Conv(16, 3), nn.GlobalAvgPool(), nn.Dense(2)), (16, 16, 3))
    images, labels = integers(8, 16, 16, 3), np.zeros(8, int)

    def convolve():  # the cache that counts bytes holds the phases of a strided input gradient
        gy = integers(next(lengths), 2)
        size = 2 * len(gy) + 1
        gx = es.conv_input_grad(gy[None], f, stride=2, input_size=(size,), algorithm="strided")
        right = np.zeros((size, 2), "float32")
        for i in range(3):
            right[i : i + 2 * len(gy) : 2] += gy @ f[i].T
        assert (gx[0] == right).all()

    def blocks():
        done = np.zeros(4)

        def make():
            def process(i):
                done[i] += 1
            return process

        thread_pool.run(make, range(4), 2)
        assert (done == 1).all()

    pairs = [(integers(2, 20, 20, 3), scale * integers(3, 3, 3, 8)) for scale in (1, 2)]
    cases = itertools.cycle([(x, f, es.conv(x, f, algorithm="strided")) for x, f in pairs])

    def compiled():  # one cached call, with other arrays each time
        x, f, right = next(cases)
        assert (es.conv(x, f, algorithm="direct") == right).all()

    def train():
        model.step(images, labels, nn.CrossEntropy(), nn.SGD(0.1))

    call = {"convolve": convolve, "blocks": blocks, "compiled": compiled, "train": train}[what]
    for _ in range(6):
        call()
    everywhere = full_length or what == "compiled"

    def is_chosen(file):
        return "einstride" in file if everywhere else file.endswith(ours)

    with injection.Injector(is_chosen) as points:
        call()
    step = max(1, points.count // 400)
    signal.alarm(100)
    state = programs.ThreadState()
    for point in range(0, points.count + 3, step):
        with injection.Injector(is_chosen, point, call):
            call()
        state.check_blas()
    assert thread_pool._blas.callers() == []
    print("ok" if points.count > 10 else points.count)
"""


@pytest.mark.parametrize("what", ["convolve", "blocks", "compiled", "train"])
def test_a_signal_handler_may_convolve(what, full_length):
    """A signal handler may convolve: both calls return right results, and neither hangs.

    The handler never waits for a lock that the interrupted call holds.
    """
    if what == "compiled":
        pytest.importorskip("llvmlite")
    assert programs.run(CALLED_AGAIN, what, full_length) == ["ok"]
