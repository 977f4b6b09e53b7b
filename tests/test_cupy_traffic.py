"""The host counts the bytes that launches move; memory-bound layers move few more than needed."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest
from bench.case import PASSES, Case, Row
from bench.gpu import traffic

import einstride as es
from cupy_host import events

pytest_plugins = ["cupy_host.fixtures"]

OVER = 1.3  # largest ratio to the least bytes: each input read once, each result written once
CASES = {case.name: case for case in traffic.CASES}


@pytest.fixture
def counting(host):
    host.count_traffic = True
    yield host
    host.count_traffic = False


def launched(host, source, blocks, *arrays):
    import cupy as cp

    kernel = cp.RawKernel('extern "C" __global__ ' + source, "k")
    with host.recording() as seen:
        kernel((blocks,), (32,), arrays)
    [found] = seen.of(events.Traffic)
    return found.read, found.written, found.least_read, found.least_written


def test_a_sector_counts_once_for_each_block(counting, cp):
    x, y = cp.zeros(64, "f4"), cp.zeros(64, "f4")
    copy = (
        "void k(const float *x, float *y) { int i = blockIdx.x * 32 + threadIdx.x; y[i] = x[i]; }"
    )
    assert launched(counting, copy, 2, x, y) == (256, 256, 256, 256)
    same = "void k(const float *x, float *y) { y[blockIdx.x * 32 + threadIdx.x] = x[threadIdx.x]; }"
    assert launched(counting, same, 2, x, y) == (256, 256, 128, 256)
    apart = "void k(const float *x, float *y) { if (threadIdx.x < 8) y[0] = x[threadIdx.x * 8]; }"
    assert launched(counting, apart, 1, x, y) == (256, 32, 256, 32)
    repeated = "void k(const float *x, float *y) { y[threadIdx.x] = 1; y[threadIdx.x] += 1; }"
    assert launched(counting, repeated, 1, x, y) == (0, 128, 0, 128)


def test_nothing_is_counted_unless_asked(host, cp):
    with host.recording() as seen:
        _ = cp.zeros(8, "f4") + 1
    assert not seen.of(events.Traffic)


@pytest.mark.parametrize("layout", traffic.LAYOUTS)
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", CASES)
def test_memory_bound_layers_stay_near_the_floor(host, cp, name, which, layout):
    found = traffic.count_row(Row(CASES[name], traffic.BATCH, which), layout, "direct")
    assert len(found.launches) <= (2 if which == "filter_grad" else 1)
    assert found.over <= OVER, found.launches


OF_OTHERS = (
    "depthwise/3x3", "depthwise/3x3_s2", "depthwise/5x5_s2", "depthwise/line_31", "few/8_s2",
    "few/audio", "stencil/line_63", "stencil/volume",
)  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "complex64", "int8"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", OF_OTHERS)
def test_other_dtypes_stay_near_the_floor(host, cp, name, which, dtype):
    """Other dtypes stay near the least bytes too, in one of the two layouts."""
    layout = traffic.LAYOUTS[(OF_OTHERS.index(name) + PASSES.index(which)) % 2]
    row = Row(replace(CASES[name], dtype=dtype), traffic.BATCH, which)
    found = traffic.count_row(row, layout, "direct")
    assert found.over <= OVER, found.launches


@pytest.mark.parametrize("layout", traffic.LAYOUTS)
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("case", traffic.DENSE, ids=lambda case: case.name)
def test_implicit_gemm_touches_each_array_once(host, cp, case, which, layout):
    """All blocks together move each array once, without copies; blocks fetch less than
    predicted."""
    row = Row(case, traffic.BATCH, which)
    found = traffic.count_row(row, layout, "implicit_gemm")
    operands = {
        "forward": (row.x_shape, row.f_shape, row.y_shape),
        "input_grad": (row.y_shape, row.f_shape, row.x_shape),
        "filter_grad": (row.x_shape, row.y_shape, row.f_shape),
    }[which]
    *read, written = (4 * prod(shape) for shape in operands)
    first, *more = found.launches
    if which == "input_grad" and case.stride == 2:  # one launch for each phase of the stride
        assert len(more) == 3
        assert all(e.least_read <= sum(read) for e in found.launches)
    else:
        assert first.least_read == sum(read)
        assert first.least_written in (written, more[0].least_read if more else written)
        assert [e.kernel.partition("<")[0] for e in more] in ([], ["add_parts"])
    g = {"padding": row.pads, "stride": row.stride, "library": "cupy"}
    size = {"input_grad": {"input_size": case.size}, "filter_grad": {"kernel_size": case.kernel}}
    plan = es.plan(
        *operands[:2], direction=which, algorithm="implicit_gemm", **g, **size.get(which, {})
    )
    [cost] = [c.cost for c in plan._decision.candidates if c.algorithm == "implicit_gemm"]
    assert found.moved <= 1.1 * cost.moved  # partial sectors at the ends of rows


def test_any_kernel_of_the_project_is_counted(host, cp):
    """The window copy of `gemm` reads x once, and writes each window once."""
    case = Case("small", "other dense", "", (12, 10), 4, (3, 3), 4, padding=1)
    found = traffic.count_row(Row(case, 2, "forward"), "channels_last", "gemm")
    [copy] = [e for e in found.launches if e.kernel.startswith("copy_rows")]
    assert copy.least_read == 2 * 12 * 10 * 4 * 4
    assert copy.least_written == 2 * 12 * 10 * 9 * 4 * 4
