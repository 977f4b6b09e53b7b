"""Calls with CuPy make no transfer, no wait and no hidden copy, and use the array's device.

Runs on the CuPy host, whose log holds every launch, copy, allocation and library call.
"""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pytest

import einstride as es
from checks import PASSES, operands, refused
from cupy_host import events
from oracle import Case
from strategies import arrays

pytest_plugins = ["cupy_host.fixtures"]

MiB = 2**20
DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64")
PADS = ((1, 1), (2, 0))
CASES = {
    "padded": Case(3, (30, 22), (3, 3), 8, 12, (1, 1), PADS, (1, 1)),
    "strided": Case(3, (31, 22), (3, 2), 8, 12, (2, 3), PADS, (2, 1)),
    "grouped": Case(3, (30, 22), (3, 3), 8, 12, (1, 1), PADS, (1, 1), groups=4),
    "depthwise": Case(2, (30, 22), (3, 3), 16, 16, (1, 1), ((1, 1), (1, 1)), (1, 1), groups=16),
    "pointwise": Case(3, (20, 22), (1, 1), 24, 32, (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "line": Case(2, (700,), (9,), 8, 4, (1,), ((4, 4),), (1,)),
    "volume": Case(2, (8, 9, 7), (2, 3, 2), 4, 6, (1, 2, 1), ((1, 1), (0, 0), (0, 1)), (1, 1, 1)),
}
WAYS = (*PASSES, "transpose")
ALGORITHMS = ("gemm", "strided")  # algorithms that multiply by cuBLAS
OURS = ("direct", "implicit_gemm")  # algorithms with CUDA kernels
EVERY = (*ALGORITHMS, *OURS)


def over_all(test, algorithms=EVERY):
    for mark in (
        pytest.mark.parametrize("which", WAYS),
        pytest.mark.parametrize("name", CASES),
        pytest.mark.parametrize("algorithm", algorithms),
    ):
        test = mark(test)
    return test


def prepared(cp, which, case, dtype="float32", device=0):
    """Return (function, arrays on a device, keywords) of one pass."""
    kind = np.dtype("float32") if dtype == "bfloat16" else np.dtype(dtype)
    given = arrays(case, str(kind), 3)
    if dtype == "bfloat16":
        half = pytest.importorskip("ml_dtypes").bfloat16
        given = tuple(a.astype(half) for a in given)
    keywords = dict(case.explicit)
    if which == "transpose":
        keywords.pop("flip", None)
        _, f, gy = given
        function, args = es.conv_transpose, (gy, f)
        keywords["output_size"] = case.input_size
    else:
        function, args, _ = operands(which, case, *given)
    with cp.cuda.Device(device):
        args = [cp.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
    return function, args, keywords


def recorded(host, function, args, **keywords):
    """Return (result, log) of a second call; the first one may compile and load kernels."""
    function(*args, **keywords)
    with host.recording() as seen:
        result = function(*args, **keywords)
    return result, seen


@partial(over_all, algorithms=ALGORITHMS)
def test_nothing_leaves_the_device_and_nobody_waits(host, cp, which, name, algorithm):
    dtype = DTYPES[(list(CASES).index(name) + WAYS.index(which)) % len(DTYPES)]
    function, args, keywords = prepared(cp, which, CASES[name], dtype)
    with host.recording() as first:
        function(*args, algorithm=algorithm, **keywords)
    _, seen = recorded(host, function, args, algorithm=algorithm, **keywords)
    for log in (first, seen):
        assert not [e for e in log.of(events.Copy) if e.kind != "device_to_device"]
        assert not log.of(events.Synchronize)
    assert not seen.of(events.PinnedAllocate)
    assert any(isinstance(e, events.BlasCall) for e in seen)


@over_all
def test_workspace_stays_under_the_limit(host, cp, which, name, algorithm):
    """The workspace of a call stays below the default limit, and below the least one that works.

    It does so in first calls, which load kernels.
    """
    function, args, keywords = prepared(cp, which, CASES[name])
    keywords["algorithm"] = algorithm

    def growth(**more):
        with host.recording() as seen:
            result = function(*args, **keywords, **more)
        return seen.peak_growth(0) - result.nbytes

    assert growth() <= 256 * MiB
    try:
        least = 0
        assert growth(max_workspace=0) <= 0
    except ValueError as error:
        least = int(re.search(r"(\d+) bytes", str(error).split("; ")[-1])[1])
    for limit in (least, 2 * least + 5000, 8 * least + 100_000):
        assert growth(max_workspace=limit) <= limit


@pytest.mark.parametrize("bias", ["gaps", "narrower"])
@pytest.mark.parametrize("algorithm", EVERY)
def test_a_copy_of_the_bias_counts(host, cp, algorithm, bias):
    """Kernels read a contiguous bias; the others add it in the dtype of their sums."""
    dtype = "float64" if bias == "narrower" else "float32"
    x, f = cp.ones((1, 7, 2), dtype), cp.ones((3, 2, 5000), dtype)
    step = 2 if bias == "gaps" else 1
    given = cp.arange(5000 * step, dtype="float32")[::step]
    keywords = {"algorithm": algorithm}
    least = 0
    try:
        es.conv(x, f, given, max_workspace=0, **keywords)
    except ValueError as error:
        least = int(re.search(r"(\d+) bytes", str(error).split("; ")[-1])[1])
    result, seen = recorded(host, es.conv, (x, f, given), max_workspace=least, **keywords)
    assert seen.peak_growth(0) - result.nbytes <= least
    np.testing.assert_allclose(
        cp.asnumpy(result), np.broadcast_to(6 + cp.asnumpy(given), result.shape)
    )


@pytest.mark.parametrize("which", WAYS)
@pytest.mark.parametrize("name", ["padded", "strided", "grouped", "line", "volume"])
def test_a_block_is_one_copy_and_one_product(host, cp, which, name):
    function, args, keywords = prepared(cp, which, CASES[name])
    limit = 60_000
    _, seen = recorded(host, function, args, algorithm="gemm", max_workspace=limit, **keywords)
    copies = [e for e in seen.of(events.Launch) if e.kernel.startswith("copy_rows")]
    products = seen.of(events.BlasCall)
    assert len(copies) > 1
    assert len(products) == len(copies)
    assert {e.status for e in products} == {0}
    if "grouped" in name:
        assert {e.batch for e in products} == {4}


@pytest.mark.parametrize("which", WAYS)
@pytest.mark.parametrize("name", ["padded", "pointwise"])
def test_forward_blocks_need_nothing_else(host, cp, which, name):
    """Products are written to the result directly; a pointwise filter reads x in place."""
    function, args, keywords = prepared(cp, which, CASES[name])
    _, seen = recorded(host, function, args, algorithm="gemm", **keywords)
    launches = [e.kernel.partition("<")[0] for e in seen.of(events.Launch)]
    assert len(seen.of(events.BlasCall)) == 1
    if which != "filter_grad":
        assert [k for k in launches if k == "copy_rows"] == ["copy_rows"] * (name == "padded")
    if which == "forward":
        assert set(launches) <= {"copy_rows"}
        assert not seen.of(events.Copy)


@over_all
def test_work_is_done_where_the_array_is(host, cp, which, name, algorithm):
    function, args, keywords = prepared(cp, which, CASES[name], device=1)
    assert cp.cuda.runtime.getDevice() == 0
    result, seen = recorded(host, function, args, algorithm=algorithm, **keywords)
    assert cp.cuda.runtime.getDevice() == 0
    assert result.device.id == 1
    assert {e.device for e in seen} == {1}
    here, expected_args, _ = prepared(cp, which, CASES[name], device=0)
    expected = here(*expected_args, algorithm=algorithm, **keywords)
    with cp.cuda.Device(1):
        np.testing.assert_array_equal(result.get(), expected.get())


@over_all
def test_work_is_done_on_the_current_stream(host, cp, which, name, algorithm):
    function, args, keywords = prepared(cp, which, CASES[name])
    stream = cp.cuda.Stream(non_blocking=True)
    with stream:
        _, seen = recorded(host, function, args, algorithm=algorithm, **keywords)
    streams = {e.stream for e in seen if hasattr(e, "stream")}
    assert streams == {stream.ptr}


@over_all
def test_all_memory_comes_back(host, cp, which, name, algorithm):
    function, args, keywords = prepared(cp, which, CASES[name])
    function(*args, algorithm=algorithm, **keywords)
    with host.no_leaks():
        before = host.live_bytes(0)
        result = function(*args, algorithm=algorithm, **keywords)
        assert host.live_bytes(0) == before + result.nbytes
        del result


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("which", WAYS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", ["padded", "grouped"])
def test_halves_are_summed_in_float32_and_floats_are_not_rounded(
    host, cp, which, name, algorithm, dtype
):
    """TF32 that was switched on for all of CuPy has no effect on float32."""
    from cupy import _core as core
    from cupy._core._routines_linalg import COMPUTE_TYPE_TF32

    function, args, keywords = prepared(cp, which, CASES[name], dtype)
    before = core.get_compute_type(cp.float32)
    core.set_compute_type(cp.float32, COMPUTE_TYPE_TF32)
    try:
        _, seen = recorded(host, function, args, algorithm=algorithm, **keywords)
    finally:
        core.set_compute_type(cp.float32, before)
    products = seen.of(events.BlasCall)
    assert {e.compute for e in products} == {"32F"}
    assert {e.dtypes[:2] for e in products} == {(dtype,) * 2}
    assert {e.dtypes[2] for e in products} <= {dtype, "float32"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_long_sum_of_halves_is_exact(cp, dtype, groups):
    """4096 + 64 ones is exact; sums in float16 or bfloat16 would lose every one."""
    kind = cp.float16 if dtype == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    x = np.ones((1, 65, 2), "f4")
    x[0, 0] = 4096
    ones = cp.ones((65, 2 // groups, 2), kind)
    y = es.conv(cp.asarray(x.astype(kind)), ones, groups=groups, algorithm="gemm")
    whole = np.float32(4096 + 64) * (2 // groups)
    assert y.get().astype("f4").ravel().tolist() == [np.array(whole).astype(kind)] * 2


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("which", WAYS)
def test_negative_strides(host, cp, which, algorithm):
    case = CASES["strided"]
    function, args, keywords = prepared(cp, which, case)
    expected = function(*args, algorithm=algorithm, **keywords)
    turned = [
        cp.ascontiguousarray(a[::-1, ::-1, ::-1, ::-1])[::-1, ::-1, ::-1, ::-1]
        if isinstance(a, cp.ndarray)
        else a
        for a in args
    ]
    with host.recording() as seen:
        result = function(*turned, algorithm=algorithm, **keywords)
    assert not seen.of(events.Synchronize)
    np.testing.assert_array_equal(result.get(), expected.get())


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("shape", [(0, 5, 4, 2), (2, 5, 4, 0)])
def test_nothing_to_compute_launches_no_product(host, cp, shape, algorithm):
    x, f = cp.empty(shape, "f4"), cp.ones((3, 2, shape[-1], 6), "f4")
    with host.recording() as seen:
        y = es.conv(x, f, padding=1, algorithm=algorithm)
        gf = es.conv_filter_grad(x, y, (3, 2), padding=1, algorithm=algorithm)
        gx = es.conv_input_grad(y, f, (5, 4), padding=1, algorithm=algorithm)
    assert not seen.of(events.BlasCall)
    assert y.shape == (shape[0], 5, 5, 6)
    assert not y.get().any()
    assert not gf.get().any()
    assert gx.shape == shape


@pytest.mark.parametrize("function", ["conv", "conv_transpose"])
def test_mixed_devices_and_libraries_are_refused(host, cp, function):
    x, f = np.ones((1, 5, 4), "f4"), np.ones((3, 4, 4), "f4")
    here = cp.asarray(x)
    with cp.cuda.Device(1):
        there = cp.asarray(f)
    call = getattr(es, function)
    with host.recording() as seen:
        with refused(function, TypeError, "device"):
            call(here, there)
        with refused(function, TypeError, "library"):
            call(here, f)
        with refused(function, TypeError, "library"):
            call(x, there)
        with refused(function, TypeError, "device"):
            call(here, cp.asarray(f), out=out_on_device_1(cp))
    assert not [e for e in seen.of(events.Copy) if e.kind == "device_to_host"]


def out_on_device_1(cp):
    with cp.cuda.Device(1):
        return cp.empty((1, 3, 4), "f4")


def test_the_adapter_looks_at_the_device_itself(host, cp):
    """The adapter's functions work for an array of another device than the current one."""
    from einstride.arrays.backends.cupy import BACKEND

    with cp.cuda.Device(1):
        there = cp.ones((2, 3), "f4")
    for make in (BACKEND.empty, BACKEND.zeros):
        assert make((4,), "float64", there).device.id == 1
    with BACKEND.on(there):
        assert cp.cuda.runtime.getDevice() == 1


def test_the_default_limit(cp):
    from einstride.arrays.backends.cupy import BACKEND

    assert BACKEND.traits.workspace == 256 * MiB


@pytest.mark.parametrize(("kernel", "dilation"), [((7,), (1,)), ((3,), (3,)), ((0,), (1,))])
def test_windows_check_their_bound(cp, kernel, dilation):
    """A view that would leave the array is refused, even if the geometry asks for it."""
    from einstride.arrays import ops
    from einstride.arrays.backends.cupy import BACKEND

    with pytest.raises(ValueError, match="must fit"):
        ops.windows(cp.ones((1, 4, 2)), kernel, (1,), dilation, BACKEND)
