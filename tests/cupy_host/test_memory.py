"""The CuPy host checks memory, devices and streams, and raises every fault."""

from __future__ import annotations

import contextlib
import ctypes
import threading

import numpy as np
import pytest

import cupy_host
from cupy_host import events

pytest_plugins = ["cupy_host.fixtures"]


def kernel(cp, name, code):
    return cp.RawKernel(code, name)


TOUCH = 'extern "C" __global__ void touch(float *x, long long i, float *y) { y[0] = x[i]; }'


def test_new_memory_is_poison(cp):
    assert np.isnan(cp.asnumpy(cp.empty(5, "f4"))).all()
    assert np.isnan(cp.asnumpy(cp.empty(5, "f2"))).all()
    cp.ones(4096, "f4")  # goes back to the pool, which reuses it
    assert np.isnan(cp.asnumpy(cp.empty(4096, "f4"))).all()


def test_copies_out_of_bounds(host, cp):
    x, y = cp.ones(10, "f4"), np.zeros(20, "f4")
    runtime = cp.cuda.runtime
    with host.expect(cupy_host.OutOfBounds):
        runtime.memcpy(y.ctypes.data, x.data.ptr, 44, runtime.memcpyDeviceToHost)
    with host.expect(cupy_host.HostPointer):
        runtime.memcpy(y.ctypes.data, x.data.ptr, 40, runtime.memcpyHostToDevice)
    with host.expect(cupy_host.OutOfBounds):
        runtime.memset(x.data.ptr, 0, 41)


def test_overwritten_guard_is_found(host, cp):
    x = cp.ones(10, "f4")
    ctypes.memset(x.data.ptr + 40, 0, 1)  # as C code with the pointer might
    with pytest.raises(cupy_host.GuardDamaged, match="byte 0 past the end of the 40-byte array"):
        host.check()
    ctypes.memset(x.data.ptr + 40, 0xA5, 1)


def test_memory_freed_unseen_is_no_damage(host):
    """An array that a thread without the pool's hook has freed makes room for other arrays, at its
    own address and in its guard bytes; damage before that is found."""
    memory = host.memory
    live = memory.live[0]
    chunk = memory.allocate(0, 8192)
    first, middle = chunk.address, chunk.address + 1024
    memory.adopt(first, 1000, 2048, 0)
    memory.adopt(middle, 500, 1024, 0)
    memory.verify_all()
    memory.adopt(first, 300, 1024, 0)
    memory.adopt(first + 512, 20, 512, 0)
    assert [*memory.arrays][-2:] == [middle, first + 512]
    ctypes.memset(middle + 500, 0, 1)
    with pytest.raises(cupy_host.GuardDamaged, match="byte 0 past the end of the 500-byte array"):
        memory.adopt(middle - 256, 100, 512, 0)
    memory.free(chunk.address)
    assert memory.live[0] == live


def test_exceptions_are_never_swallowed(host, cp):
    with contextlib.suppress(cupy_host.BadFree):  # as careless code might
        cp.cuda.runtime.free(12345)
    with pytest.raises(cupy_host.BadFree):
        host.check()
    host.check()  # a fault is raised once


def break_log_of(monkeypatch, host, kind):
    record = host.record

    def broken(event):
        if isinstance(event, kind):
            raise ZeroDivisionError("a mistake in the host")
        record(event)

    monkeypatch.setattr(host, "record", broken)


def test_exception_in_a_handler_reaches_the_caller(host, cp, monkeypatch):
    x = cp.ones(3)
    x + x
    break_log_of(monkeypatch, host, events.Launch)
    with pytest.raises(ZeroDivisionError):
        x + x
    with pytest.raises(ZeroDivisionError):
        host.check()


def test_exception_in_a_library_callback_is_recorded(host, cp, monkeypatch):
    from cupy_backends.cuda.libs import cublas

    a = cp.ones((2, 2), "f4")
    break_log_of(monkeypatch, host, events.BlasCall)
    with pytest.raises(cublas.CUBLASError):
        a @ a
    with pytest.raises(ZeroDivisionError):
        host.check()


def test_cuda_errors_are_cupys_and_no_faults(host, cp, monkeypatch):
    with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="cudaErrorInvalidDevice"):
        cp.cuda.Device(7).use()
    with pytest.raises(cp.cuda.driver.CUDADriverError, match="CUDA_ERROR_NOT_FOUND"):
        kernel(cp, "missing", TOUCH).compile()
    monkeypatch.setattr(host.memory, "capacity", host.reserved_bytes(0) + 10**6)
    with pytest.raises(cp.cuda.memory.OutOfMemoryError):
        cp.empty(10**7, "f4")


def test_leaks(host, cp):
    with host.no_leaks():
        cp.ones(100) + 1
    kept = []
    expected = "800-byte array of device 0 allocated at test_memory.py"
    with pytest.raises(cupy_host.Leak, match=expected), host.no_leaks():
        kept.append(cp.ones(100))
    assert "800-byte" in host.leak_report()


def test_memory_accounts(host, cp):
    x = cp.ones(1000, "f4")
    live = host.live_bytes()
    with host.recording() as seen:
        y = x + 1
        z = y * 2
        del y
    assert seen.peak_growth() == 8000
    assert host.live_bytes() == live + 4000
    sizes = [e.bytes for e in seen.of(events.Allocate) if e.owner == "array"]
    assert sizes == [4000, 4000]
    del z


def test_memory_without_a_pool(host, cp):
    cp.cuda.set_allocator(None)
    try:
        before = host.reserved_bytes()
        x = cp.ones(100, "f4")
        assert host.reserved_bytes() == before + 400
        with host.expect(cupy_host.OutOfBounds):
            kernel(cp, "touch", TOUCH)((1,), (1,), (x, np.int64(100), x))
        del x
        assert host.reserved_bytes() == before
    finally:
        cp.cuda.set_allocator(cp.get_default_memory_pool().malloc)


def test_launches_go_to_the_current_device_and_stream(host, cp):
    with cp.cuda.Device(1):
        stream = cp.cuda.Stream(non_blocking=True)
        with stream, host.recording() as seen:
            y = cp.arange(6.0) * 2
    assert y.device.id == 1
    assert cp.asnumpy(y).tolist() == [0, 2, 4, 6, 8, 10]
    launches = seen.of(events.Launch)
    assert launches
    assert {(e.device, e.stream) for e in launches} == {(1, stream.ptr)}
    assert not seen.of(events.Synchronize)
    assert not seen.of(events.Copy)


def test_wrong_device(host, cp):
    with cp.cuda.Device(1):
        there = cp.ones(4, "f4")
        stream = cp.cuda.Stream()
        event = cp.cuda.Event()
    here = cp.ones(4, "f4")
    with host.expect(cupy_host.WrongDevice):
        kernel(cp, "touch", TOUCH)((1,), (1,), (there, np.int64(0), here))
    with host.expect(cupy_host.WrongDevice):
        kernel(cp, "touch", TOUCH)((1,), (1,), (here, np.int64(0), here), stream=stream)
    with host.expect(cupy_host.WrongDevice):
        event.record(cp.cuda.Stream())
    with host.expect(cupy_host.WrongDevice):
        cp.cuda.runtime.memset(there.data.ptr, 0, 4)
    with host.recording() as seen:
        assert float(cp.asarray(there).sum()) == 4
    assert next(c.kind for c in seen.of(events.Copy)) == "peer"


def test_transfers_and_waits_are_logged(host, cp):
    x = np.ones(10, "f4")
    with host.recording() as seen:
        a = cp.asarray(x)
    assert [(c.kind, c.bytes) for c in seen.of(events.Copy)] == [("host_to_device", 40)]
    with host.recording() as seen:
        float(a.sum())
    assert "device_to_host" in [c.kind for c in seen.of(events.Copy)]
    assert seen.of(events.Synchronize)
    with host.recording() as seen:
        cp.cuda.Device(0).synchronize()
    assert [s.what for s in seen.of(events.Synchronize)] == ["device"]


def test_other_threads_are_watched(host, cp):
    met = []

    def work():
        with cp.cuda.Device(1):
            x = cp.ones(10, "f4")
            try:
                cp.lib.stride_tricks.as_strided(x, (11,), (4,)) + 1
            except cupy_host.OutOfBounds as fault:
                met.append((fault, x.device.id))

    thread = threading.Thread(target=work)
    with host.expect(cupy_host.OutOfBounds):
        thread.start()
        thread.join()
    assert met[0][1] == 1
    assert cp.cuda.Device().id == 0


def test_events(cp):
    start, end = cp.cuda.Event(), cp.cuda.Event()
    start.record()
    cp.ones(3) + 1
    end.record()
    end.synchronize()
    assert cp.cuda.get_elapsed_time(start, end) >= 0


def test_a_kernel_belongs_to_its_device(host, cp):
    """CUDA refuses a function of a module of another context than the current one."""
    function = kernel(cp, "touch", TOUCH).kernel  # loaded on device 0
    with cp.cuda.Device(1):
        there = cp.ones(4, "f4")
        with host.expect(cupy_host.WrongDevice):
            function((1,), (1,), (there, np.int64(0), there))
