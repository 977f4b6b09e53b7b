"""implicit_gemm equals the loops to the bit: random geometries, and every kind of kernel once."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import einstride as es
import oracle
from checks import PASSES, operands, refused
from einstride import _testing
from einstride.algorithms import implicit_gemm as algorithm
from einstride.arrays import backends
from einstride.cuda import gemm_tiles as tiles
from oracle import Case
from strategies import arrays, cases, seeds

DTYPES = ("float32", "float64", "float16", "bfloat16", "tf32")
MODES = ("zeros", "reflect", "replicate", "circular")
ORDERS = ("channels last", "channels first", "reversed", "gaps", "shifted")


def named(dtype):
    if dtype == "bfloat16":
        return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    return np.dtype("float32" if dtype == "tf32" else dtype)


def stored(xp, a, order):
    """Return an array with the values of `a` in another memory order."""
    if order == "channels first":
        return xp.moveaxis(xp.asarray(np.ascontiguousarray(np.moveaxis(a, -1, 1))), 1, -1)
    if order == "reversed":
        back = (slice(None, None, -1),) * a.ndim
        return xp.asarray(np.ascontiguousarray(a[back]))[back]
    if order == "gaps":
        return xp.asarray(np.repeat(a, 2, axis=-1))[..., ::2]
    if order == "shifted":  # no 16 bytes of channels begin at a multiple of 16
        around = [(0, 0)] * (a.ndim - 1) + [(1, 7)]
        return xp.asarray(np.pad(a, around))[..., 1:-7]
    return xp.asarray(a)


def run(gpu, which, case, dtype, seed=1, orders=ORDERS[:1] * 2, **keywords):
    """Compare one pass with the loops; integer values are exact in any dtype."""
    kind = named(dtype)
    scale = 2**20 + 1 if dtype == "float64" else 1  # sums need more bits than float32 has
    given_arrays = [(a * scale).astype(kind) for a in arrays(case, "float64", seed)]
    function, args, pair = operands(which, case, *given_arrays)
    args = [stored(gpu.xp, a, o) for a, o in zip(args[:2], orders, strict=True)] + [*args[2:]]
    if which == "filter_grad":
        args[2] = case.kernel_size
    elif which == "input_grad":
        args[2] = case.input_size
    keywords |= {"accuracy": "tf32"} if dtype == "tf32" else {}
    got = function(*args, algorithm="implicit_gemm", **case.explicit, **keywords)
    plain = case.mode == "zeros" and not case.flip
    expected = (oracle.FAST if plain else oracle.PASSES)[which](
        *(a.astype("f8") for a in pair), case
    )
    assert got.dtype == kind
    np.testing.assert_array_equal(gpu.asnumpy(got).astype("f8"), expected.astype("f8"))
    return got


@contextmanager
def only(tile):
    """Allow no tile but this one."""
    name, table = ("MMA tiles", tiles.MMA_TILES) if tile.mma else ("FMA tiles", tiles.TILES)
    with _testing.use(constants={name: dict.fromkeys(table, (tile,))}):
        yield


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", PASSES)
@settings(max_examples=14)
@given(
    case=cases(max_rank=4),
    mode=st.sampled_from(MODES),
    orders=st.tuples(*[st.sampled_from(ORDERS)] * 2),
    wider=st.sampled_from((1, 1, 8)),
    seed=seeds,
)
def test_random_geometries(gpu, which, dtype, case, mode, orders, wider, seed):
    if mode != "zeros":
        pads = tuple(
            (min(low, n - 1), min(high, n - 1))
            for (low, high), n in zip(case.pads, case.input_size, strict=True)
        )
        case = replace(case, mode=mode, pads=pads)
        if min(case.out_size) < 1:
            return  # the filter exceeds the smaller border
    case = replace(case, channels=case.channels * wider, filters=case.filters * wider)
    run(gpu, which, case, dtype, seed, orders)


# More rows, columns and terms than any tile, and multiples of none.
DENSE = Case(3, (9, 8), (3, 2), 24, 40, (1, 1), ((1, 1), (1, 0)), (1, 1))
GROUPED = Case(2, (11, 9), (3, 2), 48, 80, (2, 1), ((2, 1), (0, 2)), (1, 2), groups=2)
ODD = Case(3, (9, 8), (3, 2), 9, 37, (1, 2), ((1, 1), (1, 0)), (1, 1), mode="reflect")
KINDS = [
    pytest.param(
        dtype, tile, id=f"{dtype}-{'mma' if tile.mma else 'fma'}-{tile.rows}x{tile.columns}"
    )
    for dtype, tile in [
        *(("float32", t) for t in tiles.TILES["float32"]),
        *(("float64", t) for t in tiles.TILES["float64"]),
        *(("float16", t) for t in tiles.MMA_TILES["float16"]),
        *(("tf32", t) for t in tiles.MMA_TILES["float32"]),
        ("bfloat16", tiles.MMA_TILES["bfloat16"][-1]),
    ]
]


@pytest.mark.parametrize("case", [DENSE, GROUPED, ODD], ids=["dense", "grouped", "odd"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize(("dtype", "tile"), KINDS)
def test_every_tile(gpu, dtype, tile, which, case):
    with only(tile):
        orders = ("channels last",) * 2 if case is not GROUPED else ("channels first",) * 2
        run(gpu, which, case, dtype, 2, orders)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("which", PASSES)
def test_every_memory_order(gpu, which, order):
    run(gpu, which, DENSE, "float32", 8, (order, ORDERS[0]))
    run(gpu, which, DENSE, "float16", 8, (ORDERS[0], order))


def test_tf32_rounds_to_nearest(gpu):
    """TF32 rounds to nearest, ties away from zero, and only with accuracy="tf32"."""
    x = np.array([1 + 2.0**-11, 1 + 2.0**-12, -1 - 2.0**-11], "f4").reshape(1, 3, 1)
    f = np.ones((1, 1, 1), "f4")
    for accuracy, expected in (("tf32", [1 + 2.0**-10, 1, -1 - 2.0**-10]), ("normwise", x)):
        y = gpu(es.conv, x, f, algorithm="implicit_gemm", accuracy=accuracy)
        np.testing.assert_array_equal(y.ravel(), np.ravel(expected))


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "tf32"])
def test_every_way_in_64_bits(gpu, dtype, which):
    with _testing.replacing("choose the index type", lambda *_: "long long"):
        for order in ("channels last", "channels first"):
            run(gpu, which, GROUPED, dtype, 3, (order,) * 2)
        run(gpu, which, ODD, dtype, 3)


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_halves_without_tensor_cores(gpu, dtype, which):
    """On devices without tensor cores for halves, CUDA cores are used, and the plan says why."""
    for tile in tiles.TILES["float16"][1:]:
        with _testing.use(constants={"first capability with tensor cores": 999}), only(tile):
            run(gpu, which, GROUPED, dtype, 4)
            run(gpu, which, ODD, dtype, 4)


LARGE_OFFSETS = Case(1, (6,), (3,), 1, 1, (1,), ((0, 0),), (1,))


def test_an_axis_beyond_32_bits(gpu):
    """A broadcast axis of 2**33 elements: offsets exceed 32 bits, memory is small."""
    n = 2**33
    x = gpu.xp.broadcast_to(gpu.asarray(np.full((1, 1, 1), 7, "f4")), (1, n, 1))
    f = gpu.asarray(np.arange(1, 4, dtype="f4").reshape(3, 1, 1))
    y = es.conv(x, f, padding=((-(n - 5), 2),), algorithm="implicit_gemm")
    taps = np.array([1, 2, 3])
    expected = [7.0 * taps[: min(3, 5 - o)].sum() for o in range(5)]
    np.testing.assert_array_equal(gpu.asnumpy(y).ravel(), expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_bias_and_relu_on_the_way_out(gpu, dtype):
    """The result is rounded once, after bias and relu; a NaN stays a NaN."""
    x, f, _ = (a.astype(dtype) for a in arrays(GROUPED, "float32", 5))
    for of_bias in (dtype, "float32", "int8"):
        bias = np.arange(-40, 40).astype(of_bias)
        y = gpu(es.conv, x, f, bias, algorithm="implicit_gemm", **GROUPED.explicit)
        plain = oracle.fast_forward(x.astype("f8"), f.astype("f8"), GROUPED) + bias
        np.testing.assert_array_equal(y.astype("f8"), plain)
        given_arrays = [gpu.asarray(a) for a in (x, f, bias)]
        p = es.plan(*given_arrays[:2], algorithm="implicit_gemm", **GROUPED.explicit)
        b = backends.of("conv", ("x",), given_arrays[0])
        job = p._decision.job
        job = replace(job, arithmetic=replace(job.arithmetic, result=dtype))
        found = algorithm.forward(
            given_arrays[0], given_arrays[1], job, b, given_arrays[2], relu=True
        )
        np.testing.assert_array_equal(gpu.asnumpy(found).astype("f8"), np.maximum(plain, 0))


@pytest.mark.parametrize("which", PASSES)
def test_results_in_any_memory(gpu, which):
    """`out` may have any strides; an `out` that kernels cannot address is refused."""
    _, args, pair = operands(which, GROUPED, *arrays(GROUPED, "float32", 6))
    expected = oracle.FAST[which](*pair, GROUPED)
    first, second = (gpu.asarray(a) for a in args[:2])
    extra = {"filter_grad": {"kernel_size": args[-1]}, "input_grad": {"input_size": args[-1]}}
    keywords = GROUPED.explicit | extra.get(which, {})
    plan = es.plan(first, second, direction=which, algorithm="implicit_gemm", **keywords)
    b = backends.of("conv", ("x",), first)

    def written(first, out):
        getattr(algorithm, which)(first, second, plan._decision.inner, b, None, out)
        np.testing.assert_array_equal(gpu.asnumpy(out.copy()), expected)

    for order in ORDERS:
        written(first, stored(gpu.xp, np.zeros(expected.shape, "f4"), order))
    with refused("implicit_gemm", ValueError, "multiples of their size"):
        written(first, packed(gpu, np.zeros(expected.shape, "f4")))


def packed(gpu, a):
    """Return a copy that begins one byte behind a multiple of its itemsize."""
    raw = gpu.asarray(np.zeros(a.nbytes + 1, "u1"))[1:]
    return raw.view(a.dtype).reshape(a.shape)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_gradient_for_each_example(gpu, dtype):
    for case in (GROUPED, replace(ODD, batch=2, mode="zeros"), LARGE_OFFSETS):
        x, _, gy = (a.astype(dtype) for a in arrays(case, "float32", 7))
        keywords = case.explicit | {"per_example": True, "algorithm": "implicit_gemm"}
        found = gpu(es.conv_filter_grad, x, gy, case.kernel_size, **keywords)
        for i in range(case.batch):
            one = replace(case, batch=1)
            pair = (x[i : i + 1].astype("f8"), gy[i : i + 1].astype("f8"))
            np.testing.assert_array_equal(
                found[i].astype("f8"), oracle.fast_filter_grad(*pair, one)
            )


def test_what_it_refuses(gpu):
    x, f = np.ones((1, 5, 2)), np.ones((3, 2, 2))
    with refused("conv", ValueError, "no kernels of its own for numpy"):
        es.conv(x, f, algorithm="implicit_gemm")
    for kinds, says in [
        (("int8", "int8"), "not int8"),
        (("complex64", "complex64"), "not complex64"),
        (("float32", "float64"), "one dtype"),
    ]:
        pair = [gpu.asarray(a.astype(kind)) for a, kind in zip((x, f), kinds, strict=True)]
        with refused("conv", ValueError, says):
            es.conv(*pair, algorithm="implicit_gemm")
    pair = [gpu.asarray(a.astype("f4")) for a in (x, f)]
    with refused("conv", ValueError, "sums of float32"):
        es.conv(*pair, algorithm="implicit_gemm", accumulate="float64")
