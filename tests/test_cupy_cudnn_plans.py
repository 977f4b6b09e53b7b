"""Plans of cuDNN are made once, bounded in number, and for one device and one thread each."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import cudnn_stand_in
import einstride as es
from cupy_host import events
from einstride import _testing
from einstride.algorithms.cudnn import graphs as engine
from test_cupy_contract import prepared
from test_cupy_cudnn import SQUARE

pytest_plugins = ["cupy_host.fixtures"]


@pytest.fixture
def state(host, cp):
    with cudnn_stand_in.installed(host) as found:
        yield found


@pytest.fixture
def four_plans():
    with _testing.use(constants={"cuDNN plans": 4}):
        yield


def test_plans_are_made_once_and_the_oldest_forgotten(state, cp, four_plans):
    f = cp.ones((2, 3, 5), "f4")
    for n in range(3, 9):
        es.conv(cp.ones((1, n, 3), "f4"), f, algorithm="cudnn")
    assert len(state.built) == 6
    [context] = engine.contexts().values()
    assert len(context.plans) == 4
    es.conv(cp.ones((1, 8, 3), "f4"), f, algorithm="cudnn")
    assert len(state.built) == 6
    es.conv(cp.ones((1, 3, 3), "f4"), f, algorithm="cudnn")
    assert len(state.built) == 7


def test_everything_that_matters_makes_another_plan(state, cp):
    x, f = cp.ones((2, 6, 8, 4), "f4"), cp.ones((3, 3, 4, 4), "f4")
    for more in ({}, {"padding": 1}, {"stride": 2}, {"dilation": 2}, {"accuracy": "tf32"},
                 {"max_workspace": 1 << 20}, {"max_workspace": 1 << 21}):  # fmt: skip
        before = len(state.built)
        es.conv(x, f, algorithm="cudnn", **more)
        assert len(state.built) == before + 1, more
    misaligned = cp.ones(x.size + 1, "f4")[1:].reshape(x.shape)
    for other, more in ((x.astype("f8"), {}), (misaligned, {}), (x, {"layout": "channels_first"})):
        before = len(state.built)
        kernel = cp.ones((4, 6, 3, 3) if more else f.shape, other.dtype)
        es.conv(other, kernel, algorithm="cudnn", **more)
        assert len(state.built) > before


def test_each_device_has_its_own(host, state, cp):
    results = []
    for device in (0, 1, 0, 1):
        function, args, keywords = prepared(cp, "forward", SQUARE, device=device)
        with host.recording() as seen:
            results.append(function(*args, algorithm="cudnn", **keywords))
        assert {e.device for e in seen.of(events.LibraryCall)} == {device}
        assert results[-1].device.id == device
    assert len({at["device"] for at in state.handles.values()}) == 2
    for result in results[1:]:
        with result.device:
            np.testing.assert_array_equal(result.get(), results[0].get())


def test_two_threads_share_no_handle(host, state, cp):
    """Two threads call concurrently, each on its own stream."""
    function, args, keywords = prepared(cp, "forward", SQUARE)
    expected = function(*args, algorithm="gemm", **keywords).get()
    meet, failures = threading.Barrier(2), []

    def work():
        try:
            stream = cp.cuda.Stream(non_blocking=True)
            with stream:
                for _ in range(5):
                    meet.wait()
                    found = function(*args, algorithm="cudnn", **keywords)
                    np.testing.assert_array_equal(found.get(), expected)
            streams.append(stream)
        except BaseException as error:
            failures.append(error)
            meet.abort()

    streams = []
    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    used = [at["stream"] for at in state.handles.values() if at["stream"]]
    assert sorted(used) == sorted(stream.ptr for stream in streams)
    assert {stream for *_, stream in state.ran} == {stream.ptr for stream in streams}
