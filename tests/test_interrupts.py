"""Calls give right results after a fork, with limited threads, and after Ctrl-C during a call."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import einstride as es
from checks import is_unsupported, same

ALGORITHMS = ("gemm", "direct", "winograd", "fft")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 40, 41, 32)).astype("float32")
F = RNG.normal(size=(3, 3, 32, 48)).astype("float32")


def conv(algorithm):
    return es.conv(X, F, padding="same", algorithm=algorithm)


def run(code):
    """Run code in a new process, and return its standard output."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_after_a_fork(algorithm):
    """Parent and child compute right after a fork; the child does not have the parent's threads."""
    if is_unsupported(lambda: conv(algorithm), algorithm, "float32"):
        return
    found = run(f"""
        import os, sys, warnings
        import numpy as np, einstride as es
        warnings.simplefilter("ignore")  # Python warns of any fork beside threads
        x = np.ones((4, 40, 41, 32), "float32"); f = np.ones((3, 3, 32, 48), "float32")
        run = lambda: es.conv(x, f, padding="same", algorithm="{algorithm}")[1, 5, 5, 0]
        before = run()
        child = os.fork()
        if child == 0:
            os._exit(0 if [run() for _ in range(5)] == [before] * 5 else 1)
        _, status = os.waitpid(child, 0)
        print(status, run() == before)
    """)
    assert found == ["0", "True"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_under_limits_of_threads(algorithm):
    if is_unsupported(lambda: conv(algorithm), algorithm, "float32"):
        return
    free = conv(algorithm)
    with threadpool_limits(1):
        alone = conv(algorithm)
    if algorithm == "fft":  # its blocks depend on the number of threads
        np.testing.assert_allclose(alone, free, rtol=0, atol=1e-5 * np.abs(free).max())
    else:
        same(alone, free)
    same(conv(algorithm), free)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="this system has no such signals")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_ctrl_c_during_a_call(algorithm):
    """The call raises KeyboardInterrupt, and later calls have the same bits as before."""
    if is_unsupported(lambda: conv(algorithm), algorithm, "float32"):
        return
    found = run(f"""
        import os, signal, threading, time
        import numpy as np, einstride as es
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has none
        rng = np.random.default_rng(0)
        x = rng.normal(size=(8, 56, 56, 64)).astype("float32")
        f = rng.normal(size=(3, 3, 64, 64)).astype("float32")
        run = lambda: es.conv(x, f, padding="same", algorithm="{algorithm}")
        before = run()
        start = time.perf_counter(); run(); took = time.perf_counter() - start
        caught = 0
        for share in (0.1, 0.3, 0.5, 0.7, 0.9, 0.2, 0.6):
            sent = threading.Event()
            def strike():
                time.sleep(share * took)
                os.kill(os.getpid(), signal.SIGINT)
                sent.set()
            try:
                threading.Thread(target=strike).start()
                run()
                sent.wait()
                time.sleep(0.01)
            except KeyboardInterrupt:
                caught += 1
            sent.wait()
        same = all((run() == before).all() for _ in range(3))
        print(caught, same)
    """)
    assert found == ["7", "True"]
