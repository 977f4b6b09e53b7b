"""Overlap-save: blocks of every length, limits, prepared filters, and the normwise error."""

import numpy as np
import pytest

import einstride as es
import oracle
from checks import PASSES, agrees, operands, refused
from einstride import _testing
from einstride.algorithms import fft
from einstride.algorithms.fft.axes import axis_of, fast_length
from einstride.arrays import backends
from oracle import Case
from strategies import arrays
from test_accuracy import UNIT, adversary, error, fractions

pytest_plugins = ["cupy_host.fixtures"]
CASES = {
    "even": Case(2, (64,), (16,), 3, 4, (1,), ((0, 0),), (1,)),
    "odd": Case(2, (63,), (17,), 3, 4, (1,), ((8, 8),), (1,)),
    "filter as long as the input": Case(1, (50,), (50,), 2, 2, (1,), ((0, 0),), (1,)),
    "mostly border": Case(1, (5,), (41,), 2, 3, (1,), ((20, 20),), (1,)),
    "nothing but border": Case(1, (3,), (2,), 1, 1, (7,), ((9, 12),), (3,)),
    "long and tiny": Case(1, (30_011,), (2,), 1, 1, (1,), ((1, 0),), (1,)),
    "short and long": Case(1, (300,), (2_000,), 1, 2, (1,), ((1_900, 1_900),), (1,)),
    "strided and dilated": Case(2, (900,), (40,), 2, 6, (3,), ((5, -2),), (4,), groups=2),
    "cropped": Case(1, (400,), (31,), 2, 2, (1,), ((-7, -9),), (1,)),
    "plane": Case(1, (61, 190), (13, 31), 2, 3, (1, 1), ((6, 6), (15, 15)), (1, 1)),
    "tall": Case(1, (400, 9), (190, 2), 4, 4, (1, 1), ((0, 0), (1, 0)), (1, 1), groups=4),
    "volume": Case(1, (9, 10, 11), (4, 3, 5), 2, 2, (1, 1, 1), ((1, 2), (1, 1), (2, 2)), (1, 1, 1)),
    "four axes": Case(1, (5, 6, 4, 5), (3, 2, 2, 3), 1, 2, (1, 1, 1, 2), ((1, 1),) * 4, (1,) * 4),
    "wrapped": Case(2, (200,), (33,), 2, 2, (1,), ((16, 16),), (1,), mode="circular"),
    "reflected": Case(1, (40, 41), (9, 8), 3, 2, (2, 1), ((4, 4), (3, 4)), (1, 1), mode="reflect"),
}


@pytest.mark.parametrize("dtype", ["float32", "complex128"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("which", PASSES)
def test_integer_values(backend, which, name, dtype):
    case = CASES[name]
    function, args, pair = operands(which, case, *arrays(case, dtype, 5))
    if case.mode == "zeros":
        expected = oracle.FAST[which](*pair, case)
    else:  # the fast reference has zero padding only
        expected = function(*args, algorithm="gemm", **case.explicit)
    agrees(backend(function, *args, algorithm="fft", **case.explicit), expected, dtype, "fft")


@pytest.mark.parametrize("tiles", [1, 2, 3, 5, 9, 64])
def test_any_number_of_tiles(tiles):
    """Results are right for partial last tiles, single outputs, and periods around the longest
    matrix."""
    case = Case(2, (190,), (9,), 2, 3, (2,), ((4, 3),), (2,))
    x, f, _ = arrays(case, "float64", 1)

    def one(real, g, a, most):
        return (axis_of(g, a, tiles),)

    with _testing.replacing("list the cuts of an FFT's axis", one):
        found = es.conv(x, f, algorithm="fft", **case.explicit)
    agrees(found, oracle.fast_forward(x, f, case), "float64", "fft")


def test_fast_lengths_have_small_factors():
    for n in range(1, 3000):
        length = fast_length(n)
        assert length >= n
        assert length % 2 == 0
        for p in (2, 3, 5, 7):
            while length % p == 0:
                length //= p
        assert length == 1
    assert fast_length(8192) == 8192


def test_a_million_samples():
    rng = np.random.default_rng(0)
    x, f = rng.standard_normal(2**20).astype("f4"), rng.standard_normal(8191).astype("f4")
    y = es.conv(x[None, :, None], f[:, None, None], padding="causal", flip=True)[0, :, 0]
    plan = es.plan((1, 2**20, 1), (8191, 1, 1), padding="causal", flip=True)
    assert plan.algorithm == "fft"
    n = 2**20 + 8190
    exact = np.fft.irfft(np.fft.rfft(x, 2**21) * np.fft.rfft(f.astype("f8"), 2**21), 2**21)[:n]
    assert np.abs(y - exact[: 2**20]).max() < 20 * UNIT["float32"] * np.linalg.norm(f) * 100


def test_auto_takes_it_where_filters_are_large():
    for shapes, keywords in (
        (((8, 56, 56, 128), (31, 31, 1, 128)), {"groups": 128, "padding": 15}),
        (((1, 160_000, 1), (8191, 1, 1)), {"padding": "causal"}),
        (((1, 512, 512, 1), (63, 63, 1, 1)), {"padding": 31}),
    ):
        assert es.plan(*shapes, **keywords).algorithm == "fft"
    assert es.plan((8, 56, 56, 64), (3, 3, 64, 64), padding=1).algorithm != "fft"
    assert es.plan((1, 8, 8, 3), (3, 3, 3, 4)).algorithm != "fft"


def job_of(case, dtype, direction="forward"):
    shapes = {
        "forward": (case.x_shape, case.f_shape),
        "input_grad": (case.y_shape, case.f_shape),
        "filter_grad": (case.x_shape, case.y_shape),
    }[direction]
    extra = {"input_grad": {"input_size": case.input_size}}.get(direction, {})
    extra |= {"kernel_size": case.kernel_size} if direction == "filter_grad" else {}
    plan = es.plan(
        *shapes, direction=direction, dtype=dtype, algorithm="fft", **extra, **case.explicit
    )
    return plan._decision.inner


@pytest.mark.parametrize("name", ["even", "strided and dilated", "plane", "tall", "volume"])
@pytest.mark.parametrize("direction", ["forward", "input_grad"])
def test_a_prepared_filter_gives_the_same_result(direction, name):
    case = CASES[name]
    x, f, gy = arrays(case, "complex64", 2)
    b, job = backends.of("test", ("x",), x), job_of(case, "complex64", direction)
    first = x if direction == "forward" else gy
    prepared = fft.prepare(f, job, b)
    run = getattr(fft, direction)
    out = np.empty(job.shape, "complex64")
    kept = run(first, f, job, b, None, out, prepared=prepared)
    agrees(kept, run(first, f, job, b, None, np.empty_like(out)), None, "fft")
    broken = tuple(None if p is None else p * 0 for p in prepared)
    assert not run(first, f, job, b, None, out, prepared=broken).any(), "it was not used"


@pytest.mark.parametrize("kind", ["random", "range", "cancel"])
@pytest.mark.parametrize("name", ["long", "plane", "deep"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_the_error_stays_below_the_bound(dtype, which, name, kind):
    case = {
        "long": Case(1, (500,), (30,), 1, 2, (1,), ((14, 14),), (1,)),
        "plane": Case(1, (12, 11), (4, 5), 2, 2, (1, 1), ((1, 1), (2, 2)), (1, 1)),
        "deep": Case(1, (9,), (4,), 60, 2, (1,), ((0, 0),), (1,)),
    }[name]
    shapes = (case.x_shape, case.f_shape, case.y_shape)
    data = [adversary(kind, shape, dtype, seed) for seed, shape in enumerate(shapes)]
    function, args, pair = operands(which, case, *data)
    found = function(*args, algorithm="fft", **case.explicit)
    wide = [a.astype("c16" if a.dtype.kind == "c" else "f8") for a in pair]
    if dtype == "float64":
        exact = (oracle.FAST[which](*map(fractions, wide), case), None)
        worst = error(found, exact).max()
    else:
        worst = np.abs(found - oracle.FAST[which](*wide, case)).max()
    norms = np.linalg.norm(wide[0]) * np.linalg.norm(wide[1])
    bound = fft.error_bound(job_of(case, dtype, which), backends.of("", ("x",), data[0]).traits)
    assert worst <= bound * norms
    assert bound < 2000 * UNIT[dtype]


@pytest.mark.parametrize("limit", [20_000, 200_000, 3_000_000])
@pytest.mark.parametrize("name", ["plane", "tall", "long and tiny", "volume"])
@pytest.mark.parametrize("which", PASSES)
def test_small_limits_give_the_same_result(which, name, limit):
    case = CASES[name]
    function, args, pair = operands(which, case, *arrays(case, "float64", 3))
    keywords = case.explicit | {"algorithm": "fft", "max_workspace": limit}
    try:
        found = function(*args, **keywords)
    except ValueError:
        with refused(function.__name__, ValueError, "the least that works"):
            function(*args, **keywords)
        return
    agrees(found, oracle.FAST[which](*pair, case), "float64", "fft")


@pytest.mark.parametrize(
    ("dtype", "keywords", "says"),
    [
        ("int32", {}, "integers must be exact"),
        ("float32", {"accuracy": "elementwise"}, "bounded by norms"),
    ],
)
def test_refusals(dtype, keywords, says):
    x, f = np.ones((1, 9, 1), dtype), np.ones((3, 1, 1), dtype)
    with refused("conv", ValueError, says):
        es.conv(x, f, algorithm="fft", **keywords)


def test_cupy_keeps_a_bounded_number_of_plans(installed_cupy_host):
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    cache = cupy.fft.config.get_plan_cache()
    for n in range(200, 3000, 100):
        x, f = cupy.ones((1, n, 1), "float32"), cupy.ones((n // 2, 1, 1), "float32")
        es.conv(x, f, algorithm="fft")
    assert 0 < cache.get_curr_size() <= cache.get_size() == 16
