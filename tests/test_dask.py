"""Compare convolutions of Dask arrays with those of the whole arrays, and count their tasks."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import einstride as es
from einstride import _testing, calibration, nn
from einstride.geometry import chunks as pieces
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Settings
from oracle import Case
from strategies import cases, integer_data, seeds

da = pytest.importorskip("dask.array", reason="dask is not installed")
dask = pytest.importorskip("dask")

MODES = ("zeros", "reflect", "replicate", "circular", "symmetric", "constant")
LAYOUTS = {1: ("channels_first", "CXN,XOI->XCN"), 2: ("channels_first", "NCXY,OIXY->XNYC")}


def split(draw: Any, n: int) -> tuple[int, ...]:
    """Draw chunks of an axis of n elements, uneven ones among them."""
    if n < 2:
        return (n,)
    cuts = sorted(draw(st.sets(st.integers(1, n - 1), max_size=min(3, n - 1))))
    return tuple(b - a for a, b in zip([0, *cuts], [*cuts, n], strict=True))


def chunked(draw: Any, a: np.ndarray) -> Any:
    return da.from_array(a, chunks=tuple(split(draw, n) for n in a.shape))


@st.composite
def calls(draw: Any) -> tuple[Case, dict[str, Any]]:
    """Draw a convolution with any border, input dilation and layout."""
    case = draw(cases(max_rank=3))
    keywords: dict[str, Any] = dict(case.explicit)
    rank = len(case.kernel_size)
    if draw(st.booleans()):
        keywords["layout"] = draw(st.sampled_from(LAYOUTS.get(rank, ("channels_first",))))
    mode = draw(st.sampled_from(MODES))
    keywords["padding_mode"] = mode
    if draw(st.booleans()):
        keywords["padding_mode"] = tuple(draw(st.sampled_from(MODES)) for _ in range(rank))
    keywords["fill"] = draw(st.sampled_from((0, 3)))
    keywords["input_dilation"] = tuple(
        draw(st.sampled_from((1, 1, 2, 3))) if draw(st.booleans()) else 1 for _ in range(rank)
    )
    return case, keywords


def arranged(a: np.ndarray, keywords: dict[str, Any], role: int) -> np.ndarray:
    """Return a canonical array (x, f or y for role 0, 1, 2) in the layout of the keywords."""
    layout = keywords.get("layout", "channels_last")
    rank = a.ndim - 2
    if layout == "channels_last":
        return a
    if layout == "channels_first":
        order = (rank + 1, rank, *range(rank)) if role == 1 else (0, rank + 1, *range(1, rank + 1))
    else:
        names = re.split(",|->", layout)
        letters = [c for c in names[0] if c not in "NC"]
        wanted = [*letters, "I", "O"] if role == 1 else ["N", *letters, "C"]
        order = tuple(wanted.index(c) for c in names[role])
    return np.ascontiguousarray(a.transpose(order))


def operands(case: Case, keywords: dict[str, Any], dtype: str, seed: int) -> Any:
    """Return x, f, gy and the sizes of the input and of the kernel; None if there is no such
    convolution."""
    try:
        size = es.output_size(
            case.input_size, case.kernel_size,
            **{k: keywords[k] for k in ("stride", "padding", "dilation", "input_dilation")},
        )  # fmt: skip
        y_shape = (case.batch, *np.atleast_1d(size), case.filters)
        shapes = (case.x_shape, case.f_shape, y_shape)
        if dtype == "float64":
            rng = np.random.default_rng(seed)
            arrays = [rng.standard_normal(s) for s in shapes]
        else:
            arrays = [integer_data(s, dtype, seed + i) for i, s in enumerate(shapes)]
        x, f, gy = (arranged(a, keywords, role) for role, a in enumerate(arrays))
        es.conv(x, f, **keywords)
    except ValueError:
        return None
    return x, f, gy


def run(which: str, x: Any, f: Any, gy: Any, case: Case, keywords: dict[str, Any]) -> Any:
    if which == "forward":
        return es.conv(x, f, **keywords)
    if which == "input_grad":
        return es.conv_input_grad(gy, f, case.input_size, **keywords)
    per_example = which == "per_example"
    return es.conv_filter_grad(x, gy, case.kernel_size, per_example=per_example, **keywords)


def equal(found: Any, expected: np.ndarray) -> None:
    assert isinstance(found, da.Array)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    with dask.config.set(scheduler="synchronous"):
        values = found.compute()
        places = found.blocks.ravel() if found.npartitions < 5 else []
        for block in places:
            assert block.compute().shape == block.shape
    assert values.dtype == expected.dtype
    np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("which", ["forward", "input_grad", "filter_grad", "per_example"])
@settings(max_examples=20)
@given(st.data(), calls(), st.sampled_from(["int8", "float32", "float16", "complex64"]), seeds)
def test_chunks_have_the_values_of_the_whole(which, data, call, dtype, seed):
    """Integer values, whose sums are exact in every order."""
    case, keywords = call
    found = operands(case, keywords, dtype, seed)
    assume(found is not None)
    x, f, gy = found
    expected = run(which, x, f, gy, case, keywords)
    lazy = [chunked(data.draw, a) for a in (x, f, gy)]
    if which in ("forward", "input_grad") and data.draw(st.booleans()):
        lazy[1] = f
    equal(run(which, *lazy, case, keywords), expected)


@pytest.mark.parametrize("which", ["forward", "input_grad"])
@settings(max_examples=20)
@given(st.data(), calls(), seeds)
def test_chunks_have_the_bits_of_the_whole(which, data, call, seed):
    pytest.importorskip("llvmlite", reason="the order of sums is that of compiled kernels")
    case, keywords = call
    found = operands(case, keywords, "float64", seed)
    assume(found is not None)
    keywords = {**keywords, "accuracy": "elementwise"}
    x, f, gy = found
    expected = run(which, x, f, gy, case, keywords)
    lazy = [chunked(data.draw, a) for a in (x, f, gy)]
    equal(run(which, *lazy, case, keywords), expected)


@pytest.mark.parametrize("which", ["forward", "input_grad"])
@settings(max_examples=25)
@given(st.data(), calls(), seeds)
def test_pieces_have_the_bits_of_the_whole(which, data, call, seed):
    """Blocks of whole rows: a chunk in memory of its own is read in place, the margins are
    copied."""
    pytest.importorskip("llvmlite", reason="the order of sums is that of compiled kernels")
    case, keywords = call
    assume(len(case.kernel_size) > 1)
    keywords = {**keywords, "accuracy": "elementwise", "input_dilation": 1}
    found = operands(case, keywords, "float64", seed)
    assume(found is not None)
    x, f, gy = found
    expected = run(which, x, f, gy, case, keywords)
    operand = x if which == "forward" else gy
    # axes that may be cut, marked by a 2: all but the last spatial axis and the channels
    marks = arranged(np.empty((*(2,) * (x.ndim - 2), 1, 1)), keywords, 0).shape
    chunks = tuple(
        split(data.draw, n) if mark == 2 else (n,)
        for n, mark in zip(operand.shape, marks, strict=True)
    )
    own = da.from_array(operand, chunks=chunks).map_blocks(np.array)
    with _testing.use(constants={"bytes worth pieces": 0, "share of a chunk worth pieces": 0}):
        equal(run(which, own, f, own, case, keywords), expected)


@pytest.mark.parametrize("stride", [1, 3])
@pytest.mark.parametrize("which", ["forward", "input_grad"])
def test_large_chunks_are_not_copied(which, stride):
    """A few rows at the margins are joined, and never whole chunks."""
    x = np.random.default_rng(0).standard_normal((1, 192, 12000, 1), "float32")
    f = np.ones((10, 3, 1, 1), "float32")
    own = da.from_array(x, chunks=(1, 64, -1, 1)).map_blocks(np.array)
    keywords = {"padding": (6, 1), "stride": (stride, 1)}
    if which == "forward":
        found, expected = es.conv(own, f, **keywords), es.conv(x, f, **keywords)
    else:
        size = (191 * stride - 2, 12000)
        found, expected = (es.conv_input_grad(a, f, size, **keywords) for a in (own, x))
    with _testing.watching("join chunks of a piece") as calls:
        found = found.compute(scheduler="synchronous")
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    joined = [call.result.shape[1] for call in calls if len(call.args[0]) > 1]
    assert len(joined) >= 2
    assert max(joined) <= 20


@settings(max_examples=5)
@given(st.data(), seeds, st.integers(1, 3), st.integers(0, 1))
def test_transposed(data, seed, stride, extra):
    assume(extra < stride)
    x = integer_data((2, 5, 7, 4), "float64", seed)
    f = integer_data((3, 2, 2, 4), "float64", seed + 1)
    bias = integer_data((4,), "float64", seed + 2)
    for keywords in (
        {"groups": 2, "output_padding": extra},
        {"groups": 2, "padding": "same"},
        {"groups": 2, "padding": ((1, 1), (0, 1))},
    ):
        expected = es.conv_transpose(x, f, bias, stride=stride, **keywords)
        for given_bias in (bias, da.from_array(bias, chunks=1)):
            found = es.conv_transpose(
                chunked(data.draw, x), f, given_bias, stride=stride, **keywords
            )
            equal(found, expected)


@pytest.mark.parametrize("dtype", ["float32", "int8", "bool"])
@settings(max_examples=5)
@given(st.data(), seeds)
def test_bias_and_groups_in_chunks(dtype, data, seed):
    x = integer_data((2, 6, 5, 8), dtype, seed)
    f = integer_data((3, 3, 2, 12), dtype, seed + 1)
    bias = integer_data((12,), "float32" if dtype == "float32" else "int32", seed + 2)
    expected = es.conv(x, f, bias, groups=4, padding="same")
    found = es.conv(
        da.from_array(x, chunks=(1, 4, 3, data.draw(st.sampled_from((1, 2, 3, 4, 8))))),
        f, bias, groups=4, padding="same",
    )  # fmt: skip
    equal(found, expected)


def test_groups_stay_apart():
    x = da.zeros((1, 8, 8, 8), chunks=(1, 4, 4, 2))
    y = es.conv(x, np.ones((1, 1, 2, 4)), groups=4)
    assert y.chunks[-1] == (1, 1, 1, 1)
    gf = es.conv_filter_grad(x, y, (1, 1), groups=4)
    assert gf.chunks == ((1,), (1,), (2,), (1, 1, 1, 1))
    within = es.conv(x.rechunk((1, 4, 4, 3)), np.ones((1, 1, 2, 4)), groups=4)
    assert within.chunks[-1] == (3, 1)  # chunks end after 3, 6 and 8 channels, groups after 2
    with_filter = es.conv(x, da.ones((1, 1, 8, 6), chunks=(1, 1, 8, 2)))
    assert with_filter.chunks[-1] == (2, 2, 2)


# Graphs


@pytest.mark.parametrize("padding", ["valid", "same", "causal", "full"])
@pytest.mark.parametrize("stride", [1, 2])
def test_chunks_of_the_result_follow_those_of_x(padding, stride):
    x = da.zeros((1, 60, 60, 1), chunks=(1, 20, (10, 30, 20), 1))
    y = es.conv(x, np.ones((5, 5, 1, 1)), padding=padding, stride=stride)
    assert [len(c) for c in y.chunks] == [1, 3, 3, 1]
    if stride == 1 and padding in ("same", "causal"):
        assert y.chunks == x.chunks
    for ours, theirs in zip(y.chunks[1:3], x.chunks[1:3], strict=True):
        assert max(abs(a * stride - b) for a, b in zip(ours, theirs, strict=True)) <= 4


def test_one_task_for_each_chunk_of_the_result():
    x = da.zeros((1, 2000, 2000, 1), chunks=(1, 500, 500, 1))
    f = np.ones((5, 5, 1, 1))
    y = es.conv(x, f, padding="same")
    assert y.npartitions == 16
    assert len(y.dask.layers[y.name]) == 16 + 1  # the filter
    assert len(y.__dask_graph__()) <= 4 * y.npartitions
    gx = es.conv_input_grad(y, f, (2000, 2000), padding="same")
    assert len(gx.dask.layers[gx.name]) == 16 + 1
    gf = es.conv_filter_grad(x, y, (5, 5), padding="same")
    assert len(gf.dask.layers[gf.name]) == 16 + 2 + 1  # parts and two levels of sums


def test_the_time_to_write_a_graph_is_proportional_to_its_chunks():
    f = np.ones((3, 3, 1, 1), "float32")
    seconds = []
    for _ in range(5):
        x = da.zeros((1, 800, 800, 1), chunks=(1, 20, 20, 1), dtype="float32")
        start = time.process_time()
        y = es.conv(x, f, padding="same")
        seconds.append((time.process_time() - start) / y.npartitions)
    # 20 microseconds where the machine is idle; the bound leaves room for slow ones
    assert min(seconds) < 200e-6


def test_a_task_reads_only_the_chunks_that_its_windows_see():
    x = da.zeros((1, 100, 1), chunks=(1, 10, 1))
    y = es.conv(x, np.ones((3, 1, 1)), padding="same")
    middle = y.dask.get_all_dependencies()[y.name, 0, 5, 0]
    assert {key[2] for key in middle if key[0] == x.name} == {4, 5, 6}
    around = es.conv(x, np.ones((3, 1, 1)), padding="same", padding_mode="circular")
    first = around.dask.get_all_dependencies()[around.name, 0, 0, 0]
    assert {key[2] for key in first if key[0] == x.name} == {9, 0, 1}


def test_equal_calls_have_equal_names_and_bits():
    rng = np.random.default_rng(0)
    x, gy = rng.standard_normal((8, 40, 3)), rng.standard_normal((8, 38, 5))
    lazy = [da.from_array(a, chunks=(1, 7, 3 if a is x else 5)) for a in (x, gy)]
    found = [es.conv_filter_grad(*lazy, 3) for _ in range(2)]
    assert found[0].name == found[1].name
    results = {
        found[0].compute(scheduler=scheduler, num_workers=n).tobytes()
        for scheduler, n in product(("threads", "synchronous"), (1, 3))
    }
    assert len(results) == 1
    np.testing.assert_allclose(found[0].compute(), es.conv_filter_grad(x, gy, 3), rtol=1e-12)


def test_the_filter_may_be_written_after_the_call():
    f = np.ones((3, 1, 1))
    y = es.conv(da.ones((1, 9, 1), chunks=3), f)
    f[:] = 7
    assert (y.compute() == 3).all()


def test_layers_other_functions_and_lists_of_operands():
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (2, 12, 10, 2)).astype("float64")
    layer = es.Conv(rng.integers(-3, 4, (3, 3, 2, 4)).astype("float64"), np.ones(4), stride=2)
    lazy = da.from_array(x, chunks=(1, 5, 4, 2))
    y = layer.forward(x)
    equal(layer.forward(lazy), y)
    expected = layer.backward(y, x)
    for found, wanted in zip(layer.backward(layer(lazy)), expected, strict=True):
        equal(found, wanted)
    equal(es.conv_bias_grad(lazy), es.conv_bias_grad(x))
    found = es.conv_jvp(lazy, layer.f, lazy, None, stride=2)
    equal(found, es.conv_jvp(x, layer.f, x, None, stride=2))


@pytest.mark.parametrize("shape", [(0, 5, 1), (1, 0, 1), (1, 5, 0)])
def test_empty_arrays(shape):
    x, f = np.zeros(shape), np.ones((3, shape[-1], 2))
    expected = es.conv(x, f, padding="same")
    equal(es.conv(da.from_array(x), f, padding="same"), expected)


# Bad input


@pytest.mark.parametrize("which", ["x", "f", "bias"])
def test_unknown_chunks_are_refused(which):
    arrays = {"x": np.ones((2, 8, 1)), "f": np.ones((3, 1, 2)), "bias": np.ones(2)}
    lazy = {k: da.from_array(a, chunks=1) for k, a in arrays.items()}
    lazy[which] = lazy[which][lazy[which].sum(axis=tuple(range(1, lazy[which].ndim))) > 0]
    with pytest.raises(ValueError, match=rf"conv: the chunks of {which} must have known sizes; "
                       rf"got chunks .*nan.*; call {which}.compute_chunk_sizes"):  # fmt: skip
        es.conv(lazy["x"], lazy["f"], lazy["bias"])


def test_chunks_without_elements_are_refused():
    x = da.from_array(np.ones((1, 8, 1)), chunks=((1,), (4, 0, 4), (1,)))
    with pytest.raises(ValueError, match="conv: no chunk of x may have length 0 beside others; "):
        es.conv(x, np.ones((3, 1, 1)))


def test_other_arrays_are_refused():
    x, f = da.ones((1, 8, 1)), np.ones((3, 1, 1))
    with pytest.raises(TypeError, match="conv: f must be an array of NumPy, CuPy or Dask"):
        es.conv(x, f.tolist())
    with pytest.raises(TypeError, match="conv: arrays of dask are treated as immutable"):
        es.conv(x, f, out=np.empty((1, 6, 1)))
    with pytest.raises(ValueError, match="conv: x has 1 channels but f expects 2"):
        es.conv(x, np.ones((3, 2, 1)))


def test_integers_that_could_wrap_are_refused_by_the_task():
    x = da.full((1, 8, 1), 2**40, chunks=4, dtype="int64")
    y = es.conv(x, np.full((3, 1, 1), 2**40))
    with pytest.raises(ValueError, match="conv: sums of 3 products of these integers could leave"):
        y.compute(scheduler="synchronous")
    ones = da.full((1, 8, 1), 2**31, chunks=(1, 2, 1), dtype="int64")
    half = da.full((1, 6, 1), 2**31 - 1, chunks=(1, 1, 1), dtype="int64")
    gf = es.conv_filter_grad(ones, half, 3)
    with pytest.raises(ValueError, match="conv_filter_grad: the sum of the parts of two blocks"):
        gf.compute(scheduler="synchronous")


@pytest.mark.parametrize("dtype", ["int8", "uint64", "bool"])
def test_integers_are_looked_at_by_tasks(dtype):
    """The bias gradient and the sum of two changes read nothing before they are computed."""
    x = integer_data((3, 9, 7, 2), dtype, 1)
    f = integer_data((3, 2, 2, 3), "int8" if dtype == "bool" else dtype, 2)
    expected = es.conv_bias_grad(x), es.conv_jvp(x, f, x, f)
    read = []
    lazy = da.from_array(x, chunks=(2, 4, 3, 1)).map_blocks(_noted, read, dtype=dtype, meta=x[:0])
    found = es.conv_bias_grad(lazy), es.conv_jvp(lazy, f, lazy.rechunk(4), f)
    assert not read
    for ours, theirs in zip(found, expected, strict=True):
        equal(ours, theirs)
    assert read


def _noted(block: np.ndarray, read: list) -> np.ndarray:
    read.append(block.shape)
    return block


def test_sums_that_could_wrap_are_refused_by_tasks():
    gy = da.full((2, 4, 1), 2**61, chunks=1, dtype="int64")
    with pytest.raises(ValueError, match="conv_bias_grad: sums of 8 of these integers could leave"):
        es.conv_bias_grad(gy).compute(scheduler="synchronous")
    x, f = da.full((1, 4, 1), 2**61, chunks=2, dtype="int64"), np.ones((1, 1, 1), "int64")
    with pytest.raises(ValueError, match="conv_jvp: the sum of the two changes could leave int64"):
        es.conv_jvp(x, f, x, 3 * f).compute(scheduler="synchronous")


# Threads


def test_tasks_share_the_threads_of_a_call():
    """Also a task that begins between two tasks of another thread."""
    from einstride.arrays.backends.dask import tasks

    now = [100.0]
    running = tasks.Running(lambda: 6, lambda: now[0])

    def shares(others: int) -> int:
        """Return the share of a thread beside others, and let all of them end their tasks."""
        if others == 0:
            with running.one_more():
                return running.share()
        found = []
        with running.one_more():
            thread = threading.Thread(target=lambda: found.append(shares(others - 1)))
            thread.start()
            thread.join()
        return found[0]

    assert [shares(0), running.share()] == [6, 6]
    now[0] += 1
    assert shares(2) == 2
    assert running.share() == 2  # the three threads may begin another task
    now[0] += tasks.LINGER
    assert running.share() == 2
    now[0] += 1e-3
    assert running.share() == 6
    shares(7)
    assert running.share() == 1
    now[0] += 1
    shares(0)
    assert len(running._until) == 1


def test_chunks_of_one_array_are_read_where_they_lie():
    """A view of neighbouring chunks, if they have the addresses of one array; else a copy."""
    from einstride.arrays.backends.dask.joining import gathered

    x = np.arange(8 * 9 * 2).reshape(8, 9, 2)
    cuts = (((1, 4), (0, 3)), ((2, 5), (0, 4)), ((0, 2),))
    for array in (x, x[::-1], x[:, ::-1], np.asfortranarray(x), np.broadcast_to(x[:1], x.shape)):
        expected = array[1:7, 2:9]
        parts = [array[:4, :5], array[:4, 5:], array[4:, :5], array[4:, 5:]]
        found = gathered(parts, cuts)
        np.testing.assert_array_equal(found, expected)
        assert np.shares_memory(found, x) or np.shares_memory(found, array)
        assert not found.flags.writeable
        for i in range(4):  # one chunk elsewhere, of another order, or in the place of another
            for other in (parts[i].copy(), np.asfortranarray(parts[i]), parts[i].astype("f8")):
                some = [*parts[:i], other, *parts[i + 1 :]]
                found = gathered(some, cuts)
                np.testing.assert_array_equal(found, expected)
                assert not np.shares_memory(found, array)
    swapped = gathered([x[4:, :5], x[4:, 5:], x[:4, :5], x[:4, 5:]], cuts)
    np.testing.assert_array_equal(swapped, np.concatenate([x[5:8, 2:9], x[0:3, 2:9]]))


@pytest.mark.parametrize("mode", ["reflect", "symmetric", "circular", "replicate"])
def test_a_border_that_repeats_elements_is_folded_by_chunks(mode):
    """Each chunk of gx gets what the positions of the border that hold its elements get."""
    rng = np.random.default_rng(3)
    gy, f = rng.integers(-3, 4, (1, 10, 2)), rng.integers(-3, 4, (5, 3, 2))
    keywords = {"padding": 3, "padding_mode": mode}
    found = es.conv_input_grad(da.from_array(gy, chunks=(1, 3, 2)), f, 8, **keywords)
    np.testing.assert_array_equal(found.compute(), es.conv_input_grad(gy, f, 8, **keywords))


# The integers behind


@given(calls(), st.data())
def test_parts_cover_what_windows_see(call, data):
    """Each block's part holds the positions of its windows, and nothing that no window sees."""
    case, keywords = call
    names = ("stride", "padding", "dilation", "groups", "flip", "padding_mode", "input_dilation")
    try:
        g = Geometry.of("conv", case.x_shape, case.f_shape, Settings(*(keywords[k] for k in names)))
    except ValueError:
        assume(False)
    for axis in range(g.rank):
        ends = pieces.bounds(split(data.draw, case.input_size[axis]))
        dilation = g.input_dilation[axis] if g.input_dilation else 1
        found = pieces.blocks(ends, g.stride[axis], g.size[axis], g.out[axis], dilation)
        assert [b for block in found for b in block][:: len(found) * 2 - 1] == [0, g.out[axis]]
        for block in found:
            part = pieces.read_by_outputs(g, axis, block)
            n = sum(b - a for a, b in part.ranges)
            held = sum(f.length for f in part.fills) if part.fills else (n - 1) * dilation + 1
            reach = (block[1] - block[0] - 1) * g.stride[axis] + g.extent[axis]
            if block[0] < block[1]:
                assert held + sum(part.padding) == reach
            assert all(0 <= a <= b <= case.input_size[axis] for a, b in part.ranges)


# Plans


def test_a_plan_has_the_figures_of_the_graph():
    x = da.zeros((1, 2000, 2000, 1), chunks=(1, 500, 500, 1))
    f = np.ones((5, 5, 1, 1))
    plan = es.plan(x, f, padding="same")
    y = es.conv(x, f, padding="same")
    parts = plan.parts
    assert (parts.chunks, parts.tasks) == (16, len(y.dask.layers[y.name]))
    # on each axis three borders between chunks, at each of which two chunks read two rows more
    assert parts.halo_bytes == ((2000 + 12) ** 2 - 2000**2) * 8
    assert parts.task_read == 504 * 504 * 8
    assert parts.task_bytes >= (504**2 + 500**2) * 8
    assert "16 chunks, 17 tasks" in str(plan)
    assert plan.output_shape == y.shape
    assert plan(x, f).shape == y.shape
    slow = replace(parts, task_seconds=0.1)
    assert slow.seconds(1) == pytest.approx(1.6, rel=1e-3)
    assert slow.seconds(4) == pytest.approx(0.4, rel=1e-2)
    assert parts.seconds(10**6) >= parts.tasks * 200e-6
    gx = es.plan(y, f, direction="input_grad", input_size=(2000, 2000), padding="same")
    assert gx.parts.halo_bytes == parts.halo_bytes
    gf = es.plan(x, y, direction="filter_grad", kernel_size=(5, 5), padding="same")
    assert gf.parts.tasks == 16 + 2 + 1


def test_a_plan_advises_chunks():
    f = np.ones((5, 5, 1, 1), "float32")
    for chunks, advice in ((50, "use larger chunks"), (1000, ""), (16_000, "use smaller chunks")):
        x = da.zeros((1, 32_000, 16_000, 1), chunks=(1, chunks, chunks, 1), dtype="float32")
        x = x[:, : 32_000 if chunks > 50 else 500, : 16_000 if chunks > 50 else 500]
        assert es.plan(x, f, padding="same").parts.advice.startswith(advice)
    thin = da.zeros((1, 4000, 100_000, 1), chunks=(1, 4, 100_000, 1), dtype="float32")
    assert "halos are large" in es.plan(thin, f, padding="same").parts.advice
    assert es.plan((1, 8, 8, 1), f.shape).parts is None


# Networks


def network() -> Any:
    net = nn.Sequential(nn.Conv(4, 3, padding="same"), nn.BatchNorm(), nn.ReLU(),
                        nn.GlobalAvgPool(), nn.Dense(3))  # fmt: skip
    return nn.Model(net, input_shape=(6, 6, 2), dtype="float64", seed=1)


def test_a_model_predicts_and_is_evaluated_on_chunks():
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((20, 6, 6, 2)), rng.integers(0, 3, 20)
    model = network()
    lazy = da.from_array(x, chunks=((7, 9, 4), (3, 3), 6, 1))
    y = model.predict(lazy)
    expected = model.predict(x)
    assert y.chunks == ((7, 9, 4), (3,))
    model.fit(x, t, nn.CrossEntropy(), nn.Adam(0.1), epochs=1, progress=False)
    np.testing.assert_allclose(y.compute(), expected, rtol=1e-12, atol=1e-12)  # as it was then
    wanted = model.evaluate(x, t, nn.CrossEntropy(), metrics=[nn.accuracy])
    for targets in (t, da.from_array(t, chunks=3)):
        found = model.evaluate(lazy, targets, nn.CrossEntropy(), metrics=[nn.accuracy])
        assert found == pytest.approx(wanted, rel=1e-12)
    with pytest.raises(ValueError, match="predict: "):
        model.predict(lazy[:, :3])


def test_elementwise_sums_have_one_order_at_any_size():
    """`direct` is taken where another algorithm is predicted faster, by engines of one order."""
    pytest.importorskip("llvmlite", reason="the order of sums is that of compiled kernels")
    known = calibration.calibration()["libraries"]["numpy"]
    slow = {**known, "calls": {**known["calls"], "vector": 1.0}}  # kernels, on whatever machine
    with _testing.use(calibration={"calibration": {"libraries": {"numpy": slow}}}):
        assert es.plan((8, 56, 56, 64), (1, 1, 64, 256)).algorithm != "direct"
        plan = es.plan((8, 56, 56, 64), (1, 1, 64, 256), accuracy="elementwise")
    assert plan.algorithm == "direct"
    gemm = next(c for c in plan.candidates if c.algorithm == "gemm")
    assert gemm.verdict.endswith("the order of its sums depends on sizes")
    grouped = {
        accuracy: es.plan(
            (1, 28, 28, 64), (3, 3, 4, 64), groups=16, algorithm="direct", accuracy=accuracy
        ).execution["engine"]
        for accuracy in ("normwise", "elementwise")
    }
    assert grouped["normwise"] == "grouped"
    assert grouped["elementwise"] != "grouped"
