"""CUDA graphs on the CuPy host capture a call that was made once, and launch it again.

Captures have the strictest mode: no allocation from the device, no wait, no loading of kernels.
"""

from __future__ import annotations

import gc
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import cudnn_stand_in
import einstride as es
from cupy_host import events
from cupy_host.faults import StaleGraph
from cupy_host.graphs import GLOBAL, RELAXED, THREAD_LOCAL
from einstride import _testing
from test_cupy_contract import CASES, EVERY, PASSES, prepared

pytest_plugins = ["cupy_host.fixtures"]


class Recorded:
    """Capture a call as docs/gpu.md says: with its own stream, its own pool and a first call."""

    def __init__(self, cp, call, mode=GLOBAL, warm=True):
        self.stream = cp.cuda.Stream(non_blocking=True)
        self.pool = cp.cuda.MemoryPool()
        with cp.cuda.using_allocator(self.pool.malloc), self.stream:
            if warm:
                call()
            self.stream.begin_capture(mode)
            try:
                self.result = call()
            finally:
                self.graph = self.stream.end_capture()

    def launch(self):
        self.graph.launch(self.stream)
        self.stream.synchronize()


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("which", PASSES)
def test_a_launch_gives_the_bits_of_a_call(host, cp, which, name, algorithm):
    """A launch has the bits of a call, also with new values in the same arrays."""
    function, args, keywords = prepared(cp, which, CASES[name])
    keywords["algorithm"] = algorithm
    out = cp.empty_like(function(*args, **keywords))
    recorded = Recorded(cp, lambda: function(*args, out=out, **keywords))
    for scale in (1, -3, 0.5):
        args[0][...] = args[0] * scale
        out[...] = np.nan
        with host.recording() as seen:
            recorded.launch()
        assert seen.of(events.GraphLaunch)
        assert not seen.of(events.Allocate)
        np.testing.assert_array_equal(out.get(), function(*args, **keywords).get())


def test_nothing_runs_during_the_capture(host, cp):
    function, args, keywords = prepared(cp, "forward", CASES["padded"])
    out = cp.full_like(function(*args, **keywords), 7)
    before = out.copy()
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        function(*args, out=cp.empty_like(out), **keywords)
        stream.begin_capture()
        with host.recording() as seen:
            function(*args, out=out, **keywords)
        graph = stream.end_capture()
    assert not [e for e in seen if isinstance(e, events.Launch | events.BlasCall | events.Copy)]
    np.testing.assert_array_equal(out.get(), before.get())
    del graph


@pytest.mark.parametrize("algorithm", ["auto", "gemm"])  # CUDA kernels of einstride, and cuBLAS
@pytest.mark.parametrize("dtype", ["float16", "float32", "complex64"])
def test_plans_and_layers(cp, dtype, algorithm):
    _, (x, f), keywords = prepared(cp, "forward", CASES["padded"], dtype)
    keywords["algorithm"] = algorithm
    plan = es.plan(x, f, **keywords)
    layer = es.Conv(f, **keywords)
    out = cp.empty(plan.output_shape, plan.dtype)
    for made, operands in ((plan, (x, f)), (layer, (x,))):
        recorded = Recorded(cp, partial(made, *operands, out=out))
        x[...] = x + 1
        recorded.launch()
        np.testing.assert_array_equal(out.get(), es.conv(x, f, **keywords).get())


def test_a_result_made_in_the_capture_is_filled_by_each_launch(cp):
    function, args, keywords = prepared(cp, "forward", CASES["strided"])
    recorded = Recorded(cp, lambda: function(*args, **keywords))
    for _ in range(2):
        args[0][...] = args[0] + 1
        recorded.launch()
        expected = function(*args, **keywords)
        np.testing.assert_array_equal(recorded.result.get(), expected.get())


@pytest.mark.parametrize("which", PASSES)
def test_cudnn_is_captured_too(host, cp, which):
    with cudnn_stand_in.installed(host) as state:
        function, args, keywords = prepared(cp, which, CASES["padded"])
        keywords["algorithm"] = "cudnn"
        out = cp.empty_like(function(*args, **keywords))
        recorded = Recorded(cp, lambda: function(*args, out=out, **keywords))
        args[0][...] = args[0] * -3
        before = len(state.ran)
        recorded.launch()
        assert len(state.ran) == before + 1
        np.testing.assert_array_equal(out.get(), function(*args, **keywords).get())


def test_a_plan_of_cudnn_is_not_made_in_a_capture(host, cp):
    function, args, keywords = prepared(cp, "forward", CASES["pointwise"])
    keywords["algorithm"] = "cudnn"
    with cudnn_stand_in.installed(host):
        with pytest.raises(ValueError, match="a handle of cuDNN, which is not made yet"):
            Recorded(cp, lambda: function(*args, **keywords), RELAXED, warm=False)
        function(*args, **keywords)
        shifted = cp.ones(args[0].size + 1, "f4")[1:].reshape(args[0].shape)
        with pytest.raises(ValueError, match="a plan of cuDNN, which is not made yet"):
            Recorded(cp, lambda: function(shifted, *args[1:], **keywords), RELAXED, warm=False)


def test_the_code_of_the_page_runs(cp):
    page = Path(__file__).parents[1] / "docs" / "gpu.md"
    [code] = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    names = {}
    exec(code.replace("(8, 56, 56, 64)", "(2, 9, 8, 64)"), names)
    assert names["y"][0, 1, 1, 0].get() == 2 * 9 * 64


# ---- refusals ------------------------------------------------------------------------------------


def test_a_kernel_that_is_not_loaded_is_refused_by_name(cp):
    function, args, keywords = prepared(cp, "forward", CASES["padded"])
    function(*args, algorithm="gemm", **keywords)  # loads other kernels and cuBLAS
    _testing.clear_caches("code")
    message = "captured; got the kernel copy_rows.*, which is not made yet; make the same call once"
    with pytest.raises(ValueError, match=message):
        Recorded(cp, lambda: function(*args, algorithm="gemm", **keywords), RELAXED, warm=False)
    with cp.cuda.Device(1), pytest.raises(ValueError, match="not made yet"):  # nor on device 1
        there = [cp.asarray(a.get()) if isinstance(a, cp.ndarray) else a for a in args]
        function(*there, algorithm="gemm", **keywords)
        _testing.clear_caches("code")
        with cp.cuda.Device(0):
            function(*args, algorithm="gemm", **keywords)
        Recorded(cp, lambda: function(*there, algorithm="gemm", **keywords), RELAXED, warm=False)


def illegal(name, cp, stream, array):
    host_side = np.ones(4, "f4")
    {
        "wait for the stream": stream.synchronize,
        "wait for the device": cp.cuda.runtime.deviceSynchronize,
        "ask whether it is done": lambda: cp.cuda.runtime.streamQuery(stream.ptr),
        "to the host": lambda: cp.cuda.runtime.memcpyAsync(
            host_side.ctypes.data, array.data.ptr, 16, 2, stream.ptr
        ),
        "from the host": lambda: cp.cuda.runtime.memcpyAsync(
            array.data.ptr, host_side.ctypes.data, 16, 1, stream.ptr
        ),
    }[name]()


@pytest.mark.parametrize("mode", [GLOBAL, THREAD_LOCAL, RELAXED])
@pytest.mark.parametrize(
    "name",
    ["wait for the stream", "wait for the device", "ask whether it is done", "to the host",
     "from the host"],
)  # fmt: skip
def test_illegal_calls_end_the_capture(cp, name, mode):
    stream, array = cp.cuda.Stream(non_blocking=True), cp.ones(4, "f4")
    with stream:
        stream.begin_capture(mode)
        with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="Capture"):
            illegal(name, cp, stream, array)
        with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="Invalidated"):
            stream.end_capture()


@pytest.mark.parametrize(
    ("mode", "allowed"), [(GLOBAL, False), (THREAD_LOCAL, False), (RELAXED, True)]
)
def test_memory_from_the_device_is_refused_unless_relaxed(cp, mode, allowed):
    stream = cp.cuda.Stream(non_blocking=True)
    with stream, cp.cuda.using_allocator(None):
        stream.begin_capture(mode)
        if allowed:
            kept = cp.empty(1000, "f4")
            stream.end_capture()
            del kept
            return
        with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="Capture"):
            cp.empty(1000, "f4")
        with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="Invalidated"):
            stream.end_capture()


def test_the_default_stream_cannot_be_captured(cp):
    with pytest.raises(RuntimeError, match="cannot capture on the default"):
        cp.cuda.Stream.null.begin_capture()


def test_the_default_stream_waits_for_a_blocking_one(cp):
    stream = cp.cuda.Stream()
    x = cp.ones(4, "f4")
    with stream:
        stream.begin_capture()
    with pytest.raises(cp.cuda.driver.CUDADriverError, match="906"):
        x += 1
    with stream, pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="Invalidated"):
        stream.end_capture()


def test_memory_given_to_others_is_noticed(host, cp):
    """Without a pool of its own, the workspace of a graph may be given to other arrays."""
    function, args, keywords = prepared(cp, "forward", CASES["padded"])
    keywords["algorithm"] = "gemm"
    out = cp.empty_like(function(*args, **keywords))
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        function(*args, out=out, **keywords)
        stream.begin_capture()
        with host.recording() as seen:
            function(*args, out=out, **keywords)
        graph = stream.end_capture()
        sizes = [e.bytes for e in seen.of(events.Allocate) if e.owner == "array"]
        graph.launch(stream)
        others = [cp.empty(size, "u1") for size in sizes]
        with host.expect(StaleGraph):
            graph.launch(stream)
    del others
    gc.collect()
    cp.get_default_memory_pool().free_all_blocks(stream)
    with host.expect(StaleGraph):
        graph.launch(stream)


def test_a_launch_may_not_rely_on_what_the_capture_left(host, cp):
    """The memory of a graph is poisoned at each launch: elements that no node writes are NaN."""
    stream, pool = cp.cuda.Stream(non_blocking=True), cp.cuda.MemoryPool()
    out = cp.ones(4, "f4")
    with stream, cp.cuda.using_allocator(pool.malloc):
        out += cp.empty(4, "f4")
        stream.begin_capture()
        out += cp.empty(4, "f4")
        graph = stream.end_capture()
    graph.launch(stream)
    assert np.isnan(out.get()).all()


def test_asking_the_default_stream_ends_no_capture(cp):
    stream = cp.cuda.Stream()
    with stream:
        stream.begin_capture()
    with pytest.raises(cp.cuda.runtime.CUDARuntimeError, match="Implicit"):
        cp.cuda.runtime.streamIsCapturing(0)
    with stream:
        stream.end_capture()


def test_values_are_not_looked_at_in_a_capture(cp):
    """A check of integers for overflow would wait for the device, and is refused."""
    x, f = cp.ones((1, 5, 2), "i8"), cp.ones((2, 2, 3), "i8")
    with pytest.raises(TypeError, match="without values"):
        Recorded(cp, lambda: es.conv(x, f))


def test_a_wait_inside_a_plan_would_be_seen(host, cp):
    def waits(real, a, b, out, tf32=False):
        cp.cuda.get_current_stream().synchronize()
        return real(a, b, out, tf32)

    function, args, keywords = prepared(cp, "forward", CASES["padded"])
    function(*args, algorithm="gemm", **keywords)
    with (
        _testing.replacing("multiply matrices on the GPU", waits),
        pytest.raises(cp.cuda.runtime.CUDARuntimeError),
    ):
        Recorded(cp, lambda: function(*args, algorithm="gemm", **keywords))
