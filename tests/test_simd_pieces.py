"""Large filters are packed block by block, with equal bits, and panels of one block at a time."""

import tracemalloc

import numpy as np
import pytest

import einstride as es
import oracle
from checks import operands, same
from einstride import _testing
from oracle import Case
from strategies import arrays

pytest.importorskip("llvmlite")


def case(size, kernel, c, d, stride=1, pad=0, groups=1, **more):
    n = len(size)
    pads = ((pad, pad),) * n
    return Case(1, size, kernel, c, d, (stride,) * n, pads, (1,) * n, groups, **more)


CASES = {
    "columns": case((3, 4), (3, 3), 70, 150, pad=1),
    "stride": case((5, 4), (3, 2), 70, 133, stride=2, pad=1),
    "groups": case((3, 3), (3, 3), 3 * 36, 3 * 40, pad=1, groups=3),
    "flipped": case((4, 4), (2, 3), 72, 140, flip=True),
    "one by one": case((2, 3), (1, 1), 100, 200),
    "line": case((8,), (5,), 130, 130, pad=2),
    "large groups": case((2, 3), (2, 2), 2 * 70, 2 * 140, groups=2),
}


@pytest.fixture
def small():
    """Divide even small filters into blocks, in the dense engine."""
    with _testing.use(engine="dense", constants={"filter piece": 1 << 12}):
        yield


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("which", ["forward", "input_grad"])
def test_against_the_loops(which, name, dtype, small):
    one = CASES[name]
    function, args, pair = operands(which, one, *arrays(one, dtype, 3))
    function(*args, algorithm="direct", **one.explicit)  # makes the plan
    with _testing.watching("cut a filter into pieces", keep_caches=True) as cuts:
        result = function(*args, algorithm="direct", **one.explicit)
    same(result, oracle.PASSES[which](*pair, one), str(result.dtype))
    assert max(len(cut.result) for cut in cuts) > 1


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("which", ["forward", "input_grad"])
def test_the_bits_are_those_of_one_block(which, name):
    one, rng = CASES[name], np.random.default_rng(0)
    noise = [rng.normal(size=a.shape).astype("float32") for a in arrays(one, "float32", 0)]
    function, args, _ = operands(which, one, *noise)
    found = []
    for size in (1 << 40, 1 << 12):
        with _testing.use(engine="dense", constants={"filter piece": size}):
            found.append(function(*args, algorithm="direct", **one.explicit))
    np.testing.assert_array_equal(*found)


def test_a_bias_goes_with_its_channels(small):
    one = CASES["columns"]
    x, f, _ = arrays(one, "float32", 1)
    bias = np.arange(f.shape[-1], dtype=x.dtype)
    found = es.conv(x, f, bias, algorithm="direct", **one.explicit)
    same(found, oracle.forward(x, f, one) + bias, "float32")


@pytest.mark.parametrize("groups", [1, 16])
@pytest.mark.parametrize("which", ["forward", "input_grad"])
def test_panels_of_a_large_filter_stay_below_the_default_limit(which, groups):
    """A filter of 18 MiB on 8 positions needs little workspace."""
    c, d = (2048, 256) if groups == 1 else (768, 768)
    taps = 9 if groups == 1 else 128
    f = np.ones((taps, c // groups, d), np.float32)
    first = np.ones((1, taps + 7, c) if which == "forward" else (1, 8, d), np.float32)

    def call():
        if which == "forward":
            return es.conv(first, f, groups=groups, algorithm="direct")
        return es.conv_input_grad(first, f, (taps + 7,), groups=groups, algorithm="direct")

    call()
    tracemalloc.start()
    result = call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (16 << 20) + result.nbytes
