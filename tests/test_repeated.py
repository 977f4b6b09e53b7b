"""Repeated calls skip checks and planning, and have the results of a first call."""

from __future__ import annotations

import os
import threading
import warnings

import numpy as np
import pytest

import einstride as es
from einstride import _testing
from einstride.codegen.jit import available
from einstride.dispatch import call_cache

CASES = {
    "image": ((1, 8, 8, 3), (3, 3, 3, 4), {}),
    "series": ((1, 100, 1), (7, 1, 1), {}),
    "padded": ((4, 8, 8, 1), (3, 3, 1, 8), {"padding": 1}),
    "dense": ((1, 9, 9, 32), (3, 3, 32, 32), {"padding": "same"}),
    "steps": ((2, 11, 12, 6), (3, 4, 6, 5), {"stride": (2, 3), "dilation": (2, 1)}),
    "cropped": ((2, 11, 12, 6), (3, 4, 6, 5), {"padding": ((-1, 2), (0, 3))}),
    "flipped": ((3, 11, 12, 2), (3, 4, 2, 1), {"flip": True, "padding": "full"}),
    "groups": ((2, 9, 8, 6), (3, 3, 2, 9), {"groups": 3}),
    "depthwise": ((2, 9, 8, 6), (3, 3, 1, 6), {"groups": 6, "padding": 1}),
    "reflected": ((2, 9, 8, 3), (3, 3, 3, 4), {"padding": 1, "padding_mode": "reflect"}),
    "input_dilation": ((2, 5, 6, 3), (3, 3, 3, 4), {"input_dilation": 2}),
    "larger": ((8, 32, 32, 1), (5, 5, 1, 6), {}),
    "many channels": ((2, 28, 28, 64), (3, 3, 64, 48), {"padding": 1}),
    "many groups": ((4, 28, 28, 64), (3, 3, 1, 64), {"groups": 64, "padding": 1}),
    "strided groups": ((12, 29, 28, 72), (5, 3, 1, 72), {"groups": 72, "stride": 2, "flip": True}),
    "strided": ((1, 8, 8, 3), (3, 3, 3, 4), {"algorithm": "strided"}),
    "gemm": ((1, 8, 8, 3), (3, 3, 3, 4), {"algorithm": "gemm"}),
}


@pytest.fixture(autouse=True)
def empty_call_cache():
    call_cache.CACHE.clear()
    yield
    call_cache.CACHE.clear()


def numbers(shape, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "bfloat16":
        reason = "ml_dtypes gives NumPy its bfloat16"
        dtype = pytest.importorskip("ml_dtypes", reason=reason).bfloat16
    if seed and np.dtype(dtype).kind in "fc":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(-9, 10, shape).astype(dtype)


def uncached(function, *arrays, **keywords):
    """Return the result of a call with `out`, which is checked and planned each time."""
    first = function(*arrays, **keywords)
    out = np.empty_like(first)
    return function(*arrays, out=out, **keywords)


def cached_calls(x, f, **keywords):
    """Call `conv` until it is cached, and return the number of cached calls."""
    for _ in range(4):
        es.conv(x, f, **keywords)
    return len(call_cache.CACHE)


def passes(x_shape, f_shape, keywords, dtype="float32", seed=0):
    """Return {name: (function, arrays, keywords)} of each pass; seeds above 0: sums are rounded."""
    x, f = numbers(x_shape, dtype, seed), numbers(f_shape, dtype, 2 * seed)
    gy = numbers(es.conv(x, f, **keywords).shape, dtype, 3 * seed)
    size, kernel = x_shape[1:-1], f_shape[:-2]
    return {
        "forward": (es.conv, (x, f), keywords),
        "bias": (es.conv, (x, f, numbers(f_shape[-1:], dtype)), keywords),
        "input_grad": (es.conv_input_grad, (gy, f, size), keywords),
        "filter_grad": (es.conv_filter_grad, (x, gy, kernel), keywords),
        "per_example": (es.conv_filter_grad, (x, gy, kernel), keywords | {"per_example": True}),
    }


DTYPES = ("float32", "float64", "float16", "bfloat16", "complex64", "int8", "int32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_repeated_calls_have_the_bits_of_the_first(case, dtype):
    x_shape, f_shape, keywords = CASES[case]
    for seed in (0, 5):  # the second time the calls are cached, with other values
        for name, (function, arrays, more) in passes(
            x_shape, f_shape, keywords, dtype, seed
        ).items():
            expected = uncached(function, *arrays, **more)
            for _ in range(3):
                found = function(*arrays, **more)
                assert found.dtype == expected.dtype, name
                assert np.array_equal(found, expected), name


@pytest.mark.skipif(not available(), reason="needs llvmlite")
@pytest.mark.parametrize("name", ["forward", "bias", "input_grad", "filter_grad", "per_example"])
@pytest.mark.parametrize("case", ["image", "series", "padded", "dense", "steps", "flipped"])
def test_small_calls_become_programs(case, name):
    function, arrays, more = passes(*CASES[case])[name]
    call_cache.CACHE.clear()
    for _ in range(2):
        function(*arrays, **more)
    hit = next(iter(call_cache.CACHE._new.values()))
    phases = case == "steps" and name == "input_grad"  # positions that no tap reads are filled
    assert hasattr(hit, "program") is not phases


@pytest.mark.skipif(not available(), reason="needs llvmlite")
@pytest.mark.parametrize("name", ["forward", "bias", "input_grad", "filter_grad"])
@pytest.mark.parametrize("case", ["many channels", "many groups", "strided groups"])
def test_larger_calls_become_programs_on_threads(case, name):
    function, arrays, more = passes(*CASES[case])[name]
    with _testing.use(threads=3):
        call_cache.CACHE.clear()
        for _ in range(2):
            function(*arrays, algorithm="direct", **more)
        hit = next(iter(call_cache.CACHE._new.values()))
        assert hit.program.threads == 3
        expected = uncached(function, *arrays, algorithm="direct", **more)
        for _ in range(20):
            assert np.array_equal(function(*arrays, algorithm="direct", **more), expected)


@pytest.mark.parametrize("layout", ["channels_first", "NHCW,OHIW->HNWC"])
@pytest.mark.parametrize("case", ["image", "padded", "dense", "steps", "flipped"])
def test_any_layout(case, layout):
    x_shape, f_shape, keywords = CASES[case]
    first = layout == "channels_first"
    orders = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    to_x, to_f, to_y = orders if first else ((0, 1, 3, 2), (3, 0, 2, 1), (1, 0, 2, 3))
    for name, (function, (one, two, *rest), more) in passes(x_shape, f_shape, keywords).items():
        orders = {"input_grad": (to_y, to_f, to_x)}.get(name, (to_x, to_f, to_y))
        if name in ("filter_grad", "per_example"):
            orders = (to_x, to_y, to_f if name == "filter_grad" else (0, *(i + 1 for i in to_f)))
        expected = np.transpose(function(one, two, *rest, **more), orders[2])
        one, two = (
            np.ascontiguousarray(np.transpose(a, o))
            for a, o in ((one, orders[0]), (two, orders[1]))
        )
        for _ in range(4):
            found = function(one, two, *rest, layout=layout, **more)
            assert np.array_equal(found, expected), name


def test_errors_name_the_function_that_was_called():
    x, f = numbers((1, 8, 8, 3), "int64"), numbers((3, 3, 3, 4), "int64")
    layer = es.Conv(f)
    for function in (layer, lambda x: es.conv(x, f)):
        cached_calls(x, f)
        for _ in range(3):
            function(x)
    with pytest.raises(ValueError, match=r"^conv: .*could leave int64"):
        es.conv(x * (1 << 58), f)
    with pytest.raises(ValueError, match=r"^Conv: .*could leave int64"):
        layer(x * (1 << 58))


def test_integers_are_looked_at_each_time():
    x, f = numbers((1, 8, 8, 3), "int64"), numbers((3, 3, 3, 4), "int64")
    cached_calls(x, f)
    with pytest.raises(ValueError, match="could leave int64"):
        es.conv(x * (1 << 58), f)


def test_out_is_looked_at_each_time():
    x, f = numbers((1, 8, 8, 4)), numbers((1, 1, 4, 4))
    cached_calls(x, f)
    with pytest.raises(ValueError, match="share no memory"):
        es.conv(x, f, out=x)


def test_results_are_new_each_time():
    x, f = numbers((1, 8, 8, 3)), numbers((3, 3, 3, 4))
    cached_calls(x, f)
    one, two = es.conv(x, f), es.conv(x, f)
    assert not np.shares_memory(one, two)
    assert one.flags.writeable
    assert one.flags.owndata


@pytest.mark.parametrize("channels", [4, 300])
def test_layers_of_one_shape_have_filters_of_their_own(channels):
    x = numbers((1, 8, 8, 3 if channels == 4 else channels))
    filters = [numbers((3, 3, x.shape[-1], channels), seed=i) for i in range(3)]
    exact = {
        "padding": 1,
        "accuracy": "elementwise",
    }  # the cached transforms of a filter may decide on the algorithm
    layers = [es.Conv(f, **exact) for f in filters]
    for _ in range(4):
        for f, layer in zip(filters, layers, strict=True):
            assert np.array_equal(layer(x), uncached(es.conv, x, f, **exact))
    layers[0].f = filters[1]
    for _ in range(3):
        assert np.array_equal(layers[0](x), uncached(es.conv, x, filters[1], **exact))


@pytest.mark.parametrize("algorithm", ["auto", "direct", "winograd", "fft"])
@pytest.mark.parametrize("size", [9, 28])
def test_a_layers_later_calls_have_the_bits_of_the_first(algorithm, size):
    """Later calls of a layer are planned for a filter whose transforms are cached."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, size, size, 32)).astype("float32")
    layer = es.Conv(rng.normal(size=(3, 3, 32, 32)).astype("float32"), algorithm=algorithm)
    first = layer(x)
    for _ in range(5):
        assert np.array_equal(layer(x), first)


def test_the_call_cache_holds_as_many_as_it_says():
    cache = call_cache.CallCache(4)
    for i in range(100):
        cache.put(i, i)
        assert cache.get(0) == 0  # read each time, and so never evicted
        assert len(cache) <= 8
    assert cache.get(50) is None
    assert cache.get(99) == 99


def test_eight_threads():
    jobs = [job for case in ("image", "padded", "dense", "flipped")
            for job in passes(*CASES[case]).values()]  # fmt: skip
    expected = [uncached(function, *arrays, **more) for function, arrays, more in jobs]
    wrong = []

    def work(number):
        for i in range(60 * len(jobs)):
            at = (i * 7 + number) % len(jobs)
            function, arrays, more = jobs[at]
            if not np.array_equal(function(*arrays, **more), expected[at]):
                wrong.append(at)
            if number == 0 and i % 50 == 0:
                call_cache.CACHE.clear()

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_uses_the_call_cache():
    x, f = numbers((1, 8, 8, 3)), numbers((3, 3, 3, 4))
    cached_calls(x, f)
    expected = es.conv(x, f)
    with warnings.catch_warnings(action="ignore"):  # Python warns of forks with threads
        child = os.fork()
    if child == 0:
        good = all(np.array_equal(es.conv(x, f), expected) for _ in range(50))
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_nothing_of_the_caller_is_kept():
    import gc
    import weakref

    x, f = numbers((1, 8, 8, 3)), numbers((3, 3, 3, 4))
    cached_calls(x, f)
    refs = [weakref.ref(x), weakref.ref(f)]
    del x, f
    gc.collect()
    assert [r() for r in refs] == [None, None]
