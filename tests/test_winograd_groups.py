"""The Winograd kernels compute groups of many channels, one group after another."""

import re
import tracemalloc

import numpy as np
import pytest

import einstride as es
from einstride import _testing

pytest.importorskip("llvmlite")
from einstride.geometry import channel_slices

BOUNDS = {"float32": 5e-6, "float64": 1e-14, "complex64": 5e-6}
CASES = {
    "two": {"size": (7, 9), "kernel": (5, 5), "c": 32, "d": 48, "groups": 2, "padding": 2},
    "three": {"size": (8, 6), "kernel": (3, 3), "c": 48, "d": 51, "groups": 3, "padding": 1},
    "line": {"size": (20,), "kernel": (3,), "c": 64, "d": 64, "groups": 4, "padding": 0},
    "flipped": {
        "size": (6, 7), "kernel": (2, 3), "c": 34, "d": 40, "groups": 2, "padding": 1, "flip": True,
    },
    "dilated": {
        "size": (9, 8), "kernel": (3, 3), "c": 32, "d": 32, "groups": 2, "padding": 2,
        "dilation": 2,
    },
}  # fmt: skip


def numbers(shape, dtype, seed):
    rng = np.random.default_rng(seed)
    made = rng.normal(size=shape)
    if dtype.startswith("complex"):
        made = made + 1j * rng.normal(size=shape)
    return made.astype(dtype)


def operands(size, kernel, c, d, groups, dtype="float32", **more):
    x, f = numbers((2, *size, c), dtype, 0), numbers((*kernel, c // groups, d), dtype, 1)
    keywords = {"groups": groups, **more}
    gy = numbers(es.conv(x, f, **keywords).shape, dtype, 2)
    return x, f, gy, keywords


def close(found, expected):
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < BOUNDS[found.dtype.name]


@pytest.fixture
def ours():
    """Use compiled kernels, not array code."""
    with _testing.failing("run Winograd on arrays", AssertionError("no kernel of ours")):
        yield


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", CASES)
def test_all_passes(name, dtype, ours):
    one = CASES[name]
    x, f, gy, k = operands(**one, dtype=dtype)
    bias = numbers(f.shape[-1:], dtype, 3)
    calls = (
        lambda a: es.conv(x, f, bias, algorithm=a, **k),
        lambda a: es.conv_input_grad(gy, f, one["size"], algorithm=a, **k),
        lambda a: es.conv_filter_grad(x, gy, one["kernel"], algorithm=a, **k),
    )
    for call in calls:
        close(call("winograd"), call("strided"))


@pytest.mark.parametrize("name", ["two", "flipped"])
def test_a_layer_keeps_every_group(name, ours):
    x, f, gy, k = operands(**CASES[name])
    layer = es.Conv(f, algorithm="winograd", **k)
    for _ in range(3):
        close(layer(x), es.conv(x, f, algorithm="strided", **k))
    gx = layer.backward(gy, x).gx
    close(gx, es.conv_input_grad(gy, f, CASES[name]["size"], algorithm="strided", **k))


def test_any_layout_and_a_given_result(ours):
    x, f, _, k = operands(**CASES["two"])
    first = np.moveaxis(x, -1, 1).copy()
    turned = np.moveaxis(f, (-1, -2), (0, 1)).copy()
    expected = np.moveaxis(es.conv(x, f, algorithm="winograd", **k), -1, 1)
    out = np.empty(expected.shape, x.dtype)
    found = es.conv(first, turned, layout="channels_first", algorithm="winograd", out=out, **k)
    assert found is out
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("limit", [2_500_000, 4 << 20])
def test_max_workspace_holds(limit, ours):
    x, f, _, k = operands((40, 40), (3, 3), 128, 128, 2, padding=1)

    def call():
        return es.conv(x, f, algorithm="winograd", max_workspace=limit, **k)

    call()
    tracemalloc.start()
    result = call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak - result.nbytes <= limit + (1 << 16)  # Python's own objects


def test_the_groups_of_a_job():
    x, f, _, k = operands(**CASES["two"])
    assert es.plan(x, f, algorithm="winograd", **k).algorithm == "winograd"
    job = es.plan(x, f, **k)._decision.job
    parts = channel_slices.each_group(job)
    assert [p.job.geometry.channels for p in parts] == [16, 16]
    assert [p.job.geometry.filters for p in parts] == [24, 24]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("which", ["forward", "input_grad", "filter_grad"])
def test_the_least_limit_works_and_holds(which, groups, dtype, ours):
    x, f, gy, k = operands((12, 12), (3, 3), 128, 256, groups, padding=1)
    x, f, gy = (a.astype(dtype) for a in (x, f, gy))

    def call(limit, out=None):
        options = {"algorithm": "winograd", "max_workspace": limit, "out": out, **k}
        if which == "forward":
            return es.conv(x, f, **options)
        if which == "input_grad":
            return es.conv_input_grad(gy, f, (12, 12), **options)
        return es.conv_filter_grad(x, gy, (3, 3), **options)

    with pytest.raises(ValueError, match="max_workspace is too small") as refused:
        call(1)
    least = int(re.search(r"pass max_workspace=(\d+)", str(refused.value))[1])
    out = call(least)
    tracemalloc.start()
    call(least, out)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= least + (1 << 15)  # Python's own objects
