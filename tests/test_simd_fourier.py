"""Compiled depthwise FFTs stay within the error bound: every radix, border, tail and vector
width."""

import os
import subprocess
import sys
from math import log2, prod
from pathlib import Path

import numpy as np
import pytest

import einstride as es
import oracle
from checks import FUNCTIONS, PASSES, PYTHON_OVERHEAD, operands, refused
from einstride import _testing
from oracle import Case

pytest.importorskip("llvmlite")

from einstride.algorithms.fft import compiled
from einstride.arrays.backends.numpy import BACKEND
from einstride.codegen import jit
from einstride.cpu.fft import lines
from einstride.cpu.fft import plan as fourier_plan
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Settings
from test_simd_channelwise import TARGETS, channels_first, target  # noqa: F401
from test_workspace import least_limit, peak


def depthwise(channels, multiplier=1, **changes):
    given = {
        "batch": 3, "input_size": (9, 11), "kernel_size": (5, 5), "channels": channels,
        "filters": channels * multiplier, "stride": (1, 1), "pads": ((2, 2), (2, 2)),
        "dilation": (1, 1), "groups": channels,
    }  # fmt: skip
    return Case(**(given | changes))


def given(case, dtype, seed=1):
    rng = np.random.default_rng(seed)
    shapes = (case.x_shape, case.f_shape, case.y_shape)
    return [rng.standard_normal(s).astype(dtype) for s in shapes]


def bound(case, dtype, first, second):
    """Return the bound of an element's error: c u log2(L) times the norms of a channel's
    operands."""
    length = prod(n + k for n, k in zip(case.input_size, case.kernel_size, strict=True))
    axes = tuple(range(first.ndim - 1))
    norms = [np.sqrt((a.astype("float64") ** 2).sum(axes)).max() for a in (first, second)]
    return 2 * np.finfo(dtype).eps * log2(4 * length) * prod(norms)


def check(which, case, dtype="float64", arrays=None, first=False, **keywords):
    """Compare one pass with the loops, within the bound."""
    function, args, pair = operands(which, case, *(arrays or given(case, dtype)))
    keywords |= {"algorithm": "fft", **case.explicit}
    wide = [a.astype("float64") for a in pair]
    table = oracle.FAST if case.mode == "zeros" else oracle.PASSES
    expected = table[which](*wide, case)
    if first:
        roles = {"forward": "xf", "input_grad": "yf", "filter_grad": "xy"}[which]
        moved = [channels_first(a, which, r) for a, r in zip(args[:2], roles, strict=True)]
        found = function(*moved, *args[2:], layout="channels_first", **keywords)
        found = np.moveaxis(found, *(((0, 1), (-1, -2)) if which == "filter_grad" else (1, -1)))
    else:
        found = function(*args, **keywords)
    assert found.dtype == dtype
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= bound(case, dtype, *wide)
    return found


@pytest.mark.parametrize("channels", [1, 3, 15, 16, 17, 33])
@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
@pytest.mark.parametrize("which", PASSES)
def test_remainders_of_vectors(which, first, channels):
    check(which, depthwise(channels), "float32", first=first)


LINE = {"kernel_size": (5,), "stride": (1,), "dilation": (1,)}
GEOMETRIES = {
    "cropped": depthwise(5, pads=((-1, 2), (-2, -3)), flip=True),
    "mostly border": depthwise(5, input_size=(2, 3), pads=((4, 4), (5, 5)), kernel_size=(5, 7)),
    "dilated": depthwise(9, dilation=(2, 1), pads=((4, 3), (1, 2))),
    "tiles": depthwise(8, batch=1, input_size=(70, 90), pads=((2, 1), (0, 2))),
    "large": depthwise(17, input_size=(14, 13), kernel_size=(27, 25), pads=((13, 13), (12, 12))),
    "one tap": depthwise(3, kernel_size=(1, 5), pads=((0, 0), (2, 2))),
    "line": depthwise(20, input_size=(61,), pads=((4, 0),), **LINE),
    "long line": depthwise(3, batch=2, input_size=(901,), pads=((2, 2),), **LINE),
    "image": depthwise(1, batch=2, input_size=(60, 75), pads=((4, 0), (-3, 2))),
    "signal": depthwise(1, batch=1, input_size=(903,), pads=((4, 0),), **LINE),
    "frames": depthwise(1, batch=19, input_size=(40,), pads=((2, 2),), **LINE),
    "many channels": depthwise(300, batch=1),
    "reflect": depthwise(4, pads=((2, 1), (1, 2)), mode="reflect"),
    "replicate": depthwise(1, pads=((2, 1), (4, 2)), mode="replicate"),
    "circular": depthwise(4, pads=((2, 2), (2, 2)), mode="circular"),
}  # fmt: skip


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("which", PASSES)
def test_geometries(which, name):
    check(which, GEOMETRIES[name])


@pytest.mark.parametrize("which", ["forward", "filter_grad"])
def test_several_filters_of_a_channel(which):
    check(which, depthwise(6, 3))
    check(which, depthwise(1, 8), "float32")


@pytest.mark.parametrize("name", ["cropped", "tiles", "line", "image", "signal"])
@pytest.mark.parametrize("which", PASSES)
def test_every_width_of_vectors(target, which, name):  # noqa: F811
    check(which, GEOMETRIES[name], "float32")


@pytest.mark.parametrize("length", [2, 3, 4, 5, 6, 8, 9, 10, 27, 40, 60, 64, 75, 80, 90, 162])
@pytest.mark.parametrize("which", PASSES)
def test_lengths_with_every_radix(which, length):
    """A circular axis is transformed with its own length, of every radix."""
    case = depthwise(
        2, batch=1, input_size=(length,), kernel_size=(2,), stride=(1,), pads=((1, 0),),
        dilation=(1,), mode="circular",
    )  # fmt: skip
    axis = fourier_plan.Axis(1, length, length, length, 0)
    only = fourier_plan._predict_tiling(fourier_plan.NO_AXIS, axis, True, False, 64, 1, 0)
    if which != "input_grad":  # array code folds the border
        with _testing.replacing("plan a compiled FFT", lambda *_: only):
            check(which, case)


def test_frequencies_are_where_the_table_says():
    for length in (12, 72, 90, 80):
        stages = lines.radices(length)[1]
        assert prod(stages) == length
        assert sorted(lines.order(stages)) == list(range(length))
    assert lines.radices(14)[0] == float("inf")


def test_a_period_is_no_longer_than_what_is_not_zero():
    g = Geometry.of("t", (8, 56, 56, 64), (31, 31, 1, 64), Settings(padding=15, groups=64))
    plan = fourier_plan.best_tiling(g, False, 64, 0)
    assert (plan.down.period, plan.across.period) == (72, 72)  # not 56 + 30


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("which", PASSES)
def test_adversaries(which, dtype):
    """The bound holds for a spike, alternating signs, one sign, and twelve orders of magnitude."""
    case = depthwise(18, batch=2, input_size=(40, 33), kernel_size=(13, 9), pads=((6, 6), (4, 4)))
    rng = np.random.default_rng(5)
    for kind in range(4):
        arrays = given(case, dtype, kind)
        for a in arrays:
            if kind == 0:
                a *= 1e-6
                a[(0, *(n // 2 for n in a.shape[1:-1]))] = 1
            elif kind == 1:
                a[...] = (-1.0) ** np.indices(a.shape).sum(0)
            elif kind == 2:
                np.abs(a, out=a)
            else:
                a *= 10.0 ** rng.uniform(-6, 6, a.shape)
        check(which, case, dtype, arrays)


def test_other_examples_and_channels_leave_an_error_alone():
    """A NaN stays in its channel and example; errors of an example do not depend on others."""
    case = depthwise(20)
    x, f, _ = given(case, "float32")
    keywords = {"algorithm": "fft", **case.explicit}
    alone = es.conv(x, f, **keywords)
    x[1] *= 1e20
    x[1, 4, 4, 7] = np.nan
    found = es.conv(x, f, **keywords)
    np.testing.assert_array_equal(found[[0, 2]].view("u4"), alone[[0, 2]].view("u4"))
    assert np.isnan(found[1, ..., 7]).all()
    assert not np.isnan(np.delete(found[1], 7, -1)).any()


IMAGES = {
    "one tile": {"batch": 1, "input_size": (30, 33), "kernel_size": (7, 5)},
    "examples": {"batch": 9, "input_size": (12, 9)},
    "many tiles": {"batch": 2, "input_size": (150, 170), "pads": ((4, 4), (0, -3)), "flip": True},
    "wide border": {"input_size": (5, 6), "pads": ((4, 3), (5, 2)), "mode": "reflect"},
    "signals": {"batch": 3, "input_size": (3001,), "pads": ((4, 0),), **LINE},
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGES)
def test_filter_gradients_of_one_channel_add_up_the_lanes(target, name):  # noqa: F811
    case = depthwise(1, **IMAGES[name])
    for dtype in ("float32", "float64"):
        check("filter_grad", case, dtype)
    x, f = (np.ones(s, "float32") for s in (case.x_shape, case.y_shape))
    keywords = {"direction": "filter_grad", "kernel_size": case.kernel_size, **case.explicit}
    job = es.plan(x, f, **keywords)._decision.inner
    assert compiled.describe(job)["lanes"] == {"tiles": jit.host_target().lanes(4)}


def test_a_large_filter_gradient_of_one_image_is_left_to_transforms():
    """A short result of a long product: sums over 512 x 512 positions for 101 x 101 taps."""
    x = np.ones((1, 512, 512, 1), "float32")
    plan = es.plan(x, x, direction="filter_grad", kernel_size=(101, 101), padding="same")
    assert plan.algorithm == "fft"
    small = es.plan(
        x, x, direction="filter_grad", kernel_size=(101, 101), padding="same", algorithm="fft",
        max_workspace=8 << 20,
    )  # fmt: skip
    costs = {c.algorithm: c.cost for c in small._decision.candidates}
    assert costs["fft"].workspace <= 8 << 20


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("which", PASSES)
def test_what_scratch_memory_holds_is_never_read(which, channels):
    """Results are right if new scratch memory holds NaN, also with an odd number of rows."""

    def poisoned(real, *given):
        memory = real(*given)
        memory[...] = np.nan
        return memory

    with _testing.replacing("allocate the scratch of a compiled FFT", poisoned):
        check(which, depthwise(channels, input_size=(5, 6), pads=((4, 4), (4, 4))))


@pytest.mark.parametrize("name", ["tiles", "many channels", "image", "long line"])
@pytest.mark.parametrize("which", PASSES)
def test_threads_leave_the_bits_alone(which, name):
    case = GEOMETRIES[name]
    function, args, _ = operands(which, case, *given(case, "float32"))
    found = []
    for threads in (1, 2, 5):
        with _testing.use(threads=threads):
            found.append(function(*args, algorithm="fft", **case.explicit).view("u4"))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize("channels", [1, 5, 40])
def test_per_example(channels):
    case = depthwise(channels, flip=True)
    x, _, gy = given(case, "float64")
    keywords = {"algorithm": "fft", **case.explicit}
    found = es.conv_filter_grad(x, gy, (5, 5), per_example=True, **keywords)
    one = depthwise(channels, batch=1, flip=True)
    for n in range(3):
        expected = oracle.fast_filter_grad(x[n : n + 1], gy[n : n + 1], one)
        np.testing.assert_allclose(found[n], expected, rtol=0, atol=1e-13 * abs(expected).max())


@pytest.mark.parametrize("channels", [1, 5, 40, 300])
def test_bias_out_and_prepared(channels):
    case = depthwise(channels)
    x, f, _ = given(case, "float32")
    bias = np.arange(channels, dtype="float32")
    keywords = {"algorithm": "fft", **case.explicit}
    y = es.conv(x, f, bias, **keywords)
    np.testing.assert_allclose(y, es.conv(x, f, **keywords) + bias, rtol=0, atol=1e-4)
    out = np.zeros((*case.y_shape[:-1], 2 * channels), "float32")[..., ::-2]
    es.conv(x[::-1, ::-1], f, bias, out=out[::-1, ::-1], **(keywords | {"flip": True}))
    turned = es.conv(x, f[::-1, ::-1], bias, **keywords)
    reference = es.conv(x[:, ::-1], f, bias, **(keywords | {"flip": True}))
    np.testing.assert_allclose(out[::-1, ::-1], reference[::-1], rtol=0, atol=1e-4)
    np.testing.assert_allclose(
        turned, es.conv(x, f, bias, **(keywords | {"flip": True})), rtol=0, atol=1e-4
    )
    conv = es.Conv(f, bias, **keywords)
    np.testing.assert_array_equal(conv(x), y)
    np.testing.assert_array_equal(conv(x), y)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("which", PASSES)
def test_halves_are_rounded_once(which, dtype):
    kind = np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype)
    case = depthwise(5)
    function, args, _ = operands(which, case, *(a.astype(kind) for a in given(case, "float32")))
    keywords = {"algorithm": "fft", **case.explicit}
    found = function(*args, **keywords)
    wide = function(*(a.astype("float32") for a in args[:2]), *args[2:], **keywords)
    assert found.dtype == kind
    np.testing.assert_array_equal(found.view("u2"), wide.astype(kind).view("u2"))


@pytest.mark.parametrize("name", ["tiles", "large", "many channels", "image", "long line"])
@pytest.mark.parametrize("which", PASSES)
def test_workspace(which, name):
    """Predicted workspace and max_workspace hold; below the least workspace a call is refused."""
    case = GEOMETRIES[name]
    function, args, _ = operands(which, case, *given(case, "float32"))
    keywords = {"algorithm": "fft", **case.explicit}
    free = function(*args, **keywords)
    with refused(FUNCTIONS[which], ValueError, "max_workspace") as caught:
        function(*args, max_workspace=0, **keywords)
    limit = least_limit(str(caught.value))
    found, used = peak(function, *args, max_workspace=limit, **keywords)
    assert used <= limit + PYTHON_OVERHEAD
    if (
        case.channels > 1 or which != "filter_grad"
    ):  # other cases are array code, whose blocks follow limits
        np.testing.assert_array_equal(found, free)


def test_what_is_refused():
    """The compiled kernels refuse these jobs, most of which array code does."""
    x, f = np.ones((1, 8, 8, 4), "float32"), np.ones((3, 3, 1, 4), "float32")
    for arrays, keywords, says in (
        ((x, f), {"stride": 2, "groups": 4}, "a stride keeps few"),
        ((x, f), {"accuracy": "elementwise", "groups": 4}, "bounded by norms"),
        ((x.astype("int8"), f.astype("int8")), {"groups": 4}, "integers must be exact"),
        ((x.astype("complex64"), f), {"groups": 4}, "real floating-point"),
        ((x, np.ones((3, 3, 4, 4), "float32")), {}, "its own filter"),
    ):
        job = es.plan(*arrays, **keywords)._decision.inner
        assert says in compiled.supports(job, BACKEND.traits)


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("width", ["native", "32 bytes"])
def test_no_kernel_touches_memory_not_its_own(which, width):
    """Kernels run between pages without access, in a new process, which an access would end."""
    done = subprocess.run(
        [sys.executable, "guarded_fourier.py", which, width],
        cwd=Path(__file__).parent, capture_output=True, text=True, timeout=240,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path if p)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]


@pytest.mark.parametrize("algorithm", ["auto", "fft", "direct", "gemm", "strided"])
@pytest.mark.parametrize("which", ["forward", "input_grad", "filter_grad"])
@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_halves_are_summed_in_float64_where_asked(name, which, algorithm):
    """Sums in float64 are right for halves, which kernels convert to float32 only."""
    half = pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else np.float16
    x, f = np.ones((1, 20, 20, 8), half), np.ones((9, 9, 1, 8), half)
    y, keywords = np.ones((1, 12, 12, 8), half), {"groups": 8, "accumulate": "float64"}
    keywords["algorithm"] = algorithm
    calls = {
        "forward": (lambda: es.conv(x, f, **keywords), 81),
        "input_grad": (lambda: es.conv_input_grad(y, f, (20, 20), **keywords)[0, 10, 10], 81),
        "filter_grad": (lambda: es.conv_filter_grad(x, y, (9, 9), **keywords), 144),
    }
    call, expected = calls[which]
    if algorithm == "direct":
        with pytest.raises(ValueError, match="halves to and from float32 only"):
            call()
    else:
        assert (call() == expected).all()
