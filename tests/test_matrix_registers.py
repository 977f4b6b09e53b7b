"""Dense convolution on matrix registers (AMX): products of bfloat16, and of 8-bit integers."""

import ctypes
from dataclasses import replace
from math import prod

import ml_dtypes
import numpy as np
import pytest

import einstride as es
import oracle
from checks import operands
from einstride import _testing
from guarded import guarded
from oracle import Case

pytest.importorskip("llvmlite", reason="llvmlite, the extra fast, is missing")

from einstride.arrays.backends import numpy as es_backend
from einstride.codegen import jit, matrix_registers
from einstride.cpu.conv.dense import matrix_filter, matrix_tiles
from einstride.cpu.runtime import argument_block

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
PAIRS = {"bfloat16": (BFLOAT16, BFLOAT16), "int8": (np.int8, np.int8), "uint8": (np.uint8, np.int8)}

needs_registers = pytest.mark.skipif(
    not matrix_registers.usable(jit.host_target(), ("bfloat16", "bfloat16")),
    reason="this CPU has no matrix registers (AMX), or Linux does not let this process use them",
)


def case(size, kernel, channels, filters, padding=0, stride=1, dilation=1, batch=2, flip=False):
    n = len(size)
    pads = ((padding, padding),) * n
    return Case(batch, size, kernel, channels, filters, (stride,) * n, pads, (dilation,) * n,
                1, flip=flip)  # fmt: skip


CASES = {
    "point": case((7, 7), (1, 1), 64, 100),
    "whole block": case((4, 16), (3, 3), 64, 32, 1),
    "long line": case((3, 37), (3, 3), 32, 48, 1),
    "two blocks of channels": case((5, 9), (3, 3), 48, 17, 1),
    "odd channels": case((5, 9), (3, 3), 33, 40, 1),
    "many odd channels": case((3, 5), (2, 2), 301, 16, 1),
    "fewest": case((6, 7), (3, 3), 8, 8, 1),
    "strided": case((9, 23), (3, 3), 64, 20, 2, 2),
    "dilated": case((9, 25), (2, 3), 32, 33, 2, 1, 3),
    "flipped": case((9, 8), (2, 3), 40, 9, 1, flip=True),
    "wide border": case((3, 5), (3, 3), 32, 64, 4),
    "one position": case((3, 3), (3, 3), 96, 130, batch=1),
    "line": case((50,), (5,), 64, 33, 2),
    "volume": case((4, 5, 18), (3, 1, 3), 32, 16, 1),
    "cropped": case((9, 20), (3, 3), 64, 16, -1),
    "no line of its own": case((5, 6), (3, 1), 64, 16, 0),
}


@pytest.fixture(autouse=True)
def dense_alone():
    """Use the dense engine, also where another engine is faster."""
    with _testing.use(engine="dense"):
        yield


def numbers(rng, shape, dtype):
    dtype = np.dtype(dtype)
    if dtype == BFLOAT16:
        return rng.integers(-4, 5, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.choice((info.min, info.min + 1, 0, 1, info.max), shape).astype(dtype)


def kernel_of(function, *args, **keywords):
    """Return the name of the kernel that computes most of a call."""
    plan = es.plan(*args, direction=function, algorithm="direct", **keywords)
    return plan.execution["kernel"].partition(":")[0]


@needs_registers
@pytest.mark.parametrize("end", [True, False], ids=["end", "start"])
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", CASES)
def test_results_are_exact_and_nothing_beside_the_arrays_is_read(name, pair, end):
    given, (x_dtype, f_dtype) = CASES[name], PAIRS[pair]
    rng = np.random.default_rng(3)
    passes = ("forward", "input_grad") if pair == "bfloat16" else ("forward",)
    for which in passes:
        x, f, gy = (
            numbers(rng, s, d)
            for s, d in (
                (given.x_shape, x_dtype),
                (given.f_shape, f_dtype),
                (given.y_shape, x_dtype),
            )
        )
        wide = [a.astype("float64" if pair == "bfloat16" else "int64") for a in (x, f, gy)]
        function, _, wide_pair = operands(which, given, *wide)
        expected = oracle.FAST[which](*wide_pair, given)
        bias = rng.integers(-9, 9, expected.shape[-1])
        _, args, _ = operands(which, given, x, f, gy)
        args = [guarded(a, end) if isinstance(a, np.ndarray) else a for a in args]
        keywords = {**given.explicit, "algorithm": "direct"}
        found = function(*args, **keywords)
        wanted = expected.astype(found.dtype)
        np.testing.assert_array_equal(found, wanted)
        if pair == "bfloat16":  # by sums of outer products
            np.testing.assert_array_equal(
                function(*args, accuracy="elementwise", **keywords), wanted
            )
        out = guarded(np.full(wanted.shape, 7, wanted.dtype), end)
        function(*args, out=out, **keywords)
        np.testing.assert_array_equal(out, wanted)
        if which == "forward":
            biased = function(*args, bias.astype(found.dtype), **keywords)
            np.testing.assert_array_equal(biased, (expected + bias).astype(found.dtype))
            layer = es.Conv(args[1], **keywords)
            for _ in range(2):
                np.testing.assert_array_equal(layer(args[0]), wanted)


@needs_registers
def test_plans_name_the_kernel():
    x, f = np.ones((2, 9, 9, 64), BFLOAT16), np.ones((3, 3, 64, 32), BFLOAT16)
    assert kernel_of("forward", x, f) == "matrix_tiles"
    assert kernel_of("forward", x.astype(np.int8), f.astype(np.int8)) == "matrix_tiles"
    assert kernel_of("forward", x.astype("float16"), f.astype("float16")) == "dense"
    wide = np.ones((1, 3, 3, matrix_tiles.MAX_CHANNELS + 1), BFLOAT16)
    assert kernel_of("forward", wide, np.ones((1, 1, wide.shape[-1], 32), BFLOAT16)) == "dense"


@needs_registers
def test_subnormal_numbers_count_with_elementwise_accuracy():
    x, f = np.full((1, 4, 4, 32), 2.0**-130, BFLOAT16), np.ones((1, 1, 32, 32), BFLOAT16)
    given = {"algorithm": "direct", "accuracy": "elementwise"}
    assert kernel_of("forward", x, f, accuracy="elementwise") == "dense"
    assert (es.conv(x, f, **given).astype("f8") == 2.0**-125).all()
    assert (es.conv(x, f, algorithm="direct").astype("f8") == 0).all()


@needs_registers
@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_any_strides(layout):
    rng = np.random.default_rng(5)
    x = rng.integers(-3, 4, (2, 5, 6, 40)).astype(BFLOAT16)
    f = rng.integers(-3, 4, (3, 3, 40, 24)).astype(BFLOAT16)
    expected = es.conv(x.astype("f8"), f.astype("f8"), padding=1, algorithm="gemm")
    if layout == "channels_first":
        x, f = np.moveaxis(x, -1, 1).copy(), np.moveaxis(f, (-1, -2), (0, 1)).copy()
        expected = np.moveaxis(expected, -1, 1)
    for given in (x, x[..., ::-1][..., ::-1], np.repeat(x, 2, 0)[::2]):
        found = es.conv(given, f, padding=1, algorithm="direct", layout=layout)
        np.testing.assert_array_equal(found, expected.astype(BFLOAT16))
    apart = np.repeat(f, 2, -1)[..., ::2]
    found = es.conv(x, apart, padding=1, algorithm="direct", layout=layout)
    np.testing.assert_array_equal(found, expected.astype(BFLOAT16))


@needs_registers
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_modes(mode):
    rng = np.random.default_rng(6)
    x = rng.integers(-3, 4, (2, 5, 19, 32)).astype(BFLOAT16)
    f = rng.integers(-3, 4, (3, 3, 32, 24)).astype(BFLOAT16)
    keywords = {"padding": 2, "padding_mode": mode}
    expected = es.conv(x.astype("f8"), f.astype("f8"), algorithm="gemm", **keywords)
    found = es.conv(x, f, algorithm="direct", **keywords)
    np.testing.assert_array_equal(found, expected.astype(BFLOAT16))


@needs_registers
def test_threads_leave_the_bits_alone():
    rng = np.random.default_rng(7)
    x = rng.standard_normal((3, 20, 21, 64)).astype(BFLOAT16)
    f = rng.standard_normal((3, 3, 64, 96)).astype(BFLOAT16)
    found = []
    for threads in (1, 2, 5):
        with _testing.use(threads=threads):
            found.append(es.conv(x, f, padding=1, algorithm="direct"))
    one = es.conv(x[1:2, 3:9], f, padding=((0, 0), (1, 1)), algorithm="direct")
    assert all((a == found[0]).all() for a in found)
    assert (one == found[0][1:2, 4:8]).all()


@needs_registers
@pytest.mark.parametrize("filters", [72, 96, 100])
def test_chunks_may_be_computed_in_any_order(filters):
    """A chunk writes no column of another chunk, which another thread may have finished."""
    rng = np.random.default_rng(9)
    x = rng.integers(-3, 4, (2, 8, 40, 64)).astype(BFLOAT16)
    f = rng.integers(-3, 4, (1, 1, 64, filters)).astype(BFLOAT16)
    expected = es.conv(x.astype("f8"), f.astype("f8"), algorithm="gemm").astype(BFLOAT16)
    g = es.plan(x, f)._decision.job.geometry
    out = np.zeros(expected.shape, BFLOAT16)
    layouts = argument_block.layout(x), argument_block.layout(out)
    call = matrix_tiles.correlation(g, ("bfloat16", "bfloat16"), *layouts, 16, jit.host_target())
    assert call.argument("parts") > 1

    def launch_backwards(kernel, block, threads):
        for chunk in reversed(range(call.argument("chunks"))):
            block[call.index("counter")], block[call.index("chunks")] = chunk, chunk + 1
            kernel(ctypes.addressof(block), 0)

    panels = matrix_filter.pack(f, g, es_backend.BACKEND.launch, 1)
    call(launch_backwards, x=x, f=panels, y=out)
    np.testing.assert_array_equal(out, expected)


@needs_registers
def test_errors_are_those_of_float32_sums():
    rng = np.random.default_rng(8)
    x = rng.standard_normal((2, 9, 30, 200)).astype(BFLOAT16)
    f = rng.standard_normal((3, 3, 200, 40)).astype(BFLOAT16)
    wide = [a.astype("f8") for a in (x, f)]
    exact = es.conv(*wide, padding=1, algorithm="gemm")
    terms = es.conv(*map(np.abs, wide), padding=1, algorithm="gemm")
    found = es.conv(x, f, padding=1, algorithm="direct").astype("f8")
    bound = prod(f.shape[:-1]) * 2.0**-24 * terms
    bound += 2.0**-8 * (np.abs(exact) + bound)  # one rounding to bfloat16
    assert (np.abs(found - exact) <= bound).all()


@needs_registers
def test_nan_stays_at_the_positions_and_channels_that_it_belongs_to():
    x, f = np.ones((1, 5, 40, 33), BFLOAT16), np.ones((3, 3, 33, 40), BFLOAT16)
    x[0, 2, 7, 5] = np.nan
    found = np.isnan(es.conv(x, f, padding=1, algorithm="direct").astype("f4"))
    assert found[0, 1:4, 6:9].all()
    assert found.sum() == 9 * 40
    x[0, 2, 7, 5], f[1, 1, 3, 7] = 1, np.inf
    found = np.isfinite(es.conv(x, f, padding=1, algorithm="direct").astype("f4"))
    assert not found[..., 7].any()
    assert np.delete(found, 7, -1).all()


@needs_registers
def test_a_hard_limit_holds():
    x, f = np.ones((2, 30, 30, 48), BFLOAT16), np.ones((3, 3, 48, 40), BFLOAT16)
    columns = np.moveaxis(np.moveaxis(x, -1, 0).copy(), 0, -1)
    for given in (x, columns):
        plan = es.plan(given, f, padding=1, algorithm="direct", max_workspace=1 << 20)
        found = es.conv(given, f, padding=1, algorithm="direct", max_workspace=1 << 20)
        assert plan.workspace <= 1 << 20
        assert (found[:, 1:-1, 1:-1] == 432).all()


def test_the_cpu_decides():
    target = jit.Target("sapphirerapids", "+amx-tile,+amx-bf16,+amx-int8,+avx512bf16", 64, 32)
    assert matrix_registers.usable(target, ("bfloat16", "bfloat16"))
    assert matrix_registers.usable(target, ("uint8", "int8"))
    assert not matrix_registers.usable(target, ("int8", "uint8"))
    assert not matrix_registers.usable(target, ("float16", "float16"))
    without = replace(target, features="+amx-tile,+amx-int8")
    assert not matrix_registers.usable(without, ("bfloat16", "bfloat16"))
    assert not matrix_registers.usable(replace(target, vector_bytes=32), ("int8", "int8"))


def test_blocks_of_channels():
    blocks = {c: matrix_filter.channel_blocks(c, 2) for c in (8, 32, 33, 48, 64, 80, 96, 301)}
    assert {c: (b.count, b.channels, b.whole) for c, b in blocks.items()} == {
        8: (1, 8, True), 32: (1, 32, True), 33: (2, 32, False), 48: (2, 24, True),
        64: (2, 32, True), 80: (4, 20, True), 96: (3, 32, True), 301: (10, 32, False),
    }  # fmt: skip
