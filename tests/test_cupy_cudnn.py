"""The cudnn algorithm on a stand-in of its frontend: its results, and its requests to cuDNN.

The stand-in lists engines that break a promise first, and each of them gives a wrong result of its
own: an engine that is chosen wrongly shows in the result.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

import cudnn_stand_in
import einstride as es
import oracle
from checks import PASSES, operands, refused, same
from cupy_host import events
from oracle import Case
from strategies import arrays, cases, seeds
from test_cupy_contract import CASES, prepared

pytest_plugins = ["cupy_host.fixtures"]

KiB = 1 << 10
SQUARE = Case(2, (9, 8), (3, 3), 8, 6, (1, 1), ((1, 1), (1, 1)), (1, 1))
UNEVEN = {
    "one side": replace(SQUARE, pads=((0, 1), (2, 0))),
    "cropped": replace(SQUARE, pads=((-1, 2), (0, -2))),
    "cropped twice": replace(SQUARE, pads=((-1, -2), (-1, 1))),
    "shifted": replace(SQUARE, pads=((-1, 1), (1, 1))),
    "reflected": replace(SQUARE, pads=((1, 2), (2, 1)), mode="reflect"),
    "circular": replace(SQUARE, pads=((2, 2), (0, 1)), mode="circular"),
    "strided": Case(2, (12, 11), (3, 2), 4, 6, (3, 2), ((2, 0), (0, 1)), (1, 2), groups=2),
    "flipped": replace(SQUARE, flip=True),
    "line": Case(2, (17,), (4,), 6, 4, (2,), ((3, 0),), (2,), groups=2),
    "volume": Case(2, (5, 6, 4), (2, 3, 2), 4, 6, (1, 2, 1), ((1, 1), (0, 0), (0, 1)), (1, 1, 2)),
    "one channel": Case(2, (6, 7), (3, 3), 1, 1, (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "one by one": Case(1, (1, 1), (1, 1), 3, 2, (1, 1), ((0, 0), (0, 0)), (1, 1)),
}


@pytest.fixture
def state(host, cp):
    with cudnn_stand_in.installed(host) as found:
        yield found


def on_device(cp, array, order="last"):
    """Return a canonical array on the device, stored channels last, first, or otherwise."""
    if order == "first":
        return cp.moveaxis(cp.ascontiguousarray(cp.moveaxis(cp.asarray(array), -1, 1)), 1, -1)
    if order == "turned":
        return cp.asarray(np.ascontiguousarray(array[::-1, ::-1]))[::-1, ::-1]
    if order == "gaps":
        wide = cp.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        wide[..., ::2] = cp.asarray(array)
        return wide[..., ::2]
    return cp.asarray(array)


def run(cp, which, case, given, orders=("last", "last"), **more):
    function, args, pair = operands(which, case, *given)
    there = iter(orders)
    args = [on_device(cp, a, next(there)) if isinstance(a, np.ndarray) else a for a in args]
    found = function(*args, algorithm="cudnn", **{**case.explicit, **more})
    return found, oracle.PASSES[which](*pair, case)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("name", [*CASES, *UNEVEN])
@pytest.mark.parametrize("which", PASSES)
def test_against_the_loops(state, cp, which, name, dtype):
    case = {**CASES, **UNEVEN}[name]
    if name in CASES:
        case = replace(case, batch=1)
    function, args, pair = operands(which, case, *arrays(case, dtype, 5))
    args = [cp.asarray(a) if isinstance(a, np.ndarray) else a for a in args]
    found = function(*args, algorithm="cudnn", **case.explicit)
    if case.mode == "zeros":
        expected = oracle.FAST[which](*(a.astype("f8") for a in pair), replace(case, mode="zeros"))
    else:
        expected = oracle.PASSES[which](*pair, case)
    same(found.get(), expected.astype(dtype), dtype)


@pytest.mark.parametrize("which", PASSES)
@given(case=cases(max_rank=3), seed=seeds)
def test_random_geometries(installed_cupy_host, which, case, seed):
    import cupy

    with cudnn_stand_in.installed(installed_cupy_host):
        found, expected = run(
            cupy, which, replace(case, keywords={}), arrays(case, "float32", seed)
        )
        same(found.get(), expected, "float32")


@pytest.mark.parametrize("second", ["last", "first", "turned", "gaps"])
@pytest.mark.parametrize("first", ["last", "first", "turned", "gaps"])
@pytest.mark.parametrize("which", PASSES)
def test_any_memory_order(state, cp, which, first, second):
    found, expected = run(cp, which, SQUARE, arrays(SQUARE, "float32", 3), (first, second))
    same(found.get(), expected, "float32")


@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
@pytest.mark.parametrize("which", PASSES)
def test_layouts_cost_no_copy_of_images(host, state, cp, which, layout):
    """Only the filter is copied, and with channels first nothing."""
    function, args, keywords = prepared(cp, which, SQUARE)
    if layout == "channels_first":
        filters = {"forward": [1], "input_grad": [1], "filter_grad": []}[which]
        args = [
            cp.ascontiguousarray(a.transpose((3, 2, 0, 1) if i in filters else (0, 3, 1, 2)))
            if isinstance(a, cp.ndarray) else a
            for i, a in enumerate(args)
        ]  # fmt: skip
    call = dict(algorithm="cudnn", layout=layout, **keywords)
    result = function(*args, **call)
    with host.recording() as seen:
        repeated = function(*args, **call)
    launches = [e.kernel for e in seen.of(events.Launch)]
    assert len(seen.of(events.LibraryCall)) == 1
    assert len(launches) == (layout == "channels_last"), launches
    assert not seen.of(events.Synchronize)
    assert not seen.of(events.Copy)
    workspace = state.built[-1][1].workspace
    filters = 4 * 9 * 8 * 6 * (layout == "channels_last")
    assert seen.peak_growth() - repeated.nbytes <= workspace + filters
    np.testing.assert_array_equal(result.get(), repeated.get())


# ---- the promises --------------------------------------------------------------------------------


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize(
    ("dtype", "accuracy", "chosen"),
    [
        ("float32", "normwise", "direct"),
        ("float32", "tf32", "tensor_core"),
        ("float16", "normwise", "tensor_core"),
        ("float64", "normwise", "tensor_core"),
    ],
)
def test_the_engine_keeps_the_accuracy(state, cp, which, dtype, accuracy, chosen):
    """The default limit excludes the engine `large`; notes exclude the others."""
    run(cp, which, SQUARE, arrays(SQUARE, dtype, 1), accuracy=accuracy)
    assert {e.name for _, e in state.built} == {chosen}


def test_float32_is_not_rounded_unless_allowed(state, cp):
    x, f = np.full((1, 4, 1), 1 + 2**-12, "f4"), np.ones((1, 1, 1), "f4")
    x, f = cp.asarray(x), cp.asarray(f)
    assert es.conv(x, f, algorithm="cudnn").get().ravel()[0] == np.float32(1 + 2**-12)
    assert es.conv(x, f, algorithm="cudnn", accuracy="tf32").get().ravel()[0] == 1


@pytest.mark.parametrize("which", PASSES)
def test_max_workspace_is_kept(host, state, cp, which):
    function, args, keywords = prepared(cp, which, SQUARE)
    keywords["algorithm"] = "cudnn"
    with refused(function.__name__, ValueError, "max_workspace") as caught:
        function(*args, max_workspace=0, **keywords)
    least = int(str(caught.value).split("max_workspace=")[-1].split()[0])
    names = []
    for limit in (least, least + 64 * KiB - 1, least + 64 * KiB, 2 << 30):
        function(*args, max_workspace=limit, **keywords)
        with host.recording() as seen:
            result = function(*args, max_workspace=limit, **keywords)
        assert seen.peak_growth() - result.nbytes <= limit
        names.append(state.ran[-1][1].name)
    assert names == ["frugal", "frugal", "direct", "large"]


@pytest.mark.parametrize("name", UNEVEN)
@pytest.mark.parametrize("orders", [("last", "last"), ("turned", "gaps"), ("first", "first")])
@pytest.mark.parametrize("which", PASSES)
def test_what_a_plan_predicts_bounds_what_is_used(host, state, cp, which, name, orders):
    case = UNEVEN[name]
    state.orders = frozenset({"last"})
    run(cp, which, case, arrays(case, "float32", 1), orders)
    function, args, _ = operands(which, case, *arrays(case, "float32", 1))
    there = iter(orders)
    args = [on_device(cp, a, next(there)) if isinstance(a, np.ndarray) else a for a in args]
    extra = {"input_grad": "input_size", "filter_grad": "kernel_size"}.get(which)
    more = {extra: args[2]} if extra else {}
    predicted = es.plan(*args[:2], direction=which, algorithm="cudnn", **case.explicit, **more)
    with host.recording() as seen:
        result = function(*args, algorithm="cudnn", **case.explicit)
    assert seen.peak_growth() - result.nbytes <= predicted.workspace


def test_the_same_call_has_the_same_bits(state, cp):
    """The engine `atomics`, whose results differ between calls, is not chosen."""
    x, f = (cp.asarray(np.random.default_rng(1).random(s, "f4")) for s in [(2, 9, 4), (3, 4, 5)])
    first = es.conv(x, f, algorithm="cudnn").get()
    for _ in range(3):
        np.testing.assert_array_equal(es.conv(x, f, algorithm="cudnn").get(), first)


@pytest.mark.parametrize("which", ["forward", "transpose"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_bias(state, cp, which, dtype):
    """Results in halves are rounded once, after the bias is added."""
    function, args, keywords = prepared(cp, which, SQUARE, dtype)
    wanted = function(*args, algorithm="gemm", **keywords)
    bias = cp.asarray(np.arange(wanted.shape[-1]) / 8 + 0.0625).astype(wanted.dtype)
    found = function(*args, algorithm="cudnn", bias=bias, **keywords)
    wanted = function(*args, algorithm="gemm", bias=bias, **keywords)
    np.testing.assert_array_equal(found.get().astype("f8"), wanted.get().astype("f8"))


@pytest.mark.parametrize(("dtype", "large"), [("float16", 2048), ("bfloat16", 256)])
def test_halves_are_rounded_once(state, cp, dtype, large):
    """large + 1 is no number of 16 bits, but large + 1 + bias is one."""
    kind = cp.float16 if dtype == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    x, f = cp.asarray(np.array([[[large, 1]]], kind)), cp.asarray(np.ones((1, 2, 1), kind))
    y = es.conv(x, f, bias=cp.asarray(np.ones(1, kind)), algorithm="cudnn")
    assert float(y.get()[0, 0, 0]) == large + 2


def test_halves_that_cannot_be_rounded_once_are_refused(state, cp):
    state.fused_bias = False
    x, f = cp.ones((1, 4, 2), "f2"), cp.ones((2, 2, 2), "f2")
    with refused("conv", ValueError, "no fusion here"):
        es.conv(x, f, algorithm="cudnn")
    assert es.conv(x.astype("f4"), f.astype("f4"), algorithm="cudnn").dtype == "f4"
