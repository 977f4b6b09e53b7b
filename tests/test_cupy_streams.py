"""Concurrent calls on several streams, threads and devices of the CuPy host are independent."""

from __future__ import annotations

import sys
import threading
from collections import Counter

import numpy as np
import pytest

import einstride as es
from checks import refused
from cupy_host import events
from einstride import _testing
from test_cupy_contract import CASES, EVERY, PASSES, prepared

pytest_plugins = ["cupy_host.fixtures"]
ROUNDS = 4


@pytest.fixture(autouse=True)
def _eager_threads():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def at_once(*jobs):
    """Run each job in a thread of its own, in rounds that all threads begin together."""
    meet, failures = threading.Barrier(len(jobs)), []

    def work(job):
        try:
            for _ in range(ROUNDS):
                meet.wait(60)
                job()
        except BaseException as error:
            failures.append(error)
            meet.abort()

    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("name", ["padded", "strided", "grouped"])
@pytest.mark.parametrize("which", PASSES)
def test_two_streams_from_two_threads(host, cp, which, name, algorithm):
    """The work of each call is on its own stream, and each result is right."""
    function, args, keywords = prepared(cp, which, CASES[name])
    keywords |= {"algorithm": algorithm}
    keywords |= {"max_workspace": 400_000} if algorithm == "gemm" else {}  # several blocks
    streams = [cp.cuda.Stream(non_blocking=True) for _ in range(2)]
    given = [(args[0] * scale, *args[1:]) for scale in (1, -2)]
    expected = [function(*g, **keywords).get() for g in given]
    with host.recording() as alone:
        function(*given[0], **keywords)

    def job(number):
        def call():
            with streams[number]:
                found = function(*given[number], **keywords)
                np.testing.assert_array_equal(found.get(), expected[number])

        return call

    with host.recording() as seen:
        at_once(job(0), job(1))
    kinds = events.Launch | events.BlasCall
    count = Counter(e.stream for e in seen if isinstance(e, kinds))
    once = sum(isinstance(e, kinds) for e in alone)
    assert count == {stream.ptr: ROUNDS * once for stream in streams}


@pytest.mark.parametrize("algorithm", EVERY)
def test_one_plan_and_one_layer_from_many_threads(host, cp, algorithm):
    _, (x, f), keywords = prepared(cp, "forward", CASES["padded"])
    keywords["algorithm"] = algorithm
    plan, layer = es.plan(x, f, **keywords), es.Conv(f, **keywords)
    expected = es.conv(x, f, **keywords).get()

    def job(call, *operands):
        stream = cp.cuda.Stream(non_blocking=True)

        def run():
            with stream:
                np.testing.assert_array_equal(call(*operands).get(), expected)

        return run

    at_once(job(plan, x, f), job(plan, x, f), job(layer, x), job(layer, x))


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("which", PASSES)
def test_two_devices_from_two_threads(host, cp, which, algorithm):
    """The host reports a fault if a kernel or a handle of the other device is used."""
    calls = []
    for device in (0, 1):
        function, args, keywords = prepared(cp, which, CASES["strided"], device=device)
        calls.append((function, args, keywords | {"algorithm": algorithm}))
    function, args, keywords = calls[0]
    expected = function(*args, **keywords).get()

    def job(device):
        function, args, keywords = calls[device]

        def run():
            found = function(*args, **keywords)  # the current device is 0 in both threads
            assert found.device.id == device
            with cp.cuda.Device(device):
                np.testing.assert_array_equal(found.get(), expected)

        return run

    with host.recording() as seen:
        at_once(job(0), job(1))
    count = Counter(e.device for e in seen if isinstance(e, events.Launch | events.BlasCall))
    assert count[0] == count[1] > 0


def test_each_device_has_its_own_kernels(host, cp):
    for device in (0, 1):
        function, args, keywords = prepared(cp, "forward", CASES["padded"], device=device)
        function(*args, algorithm="gemm", **keywords)
        before = _testing.entries("code")
        function(*args, algorithm="gemm", **keywords)
        assert _testing.entries("code") == before


@pytest.mark.parametrize("algorithm", ["auto", *EVERY])
def test_devices_are_not_mixed(host, cp, algorithm):
    _, (x, f), keywords = prepared(cp, "forward", CASES["padded"])
    keywords["algorithm"] = algorithm
    with cp.cuda.Device(1):
        there = cp.ones_like(x)
        out = cp.empty_like(es.conv(there, cp.ones_like(f), **keywords))
    plan, layer = es.plan(x, f, **keywords), es.Conv(f, **keywords)
    with host.recording() as seen:
        with refused("Plan", TypeError, "one device"):
            plan(there, f)
        with refused("Conv", TypeError, "one device"):
            layer(there)
        with refused("conv", TypeError, "one device"):
            es.conv(x, f, out=out, **keywords)
        with refused("conv_filter_grad", TypeError, "one device"):
            es.conv_filter_grad(x, out, f.shape[:2], **keywords)
    assert not seen.of(events.Launch)


def test_overlaps_are_found_without_the_device(host, cp):
    """Overlaps of arrays are found on the host; CuPy's own function would wait for the device."""
    x, f = cp.ones((1, 8, 2), "f4"), cp.ones((1, 2, 2), "f4")
    buffer = cp.empty((1, 8, 6), "f4")
    with host.recording() as seen:
        with refused("conv", ValueError, "memory"):
            es.conv(x, f, out=x)
        with refused("conv", ValueError, "memory"):
            es.conv(buffer[..., :2], f, out=buffer[..., 1:3])
    assert not seen.of(events.Launch)
    assert not seen.of(events.Synchronize)
    buffer[..., ::3] = 1  # interleaved memory without common elements is allowed
    es.conv(buffer[..., ::3], f, out=buffer[..., 1:5:3])
    np.testing.assert_array_equal(buffer[..., 1:5:3].get(), 2)
