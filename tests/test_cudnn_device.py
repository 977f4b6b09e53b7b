"""The real cuDNN on a GPU (`--backend cupy`, with the extra) is exact on integer values."""

from __future__ import annotations

import numpy as np
import pytest

import einstride as es
import libraries
import oracle
from checks import PASSES, operands, same
from oracle import Case
from strategies import arrays
from test_passes import LARGE


@pytest.fixture(scope="module")
def real(request):
    if "cupy" not in ",".join(request.config.getoption("--backend")).split(","):
        pytest.skip("cuDNN needs a GPU: --backend cupy")
    from einstride.algorithms.cudnn.library import missing

    if reason := missing():
        pytest.skip(reason)
    return libraries.load("cupy")


@pytest.mark.parametrize("layout", ["channels_last", "channels_first"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", LARGE)
def test_large(real, name, which, dtype, layout):
    case: Case = LARGE[name]
    function, args, pair = operands(which, case, *arrays(case, dtype, 11))
    expected = oracle.FAST[which](*(a.astype("float64") for a in pair), case).astype(dtype)
    if layout == "channels_first":
        filters = {"forward": [1], "input_grad": [1], "filter_grad": []}[which]
        n = len(case.input_size)
        args = [
            np.ascontiguousarray(a.transpose((n + 1, n, *range(n))))
            if i in filters
            else np.ascontiguousarray(np.moveaxis(a, -1, 1))
            if isinstance(a, np.ndarray)
            else a
            for i, a in enumerate(args)
        ]
        back = (n + 1, n, *range(n)) if which == "filter_grad" else (0, n + 1, *range(1, n + 1))
        expected = expected.transpose(back)
    try:
        found = real(function, *args, algorithm="cudnn", layout=layout, **case.explicit)
    except ValueError as error:
        if "no engine of cuDNN" not in str(error):
            raise
        pytest.skip(str(error))
    same(found, expected, dtype)


@pytest.mark.parametrize("which", PASSES)
def test_float32_is_not_rounded(real, which):
    """1 + 2**-12, times 1, keeps all bits in float32; TF32 would round it."""
    case = Case(2, (16, 16), (3, 3), 64, 64, (1, 1), ((1, 1), (1, 1)), (1, 1))
    x, f, gy = (np.zeros(s, "f4") for s in (case.x_shape, case.f_shape, case.y_shape))
    x[:], f[1, 1], gy[:] = 1 + 2**-12, np.eye(64), 1
    f[1, 1] *= 1 + 2**-12 if which == "input_grad" else 1
    function, args, pair = operands(which, case, x, f, gy)
    found = real(function, *args, algorithm="cudnn", **case.explicit)
    exact = oracle.FAST[which](*(a.astype("float64") for a in pair), case)
    np.testing.assert_allclose(found, exact, rtol=2**-20)


@pytest.mark.parametrize("which", PASSES)
def test_the_same_bits_again(real, which):
    case = LARGE["rows"]
    rng = np.random.default_rng(1)
    given = (rng.random(s, "f4") for s in (case.x_shape, case.f_shape, case.y_shape))
    function, args, _ = operands(which, case, *given)
    first = real(function, *args, algorithm="cudnn", **case.explicit)
    for _ in range(5):
        repeated = real(function, *args, algorithm="cudnn", **case.explicit)
        np.testing.assert_array_equal(repeated, first)


def test_a_graph_replays(real):
    cp = real.xp
    x, f = cp.ones((2, 16, 16, 32), "f4"), cp.ones((3, 3, 32, 32), "f4")
    stream, pool = cp.cuda.Stream(non_blocking=True), cp.cuda.MemoryPool()
    plan = es.plan(x, f, algorithm="cudnn")
    out = cp.empty(plan.output_shape, plan.dtype)
    cp.cuda.Device().synchronize()
    with stream, cp.cuda.using_allocator(pool.malloc):
        plan(x, f, out=out)
        stream.begin_capture()
        plan(x, f, out=out)
        graph = stream.end_capture()
        x *= 2
        graph.launch()
        stream.synchronize()
    assert float(out[0, 0, 0, 0]) == 2 * 9 * 32
