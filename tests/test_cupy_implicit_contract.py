"""implicit_gemm launches kernels only; its plans, its workspace and its partial sums."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

import einstride as es
import oracle
from checks import PASSES, operands
from cupy_host import events
from einstride import _testing
from einstride.algorithms import implicit_gemm as algorithm
from einstride.cuda import gemm_tiles as tiles
from einstride.cuda import implicit_gemm as launcher
from einstride.geometry import input_gradient_phases
from oracle import Case
from strategies import arrays
from test_cupy_contract import CASES, WAYS, prepared, recorded

pytest_plugins = ["cupy_host.fixtures"]

MINE = {"algorithm": "implicit_gemm"}
DTYPES = ("float16", "bfloat16", "float32", "float64")
LONG = Case(2, (70,), (3,), 3, 5, (1,), ((1, 1),), (1,))  # a filter gradient with sums of 140 terms


@contextmanager
def parts_of(terms):
    """Divide sums into partial sums of `terms` terms."""
    with _testing.use(constants={"terms of a part": terms}):
        yield


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("which", WAYS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_launches_and_nothing_else(host, cp, which, name, dtype):
    """One launch for each phase, on one stream: no copy, transfer, wait or workspace."""
    case = CASES[name]
    function, args, keywords = prepared(cp, which, case, dtype)
    if which == "forward":
        args.insert(2, cp.ones(case.filters, "f4").astype(args[0].dtype))
    stream = cp.cuda.Stream(non_blocking=True)
    function(*args, **MINE, **keywords)
    with stream:
        result, seen = recorded(host, function, args, **MINE, **keywords)
    launches = [e.kernel.partition("<")[0] for e in seen.of(events.Launch)]
    expected = ["implicit_gemm_mma" if dtype == "float16" else "implicit_gemm"]
    room = 0
    if which == "filter_grad":
        room = plan_of(case, dtype).workspace
        expected += ["add_parts"] * (room > 0)
    elif which in ("input_grad", "transpose"):
        found = input_gradient_phases.phases(job_of(case, dtype).geometry)
        expected = [expected[0] if p.geometry else "cupy_fill" for p in found]
    assert launches == expected
    assert not seen.of(events.Copy)
    assert not seen.of(events.Synchronize)
    assert not seen.of(events.BlasCall)
    assert {e.stream for e in seen if hasattr(e, "stream")} == {stream.ptr}
    assert seen.peak_growth(0) <= result.nbytes + room


@pytest.mark.parametrize("which", PASSES)
def test_channels_first_is_not_copied(host, cp, which):
    case = CASES["grouped"]
    function, args, _ = operands(which, case, *arrays(case, "float32", 3))
    first = [cp.asarray(np.moveaxis(a, -1, 1).copy()) for a in args[:2] if a.ndim == 4]
    if which != "filter_grad":
        first[1] = cp.asarray(np.ascontiguousarray(args[1].transpose(3, 2, 0, 1)))
    given = [*first, *args[2:]]
    keywords = case.explicit | MINE | {"layout": "channels_first"}
    result, seen = recorded(host, function, given, **keywords)
    assert len(seen.of(events.Launch)) == 1 + (which == "filter_grad")
    assert not seen.of(events.Copy)
    expected = function(*(cp.asarray(a) for a in args[:2]), *args[2:], **MINE, **case.explicit)
    order = (2, 3, 1, 0) if which == "filter_grad" else (0, 2, 3, 1)
    np.testing.assert_array_equal(result.transpose(order).get(), expected.get())


@pytest.mark.parametrize("which", WAYS)
def test_on_the_device_of_the_arrays(host, cp, which):
    function, args, keywords = prepared(cp, which, CASES["strided"], device=1)
    with parts_of(16):
        result, seen = recorded(host, function, args, **MINE, **keywords)
    assert result.device.id == 1
    assert {e.device for e in seen} == {1}
    assert not seen.of(events.Synchronize)


def test_the_same_kernel_is_compiled_once(host, cp):
    """The kernel of a geometry is compiled once for each device, also for several streams."""
    function, args, keywords = prepared(cp, "forward", CASES["padded"])
    function(*args, **MINE, **keywords)
    before = _testing.entries("code")
    with cp.cuda.Stream(non_blocking=True):
        function(*args, **MINE, **keywords)
    assert _testing.entries("code") == before


@pytest.mark.parametrize("order", ["forward", "reverse", "shuffle"])
def test_partial_sums_are_added_in_one_order(host, cp, order):
    """The result has the bits of the partial sums, added from the first to the last."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=LONG.x_shape).astype("f4")
    gy = (rng.normal(size=LONG.y_shape) * 10.0 ** rng.integers(-3, 4, LONG.y_shape)).astype("f4")
    given = cp.asarray(x), cp.asarray(gy)
    host.fibre_order = order
    with parts_of(16):
        found, seen = recorded(host, es.conv_filter_grad, (*given, 3), **MINE, **LONG.explicit)
        product = tiles.choose_product(
            job_of(LONG, "float32").geometry, True, "float32", False, 2**20
        )
    names = [e.kernel.partition("<")[0] for e in seen.of(events.Launch)]
    assert names[1:] == ["add_parts"]
    assert product.parts > 2
    parts = []
    for start in range(0, 140, product.split):
        some = np.zeros_like(gy).reshape(140, -1)
        some[start : start + product.split] = gy.reshape(140, -1)[start : start + product.split]
        whole = cp.asarray(some.reshape(gy.shape))
        with parts_of(10**6):
            parts.append(es.conv_filter_grad(given[0], whole, 3, **MINE, **LONG.explicit).get())
    expected, backwards = parts[0], parts[-1]
    for part in parts[1:]:
        expected = expected + part
    for part in parts[-2::-1]:
        backwards = backwards + part
    np.testing.assert_array_equal(found.get(), expected)
    assert (expected != backwards).any()


def plan_of(case, dtype, which="filter_grad", **keywords):
    shapes = {"filter_grad": (case.x_shape, case.y_shape), "forward": (case.x_shape, case.f_shape)}
    extra = {"kernel_size": case.kernel_size} if which == "filter_grad" else {}
    p = es.plan(
        *shapes[which], direction=which, dtype=dtype, library="cupy", **MINE, **extra,
        **case.explicit, **keywords,
    )  # fmt: skip
    return p


def job_of(case, dtype, which="filter_grad"):
    return plan_of(case, dtype, which)._decision.inner


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["grouped", "volume", "line"])
def test_partial_sums_are_the_workspace(host, cp, name, dtype):
    """Partial sums are exact in integers, within any limit to the byte; with a limit of zero there
    are none."""
    case = CASES[name]
    function, args, keywords = prepared(cp, "filter_grad", case, dtype)
    x, _, gy = arrays(case, "float32", 3)
    expected = oracle.fast_filter_grad(x.astype("f8"), gy.astype("f8"), case)
    with parts_of(64):
        for limit in (0, 3000, 20_000, None):
            more = MINE | {"max_workspace": limit}
            result, seen = recorded(host, function, args, **more, **keywords)
            plan = es.plan(
                *args[:2], direction="filter_grad", kernel_size=args[2], **more, **keywords
            )
            assert seen.peak_growth(0) - result.nbytes <= plan.workspace + 1024
            assert limit is None or plan.workspace <= limit
            np.testing.assert_array_equal(result.get().astype("f8"), expected)
        assert plan.workspace > 0
        assert len(seen.of(events.Launch)) == 2


def test_an_older_device_says_why_it_takes_the_ordinary_units():
    job = job_of(CASES["padded"], "float16", "forward")
    assert algorithm.units(job, 80) is None
    assert "8.0" in algorithm.units(job, 75)
    assert "float64" in algorithm.units(replace(job, operands=("float64",) * 2), 90)
    job = replace(job, operands=("float32",) * 2)
    assert "tf32" in algorithm.units(job, 90)
    assert algorithm.units(replace(job, accuracy="tf32"), 90) is None


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("which", ["forward", "input_grad"])
def test_alone_as_in_any_batch(cp, which, dtype):
    case = replace(CASES["strided"], batch=5)
    rng = np.random.default_rng(0)
    x, f, gy = (
        rng.normal(size=s).astype(dtype) for s in (case.x_shape, case.f_shape, case.y_shape)
    )
    function, args, _ = operands(which, case, x, f, gy)
    keywords = case.explicit | MINE | {"batch_invariant": True}
    given = [cp.asarray(a) for a in args[:2]]
    whole = function(*given, *args[2:], **keywords).get()
    for i in range(5):
        alone = function(given[0][i : i + 1], given[1], *args[2:], **keywords).get()
        np.testing.assert_array_equal(alone[0], whole[i])


def test_the_index_is_wide_enough():
    job = job_of(LONG, "float32")
    p = tiles.choose_product(job.geometry, False, "float32", False)

    def index(step, x=0, f=0, y=0):
        of_x, of_f, of_y = (launcher.Strides(0, (n * step,), 0, 0) for n in (x, f, y))
        layout = launcher.Layout(0, of_x, of_f, of_y, 0, (True,) * 3)
        return launcher.index_type(p, layout, layout.y, 0)

    assert index(0) == "int"
    for which, count in (("x", 70), ("f", 3), ("y", 70)):
        enough = launcher.LARGEST_INT // count
        assert index(enough - 200, **{which: 1}) == "int"
        assert index(enough + 1, **{which: 1}) == "long long"
        assert index(-enough - 1, **{which: 1}) == "long long"
