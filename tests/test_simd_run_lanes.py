"""Filter gradients whose lanes hold a contiguous span equal the loops for each vector width."""

import numpy as np
import pytest

import einstride as es
import oracle
from checks import operands, same
from einstride import _testing
from guarded import guarded
from oracle import Case
from strategies import arrays

pytest.importorskip("llvmlite")
from einstride.cpu.conv.small_channels import spans

WIDTHS = _testing.vector_widths()


def case(size, kernel, c, d, stride=1, pad=0, batch=2, **more):
    n = len(size)
    return Case(batch, size, kernel, c, d, (stride,) * n, ((pad, pad),) * n, (1,) * n, **more)


CASES = {
    "first layer": case((17, 15), (7, 7), 3, 18, stride=2, pad=3),
    "stride four": case((23, 19), (5, 5), 3, 8, stride=4, batch=1),
    "one stride": case((9, 10), (3, 3), 3, 21, pad=1),
    "signal": case((61,), (10,), 1, 33, stride=5),
    "long filter": case((64,), (40,), 1, 35, stride=4, pad=19),
    "flipped": case((9, 10), (4, 3), 3, 9, stride=2, pad=1, flip=True),
    "volume": case((5, 6, 7), (3, 2, 3), 2, 10, stride=2, pad=1),
    "one of each": case((3, 3), (3, 3), 1, 1, batch=1),
    "wide run": case((9, 40), (3, 21), 3, 5, stride=2, pad=10),
    "many channels": case((8, 9), (5, 4), 2, 37, pad=2),
    "tall": case((30, 8), (19, 3), 1, 3, pad=9, batch=3),
    "deep": case((5, 6, 7), (3, 5, 2), 2, 3, pad=2),
}


@pytest.fixture(params=WIDTHS)
def width(request, along):
    with _testing.use(target=WIDTHS[request.param]):
        yield request.param


@pytest.fixture
def along():
    """Let the lanes of filter gradients hold the contiguous span wherever this is supported."""
    seen = []

    def choose(real, g, compute):
        seen.append(spans.supports_lanes(g))
        return seen[-1]

    lanes = "lay the lanes of a filter gradient along the run"
    with _testing.use(engine="few"), _testing.replacing(lanes, choose):
        yield seen


@pytest.mark.parametrize("end", [True, False], ids=["end", "start"])
@pytest.mark.parametrize("name", CASES)
def test_against_the_loops(name, end, along, width):
    one = CASES[name]
    x, f, gy = (guarded(a, end) for a in arrays(one, "float32", 6))
    function, args, pair = operands("filter_grad", one, x, f, gy)
    expected = oracle.filter_grad(*pair, one)
    out = guarded(np.zeros(expected.shape, "float32"), end)
    function(*args, algorithm="direct", out=out, **one.explicit)
    same(out, expected, "float32")
    assert any(along)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "uint8", "int32", "int64"])
def test_dtypes(dtype, along):
    one = CASES["flipped"]
    function, args, pair = operands("filter_grad", one, *arrays(one, dtype, 1))
    keywords = {"accumulate": "int64"} if "int8" in dtype else {}
    found = function(*args, algorithm="direct", **keywords, **one.explicit)
    same(found, oracle.filter_grad(*pair, one), str(found.dtype))
    assert any(along)


@pytest.mark.parametrize("name", ["first layer", "volume", "tall", "signal"])
def test_borders_are_left_alone(name, along):
    """A NaN in gy meets no zeros of the border; a NaN in x reaches only its own taps."""
    one = CASES[name]
    for place in (0, -1):
        x, gy = np.ones(one.x_shape, "float32"), np.zeros(one.y_shape, "float32")
        touched = gy.copy()
        at = (0, *[place] * len(one.input_size), 0)
        gy[at], touched[at] = np.nan, 1
        found = es.conv_filter_grad(x, gy, one.kernel_size, algorithm="direct", **one.explicit)
        inside = oracle.filter_grad(x, touched, one) != 0
        np.testing.assert_array_equal(np.isnan(found), inside)
    assert any(along)


@pytest.mark.parametrize(
    "one",
    [
        case((90, 90), (7, 7), 3, 11, stride=2, pad=3, batch=20),
        case((9000,), (100,), 1, 2, pad=50, batch=3),
    ],
    ids=["pictures", "signals"],
)
def test_on_any_number_of_threads(one, along):
    from threadpoolctl import threadpool_limits

    x, _, gy = arrays(one, "float32", 11)
    found = es.conv_filter_grad(x, gy, one.kernel_size, algorithm="direct", **one.explicit)
    alone = es.conv_filter_grad(x, gy, one.kernel_size, algorithm="strided", **one.explicit)
    same(found, alone, "float32")
    rng = np.random.default_rng(0)
    x, gy = (rng.normal(size=a.shape).astype("float32") for a in (x, gy))
    both = es.conv_filter_grad(x, gy, one.kernel_size, algorithm="direct", **one.explicit)
    with threadpool_limits(1):
        alone = es.conv_filter_grad(x, gy, one.kernel_size, algorithm="direct", **one.explicit)
    np.testing.assert_array_equal(both, alone)
    assert any(along)
