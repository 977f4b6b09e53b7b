"""Winograd's algorithm in array code: tiles, phases, slabs of filters, limits and refusals."""

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

import einstride as es
import oracle
from checks import PASSES, PYTHON_OVERHEAD, agrees, operands, refused, same
from einstride import _testing
from einstride.algorithms import winograd
from einstride.arrays import backends
from einstride.geometry import problem as job
from einstride.geometry import tile_sizes
from einstride.geometry.arithmetic import Arithmetic
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Settings
from oracle import Case
from strategies import arrays
from test_workspace import peak

MODES = ("zeros", "reflect", "replicate", "circular", "symmetric")


def make_case(size, kernel, c=3, d=4, pads=None, dilation=None, batch=2, **more):
    rank = len(size)
    pads, dilation = pads or ((0, 0),) * rank, dilation or (1,) * rank
    return Case(batch, size, kernel, c, d, (1,) * rank, pads, dilation, **more)


@pytest.fixture(autouse=True)
def array_code():
    """Use array code, as for other libraries; `test_simd_winograd` tests the kernels."""
    with _testing.use(absent={"llvmlite"}):
        yield


CASES = {
    **{f"F(m, {r})": make_case((4 * r + 3,), (r,), pads=((r - 1, 1),)) for r in range(2, 8)},
    **{
        f"{r}x{r}": make_case((r + 9, r + 4), (r, r), pads=((1, r - 1), (0, 1)))
        for r in range(2, 8)
    },
    **{f"{r}x{r}x{r}": make_case((7, 8, 6), (r,) * 3, pads=((1, 1),) * 3) for r in (2, 3)},
    "1x7": make_case((5, 19), (1, 7), pads=((0, 0), (3, 3))),
    "7x1": make_case((19, 5), (7, 1), pads=((3, 3), (0, 0))),
    "3x1x5": make_case((6, 3, 9), (3, 1, 5)),
    "four axes": make_case((3, 4, 3, 5), (2, 1, 2, 3), c=2, d=2),
    "one output": make_case((3, 3), (3, 3)),
    "smaller than a tile": make_case((4, 2), (3, 2), batch=3),
    "only border": make_case((1, 1), (3, 3), pads=((4, 5), (3, 4))),
    "cropped": make_case((17, 15), (3, 3), pads=((-2, -1), (-3, 2))),
    "dilated": make_case((19, 23), (3, 3), pads=((2, 2), (3, 3)), dilation=(2, 3)),
    "dilated beyond the output": make_case((23,), (3,), dilation=(9,), pads=((2, 1),)),
    "grouped": make_case((9, 8), (3, 3), c=6, d=9, pads=((1, 1), (1, 1)), groups=3),
    "flipped": make_case((9, 8), (3, 2), pads=((1, 1), (1, 0)), flip=True),
    "uneven blocks": make_case((37, 41), (3, 3), c=20, d=24, pads=((1, 1), (2, 0)), batch=3),
}


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", CASES)
def test_against_the_loops(backend, name, which, dtype):
    case = CASES[name]
    function, args, pair = operands(which, case, *arrays(case, dtype, 3))
    y = backend(function, *args, algorithm="winograd", **case.explicit)
    agrees(
        y,
        oracle.FAST[which](*pair, case) if not case.flip else oracle.PASSES[which](*pair, case),
        dtype,
        "winograd",
    )


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("which", PASSES)
def test_padding_modes(backend, which, mode, dilation):
    case = make_case((11, 10), (3, 3), pads=((3, 2), (1, 4)), dilation=(dilation, 1), mode=mode)
    function, args, pair = operands(which, case, *arrays(case, "float64", 5))
    y = backend(function, *args, algorithm="winograd", **case.explicit)
    agrees(y, oracle.PASSES[which](*pair, case), "float64", "winograd")


TILE_SIZES = tile_sizes.candidates((3, 3), (20, 20)) + tile_sizes.candidates((2, 5), (9, 9))


@pytest.fixture
def allow_only():
    """Return a function that allows the algorithm only one tile size, accurate or not."""
    with ExitStack() as stack:

        def allow(sizes):
            stack.enter_context(_testing.use(constants={"growth of Winograd's errors": 1e9}))
            stack.enter_context(
                _testing.replacing("list Winograd's tile sizes", lambda *_: (sizes,))
            )

        yield allow


@pytest.mark.parametrize("sizes", TILE_SIZES, ids=str)
@pytest.mark.parametrize("which", PASSES)
def test_every_tile_size(allow_only, which, sizes):
    """Every tile size is right, also sizes that the cost model never chooses."""
    allow_only(sizes)
    kernel = (sizes.taps * sizes.kernel[0], sizes.kernel[1])
    case = make_case((21, 18), kernel, c=5, d=6, pads=((1, 1), (1, 2)), batch=3)
    function, args, pair = operands(which, case, *arrays(case, "float64", 6))
    y = function(*args, algorithm="winograd", **case.explicit)
    agrees(y, oracle.FAST[which](*pair, case), "float64", "winograd")


def test_two_by_two_is_exact_on_integers(allow_only):
    """F(2, 3) divides by two only, so it is exact on integers."""
    allow_only(tile_sizes.TileSizes((2, 2), (3, 3)))
    case = CASES["uneven blocks"]
    x, f, _ = arrays(case, "float32", 1)
    y = es.conv(x, f, algorithm="winograd", **case.explicit)
    same(y, oracle.fast_forward(x, f, case))


# Determinism, workspace


@pytest.mark.parametrize("name", ["uneven blocks", "grouped", "dilated"])
def test_a_filter_gradient_has_the_same_bits_on_any_number_of_threads(name):
    case = replace(CASES[name], input_size=(60, 57), batch=8)
    rng = np.random.default_rng(2)
    x, gy = (rng.standard_normal(s).astype("f4") for s in (case.x_shape, case.y_shape))
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(
                es.conv_filter_grad(x, gy, (3, 3), algorithm="winograd", **case.explicit).view("u4")
            )
    same(found[1], found[0])


WIDE = make_case((8, 9), (3, 3), c=256, d=256, pads=((1, 1), (1, 1)))


@pytest.mark.parametrize("which", PASSES)
def test_wide_layers_stay_below_the_default_workspace(which):
    """The transformed filter of 256 x 256 channels, 9 MiB, is made in slabs within the default
    limit."""
    function, args, pair = operands(which, WIDE, *arrays(WIDE, "float32", 4))
    result, used = peak(function, *args, algorithm="winograd", **WIDE.explicit)
    assert used < 16 << 20
    agrees(result, oracle.FAST[which](*pair, WIDE), "float32", "winograd")


SIZES = {
    "forward": lambda case: {},
    "input_grad": lambda case: {"input_size": case.input_size},
    "filter_grad": lambda case: {"kernel_size": case.kernel_size},
}


@settings(max_examples=10, deadline=None)
@given(
    limit=st.integers(200_000, 4 << 20),
    which=st.sampled_from(PASSES),
    dilation=st.sampled_from([1, 2]),
    mode=st.sampled_from(MODES),
    rank=st.sampled_from([1, 2, 3]),
    dtype=st.sampled_from(["float32", "complex128", "float16"]),
    groups=st.sampled_from([1, 2]),
)
def test_hard_limits(limit, which, dilation, mode, rank, dtype, groups):
    size = {1: (300,), 2: (23, 19), 3: (7, 10, 9)}[rank]
    case = make_case(size, (3,) * rank, 24, 40, ((2, 1),) * rank, (dilation,) * rank, mode=mode)
    case = replace(case, groups=groups)
    function, args, _ = operands(which, case, *arrays(case, dtype, 7))
    keywords = case.explicit | {"algorithm": "winograd", "max_workspace": limit}
    try:
        es.plan(*(a for a in args if isinstance(a, np.ndarray)), direction=which,
                **SIZES[which](case), **keywords)  # fmt: skip
    except ValueError:
        with refused(function.__name__, ValueError, "max_workspace is too small"):
            function(*args, **keywords)
        return
    _, used = peak(function, *args, **keywords)
    assert used <= limit + PYTHON_OVERHEAD


# Prepared filters


@pytest.mark.parametrize("which", ["forward", "input_grad"])
@pytest.mark.parametrize("name", ["3x3", "uneven blocks", "grouped", "2x2x2", "flipped", "dilated"])
def test_a_prepared_filter(backend, name, which):
    case = CASES[name]
    x, f, gy = (backend.asarray(a) for a in arrays(case, "float64", 8))
    first = x if which == "forward" else gy
    g = Geometry.of("test", case.x_shape, case.f_shape, Settings(
        padding=case.pads, dilation=case.dilation, groups=case.groups, flip=case.flip))  # fmt: skip
    one_job = job.Job(
        g,
        which,
        Arithmetic("float64", "float64"),
        ("float64",) * 2,
        16 << 20,
    )
    b = backends.of("test", ("x",), x)
    kept = winograd.prepare(f, one_job, b)
    out = b.empty(one_job.shape, "float64", x) if b.traits.mutable else None
    found = getattr(winograd, which)(first, f * 0, one_job, b, None, out, prepared=kept)
    loops = oracle.PASSES if case.flip else oracle.FAST
    expected = loops[which](backend.asnumpy(first), backend.asnumpy(f), case)
    agrees(backend.asnumpy(found), expected, "float64", "winograd")


# Refusals


@pytest.mark.parametrize(
    ("why", "dtype", "keywords"),
    [
        ("stride must be 1", "float32", {"stride": 2}),
        ("exact on integers", "int32", {}),
        ("for each element", "float32", {"accuracy": "elementwise"}),
        ("one channel in a group", "float32", {"groups": 8}),
        ("taps", "float32", {"kernel": (8, 3)}),
        ("taps", "float32", {"kernel": (1, 1)}),
    ],
)
def test_what_it_cannot_do_it_says(why, dtype, keywords):
    kernel = keywords.pop("kernel", (3, 3))
    x = np.ones((1, 12, 12, 8), dtype)
    f = np.ones((*kernel, 8 // keywords.get("groups", 1), 8), dtype)
    with refused("conv", ValueError, "winograd: ") as caught:
        es.conv(x, f, algorithm="winograd", **keywords)
    assert why in str(caught.value)


@pytest.mark.parametrize("keywords", [{"per_example": True}, {"batch_invariant": True}])
def test_sums_over_the_batch_are_refused(keywords):
    x = np.ones((2, 9, 9, 8), "float32")
    with refused("conv_filter_grad", ValueError, "batch"):
        es.conv_filter_grad(x, x, 3, padding=1, algorithm="winograd", **keywords)


@pytest.mark.parametrize("which", PASSES)
def test_any_memory(which):
    """Operands may be channels first, reversed, broadcast or read-only, and the result may have
    gaps."""
    case = CASES["uneven blocks"]
    function, args, pair = operands(which, case, *arrays(case, "float64", 10))
    expected = oracle.FAST[which](*pair, case)
    for change in (
        lambda a: np.asfortranarray(a),
        lambda a: np.ascontiguousarray(a[::-1])[::-1],
        lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    ):
        given = [change(a) if isinstance(a, np.ndarray) else a for a in args]
        wide = np.full((*expected.shape[:-1], 2 * expected.shape[-1]), np.nan)
        out = change(wide)[..., ::2]
        assert function(*given, algorithm="winograd", out=out, **case.explicit) is out
        agrees(out, expected, "float64", "winograd")
