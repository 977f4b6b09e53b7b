"""channels_first arrays are computed by blocks in staging buffers, exactly, within their bounds."""

import tracemalloc

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import einstride as es
import oracle
from checks import operands, same
from einstride import _testing
from guarded import guarded
from oracle import Case
from strategies import arrays

pytest.importorskip("llvmlite")
from einstride.cpu.conv.staged.block_plan import BLOCK_BYTES

WIDTHS = _testing.vector_widths()
PASSES = ("forward", "input_grad")


def case(size, kernel, c, d, groups=1, stride=1, pad=0, dilation=1, batch=1, **more):
    n = len(size)
    pads = pad if isinstance(pad, tuple) else ((pad, pad),) * n
    return Case(batch, size, kernel, c, d, (stride,) * n, pads, (dilation,) * n, groups, **more)


CASES = {
    "depthwise": case((9, 11), (3, 3), 37, 37, 37, pad=1, batch=2),
    "depthwise, strided": case((13, 12), (3, 5), 24, 24, 24, stride=2, pad=2),
    "depthwise, flipped": case((9, 7), (3, 2), 17, 17, 17, flip=True),
    "depthwise, reflected": case((9, 7), (3, 3), 40, 40, 40, pad=2, mode="reflect"),
    "depthwise line": case((97,), (5,), 19, 19, 19, pad=2),
    "depthwise volume": case((5, 6, 7), (3, 2, 3), 16, 16, 16, pad=1),
    "groups": case((9, 12), (3, 3), 24, 40, 8, pad=1, batch=2),
    "groups, strided": case((12, 11), (3, 3), 20, 20, 5, stride=2, pad=1),
    "groups, cropped": case((9, 14), (3, 3), 8, 8, 2, pad=((-1, 2), (1, -2))),
    "small groups": case((20, 48), (3, 3), 12, 12, 4, pad=1),
    "few channels": case((15, 17), (3, 3), 3, 40, pad=1),
    "few channels, strided": case((16, 18), (5, 5), 3, 32, stride=2, pad=2),
    "dense": case((9, 10), (3, 3), 20, 33, pad=1, batch=2),
    "dense, strided": case((11, 9), (3, 3), 24, 18, stride=2, pad=1),
    "patches": case((12, 16), (4, 4), 5, 24, stride=4),
}
FEW = ("depthwise", "depthwise, strided", "groups", "few channels", "dense")
PAIRS = [(w, name) for w in WIDTHS for name in CASES if w == "native" or name in FEW]
"""(vector width, case): widths other than this machine's compile few cases, as that is slow."""


@pytest.fixture(params=WIDTHS)
def width(request):
    with _testing.use(target=WIDTHS[request.param]):
        yield request.param


@pytest.fixture(autouse=True)
def bands():
    """Stage small calls, too, and divide them into several blocks and bands of rows."""
    small = {
        "products worth staging": 0,
        "bytes of a staged block": 4096,
        "bytes of staged channels": 2048,
    }
    with _testing.use(constants=small):
        yield


@pytest.fixture
def calls():
    """Return the list of the calls by blocks."""
    with _testing.watching("compute by blocks in staging buffers") as found:
        yield found


def first(a):
    """Return x or y with the channels before the positions in memory."""
    return np.ascontiguousarray(np.moveaxis(a, -1, 1))


def filters_first(f):
    """Return f (*K, C, D) as (D, C, *K)."""
    return np.ascontiguousarray(np.moveaxis(f, (-1, -2), (0, 1)))


def call(which, one, x, f, gy, **keywords):
    """Compute a pass of channels_first arrays."""
    keywords = {"layout": "channels_first", "algorithm": "direct", **one.explicit, **keywords}
    if which == "forward":
        return es.conv(x, f, **keywords)
    if which == "filter_grad":
        return es.conv_filter_grad(x, gy, one.kernel_size, **keywords)
    return es.conv_input_grad(gy, f, one.input_size, **keywords)


def expected(which, one, x, f, gy):
    _, _, pair = operands(which, one, x, f, gy)
    return oracle.PASSES[which](*pair, one)


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize(("width", "name"), PAIRS, indirect=["width"])
def test_against_the_loops(which, name, width, calls):
    one = CASES[name]
    x, f, gy = arrays(one, "float32", 3)
    given = first(x), filters_first(f), first(gy)
    bias = np.arange(1, 1 + (f.shape[-1] if which == "forward" else x.shape[-1])).astype("float32")
    found = call(which, one, *given, bias=bias) if which == "forward" else call(which, one, *given)
    answer = expected(which, one, x, f, gy) + (bias if which == "forward" else 0)
    same(np.moveaxis(found, 1, -1), answer, "float32")
    if (which, name) not in NOT_STAGED:
        assert len(calls) == 1
        assert len(calls[0].args[1].plan.blocks) > 1


GRADIENTS = [n for n in CASES if n.startswith("depthwise") or n == "small groups"]


@pytest.fixture
def gradients():
    """Return the list of the plans of filter gradients by blocks."""
    with _testing.watching("plan a filter gradient by blocks") as found:
        yield found


@pytest.mark.parametrize("end", [True, False], ids=["end", "start"])
@pytest.mark.parametrize(
    ("width", "name"), [p for p in PAIRS if p[1] in GRADIENTS], indirect=["width"]
)
def test_filter_gradients(name, end, width, gradients):
    """They equal the loops, and nothing beside the arrays is touched."""
    one = CASES[name]
    x, f, gy = arrays(one, "float32", 9)
    given = [guarded(a, end) for a in (first(x), filters_first(f), first(gy))]
    answer = filters_first(expected("filter_grad", one, x, f, gy))
    out = guarded(np.zeros(answer.shape, "float32"), end)
    call("filter_grad", one, *given, out=out)
    same(out, answer, "float32")
    assert gradients[0].result is not None


def test_a_filter_gradient_of_other_memory_orders():
    one = CASES["depthwise"]
    x, f, gy = arrays(one, "float32", 9)
    found = es.conv_filter_grad(
        first(x), gy, one.kernel_size, layout="NCHW,HWIO->NHWC", algorithm="direct", **one.explicit
    )
    same(found, expected("filter_grad", one, x, f, gy), "float32")


NOT_STAGED = {
    ("input_grad", "depthwise, strided"),
    ("input_grad", "depthwise, reflected"),
}
"""Cases whose strided or folded input gradient another engine computes."""


@pytest.mark.parametrize("end", [True, False], ids=["end", "start"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", FEW)
def test_nothing_beside_the_arrays_is_touched(which, name, end):
    one = CASES[name]
    x, f, gy = arrays(one, "float32", 5)
    given = [guarded(a, end) for a in (first(x), filters_first(f), first(gy))]
    answer = np.moveaxis(expected(which, one, x, f, gy), -1, 1)
    out = guarded(np.zeros(answer.shape, "float32"), end)
    call(which, one, *given, out=out)
    same(out, answer, "float32")


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", FEW)
def test_channels_behind_the_result_are_not_written(which, name):
    one = CASES[name]
    x, f, gy = arrays(one, "float32", 5)
    answer = np.moveaxis(expected(which, one, x, f, gy), -1, 1)
    batch, channels, *size = answer.shape
    memory = np.full((batch, channels + 3, *size), 77, "float32")
    call(which, one, first(x), filters_first(f), first(gy), out=memory[:, :channels])
    same(memory[:, :channels], answer, "float32")
    assert (memory[:, channels:] == 77).all()


@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "int32", "int64"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", ["depthwise", "groups"])
def test_dtypes(which, dtype, name, calls):
    one = CASES[name]
    x, f, gy = arrays(one, dtype, 1)
    found = call(which, one, first(x), filters_first(f), first(gy))
    answer = expected(which, one, x, f, gy)
    same(np.moveaxis(found, 1, -1), answer, str(found.dtype))
    assert calls


@pytest.mark.parametrize(
    "layout", ["NCHW,HWIO->NHWC", "NHWC,OIHW->NCHW", "CHWN,IHWO->WCNH", "WNCH,OHWI->HNWC"]
)
@pytest.mark.parametrize("name", ["depthwise", "depthwise, flipped", "groups", "dense"])
def test_other_memory_orders(layout, name):
    one = CASES[name]
    x, f, gy = arrays(one, "float32", 7)
    *parts, y_part = layout.replace("->", ",").split(",")
    x_given = np.ascontiguousarray(x.transpose(["NHWC".index(n) for n in parts[0]]))
    f_given = np.ascontiguousarray(f.transpose(["HWIO".index(n) for n in parts[1]]))
    keywords = dict(one.explicit)
    if parts[0].index("W") < parts[0].index("H"):  # tuples follow the spatial letters of x
        for key in ("stride", "padding", "dilation"):
            keywords[key] = keywords[key][::-1]
    found = es.conv(x_given, f_given, layout=layout, algorithm="direct", **keywords)
    found = found.transpose([y_part.index(n) for n in "NHWC"])
    same(found, expected("forward", one, x, f, gy), "float32")


@pytest.mark.parametrize(
    ("which", "name"),
    [
        *((which, name) for which in PASSES for name in FEW if "strided" not in name),
        ("filter_grad", "depthwise"),
        ("filter_grad", "small groups"),
    ],
)
def test_the_number_of_threads_leaves_the_bits_alone(which, name):
    one = CASES[name]
    rng = np.random.default_rng(0)
    shapes = (one.x_shape, one.f_shape, one.y_shape)
    x, f, gy = (rng.normal(size=shape).astype("float32") for shape in shapes)
    given = first(x), filters_first(f), first(gy)
    with _testing.use(constants={"products worth staging on threads": 0}):
        both = call(which, one, *given)
        with threadpool_limits(1):
            alone = call(which, one, *given)
    np.testing.assert_array_equal(both, alone)


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", ["depthwise", "groups", "few channels"])
def test_a_nan_stays_in_its_windows(which, name):
    one = CASES[name]
    x, f, gy = (np.ones(s, "float32") for s in (one.x_shape, one.f_shape, one.y_shape))
    read, touched = (x, np.zeros(x.shape)) if which == "forward" else (gy, np.zeros(gy.shape))
    read[0, 4, 3, 1], touched[0, 4, 3, 1] = np.nan, 1
    found = call(which, one, first(x), filters_first(f), first(gy))
    pair = (touched, np.ones(f.shape))
    inside = oracle.PASSES[which](*pair, one) != 0
    np.testing.assert_array_equal(np.isnan(np.moveaxis(found, 1, -1)), inside)


def test_a_prepared_filter_gives_the_same(calls):
    one = CASES["groups"]
    x, f, gy = arrays(one, "float32", 2)
    layer = es.Conv(filters_first(f), layout="channels_first", algorithm="direct", **one.explicit)
    found = layer(first(x))
    same(np.moveaxis(found, 1, -1), expected("forward", one, x, f, gy), "float32")
    assert calls


LARGE = {
    "depthwise": case((96, 96), (3, 3), 64, 64, 64, pad=1),
    "groups": case((96, 96), (3, 3), 64, 64, 16, pad=1),
    "few channels": case((160, 160), (3, 3), 3, 64, pad=1),
    "dense": case((96, 96), (3, 3), 64, 64, pad=1),
}


@pytest.mark.parametrize(
    ("which", "name"),
    [
        *((which, name) for which in PASSES for name in LARGE),
        ("filter_grad", "depthwise"),
        ("filter_grad", "groups"),
    ],
)
def test_no_array_is_copied_as_a_whole(which, name, gradients):
    """The staging buffers of two threads, with packed filters, are smaller than an array.

    A filter gradient has one more filter for each band of rows: wider vectors take more channels
    at once, and so more bands.
    """
    one = LARGE[name]
    x, f, gy = arrays(one, "float32", 4)
    given = first(x), filters_first(f), first(gy)
    results = {"forward": given[2], "input_grad": given[0], "filter_grad": given[1]}
    out = np.empty_like(results[which])
    usual = {"bytes of a staged block": BLOCK_BYTES, "bytes of staged channels": BLOCK_BYTES // 2}
    with _testing.use(constants=usual):
        call(which, one, *given, out=out)
        tracemalloc.start()
        try:
            call(which, one, *given, out=out)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    bands = gradients[0].result[1] if which == "filter_grad" else 0
    assert peak < 4 * BLOCK_BYTES + (4 + bands) * f.nbytes
    assert peak < max(a.nbytes for a in (given[0], given[2])) / 2


def test_a_hard_limit_holds(calls):
    """Where the limit does not allow staging buffers, the arrays are read where they lie."""
    one = CASES["dense"]
    x, f, gy = arrays(one, "float32", 6)
    given = first(x), filters_first(f), first(gy)
    needed = es.plan(
        given[0].shape, given[1].shape, algorithm="direct", layout="channels_first", **one.explicit
    ).workspace
    found = call("forward", one, *given, max_workspace=needed)
    same(np.moveaxis(found, 1, -1), expected("forward", one, x, f, gy), "float32")
    assert not calls
    call("forward", one, *given, max_workspace=needed + (1 << 20))
    assert len(calls) == 1
