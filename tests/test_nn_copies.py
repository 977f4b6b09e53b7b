"""Copies and pickles of models and optimisers have arrays of their own, and hold no batch."""

import copy
import os
import pickle
import signal
import threading

import numpy as np
import pytest

from einstride import nn
from einstride.nn.arena import Arena

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda a: pickle.loads(pickle.dumps(a))}
X = np.random.default_rng(0).standard_normal((6, 16, 16, 3)).astype("f4")
T = np.arange(6) % 2


def trained(dtype, optimiser, steps=3):
    """Train a model with every kind of layer that has state."""
    body = nn.Sequential(nn.Conv(16, 3, padding=1, bias=False), nn.BatchNorm(), nn.ReLU())
    net = nn.Sequential(nn.Conv(16, 3), nn.ReLU(), nn.Residual(body), nn.Dropout(0.2),
                        nn.MaxPool(2), nn.GlobalAvgPool(), nn.Dense(2))  # fmt: skip
    model = nn.Model(net, (16, 16, 3), dtype=dtype)
    train(model, optimiser, steps)
    return model


def train(model, optimiser, steps=1):
    return [float(model.step(X, T, nn.CrossEntropy(), optimiser)) for _ in range(steps)]


def equal(one, other):
    assert one.keys() == other.keys()
    for name, a in one.items():
        np.testing.assert_array_equal(np.asarray(a), np.asarray(other[name]))


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_copied_model_goes_on_as_the_original(how, dtype):
    optimiser = nn.Adam(0.01)
    model = trained(dtype, optimiser)
    twin, second = COPIES[how](model), COPIES[how](optimiser)
    equal(twin.parameters | twin.state, model.parameters | model.state)
    np.testing.assert_array_equal(twin(X), model(X))
    before = copy.deepcopy(model.parameters)
    assert train(twin, second, 3) == train(copy.deepcopy(model), copy.deepcopy(optimiser), 3)
    equal(model.parameters, before)
    assert train(model, optimiser, 3)
    equal(twin.parameters | twin.state, model.parameters | model.state)


@pytest.mark.parametrize("how", COPIES)
def test_a_copied_model_is_not_the_original(how):
    model = trained("float32", nn.SGD(0.1))
    twin, y = COPIES[how](model), model(X)
    for a in twin.parameters.values():
        a[...] = 0
    assert (twin(X) == 0).all()
    np.testing.assert_array_equal(model(X), y)


def test_a_pickled_model_holds_no_batch():
    model = trained("float32", nn.SGD(0.1), 0)
    plain = len(pickle.dumps(model))
    train(model, nn.SGD(0.1), 3)
    model(np.zeros((64, 16, 16, 3), "f4"))
    assert len(pickle.dumps(model)) < plain + 100


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_written_halves_are_what_the_optimiser_moves(dtype):
    """The float32 copy of a half parameter follows writes to the parameter in place."""
    kind = pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else np.float16
    optimiser, one = nn.SGD(2.0**-12), np.ones(4, kind)
    p = optimiser.step({"p": one}, {"p": one})["p"]
    p = optimiser.step({"p": p}, {"p": one})["p"]
    small = optimiser.running["p"]["master"]
    np.testing.assert_array_equal(small, np.float32(1 - 2.0**-11))  # not rounded to halves
    p[:2] = 3
    optimiser.step({"p": p}, {"p": one})
    expected = np.float32([3, 3, 1 - 2.0**-11, 1 - 2.0**-11]) - np.float32(2.0**-12)
    np.testing.assert_array_equal(optimiser.running["p"]["master"], expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system forks no processes")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_child_forked_while_a_thread_holds_the_arena_goes_on():
    arena, held, leave = Arena(), threading.Event(), threading.Event()

    def hold():
        with arena._lock:
            held.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends a child that hangs
        done = arena.empty((1 << 15,), "float32", np.empty(0, "f4")).shape == (1 << 15,)
        os._exit(0 if done and arena._lock.acquire(blocking=False) else 1)
    try:
        leave.set()
        thread.join()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        leave.set()
