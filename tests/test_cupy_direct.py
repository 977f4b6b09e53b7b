"""The direct CUDA kernels give the results of the loops for all geometries, dtypes and layouts.

Runs on the CuPy host (`--backend cupy-host`) or on a GPU (`--backend cupy`).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import einstride as es
import oracle
from checks import PASSES, operands, promoted, refused, same
from einstride import _testing
from einstride.cuda import axis_map
from oracle import Case
from strategies import arrays, cases, integer_data, seeds

MODES = ("zeros", "reflect", "replicate", "circular")
SOME = ("float32", "float16", "complex64", "int8")
EVERY = (*SOME, "float64", "complex128", "bool", "uint8", "int16", "int64", "uint64", "bfloat16")
ORDERS = ("channels_last", "channels_first", "reversed", "gaps")

DEPTHWISE = Case(2, (9, 11), (3, 2), 6, 6, (2, 1), ((2, 1), (1, 2)), (1, 2), groups=6)
TILES = Case(2, (9, 8), (3, 2), 9, 11, (2, 1), ((2, 1), (-1, 2)), (1, 2))
FAMILIES = {"thin": DEPTHWISE, "tiles": TILES}


def ordered(cp, a, order):
    """Return an array with the values of `a` in another memory order."""
    if order == "channels_last":
        return cp.asarray(a)
    if order == "channels_first":
        return cp.moveaxis(cp.asarray(np.ascontiguousarray(np.moveaxis(a, -1, 1))), 1, -1)
    if order == "reversed":
        turned = (slice(None, None, -1),) * a.ndim
        return cp.asarray(np.ascontiguousarray(a[turned]))[turned]
    return cp.asarray(np.repeat(a, 2, axis=-1))[..., ::2]


def check(gpu, which, case, dtype, seed, order="channels_last", **more):
    """Check that one pass by the kernels equals the loops to the last bit."""
    half = dtype == "bfloat16"
    x, f, gy = arrays(case, "float32" if half else dtype, seed)
    function, args, pair = operands(which, case, x, f, gy)
    given = [ordered(gpu.xp, a, order) if isinstance(a, np.ndarray) else a for a in args]
    if half:
        kind = pytest.importorskip("ml_dtypes").bfloat16
        given = [a.astype(kind) if hasattr(a, "astype") else a for a in given]
    found = function(*given, algorithm="direct", **(case.explicit | more))
    expected = oracle.PASSES[which](*pair, case)
    same(
        found.get().astype("float32") if half else found.get(),
        expected,
        "float32" if half else promoted(dtype, dtype),
    )


@pytest.mark.parametrize("which", PASSES)
@settings(max_examples=20)
@given(
    case=cases(),
    dtype=st.sampled_from(SOME),
    order=st.sampled_from(ORDERS),
    mode=st.sampled_from(MODES),
    seed=seeds,
)
def test_random_geometries(gpu, which, case, dtype, order, mode, seed):
    fits = all(max(pad) < n for pad, n in zip(case.pads, case.input_size, strict=True))
    case = dataclasses.replace(case, mode=mode) if fits else case
    check(gpu, which, case, dtype, seed, order)


@pytest.mark.parametrize("dtype", EVERY)
@pytest.mark.parametrize("name", FAMILIES)
def test_each_dtype(gpu, name, dtype):
    which = PASSES[EVERY.index(dtype) % 3]
    check(gpu, which, FAMILIES[name], dtype, 3, ORDERS[EVERY.index(dtype) % 4])


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", FAMILIES)
def test_offsets_of_64_bits(gpu, name, which):
    with _testing.replacing("choose the index type", lambda *_: "long long"):
        for order in ORDERS[:2]:
            check(gpu, which, FAMILIES[name], "float32", 3, order)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("which", ["forward", "filter_grad"])
@pytest.mark.parametrize("name", FAMILIES)
def test_each_border(gpu, name, which, mode):
    check(gpu, which, dataclasses.replace(FAMILIES[name], mode=mode), "float32", 5)


# Several blocks along every axis, with partial last blocks; taps that share inputs.
LARGE = {
    "depthwise 3x3": Case(2, (37, 41), (3, 3), 20, 20, (1, 1), ((1, 1), (1, 1)), (1, 1), 20),
    "depthwise 7x7": Case(1, (39, 30), (7, 7), 9, 9, (1, 1), ((3, 3), (3, 3)), (1, 1), 9),
    "depthwise strided": Case(1, (65, 70), (5, 3), 8, 8, (3, 2), ((2, 2), (1, 1)), (1, 1), 8),
    "four to four": Case(1, (33, 38), (3, 3), 24, 24, (1, 1), ((1, 1), (1, 1)), (1, 1), 6),
    "rgb": Case(1, (33, 35), (5, 5), 3, 17, (2, 2), ((2, 2), (2, 2)), (1, 1)),
    "to rgb": Case(1, (33, 35), (3, 3), 17, 3, (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "dense": Case(2, (13, 12), (3, 3), 20, 70, (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "dense strided": Case(2, (29, 27), (3, 4), 20, 11, (2, 3), ((1, 1), (0, 2)), (1, 1)),
    "dense, far apart": Case(1, (61, 9), (3, 2), 9, 10, (19, 2), ((1, 0), (1, 1)), (4, 3)),
    "line": Case(2, (611,), (9,), 12, 12, (1,), ((8, 0),), (1,), 12),
    "volume": Case(1, (9, 10, 18), (3, 3, 3), 6, 6, (1, 1, 1), ((1, 1),) * 3, (1, 1, 1), 6),
    "far taps": Case(1, (40, 40), (3, 3), 4, 4, (1, 1), ((12, 12),) * 2, (12, 12), 4),
    "many taps": Case(1, (1, 300), (1, 129), 4, 4, (1, 1), ((0, 0), (64, 64)), (1, 1), 4),
}


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", LARGE)
def test_many_blocks(gpu, name, which):
    case = LARGE[name]
    function, args, pair = operands(which, case, *arrays(case, "float32", 11))
    expected = oracle.FAST[which](*pair, case)
    for order in ORDERS[:2]:
        given = [ordered(gpu.xp, a, order) if isinstance(a, np.ndarray) else a for a in args]
        same(function(*given, algorithm="direct", **case.explicit).get(), expected, "float32")


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", ["dense strided", "dense, far apart", "rgb", "to rgb"])
def test_few_blocks_do_much_each(gpu, name, which):
    """With few thread blocks, each computes many rows and the phases of a stride in turn, as on
    large layers."""
    with _testing.use(constants={"GPU processors": 1}):
        test_many_blocks(gpu, name, which)


@pytest.mark.parametrize("layout", ORDERS[:2])
@pytest.mark.parametrize("name", FAMILIES)
def test_bias_and_out(gpu, name, layout):
    """Sum and bias are added in float32 and rounded to halves once, into the caller's array."""
    case, cp = FAMILIES[name], gpu.xp
    x, f, gy = arrays(case, "float16", 3)
    bias = integer_data((case.filters,), "float16", 9)
    expected = oracle.PASSES["forward"](x, f, case) + bias
    out = ordered(cp, np.zeros_like(gy), layout)
    es.conv(cp.asarray(x), cp.asarray(f), cp.asarray(bias), out=out, algorithm="direct",
            **case.explicit)  # fmt: skip
    same(out.get(), expected, "float16")


@pytest.mark.parametrize("groups", [1, 16])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_are_summed_in_float32(gpu, dtype, groups):
    """2048 + 64 ones is exact; sums in halves would lose every one."""
    kind = "float16" if dtype == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    x = np.ones((1, 65, 16), "f4")
    x[0, 0] = 2048
    ones = gpu.xp.ones((65, 16 // groups, 16), kind)
    y = es.conv(gpu.xp.asarray(x.astype(kind)), ones, groups=groups, algorithm="direct")
    whole = np.array(np.float32(2112) * (16 // groups)).astype(kind)
    assert y.get().ravel().tolist() == [whole] * 16


@pytest.mark.parametrize("pair", [("int8", "float32"), ("float32", "float64"), ("int32", "int8")])
@pytest.mark.parametrize("name", FAMILIES)
def test_mixed_dtypes(gpu, name, pair):
    case = FAMILIES[name]
    x, f = (arrays(case, dtype, 3)[i] for i, dtype in enumerate(pair))
    y = gpu(es.conv, x, f, algorithm="direct", **case.explicit)
    same(y, oracle.PASSES["forward"](x, f, case), promoted(*pair))


@pytest.mark.parametrize("name", FAMILIES)
def test_integers_are_exact_to_the_last_bit(gpu, name):
    """Sums beyond 2**53, which no float holds."""
    case = FAMILIES[name]
    x, f, _ = arrays(case, "int64", 3)
    x = x * 2**55 + 1
    y = gpu(es.conv, x, f, algorithm="direct", **case.explicit)
    same(y, oracle.PASSES["forward"](x, f, case), "int64")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_results_are_rounded_once_to_the_nearest(gpu, dtype):
    """Rounds sums in float32 and float64: subnormals, ties, infinities and NaNs."""
    kind = np.dtype("float16") if dtype == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    every = np.arange(0, 65536, 7, dtype="u2").view(kind)
    f = np.array([1 + 2.0**-9, 0.4990234375, 3.0**-5, 1.0], kind).reshape(1, 1, 4)
    x = gpu.xp.asarray(every.reshape(1, -1, 1))
    with np.errstate(all="ignore"):
        exact = every.astype("f8")[:, None] * f.astype("f8").reshape(1, 4)
        expected = exact.astype(kind).astype("f4")
    for accumulate in (None, "float64"):
        y = es.conv(x, gpu.xp.asarray(f), algorithm="direct", accumulate=accumulate)
        np.testing.assert_array_equal(y.get()[0].astype("f4"), expected)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("dtype", "bits"), [("float16", 10), ("bfloat16", 7)])
def test_a_sum_in_float64_is_rounded_once(gpu, dtype, bits, sign):
    """A sum slightly above a tie, which float32 would round to the tie, is rounded up."""
    kind = np.dtype("float16") if dtype == "float16" else pytest.importorskip("ml_dtypes").bfloat16
    unit, little = 2.0**-bits, 2.0**-14
    half = unit / 2 if sign > 0 else 1.5 * unit
    x = np.array([1, half, little], "f8").astype(kind).reshape(1, 1, 3)
    f = np.array([1, 1, sign * little], "f8").astype(kind).reshape(1, 3, 1)
    given = (gpu.xp.asarray(a) for a in (x, f))
    y = es.conv(*given, algorithm="direct", accumulate="float64")
    assert float(y.get().astype("f8").item()) == 1 + unit


def test_a_slab_may_be_wider_than_the_channels(gpu):
    """With 8-bit channels, one load of 16 bytes reaches beyond the last channel of a slab."""
    case = Case(2, (9, 8), (3, 3), 8, 8, (1, 1), ((1, 1), (1, 1)), (1, 1), groups=8)
    for which in PASSES:
        check(gpu, which, case, "int8", 3)


@pytest.mark.parametrize("channels", [1, 9])
def test_an_axis_beyond_32_bits(gpu, channels):
    """A broadcast axis of 2**33 elements, cropped to its end: offsets exceed 32 bits, memory is
    small."""
    n = 2**33
    cell = gpu.xp.asarray(np.arange(channels, dtype="f4"))
    x = gpu.xp.broadcast_to(cell, (1, n, channels))
    f = gpu.xp.ones((3, channels, 2), "f4")
    y = es.conv(x, f, padding=((6 - n, 2),), algorithm="direct")
    seen = np.array([3, 3, 3, 3, 2, 1]) * np.arange(channels).sum()
    np.testing.assert_array_equal(y.get()[0], np.stack([seen, seen], axis=-1))


def test_the_index_is_wide_enough():
    class Strided:
        dtype = np.dtype("float32")

        def __init__(self, shape, strides):
            self.shape, self.strides = shape, tuple(4 * s for s in strides)

    line = axis_map.AxisMap(10, 10, 3, 1, 0, 1)
    assert axis_map.index_type([Strided((2, 10), (10, 1))], [line]) == "int"
    assert axis_map.index_type([Strided((2, 10), (2**31, 1))], [line]) == "long long"
    assert axis_map.index_type([Strided((2, 10), (-(2**31), 1))], [line]) == "long long"
    assert axis_map.index_type([], [dataclasses.replace(line, start=-(2**28))]) == "long long"
    assert axis_map.index_type([], [line], [2**31]) == "long long"


def test_what_it_cannot_do_is_said(gpu):
    x, f, gy = arrays(DEPTHWISE, "float32", 3)
    with refused("plan", ValueError, "no compiled kernels for array_api_strict"):
        es.plan(
            x.shape, f.shape, library="array_api_strict", algorithm="direct", **DEPTHWISE.explicit
        )
    x, gy = gpu.xp.asarray(x), gpu.xp.asarray(gy)
    for more in ({"per_example": True}, {"batch_invariant": True}):
        with refused("conv_filter_grad", ValueError, "over the batch"):
            es.conv_filter_grad(x, gy, (3, 2), algorithm="direct", **more, **DEPTHWISE.explicit)


@pytest.mark.parametrize("which", PASSES[:2])
@pytest.mark.parametrize("name", FAMILIES)
def test_an_example_alone_gives_the_same_bits(gpu, name, which):
    case, rng = FAMILIES[name], np.random.default_rng(1)
    x, f, gy = (rng.standard_normal(a.shape, "f4") for a in arrays(case, "float32", 3))
    function, args, _ = operands(which, case, x, f, gy)
    more = case.explicit | {"algorithm": "direct", "batch_invariant": True}
    both = gpu(function, *args, **more)
    alone = gpu(function, args[0][1:], *args[1:], **more)
    np.testing.assert_array_equal(both[1:], alone)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_filter_gradient_has_the_same_bits_every_time(gpu, name):
    case, rng = LARGE["depthwise 3x3" if name == "thin" else "dense"], np.random.default_rng(1)
    x, _, gy = (rng.standard_normal(a.shape, "f4") for a in arrays(case, "float32", 3))
    more = case.explicit | {"algorithm": "direct"}
    first, *others = (gpu(es.conv_filter_grad, x, gy, (3, 3), **more) for _ in range(3))
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_misaligned_elements_are_refused(gpu):
    """A field of a packed record, which no kernel of CuPy or einstride can read, is refused."""
    raw = gpu.xp.asarray(np.zeros(4 * 60 + 1, "u1"))[1:].view("f4").reshape(1, 10, 6)
    with refused("direct", ValueError, "whole elements apart"):
        es.conv(raw, gpu.xp.ones((3, 1, 6), "f4"), groups=6, algorithm="direct")
