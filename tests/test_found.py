"""Former faults do not return: each test makes the call that showed one."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

import einstride as es
from checks import refused


@pytest.mark.parametrize("limit", [20_000, 60_000, 200_000, None])
def test_blocks_inside_a_circular_border(limit):
    """A block inside the border is a view of x, not of the padded buffer whose windows are
    cached."""
    rng = np.random.default_rng(0)
    x, f = rng.integers(-3, 4, (1, 4096, 4)) * 1.0, rng.integers(-3, 4, (5, 4, 4)) * 1.0
    wide = np.pad(x, ((0, 0), (4096, 4096), (0, 0)), mode="wrap")
    y = es.conv(x, f, padding=4096, padding_mode="circular", algorithm="gemm", max_workspace=limit)
    np.testing.assert_array_equal(y, es.conv(wide, f, algorithm="strided"))


@pytest.mark.parametrize("per_example_first", [True, False])
def test_a_kernel_size_in_a_tuple_is_not_per_example(per_example_first):
    n = 7 + per_example_first
    x, gy = np.ones((2, n, 1)), np.ones((2, n - 5, 1))
    for each in (per_example_first, not per_example_first):
        size = 6 if each else (6,)
        shape = es.conv_filter_grad(x, gy, size, per_example=each).shape
        assert shape == ((2, 6, 1, 1) if each else (6, 1, 1))


def test_products_must_fit_before_the_bias():
    x, f = np.full((1, 3, 1), 32767, np.int16), np.full((3, 1, 1), -32768, np.int16)
    with refused("conv", ValueError, "int32"):
        es.conv(x, f, np.array([1_500_000_000], np.int32), accumulate="int32")


def test_the_sum_of_a_jvp_does_not_wrap():
    x, f = np.full((1, 1, 1), 2**62), np.ones((1, 1, 1), np.int64)
    with refused("conv_jvp", ValueError, "int64"):
        es.conv_jvp(x, f, x, f)


def test_out_that_overlaps_itself_by_half_an_element():
    out = np.lib.stride_tricks.as_strided(np.zeros(100), (1, 8, 1), (8, 4, 8))
    with refused("conv", ValueError, "overlap"):
        es.conv(np.ones((1, 8, 1)), np.ones((1, 1, 1)), out=out)


def test_a_plan_without_a_bias_refuses_one():
    p = es.plan((2, 10, 1), (2, 5, 1), direction="filter_grad", kernel_size=6, dtype="float64")
    with refused("Plan", ValueError, "bias"):
        p(np.ones((2, 10, 1)), np.ones((2, 5, 1)), np.ones(1))


def test_hyperparameters_may_be_numpy_arrays():
    x, f = np.ones((1, 8, 9, 2)), np.ones((3, 3, 2, 2))
    y = es.conv(x, f, stride=np.array([2, 1]), padding=np.array([[1, 1], [0, 1]]))
    np.testing.assert_array_equal(y, es.conv(x, f, stride=(2, 1), padding=((1, 1), (0, 1))))


def test_a_thread_may_outlive_the_main_thread():
    """After the main thread has ended no thread can be started: the caller computes all blocks."""
    code = """
        import threading, time
        import numpy as np, einstride as es

        def work():
            threading.main_thread().join()
            x, f = np.ones((8, 56, 56, 64), "float32"), np.ones((3, 3, 64, 64), "float32")
            print(es.conv(x, f).shape, flush=True)

        threading.Thread(target=work).start()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "(8, 54, 54, 64)\n", done.stderr


def test_an_interrupt_leaves_threads_and_limits_as_they_were():
    """After Ctrl-C between blocks, no thread writes any more, and BLAS has its number of
    threads."""
    code = """
        import signal, threading, time
        import numpy as np, einstride as es
        from einstride.arrays.backends import thread_pool

        before = thread_pool._blas.threads()
        running = []

        def make():
            def one(i):
                running.append(i)
                time.sleep(0.6 if threading.current_thread() is not threading.main_thread() else 0)
                running.remove(i)
            return one

        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            thread_pool.run(make, range(40), 2)
        except KeyboardInterrupt:
            print("interrupted", running, thread_pool._blas.callers())
        assert thread_pool._blas.threads() == before
        x, f = np.ones((8, 56, 56, 64), "float32"), np.ones((3, 3, 64, 64), "float32")
        assert (es.conv(x, f, accuracy="elementwise") == 576).all()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "interrupted [] []\n", done.stdout + done.stderr
