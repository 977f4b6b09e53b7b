"""Channelwise kernels are exact for every pass, dtype, layout and vector width."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import einstride as es
import oracle
from checks import PASSES, operands, promoted, refused, same
from einstride import _testing
from oracle import Case
from strategies import arrays, integer_data

pytest.importorskip("llvmlite")

NATIVE = _testing.vector_widths()["native"]
TARGETS = {
    "native": NATIVE,
    "32 bytes": _testing.Target("x86-64-v3", "", 32, 16),
    "16 bytes": _testing.Target("x86-64-v2", "", 16, 16),
}
DTYPES = (
    "float32", "float64", "float16", "complex64", "complex128",
    "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
)  # fmt: skip


@pytest.fixture(autouse=True)
def only_this_engine():
    with _testing.use(engine="channelwise"):
        yield


@pytest.fixture(params=TARGETS)
def target(request):
    if request.param != "native" and "x86" not in sys.platform + str(NATIVE.features):
        features = NATIVE.features.split(",")
        if "+sse4.2" not in features or ("32" in request.param and "+avx2" not in features):
            pytest.skip("another kind of machine")
    with _testing.use(target=TARGETS[request.param]):
        yield


def depthwise(channels, multiplier=1, **changes):
    given = {
        "batch": 2, "input_size": (7, 21), "kernel_size": (3, 3), "channels": channels,
        "filters": channels * multiplier, "stride": (1, 1), "pads": ((1, 1), (1, 1)),
        "dilation": (1, 1), "groups": channels,
    }  # fmt: skip
    return Case(**(given | changes))


def channels_first(array, which, place):
    """Return a canonical array in the order of channels_first: a filter becomes O, I, *K."""
    order = (-1, -2) if (place == "f") else (0, -1)
    kept = [i for i in range(array.ndim) if i not in (order[0] % array.ndim, order[1] % array.ndim)]
    return np.ascontiguousarray(array.transpose(*order, *kept))


def check(which, case, dtype="float32", first=False, seed=3, **keywords):
    """Compare one pass with the loops, to the last bit."""
    function, args, pair = operands(which, case, *arrays(case, dtype, seed))
    keywords |= {"algorithm": "direct", **case.explicit}
    if first:
        roles = {"forward": "xf", "input_grad": "yf", "filter_grad": "xy"}[which]
        moved = [channels_first(a, which, r) for a, r in zip(args[:2], roles, strict=True)]
        found = function(*moved, *args[2:], layout="channels_first", **keywords)
        if which == "filter_grad":
            found = np.moveaxis(found, (0, 1), (-1, -2))
        else:
            found = np.moveaxis(found, 1, -1)
    else:
        found = function(*args, **keywords)
    table = oracle.FAST if case.mode == "zeros" else oracle.PASSES
    if dtype in ("float16", "bool") or np.dtype(dtype).kind in "iu":
        pair = [a.astype("float64" if dtype == "float16" else "int64") for a in pair]
    same(found, table[which](*pair, case), promoted(dtype, dtype))


@pytest.mark.parametrize("channels", [1, 3, 15, 16, 17, 33, 80])
@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
@pytest.mark.parametrize("which", PASSES)
def test_remainders_of_vectors(which, first, channels):
    check(which, depthwise(channels), first=first)


GEOMETRIES = {
    "strided": depthwise(5, stride=(2, 3), pads=((0, 2), (2, 1)), flip=True),
    "dilated": depthwise(5, dilation=(2, 4), pads=((3, 1), (5, 0))),
    "cropped": depthwise(5, pads=((-1, 2), (-2, -3))),
    "mostly border": depthwise(5, input_size=(2, 3), pads=((4, 4), (5, 5)), kernel_size=(5, 7)),
    "multiplier": depthwise(8, 4, stride=(1, 2)),
    "multiplier of three": depthwise(5, 3),
    "groups of four": depthwise(24, groups=6),
    "groups of many": depthwise(64, groups=2),
    "groups of five": depthwise(15, groups=3),
    "more in than out": depthwise(24, filters=12, groups=6),
    "image": depthwise(3, filters=20, groups=1, stride=(2, 2)),
    "few filters": depthwise(7, filters=3, groups=1),
    "one channel": depthwise(1, input_size=(6, 150), kernel_size=(3, 5)),
    "one channel, strided": depthwise(1, input_size=(6, 150), stride=(2, 3), dilation=(1, 2)),
    "line": depthwise(1, input_size=(700,), kernel_size=(19,), stride=(1,), pads=((9, 12),),
                      dilation=(1,)),
    "lines": depthwise(20, input_size=(61,), kernel_size=(5,), stride=(2,), pads=((2, 2),),
                       dilation=(3,)),
    "volume": depthwise(17, input_size=(4, 5, 6), kernel_size=(3, 2, 3), stride=(1, 2, 1),
                        pads=((1, 1), (1, 0), (2, 1)), dilation=(1, 1, 1)),
    "reflect": depthwise(4, pads=((2, 1), (1, 2)), mode="reflect"),
    "replicate": depthwise(1, pads=((2, 1), (4, 2)), mode="replicate"),
    "circular": depthwise(4, pads=((2, 1), (1, 2)), mode="circular"),
    "long rows": depthwise(3, input_size=(5, 61), kernel_size=(3, 7), pads=((1, 1), (3, 3)),
                           stride=(1, 1), dilation=(1, 1)),
    "long rows, strided": depthwise(1, filters=8, groups=1, input_size=(5, 90), stride=(1, 2)),
    "long rows, circular": depthwise(2, input_size=(5, 47), mode="circular"),
}  # fmt: skip


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("first", [False, True], ids=["last", "first"])
@pytest.mark.parametrize("which", PASSES)
def test_geometries(which, first, name):
    check(which, GEOMETRIES[name], first=first)


@pytest.mark.parametrize("name", ["strided", "groups of four", "few filters", "one channel"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("dtype", ["float32", "complex64", "int8"])
def test_every_width_of_vectors(target, which, name, dtype):
    check(which, GEOMETRIES[name], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", PASSES)
def test_each_dtype(which, dtype):
    check(which, depthwise(5), dtype)
    check(which, depthwise(1, input_size=(5, 40)), dtype)


@pytest.mark.parametrize("which", PASSES)
def test_large_integers_do_not_wrap(which):
    case = depthwise(3)
    rng = np.random.default_rng(1)
    given = [rng.integers(-(2**31), 2**31, s).astype("int32") for s in
             (case.x_shape, case.f_shape, case.y_shape)]  # fmt: skip
    given = [a // 16 for a in given]
    function, args, pair = operands(which, case, *given)
    found = function(*args, algorithm="direct", **case.explicit)
    same(found, oracle.PASSES[which](*pair, case), "int64")


def test_bfloat16_is_rounded_to_the_nearest():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(2)
    x = rng.standard_normal((2, 9, 9, 20)).astype(ml_dtypes.bfloat16)
    f = rng.standard_normal((3, 3, 1, 20)).astype(ml_dtypes.bfloat16)
    y = es.conv(x, f, groups=20, algorithm="direct")
    wide = es.conv(x.astype("float32"), f.astype("float32"), groups=20, algorithm="direct")
    assert y.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(y.view("u2"), wide.astype(ml_dtypes.bfloat16).view("u2"))


@pytest.mark.parametrize("channels", [1, 20])
def test_odd_memory(channels):
    """Arrays with negative strides, gaps, swapped bytes or no alignment give the same results."""
    case = depthwise(channels)
    x, f, gy = arrays(case, "float32", 4)
    raw = np.empty(x.nbytes + 1, "u1")
    crooked = raw[1:].view("float32").reshape(x.shape)
    crooked[...] = x
    wide = np.repeat(np.repeat(x, 2, axis=2), 3, axis=3)[:, :, ::2, ::3]
    backwards = np.ascontiguousarray(x[::-1, ::-1, ::-1, ::-1])[::-1, ::-1, ::-1, ::-1]
    expected = oracle.fast_forward(x, f, case)
    gradient = oracle.fast_filter_grad(x, gy, case)
    for odd in (crooked, wide, backwards, x.astype(">f4")):
        same(es.conv(odd, f, algorithm="direct", **case.explicit), expected)
        found = es.conv_filter_grad(odd, gy, (3, 3), algorithm="direct", **case.explicit)
        same(found, gradient)
    out = np.empty((*case.y_shape[:-1], 2 * channels), "float32")[..., ::-2]
    es.conv(x, f, out=out, algorithm="direct", **case.explicit)
    same(out, expected)


@pytest.mark.parametrize("channels", [1, 20])
@pytest.mark.parametrize("which", PASSES)
def test_threads_and_batch_leave_the_bits_alone(which, channels):
    case = depthwise(channels, batch=5, input_size=(60, 90), kernel_size=(5, 5))
    rng = np.random.default_rng(3)
    given = [rng.standard_normal(s).astype("float32") for s in
             (case.x_shape, case.f_shape, case.y_shape)]  # fmt: skip
    function, args, pair = operands(which, case, *given)
    found = []
    for threads in (1, 2, 5):
        with _testing.use(threads=threads):
            found.append(function(*args, algorithm="direct", **case.explicit))
    same(found[1].view("u4"), found[0].view("u4"))
    same(found[2].view("u4"), found[0].view("u4"))
    expected = oracle.FAST[which](*(a.astype("float64") for a in pair), case)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-5 * abs(expected).max())


@pytest.mark.parametrize("channels", [1, 20])
def test_per_example(channels):
    case = depthwise(channels, batch=3, flip=True)
    x, _, gy = arrays(case, "float32", 5)
    found = es.conv_filter_grad(
        x, gy, (3, 3), per_example=True, algorithm="direct", **case.explicit
    )
    one = depthwise(channels, batch=1, flip=True)
    same(found, np.stack([oracle.filter_grad(x[i : i + 1], gy[i : i + 1], one) for i in range(3)])
         .astype("float32"))  # fmt: skip


def test_bias_is_added_before_rounding():
    x, f = integer_data((2, 9, 9, 20), "float32", 1), integer_data((3, 3, 1, 20), "float32", 2)
    bias = integer_data((20,), "float32", 3)
    y = es.conv(x, f, bias, groups=20, algorithm="direct")
    same(y, es.conv(x, f, groups=20, algorithm="strided") + bias)
    z = es.conv(x[..., :1], f[..., :1], bias[:1], algorithm="direct")
    same(z, y[..., :1])


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("first", ["0", "1"])
@pytest.mark.parametrize("width", ["native", "32 bytes"])
def test_no_kernel_touches_memory_not_its_own(which, first, width):
    """Kernels run between pages without access, in a new process, which an access would end."""
    done = subprocess.run(
        [sys.executable, "guarded_channelwise.py", which, first, width],
        cwd=Path(__file__).parent, capture_output=True, text=True, timeout=240,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path if p)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]


@pytest.mark.parametrize("taps", [3, 6])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("width", ["native", "32 bytes"])
def test_rows_of_any_length_are_whole_tiles(width, threads, taps):
    """Exactly, with nothing used or written beside the rows; long rows are cut into strips."""
    f = integer_data((2, taps, 1, 1), "float32", 1)
    with _testing.use(target=TARGETS[width]), threadpool_limits(threads):
        for out in (*range(15, 60, 3), 63, 64, 65, 97, 129, 191, 1000, 70_001):
            for low, high in ((0, 0), (1, 0), (0, 2), (taps - 1, taps - 1)):
                size = out + taps - 1 - low - high
                x = np.full((1, 3, size + 140, 1), np.nan, "float32")[:, :, 70 : size + 70]
                x[...] = integer_data(x.shape, "float32", out)
                wide = np.full((1, 2, out + 70, 1), 7, "float32")
                y = wide[:, :, :out]
                es.conv(x, f, padding=((0, 0), (low, high)), algorithm="direct", out=y)
                assert (wide[:, :, out:] == 7).all()
                row = np.pad(x[0, :, :, 0], ((0, 0), (low, high)))
                same(y[0, :, :, 0], sum(
                    f[i, k, 0, 0] * row[i : i + 2, k : k + out] for i in (0, 1) for k in range(taps)
                ))  # fmt: skip


def test_more_axes_than_a_kernel_should_have():
    x, f = np.ones((1, *(1,) * 9, 1)), np.ones((*(1,) * 9, 1, 1))
    with refused("conv", ValueError, "spatial axes"):
        es.conv(x, f, algorithm="direct")
    same(es.conv(x, f), x)
