"""`show` draws what `conv`, its gradients and `windows` compute: every number and every offset."""

import contextlib
import json
import re
from itertools import product
from math import prod
from time import process_time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import einstride as es
from checks import well_formed
from einstride.__main__ import main
from einstride.arrays import backends, ops
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import PADDING_MODES, Settings
from einstride.viewer.axes import EMPTY, drawn_axes, gathered

RNG = np.random.default_rng(7)
CASES = {
    "plain": (((6, 6, 1), (3, 3, 1, 2)), {}),
    "stride": (((1, 7, 6, 1), (3, 3, 1, 2)), {"stride": 2, "padding": "same"}),
    "groups": (((2, 6, 5, 4), (3, 2, 2, 4)), {"groups": 2, "padding": 1}),
    "one axis": (((2, 12, 2), (4, 2, 3)), {"dilation": 2, "padding": "causal"}),
    "three axes": (((1, 4, 3, 4, 1), (2, 2, 2, 1, 2)), {"stride": (1, 1, 2)}),
    "cropped": (((1, 6, 6, 2), (3, 3, 2, 1)), {"padding": ((-1, -2), (-1, 0))}),
    "cropped and padded": (((1, 6, 6, 1), (3, 3, 1, 1)), {"padding": ((-1, 1), (2, -1))}),
    "holes": (((1, 4, 4, 1), (3, 3, 1, 2)), {"input_dilation": 2, "padding": 1}),
    "flip": (((1, 5, 6, 1), (2, 3, 1, 2)), {"flip": True, "stride": 2}),
    "strides and dilation": (((1, 9, 8, 1), (2, 3, 1, 1)), {"stride": (3, 2), "dilation": (2, 1)}),
}
for mode in PADDING_MODES[1:]:
    CASES[mode] = (((1, 5, 4, 1), (3, 3, 1, 1)), {"padding": ((2, 1), (1, 3)), "stride": 2})
    CASES[mode][1]["padding_mode"] = mode
CASES["constant"][1]["fill"] = 3
CASES["a mode for each axis"] = (CASES["constant"][0], CASES["constant"][1] | {
    "padding_mode": ("symmetric", "constant"), "fill": -2})  # fmt: skip


def arrays(shapes, keywords):
    """Make arrays of small integers, with a batch axis."""
    x, f = (RNG.integers(-4, 5, s).astype(float) for s in shapes)
    x = x[None] if x.ndim == f.ndim - 1 else x
    y = es.conv(x, f, **keywords)
    return x, f, RNG.integers(-4, 5, y.shape).astype(float)


def values(page, name):
    """Return numbers of a page as an array."""
    drawn, axes = page.data["drawn"], page.data["axes"]
    positions = [a["stop"] - a["start"] for a in axes]
    outputs = [a["outputs"][1] - a["outputs"][0] for a in axes]
    taps = [a["taps"] for a in axes]
    g, c, d, b = (drawn[n] for n in ("groups", "channels", "filters", "batch"))
    shape = {
        "x": (b, *positions, g, c),
        "f": (*taps, g, c, d),
        "y": (b, *outputs, g, d),
    }[{"gy": "y", "gx": "x", "gf": "f", "scattered": "x"}.get(name, name)]
    return np.array([float(v) for v in page.data["values"][name]]).reshape(shape)


def merged(page, name):
    """Return numbers of a page as `conv` has them: groups and channels on one axis, unflipped."""
    found = values(page, name)
    rank = page.data["rank"]
    if name in ("f", "gf"):
        found = np.moveaxis(found, rank, rank + 1)
        found = found.reshape(*found.shape[: rank + 1], -1)
        return np.flip(found, tuple(range(rank))) if page.data["flip"] else found
    return found.reshape(*found.shape[:-2], -1)


def inside(page, array):
    """Return the elements at the positions that hold x itself."""
    rank = page.data["rank"]
    index = [[i for i, k in enumerate(a["kinds"]) if k in ("inside", "cropped")
              and a["sources"][i] >= 0] for a in page.data["axes"]]  # fmt: skip
    for axis, rows in enumerate(index, start=1):
        array = np.take(array, rows, axis)
    assert array.ndim == rank + 2
    return array


@pytest.mark.parametrize("case", CASES)
def test_the_numbers_are_those_of_the_calls(case):
    shapes, keywords = CASES[case]
    x, f, gy = arrays(shapes, keywords)
    page = es.show(x, f, gy, **keywords)
    assert page.data["drawn"]["whole"]
    assert not page.data["drawn"]["text"]
    size = x.shape[1:-1]
    assert np.array_equal(inside(page, merged(page, "x")), x)
    assert np.array_equal(merged(page, "f"), f)
    assert np.array_equal(merged(page, "y"), es.conv(x, f, **keywords))
    gx = es.conv_input_grad(gy, f, size, **keywords)
    assert np.array_equal(inside(page, merged(page, "gx")), gx)
    gf = es.conv_filter_grad(x, gy, f.shape[:-2], **keywords)
    assert np.array_equal(merged(page, "gf"), gf)


def copied(x, page, keywords):
    """Make the array that the view of all windows is made of, as `strided` does."""
    if "input_dilation" in keywords:
        b = backends.by_name("test", "numpy")
        x = ops.dilate(x, (keywords["input_dilation"],) * (x.ndim - 2), b)
    pads = [(a["low"], a["high"]) for a in page.data["axes"]]
    b = backends.of("test", ("x",), x)
    return ops.pad(x, pads, keywords.get("padding_mode", "zeros"), b, keywords.get("fill", 0))


def offset(array, element):
    """Return the bytes from the first element of an array to an element of a view."""
    return element.__array_interface__["data"][0] - array.__array_interface__["data"][0]


def stated(page, index):
    """Return the offset that the page's strides state for an index of the view."""
    m = page.data["memory"]
    steps = map(int, m["windows_strides"])
    return int(m["base"]) + sum(i * s for i, s in zip(index, steps, strict=True))


@pytest.mark.parametrize("case", CASES)
def test_every_offset_is_that_of_the_view(case):
    shapes, keywords = CASES[case]
    x, f, _ = arrays(shapes, keywords)
    page = es.show(x, f, **keywords)
    padded = copied(x, page, keywords)
    k = {n: keywords[n] for n in ("stride", "dilation") if n in keywords}
    w = es.windows(padded, f.shape[:-2], **k)
    m = page.data["memory"]
    assert tuple(m["windows_shape"]) == w.shape
    assert tuple(map(int, m["windows_strides"])) == w.strides
    whole = padded if m["copied"] else x
    assert tuple(m["shape"]) == whole.shape
    assert tuple(map(int, m["strides"])) == whole.strides
    for index in product(*map(range, w.shape)):
        assert stated(page, index) == offset(whole, w[(*index, ...)])


@pytest.mark.parametrize("layout", ["channels_first", "NCWH,OIWH->NWHC"])
def test_a_layout_keeps_its_own_strides(layout):
    x, f = RNG.random((2, 3, 6, 5)), RNG.random((2, 3, 3, 2))
    page = es.show(x, f, layout=layout)
    canonical = x.transpose(0, 2, 3, 1)
    w = es.windows(canonical, (3, 2))
    assert tuple(map(int, page.data["memory"]["windows_strides"])) == w.strides
    y = es.conv(x, f, layout=layout)
    y = y.transpose(0, 2, 3, 1) if layout == "channels_first" else y
    assert np.allclose(merged(page, "y"), y, rtol=1e-4)
    order = (0, 2, 3, 1) if layout == "channels_first" else (0, 1, 2, 3)
    packed = np.empty(es.conv(x, f, layout=layout).shape).transpose(order)
    assert tuple(map(int, page.data["gradient"]["strides"])) == packed.strides


def test_reversed_and_broadcast_memory():
    x = np.broadcast_to(RNG.random((1, 6, 1, 1)), (1, 6, 6, 1))[:, ::-1]
    page = es.show(x, np.ones((3, 3, 1, 1)))
    assert page.data["memory"]["strides"] == [str(s) for s in x.strides]
    for index in product(range(1), range(4), range(4), range(3), range(3), range(1)):
        assert stated(page, index) == offset(x, es.windows(x, 3)[(*index, ...)])


@given(
    size=st.integers(1, 12), taps=st.integers(1, 4), stride=st.integers(1, 5),
    dilation=st.integers(1, 3), low=st.integers(-2, 4), high=st.integers(-2, 4),
    mode=st.sampled_from(PADDING_MODES),
)  # fmt: skip
def test_the_gather_sums_what_the_scatter_adds(size, taps, stride, dilation, low, high, mode):
    """The products of every position, by phases, are those that the outputs send there."""
    settings = Settings(stride, ((low, high),), dilation, padding_mode=mode)
    with contextlib.suppress(ValueError):  # most draws are convolutions, some have no output
        g = Geometry.of("test", (1, size, 1), (taps, 1, 1), settings)
        (axis,) = drawn_axes(g, (0,))
        check_gathered(g, axis, mode)
        check_held(g, axis, mode)


def check_gathered(g, axis, mode):
    """The products of each position are those that the outputs send there."""
    (stride, dilation, low) = (g.stride[0], g.dilation[0], g.padding[0][0])
    sent = {}
    for o, k in product(range(*axis.outputs), range(axis.taps)):
        sent.setdefault(o * stride + k * dilation - low, set()).add((k, o))
    for position, found in zip(range(axis.start, axis.stop), gathered(g, 0, axis), strict=True):
        assert len(set(found.pairs)) == len(found.pairs)
        assert found.phase == (position + low) % stride
        if mode not in EMPTY or 0 <= position < g.size[0]:
            assert set(found.pairs) == sent.get(position, set())


def check_held(g, axis, mode):
    """The positions hold what `pad` puts there."""
    x = np.arange(1.0, g.size[0] + 1)
    b = backends.of("test", ("x",), x)
    extended = ops.pad(x.reshape(1, -1, 1), g.padding, g.modes[0], b)
    shown = [0 if s < 0 else x[s] for s, kind in zip(axis.sources, axis.kinds, strict=True)
             if kind != "cropped"]  # fmt: skip
    assert shown == extended.ravel().tolist()


def test_the_answers_of_the_exercises():
    x, f = np.zeros((2, 7, 6, 3), np.float32), np.zeros((3, 2, 3, 1), np.float32)
    page = es.show(x, f, stride=(2, 1), dilation=(1, 2))
    w = es.windows(x, (3, 2), (2, 1), (1, 2))
    _, h, v, i, j, _ = w.shape
    at = {
        0: offset(x, x[0, 1, 2, 2, ...]),
        1: offset(w[0, 0, 0], w[0, 0, 1]),
        2: offset(w[0, 0, 0, 0, 0], w[0, 0, 0, i - 1, j - 1]),
        3: offset(x, w[0, h - 1, v - 1, i - 1, j - 1, 0, ...]),
        4: w.copy().nbytes,
    }
    found = {n: int(e["answer"]) for n, e in enumerate(page.data["exercises"])}
    assert found == at
    assert len(page.data["exercises"]) == 5
    for exercise in page.data["exercises"]:
        assert exercise["worked"].endswith(f"= {exercise['answer']}")


@pytest.mark.parametrize("case", ["plain", "groups", "cropped", "holes"])
def test_the_exercises_hold_for_every_form_of_memory(case):
    shapes, keywords = CASES[case]
    x, f, _ = arrays(shapes, keywords)
    page = es.show(x, f, **keywords)
    padded = copied(x, page, keywords)
    w = es.windows(padded, f.shape[:-2])
    last = tuple(n - 1 for n in w.shape[1:-1])
    whole = padded if page.data["memory"]["copied"] else x
    assert int(page.data["exercises"][3]["answer"]) == offset(whole, w[(0, *last, 0, ...)])


HOSTILE = "</script><script>document.title='x'</script><b>&amp;\u2028"


def test_html_is_escaped():
    page = es.show((6, 6, 1), (3, 3, 1, 1), title=HOSTILE)
    for text in (page.html, page._repr_html_()):
        assert "</script><script>document" not in text
        assert "<b>&amp;" not in text
    assert page._repr_html_().count("<") == 2  # the frame's own tags
    embedded = re.search(r'id="data">(.*?)</script>\n<script>', page.html, re.S)[1]
    assert not set("<>&") & set(embedded)
    assert json.loads(embedded)["title"] == HOSTILE
    assert HOSTILE not in page.svg()


def test_one_file_that_loads_nothing():
    html = es.show((2, 9, 9, 4), (3, 3, 2, 4), groups=2, padding=1).html
    assert "default-src 'none'" in html
    without = html.replace("http://www.w3.org/2000/svg", "")
    assert not re.findall(r"https?:|//[a-z]+\.|@import|url\(|src=|href=", without)


LARGE = [
    ((3, 512, 512, 64), (3, 3, 64, 64), {"stride": 2, "at": 100}),
    ((1, 2**40, 4), (3, 4, 1), {"stride": 2**20, "padding": 2**30, "dilation": 2**10}),
    ((9, 40, 40, 40, 9), (7, 7, 7, 3, 9), {"groups": 3, "padding": "same"}),
    ((1, 64, 64, 1), (40, 40, 1, 1), {}),
    ((3, 16, 16, 12), (16, 16, 4, 12), {"groups": 3, "padding": "same"}),
    ((3, 6, 10, 10, 12), (3, 3, 3, 4, 12), {"groups": 3}),
]


@pytest.mark.parametrize(("x", "f", "keywords"), LARGE, ids=lambda v: str(v)[:20])
def test_a_large_convolution_is_drawn_in_part(x, f, keywords):
    page = es.show(x, f, **keywords)
    assert len(page.html.encode()) < 2**20
    for axis in page.data["axes"]:
        assert axis["stop"] - axis["start"] <= 40
        assert 0 <= axis["outputs"][0] < axis["outputs"][1] <= axis["out"]
    if not page.data["drawn"]["whole"]:
        assert page.data["drawn"]["text"].startswith("This convolution is too large to draw whole")


def test_a_part_has_the_numbers_and_offsets_of_the_whole():
    x, f = RNG.integers(-9, 9, (1, 60, 50, 2)), RNG.integers(-9, 9, (3, 3, 2, 1))
    page = es.show(x, f, stride=2, padding=1, at=(12, 7))
    (rows, columns) = (slice(*a["outputs"]) for a in page.data["axes"])
    assert rows.start == 12
    assert columns.start == 7
    assert np.array_equal(merged(page, "y"), es.conv(x, f, stride=2, padding=1)[:, rows, columns])
    assert "output rows 12 to" in page.data["drawn"]["text"]
    assert page.data["memory"]["windows_shape"][1:3] == (30, 25)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint64", "float16", "float64", "complex64"])
def test_dtypes(dtype):
    page = es.show((1, 6, 6, 1), (3, 3, 1, 1), dtype=dtype)
    json.dumps(page.data, allow_nan=False)
    assert page.data["memory"]["itemsize"] == np.dtype(dtype).itemsize
    x = np.ones((1, 6, 6, 1), dtype)
    assert es.show(x, (3, 3, 1, 1)).data["dtypes"]["f"] == dtype


def test_no_product_of_invented_filters_is_zero():
    page = es.show((6, 6, 1), (3, 3, 1, 4))
    assert all(page.data["values"]["f"])
    assert {-2, -1, 1, 2} == set(page.data["values"]["f"])
    assert all(page.data["values"]["gy"])


def test_values_that_json_lacks():
    x = np.ones((1, 5, 1))
    x[0, :3, 0] = np.nan, np.inf, -np.inf
    page = es.show(x, np.ones((1, 1, 1)))
    assert page.data["values"]["y"] == ["NaN", "Infinity", "-Infinity", 1, 1]
    big = np.full((1, 3, 1), 2**63, np.uint64)
    assert es.show(big, np.ones((1, 1, 1), np.uint64)).data["values"]["x"][0] == str(2**63)


def test_complex_gradients_are_adjoints():
    x = RNG.integers(-3, 4, (1, 6, 1)) + 1j * RNG.integers(-3, 4, (1, 6, 1))
    f = RNG.integers(-3, 4, (3, 1, 1)) + 1j * RNG.integers(-3, 4, (3, 1, 1))
    gy = RNG.integers(-3, 4, (1, 4, 1)) + 1j * RNG.integers(-3, 4, (1, 4, 1))
    page = es.show(x, f, gy)
    got = {n: np.array([complex(*v) for v in page.data["values"][n]]) for n in ("gx", "gf")}
    assert np.array_equal(got["gx"], es.conv_input_grad(gy, f, (6,)).ravel())
    assert np.array_equal(got["gf"], es.conv_filter_grad(x, gy, (3,)).ravel())


def test_the_plans_are_those_of_plan():
    page = es.show((1, 64, 64, 16), (3, 3, 16, 16), padding="same", max_workspace=10**6)
    p = es.plan((1, 64, 64, 16), (3, 3, 16, 16), padding="same", max_workspace=10**6)
    shown = page.data["plans"]["forward"]
    assert shown["algorithm"] == p.algorithm
    for c, row in zip(p.candidates, shown["candidates"], strict=True):
        assert (row["algorithm"], row["verdict"]) == (c.algorithm, c.verdict)
        assert (row["cost"] is None) == (c.cost is None)
        if c.cost is not None:
            assert row["cost"]["seconds"] == c.cost.seconds
            assert row["cost"]["workspace"] == c.cost.workspace
    assert shown["limits"]["multiply_adds"] == 64 * 64 * 9 * 16 * 16
    sizes = [(1, 64, 64, 16), (3, 3, 16, 16), (1, 64, 64, 16)]
    assert shown["limits"]["least_bytes"] == 4 * sum(map(prod, sizes))
    assert {plan["algorithm"] for plan in page.data["plans"].values()}


def test_a_pass_without_a_plan_says_why():
    page = es.show((1, 8, 8, 1), (3, 3, 1, 1), stride=2, batch_invariant=True)
    assert page.data["plans"]["forward"]["algorithm"]
    assert page.data["plans"]["filter_grad"]["refused"].startswith("show: ")


REFUSED = {
    "no arrays": lambda: es.show(3, (3, 3, 1, 1)),
    "no sizes": lambda: es.show((), ()),
    "four axes": lambda: es.show((1,) * 6, (1,) * 6),
    "ranks": lambda: es.show((1, 6, 6, 1), (3, 3, 3, 1, 1, 1)),
    "empty": lambda: es.show((0, 5, 1), (3, 1, 1)),
    "negative": lambda: es.show((1, -5, 1), (3, 1, 1)),
    "too large": lambda: es.show((2**40, 2**40, 5, 1), (1, 1, 1, 1)),
    "too large a view": lambda: es.show((1, 2**40, 1), (2**39, 1, 1)),
    "another axis than the batch": lambda: es.show((1, None, 6, 1), (3, 3, 1, 1)),
    "a filter of any size": lambda: es.show((None, 6, 6, 1), (None, 3, 1, 1)),
    "too large a border": lambda: es.show((1, 5, 1), (3, 1, 1), padding=2**60),
    "filter": lambda: es.show((1, 5, 1), (9, 1, 1)),
    "at": lambda: es.show((1, 5, 1), (3, 1, 1), at=3),
    "at, below": lambda: es.show((1, 5, 1), (3, 1, 1), at=-1),
    "at, axes": lambda: es.show((1, 5, 1), (3, 1, 1), at=(0, 0)),
    "title": lambda: es.show((1, 5, 1), (3, 1, 1), title=3),
    "long title": lambda: es.show((1, 5, 1), (3, 1, 1), title="x" * 1000),
    "title that no file can hold": lambda: es.show((1, 5, 1), (3, 1, 1), title="a\ud800"),
    "dtype": lambda: es.show((1, 5, 1), (3, 1, 1), dtype="text"),
    "texts": lambda: es.show(np.array([[["a"]]]), (1, 1, 1)),
    "stride": lambda: es.show((1, 5, 1), (3, 1, 1), stride=1.5),
    "mode": lambda: es.show((1, 5, 1), (3, 1, 1), padding_mode="<b>"),
    "gradient": lambda: es.show((1, 5, 1), (3, 1, 1), np.ones((1, 5, 1))),
    "direction": lambda: es.show((1, 5, 1), (3, 1, 1), direction="up"),
    "path": lambda: es.show((1, 5, 1), (3, 1, 1)).save(""),
    "picture of one axis": lambda: es.show((1, 5, 1), (3, 1, 1)).svg(),
    "picture of an output": lambda: es.show((1, 5, 5, 1), (3, 3, 1, 1)).svg((3, 0)),
    "picture of a text": lambda: es.show((1, 5, 5, 1), (3, 3, 1, 1)).svg("ab"),
    "picture of an axis": lambda: es.show((1, 5, 5, 1), (3, 3, 1, 1)).svg((1,)),
    "picture, too large": lambda: es.show((1, 9, 9, 1), (3, 3, 1, 1)).svg(),
}


@pytest.mark.parametrize("call", REFUSED)
def test_refused_in_a_sentence(call):
    with pytest.raises((ValueError, TypeError)) as caught:
        REFUSED[call]()
    text = str(caught.value)
    well_formed(text.partition(":")[0], text)


HUGE = {
    "filter": (((1, 2**20, 1), (2**19, 1, 1)), {}),
    "phases": (((1, 2**20, 1), (2**19, 1, 1)), {"stride": 3, "dilation": 2}),
    "border": (((1, 2**20, 1), (2**19, 1, 1)), {"padding": 2**18, "padding_mode": "reflect"}),
    "plane": (((1, 2**12, 2**12, 1), (2**11, 2**11, 1, 1)), {"padding": "same"}),
}


@pytest.mark.parametrize("case", HUGE)
def test_what_is_not_drawn_is_not_computed(case):
    """A second of the CPU is a hundred times what it takes; all pairs of taps take ten."""
    es.show((1, 4, 1), (3, 1, 1))
    shapes, keywords = HUGE[case]
    start = process_time()
    es.show(*shapes, **keywords)
    assert process_time() - start < 1


@settings(deadline=None, max_examples=40)
@given(
    st.integers(41, 300), st.integers(1, 120), st.integers(1, 5), st.integers(1, 4),
    st.integers(0, 30), st.integers(0, 60),
)  # fmt: skip
def test_pairs_of_a_part_are_those_of_the_definition(size, kernel, stride, dilation, low, at):
    """Position p gathers f[k] * gy[o] for all drawn k, o with o * stride + k * dilation = p + low,
    the last tap first."""
    if (kernel - 1) * dilation >= size + 2 * low:
        kernel = 1
    keywords = Settings((stride,), ((low, low),), (dilation,))
    g = Geometry.of("test", (1, size, 1), (kernel, 1, 1), keywords, "")
    (axis,) = drawn_axes(g, (min(at, g.out[0] - 1),))
    for position, found in zip(range(axis.start, axis.stop), gathered(g, 0, axis), strict=True):
        expected = [
            (k, (position + low - k * dilation) // stride)
            for k in reversed(range(axis.taps))
            if (position + low - k * dilation) % stride == 0
            and axis.outputs[0] <= (position + low - k * dilation) // stride < axis.outputs[1]
        ]
        assert list(found.pairs) == (expected if 0 <= position < size else [])


def test_a_batch_that_may_be_any():
    """One example is drawn; the plans are those of any batch, in every layout."""
    page = es.show((None, 6, 6, 1), (3, 3, 1, 2), stride=2).data
    one = es.show((1, 6, 6, 1), (3, 3, 1, 2), stride=2).data
    assert page["values"] == one["values"]
    assert page["title"] == "x (None, 6, 6, 1) * f (3, 3, 1, 2) → y (None, 2, 2, 2)"
    assert page["drawn"]["text"].startswith("The batch may be any")
    assert not one["drawn"]["text"]
    for name, keywords in (("forward", {}), ("filter_grad", {"kernel_size": 3})):
        second = (3, 3, 1, 2) if name == "forward" else (None, 2, 2, 2)
        p = es.plan((None, 6, 6, 1), second, direction=name, stride=2, **keywords)
        assert str(p).startswith(page["plans"][name]["head"])
    assert "None" not in one["plans"]["forward"]["head"]
    other = es.show((3, None, 8, 8), (3, 3, 3, 4), layout="CNHW,HWIO->NCHW").data
    assert all("x (None, 8, 8, 3)" in plan["head"] for plan in other["plans"].values())
    large = es.show((None, 512, 512, 64), (3, 3, 64, 64)).data["drawn"]["text"]
    assert large.startswith("The batch may be any")
    assert "too large" in large


def test_inputs_are_not_written():
    x, f, gy = arrays(*CASES["groups"])
    before = [a.copy() for a in (x, f, gy)]
    for a in (x, f, gy):
        a.flags.writeable = False
    _ = es.show(x, f, gy, groups=2, padding=1).html
    assert all(np.array_equal(a, b) for a, b in zip((x, f, gy), before, strict=True))


def test_the_picture_has_the_strides_of_the_view():
    page = es.show((6, 6, 1), (3, 3, 1, 1), stride=2, padding="same")
    picture = page.svg((1, 0))
    texts = re.findall(r">([^<]+)</text>", picture)
    steps = dict(zip("bhwijc", page.data["memory"]["windows_strides"], strict=True))
    for letter in "hwij":
        assert f"{letter} +{steps[letter]}" in texts
    for i, j in product(range(3), range(3)):
        assert str(stated(page, (0, 1, 0, i, j, 0))) in texts
    (call,) = [t for t in texts if "as_strided" in t]
    (equation,) = [t for t in texts if "einsum" in t]
    view = call.split(" = ")[0]
    assert equation.endswith(f", {view}, f)")
    assert view not in equation.partition(",")[0] + "xfy"  # no letter of an axis or array


def test_the_command_writes_the_page(tmp_path, capsys):
    out = tmp_path / "page.html"
    arguments = "6x6x1 3x3x1x2 --stride 2 --padding same --pass input_grad --title A<b> --out"
    assert main(["show", *arguments.split(), str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    page = es.show((6, 6, 1), (3, 3, 1, 2), stride=2, padding="same", direction="input_grad",
                   title="A<b>")  # fmt: skip
    assert out.read_text(encoding="utf-8") == page.html
    assert main(["show", "6x6x1", "3x3x1x1", "--out", str(tmp_path / "window.svg")]) == 0
    assert (tmp_path / "window.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    "arguments",
    ["6x6 3x3x1x1", "axb 3x3", "6x6x1 9x9x1x1", "6x6x1 3x3x1x1 --at 99", "6x6x1 3x3x1x1 --pass up",
     "6x6x1 3x3x1x1 --out missing/folder/page.html"],
)  # fmt: skip
def test_the_command_refuses_in_a_sentence(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["show", *arguments.split()]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("; ") >= 2
    assert not list(tmp_path.iterdir())


def test_one_filter_for_every_channel():
    """The page is that of as many groups as channels, with the filter repeated."""
    x, f = np.arange(75.0).reshape(1, 5, 5, 3), np.arange(9.0).reshape(3, 3, 1, 1)
    found = es.show(x, f, groups="depthwise").data
    expected = es.show(x, np.repeat(f, 3, -1), groups=3).data
    assert found["values"] == expected["values"]
    assert found["groups"] == 3


def test_views_of_another_layout_are_named():
    page = es.show((2, 3, 5, 5), (4, 3, 3, 3), layout="channels_first").data
    assert page["order"].startswith("Shown with channels last")
    assert "x.transpose(0, 2, 3, 1)" in page["order"]
    assert "f.transpose(2, 3, 1, 0)" in page["order"]
    assert es.show((2, 5, 5, 3), (3, 3, 3, 4)).data["order"] == ""


def test_the_command_takes_the_number_in_a_border(tmp_path, capsys):
    path = tmp_path / "page.html"
    given = ["show", "5x5x1", "3x3x1x1", "--padding", "1", "--padding-mode", "constant"]
    assert main([*given, "--fill", "5", "--out", str(path)]) == 0
    assert "constant" in path.read_text()
