"""Eight concurrent callers get the bits of a single caller."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

import einstride as es
from checks import EVERY, PASSES, is_unsupported, operands, refused
from oracle import Case

THREADS = 8
CASES = [
    Case(4, (40, 41), (3, 3), 16, 24, (1, 1), ((1, 1), (1, 1)), (1, 1)),
    Case(2, (31, 30), (5, 4), 12, 8, (3, 2), ((2, 1), (0, 3)), (2, 1), groups=4),
    Case(1, (8, 8), (3, 3), 3, 4, (1, 1), ((0, 0), (0, 0)), (1, 1)),
    Case(2, (5000,), (31,), 4, 3, (1,), ((30, 0),), (1,)),
]


def jobs(algorithm):
    rng = np.random.default_rng(0)
    for case in CASES:
        shapes = (case.x_shape, case.f_shape, case.y_shape)
        x, f, gy = (rng.normal(size=shape).astype("float32") for shape in shapes)
        for which in PASSES:
            function, args, _ = operands(which, case, x, f, gy)
            keywords = {"algorithm": algorithm, **case.explicit}
            if is_unsupported(lambda: function(*args, **keywords), algorithm, "float32"):  # noqa: B023
                continue
            yield lambda function=function, args=args, case=case: function(
                *args, algorithm=algorithm, **case.explicit
            )


@pytest.mark.parametrize("algorithm", EVERY)
def test_same_bits_as_serial(algorithm):
    work = list(jobs(algorithm))
    serial = [job() for job in work]
    barrier = Barrier(THREADS)

    def caller(number):
        barrier.wait(timeout=60)
        order = np.random.default_rng(number).permutation(len(work))
        return [(i, work[i]()) for i in order]

    with ThreadPoolExecutor(THREADS) as pool:
        for results in pool.map(caller, range(THREADS)):
            for i, result in results:
                np.testing.assert_array_equal(result, serial[i])


def test_one_layer_shared_by_all():
    rng = np.random.default_rng(1)
    layer = es.Conv(rng.normal(size=(3, 3, 8, 8)), padding="same")
    inputs = [rng.normal(size=(2, n, n, 8)) for n in range(5, 5 + THREADS)]
    serial = [layer(x) for x in inputs]
    with ThreadPoolExecutor(THREADS) as pool:
        for result, expected in zip(pool.map(layer, inputs * 10), serial * 10, strict=True):
            np.testing.assert_array_equal(result, expected)


def test_errors_in_one_thread_stay_there():
    x, f = np.ones((1, 8, 8, 3)), np.ones((3, 3, 3, 4))

    def caller(number):
        for _ in range(50):
            if number % 2:
                with refused("conv", ValueError):
                    es.conv(x[..., :2], f)
            else:
                assert (es.conv(x, f) == 27).all()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(caller, range(THREADS)))


def test_overflow_on_request_is_silent_in_every_thread():
    """The caller's errstate also holds in worker threads, whose warnings would be errors here."""
    case = CASES[0]
    x, f = np.full(case.x_shape, 3e38, "float32"), np.full(case.f_shape, 3e38, "float32")
    with np.errstate(over="ignore", invalid="ignore"):
        assert np.isinf(es.conv(x, f, accuracy="elementwise")).all()
