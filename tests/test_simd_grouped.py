"""The engine of small groups equals the loops for each vector width, within bounds of arrays."""

import numpy as np
import pytest

import einstride as es
import oracle
from checks import PASSES, operands, same
from einstride import _testing
from guarded import guarded
from oracle import Case
from strategies import arrays

pytest.importorskip("llvmlite")
from einstride.algorithms.direct import cpu, dense, grouped

WIDTHS = _testing.vector_widths()


def case(size, kernel, c, d, groups, stride=1, pad=0, dilation=1, batch=2, **more):
    n = len(size)
    pads = pad if isinstance(pad, tuple) else ((pad, pad),) * n
    return Case(batch, size, kernel, c, d, (stride,) * n, pads, (dilation,) * n, groups, **more)


CASES = {
    "two side by side": case((5, 9), (3, 3), 24, 24, 3, pad=1),
    "four side by side": case((6, 17), (3, 3), 20, 20, 5, pad=1),
    "more in than out": case((5, 8), (3, 3), 36, 6, 3, pad=1),
    "more out than in": case((5, 8), (2, 3), 6, 33, 3, pad=1),
    "three columns": case((5, 8), (3, 2), 15, 9, 3),
    "odd ones": case((5, 7), (3, 3), 35, 21, 7, pad=1),
    "a full vector": case((5, 15), (3, 3), 32, 32, 2, pad=1),
    "two vectors": case((4, 7), (3, 3), 66, 58, 2, pad=1),
    "five vectors": case((3, 6), (1, 3), 6, 160, 2, batch=1),
    "strided": case((11, 14), (3, 3), 16, 24, 4, stride=2, pad=1),
    "dilated": case((9, 12), (3, 3), 8, 16, 2, dilation=2, pad=2),
    "cropped": case((9, 14), (3, 3), 8, 8, 2, pad=((-1, 2), (1, -2))),
    "wide border": case((3, 40), (1, 7), 8, 8, 2, pad=((0, 0), (9, 12)), dilation=3),
    "reflected": case((5, 9), (3, 3), 8, 12, 2, pad=2, mode="reflect"),
    "flipped": case((5, 9), (3, 2), 8, 12, 2, flip=True),
    "point": case((6, 5), (1, 1), 12, 20, 4),
    "line": case((40,), (5,), 18, 12, 3, pad=2),
    "volume": case((4, 5, 6), (2, 3, 2), 8, 12, 2, pad=1),
}


FEW = ("two side by side", "more in than out", "odd ones", "two vectors", "strided", "volume")
PAIRS = [(w, name) for w in WIDTHS for name in CASES if w == "native" or name in FEW]
"""(vector width, case): widths other than this machine's compile few cases, as that is slow."""


@pytest.fixture(params=WIDTHS)
def width(request):
    with _testing.use(target=WIDTHS[request.param]):
        yield request.param


@pytest.fixture
def launched():
    """Return the list of the kernels of this engine that run."""
    with _testing.watching("run a kernel of small groups") as calls:
        yield calls


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize(("width", "name"), PAIRS, indirect=["width"])
def test_against_the_loops(which, name, width, launched):
    function, args, pair = operands(which, CASES[name], *arrays(CASES[name], "float32", 3))
    found = function(*args, algorithm="direct", **CASES[name].explicit)
    same(found, oracle.PASSES[which](*pair, CASES[name]), "float32")
    assert bool(launched) == ((name, which) != ("point", "filter_grad"))


@pytest.mark.parametrize("end", [True, False], ids=["end", "start"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize(("width", "name"), PAIRS, indirect=["width"])
def test_nothing_beside_the_arrays_is_touched(which, name, end, width):
    one = CASES[name]
    given = [guarded(a, end) for a in arrays(one, "float32", 5)]
    function, args, pair = operands(which, one, *given)
    expected = oracle.PASSES[which](*pair, one)
    out = guarded(np.zeros(expected.shape, "float32"), end)
    function(*args, algorithm="direct", out=out, **one.explicit)
    same(out, expected, "float32")


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint8", "int32", "int64"])
@pytest.mark.parametrize("which", PASSES)
def test_dtypes(which, dtype, launched):
    one = CASES["odd ones"]
    function, args, pair = operands(which, one, *arrays(one, dtype, 1))
    keywords = {"accumulate": "int64"} if which == "filter_grad" and "int8" in dtype else {}
    found = function(*args, algorithm="direct", **keywords, **one.explicit)
    expected = oracle.PASSES[which](*pair, one)
    same(found, expected, str(found.dtype))
    assert launched


@pytest.mark.parametrize("name", ["two side by side", "a full vector", "more in than out"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("operand", [0, 1])
def test_a_nan_or_inf_stays_in_its_group_and_its_windows(which, name, value, operand, width):
    """A NaN or an infinity of either operand stays in its group and windows, also at borders."""
    one = CASES[name]
    shapes = (one.x_shape, one.f_shape, one.y_shape)
    function, args, pair = operands(which, one, *(np.ones(s, "float32") for s in shapes))
    touched = [np.ones(p.shape) for p in pair]
    touched[operand] = np.zeros(pair[operand].shape)
    at = (0,) * (pair[operand].ndim - 2) + (2, 3)
    touched[operand][at] = 1
    pair[operand][at] = value
    found = function(*args, algorithm="direct", **one.explicit)
    inside = oracle.PASSES[which](*touched, one) != 0
    assert inside.any()
    assert not inside.all()
    np.testing.assert_array_equal(np.isfinite(found), ~inside)


@pytest.mark.parametrize("which", PASSES)
def test_the_number_of_threads_leaves_the_bits_alone(which, launched):
    from threadpoolctl import threadpool_limits

    one = case((30, 30), (3, 3), 64, 64, 8, pad=1, batch=4)
    rng = np.random.default_rng(0)
    shapes = (one.x_shape, one.f_shape, one.y_shape)
    x, f, gy = (rng.normal(size=shape).astype("float32") for shape in shapes)
    function, args, _ = operands(which, one, x, f, gy)
    both = function(*args, algorithm="direct", **one.explicit)
    with threadpool_limits(1):
        alone = function(*args, algorithm="direct", **one.explicit)
    np.testing.assert_array_equal(both, alone)
    assert len(launched) == 2


@pytest.mark.parametrize("size", [4, 9], ids=["other engine", "blocks"])
def test_a_prepared_filter_gives_the_same(launched, size):
    """Arrays that the kernels cannot address go through blocks, or to an engine that packs
    filters in another way."""
    rng = np.random.default_rng(1)
    x, f = rng.normal(size=(2, size, size, 8)), rng.normal(size=(3, 3, 4, 12))
    settings = {"padding": "same", "groups": 2, "algorithm": "direct"}
    layer, plain = es.Conv(f, **settings), es.conv(x, f, **settings)
    for view in (x, np.moveaxis(np.ascontiguousarray(np.moveaxis(x, -1, 1)), 1, -1)):
        np.testing.assert_allclose(layer(view), plain, rtol=1e-13, atol=1e-13)
        alone = es.conv_input_grad(plain, f, (size, size), **settings)
        np.testing.assert_array_equal(layer.backward(plain, view).gx, alone)
    assert launched


@pytest.mark.parametrize("which", PASSES)
def test_arrays_of_any_memory(which, width):
    """Transposed, reversed, broadcast and strided arrays give equal results, by any engine."""
    one = CASES["two side by side"]
    x, f, gy = arrays(one, "float32", 7)
    ways = [
        lambda a: np.asfortranarray(a),
        lambda a: np.ascontiguousarray(a[:, ::-1])[:, ::-1],
        lambda a: np.ascontiguousarray(a[..., ::-1])[..., ::-1],
        lambda a: np.repeat(a, 2, axis=2)[:, :, ::2],
        lambda a: np.broadcast_to(a[:1], a.shape),
    ]
    for way in ways:
        function, args, pair = operands(which, one, way(x), way(f), way(gy))
        expected = oracle.PASSES[which](*pair, one)
        same(function(*args, algorithm="direct", **one.explicit), expected, "float32")
        out = way(np.zeros(expected.shape, "float32"))
        if out.flags.writeable:
            function(*args, algorithm="direct", out=out, **one.explicit)
            same(out, expected, "float32")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_plans_take_it(dtype, launched):
    x, f = np.ones((8, 28, 28, 256), dtype), np.ones((3, 3, 8, 256), dtype)
    y = es.conv(x, f, padding=1, groups=32)
    es.conv_input_grad(y, f, (28, 28), padding=1, groups=32)
    es.conv_filter_grad(x, y, (3, 3), padding=1, groups=32)
    assert len(launched) == 3


@pytest.mark.parametrize("stride", [1, 2])
def test_regions_add_up(stride, launched):
    """Regions of few rows, of part of a row, and of several examples count every position once."""
    one = case((13, 12), (3, 3), 12, 18, 3, pad=1, batch=5, stride=stride)
    function, args, pair = operands("filter_grad", one, *arrays(one, "float32", 9))
    expected = oracle.filter_grad(*pair, one)
    for size in (1, 6000, 20000, 60000):
        with _testing.use(constants={"region of small groups": size}):
            same(function(*args, algorithm="direct", **one.explicit), expected, "float32")
    assert len(launched) == 4


def test_what_it_leaves_to_others():
    one = CASES["two side by side"]
    assert (dense, cpu.channelwise) == cpu._general()
    x, f, _ = arrays(one, "float32", 1)
    assert grouped.fits(x, f)
    assert not grouped.fits(x, f[..., ::2])
    assert not grouped.fits(np.moveaxis(x, -1, 1))
    assert not grouped.fits(x.astype(">f4"))
