"""The dense engine equals the loops for each vector width, and accesses no byte beside arrays."""

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
WIDTHS = _testing.vector_widths()


def case(size, kernel, c, d, stride=1, pad=0, dilation=1, batch=2, **more):
    n = len(size)
    return Case(
        batch, size, kernel, c, d, (stride,) * n, ((pad, pad),) * n, (dilation,) * n, **more
    )


CASES = {
    "padded": case((9, 8), (3, 3), 5, 20, pad=1),
    "four examples": case((5, 6), (3, 3), 6, 64, pad=1, batch=4),
    "strided": case((11, 10), (3, 2), 4, 33, stride=2, pad=1),
    "dilated": case((12, 11), (3, 3), 3, 17, dilation=2, pad=2),
    "grouped": case((7, 8), (3, 3), 12, 20, pad=1, groups=2),
    "flipped": case((7, 8), (3, 2), 4, 9, flip=True),
    "point": case((6, 5), (1, 1), 7, 70),
    "point strided": case((6, 5), (1, 1), 7, 9, stride=2),
    "line": case((40,), (5,), 6, 48, pad=2),
    "volume": case((4, 5, 6), (2, 3, 2), 3, 16, pad=1),
    "one of each": case((3, 3), (3, 3), 1, 1, batch=1),
    "deep": case((3, 4), (3, 3), 150, 130, pad=1, batch=1),
}


@pytest.fixture(params=WIDTHS)
def width(request):
    with _testing.use(target=WIDTHS[request.param], engine="dense"):
        yield request.param


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("which", PASSES)
def test_against_the_loops(which, name, width):
    function, args, pair = operands(which, CASES[name], *arrays(CASES[name], "float32", 3))
    found = function(*args, algorithm="direct", **CASES[name].explicit)
    same(found, oracle.PASSES[which](*pair, CASES[name]), "float32")


@pytest.mark.parametrize("end", [True, False], ids=["end", "start"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("which", PASSES)
def test_nothing_beside_the_arrays_is_touched(which, name, end, width):
    one = CASES[name]
    given = [guarded(a, end) for a in arrays(one, "float32", 5)]
    function, args, pair = operands(which, one, *given)
    expected = oracle.PASSES[which](*pair, one)
    out = guarded(np.zeros(expected.shape, "float32"), end)
    function(*args, algorithm="direct", out=out, **one.explicit)
    same(out, expected, "float32")


@pytest.mark.parametrize(
    "dtype", ["float16", "float64", "complex64", "complex128", "int8", "uint8", "int32", "int64"]
)
@pytest.mark.parametrize("which", PASSES)
def test_dtypes(which, dtype):
    one = CASES["grouped"]
    function, args, pair = operands(which, one, *arrays(one, dtype, 1))
    keywords = {"accumulate": "int64"} if which == "filter_grad" and "int8" in dtype else {}
    with _testing.use(engine="dense"):
        found = function(*args, algorithm="direct", **keywords, **one.explicit)
    expected = oracle.PASSES[which](*pair, one)
    same(found, expected, str(found.dtype))


@pytest.mark.parametrize("which", PASSES)
def test_the_number_of_threads_leaves_the_bits_alone(which):
    from threadpoolctl import threadpool_limits

    one = case((40, 40), (3, 3), 40, 72, pad=1, batch=4)
    rng = np.random.default_rng(0)
    shapes = (one.x_shape, one.f_shape, one.y_shape)
    x, f, gy = (rng.normal(size=shape).astype("float32") for shape in shapes)
    function, args, _ = operands(which, one, x, f, gy)
    both = function(*args, algorithm="direct", **one.explicit)
    with threadpool_limits(1):
        alone = function(*args, algorithm="direct", **one.explicit)
    np.testing.assert_array_equal(both, alone)


def test_a_prepared_filter_gives_the_same():
    rng = np.random.default_rng(1)
    x, f = rng.normal(size=(2, 9, 9, 8)), rng.normal(size=(3, 3, 8, 40))
    layer = es.Conv(f, padding="same", stride=2, algorithm="direct")
    plain = es.conv(x, f, padding="same", stride=2, algorithm="direct")
    for _ in range(2):
        np.testing.assert_array_equal(layer(x), plain)
        gx = layer.backward(plain, x).gx
        alone = es.conv_input_grad(plain, f, (9, 9), padding="same", stride=2, algorithm="direct")
        np.testing.assert_array_equal(gx, alone)
    layer.f = 2 * f
    np.testing.assert_array_equal(layer(x), 2 * plain)


@pytest.mark.parametrize("end", [True, False], ids=["end", "start"])
@pytest.mark.parametrize("first", [False, True], ids=["channels last", "channels first"])
@pytest.mark.parametrize(
    "one",
    [
        case((40,), (9,), 1, 20, stride=4),
        case((40,), (7,), 3, 33),
        case((9, 20), (3, 5), 2, 16, stride=2),
    ],
    ids=["one channel", "three", "plane"],
)
def test_taps_side_by_side_are_one_sum(one, first, end, width):
    """Without padding, taps of the last axis and channels form one reduction axis."""
    x, f, _ = arrays(one, "float32", 2)
    expected = oracle.forward(x, f, one)
    given = guarded(np.ascontiguousarray(np.moveaxis(x, -1, 1)) if first else x, end)
    view = np.moveaxis(given, 1, -1) if first else given
    layer = es.Conv(f, algorithm="direct", **one.explicit)
    for found in (es.conv(view, f, algorithm="direct", **one.explicit), layer(view)):
        same(found, expected, "float32")
