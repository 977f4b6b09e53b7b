"""Invalid input is refused before memory is accessed, as 'function: rule; values got; remedy'."""

import sys
import warnings

import numpy as np
import pytest

import einstride as es
from checks import refused, same

X, F, GY = np.ones((2, 7, 7, 4)), np.ones((3, 3, 2, 6)), np.ones((2, 5, 5, 6))
GOOD = {
    "conv": ((X, F), {"groups": 2}),
    "conv_input_grad": ((GY, F, (7, 7)), {"groups": 2}),
    "conv_filter_grad": ((X, GY, (3, 3)), {"groups": 2}),
    "conv_transpose": ((GY, F), {"groups": 2}),
}
NAN = float("nan")


def call(name, *args, **keywords):
    """Make a valid call of the function, with some of its arguments replaced."""
    defaults, options = GOOD[name]
    return getattr(es, name)(*(args or defaults), **(options | keywords))


@pytest.mark.parametrize("name", GOOD)
def test_the_good_calls_are_good(name):
    assert call(name).ndim == 4


# {keyword: (values of a wrong type, values that break the rule, values of which either is true)}
KEYWORDS = {
    "stride": (
        [1.0, True, None, NAN, (1.0, 1), (1, True), (1, None), np.float64(1), np.bool_(True), 2j],
        [0, -1, (), (1,), (1, 1, 1), (1, 0), (-1, 1), np.int64(0), [2]],
        ["2", "22", {1: 1}, X],
    ),
    "dilation": (
        [1.0, False, None, NAN, (1, 1.0), np.float32(1)],
        [0, -1, (), (1, 1, 1), (0, 1), 4, 2**70, (1, 10**30)],
        ["1", "11"],
    ),
    "groups": ([1.0, True, None, NAN], [0, -1, -2, 4, 5, 8, 2**70], [(2,), [1], "2", "depth"]),
    "padding": (
        [1.5, True, None, NAN, 1j, (1.0, 1), (None, 1), ((1.0, 1), 1), ((True, 1), 1)],
        ["sam", "", "SAME ", "zeros", ("same", "nope"), (1,), (1, 2, 3), (), ((1, 2, 3), 1),
         ((1,), (1,)), -4, ((0, 0), (-3, -3)), 2**70, 2**62, ((2**63, 0), 0)],
        [(((1, 1), 1), 1), b"same", {"same": 1}, (("same", 1), 1), ({1: 2}, 1)],
    ),
    "padding_mode": ([None, 1], ["mirror", "", "zero", "constants"]),
    "algorithm": ([None, 3, ("gemm",)], ["cudnn7", "", "GEMM", "auto "]),
    "accuracy": ([None, 1e-6], ["exact", "", "high"]),
    "max_workspace": ([1.5, "1GB", True, NAN, (1,)], [-1, -(2**70)]),
    "flip": (["yes", None, 1.0], [], [(True, False)]),
    "accumulate": ([], ["int7", ""], [64, 1.0]),
}  # fmt: skip


def rows(which):
    for keyword, kinds in KEYWORDS.items():
        for value in kinds[which] if which < len(kinds) else []:
            text = "array" if value is X else repr(value)
            yield pytest.param(keyword, value, id=f"{keyword}={text}")


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize(("keyword", "value"), list(rows(0)))
def test_a_value_of_the_wrong_type(name, keyword, value):
    with refused(name, TypeError, keyword):
        call(name, **{keyword: value})


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize(("keyword", "value"), list(rows(2)))
def test_a_value_that_makes_no_sense(name, keyword, value):
    with refused(name, (TypeError, ValueError), keyword):
        call(name, **{keyword: value})


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize(("keyword", "value"), list(rows(1)))
def test_a_value_that_breaks_the_rule(name, keyword, value):
    if name == "conv_transpose" and keyword in ("dilation", "padding") and _transposes(value):
        assert call(name, **{keyword: value}).ndim == 4
        return
    with refused(name, ValueError):
        call(name, **{keyword: value})


def _transposes(value):
    """True if the value is valid in a transposed convolution, whose output is the larger array."""
    return value in (4, -4, ((0, 0), (-3, -3)))


@pytest.mark.parametrize("keyword", ["stride", "dilation", "groups", "padding"])
@pytest.mark.parametrize("name", GOOD)
def test_a_valid_call_lets_no_invalid_one_pass(name, keyword):
    """1, 1.0 and True are equal keys of a cache, but the type of a keyword is checked on every
    call."""
    good = {"stride": 1, "dilation": 1, "groups": 2, "padding": 0}
    expected = call(name, **good)
    for bad in (
        float(good[keyword]),
        bool(good[keyword]),
        np.float64(good[keyword]),
        (float(good[keyword]),) * 2,
    ):
        with refused(name, TypeError, keyword):
            call(name, **(good | {keyword: bad}))
    if keyword != "groups":
        same(call(name, **(good | {keyword: (good[keyword],) * 2})), expected)
    same(call(name, **good), expected)


def test_a_bad_call_leaves_no_trace():
    x, f = np.ones((1, 6, 2)), np.ones((3, 2, 4))
    for _ in range(2):
        with refused("conv", TypeError, "stride"):
            es.conv(x, f, stride=2.0)
        assert es.conv(x, f, stride=2).shape == (1, 2, 4)


BAD_SHAPES = {
    "x of 3 axes": ("conv", X[0], F),
    "x of 5 axes": ("conv", X[None], F),
    "x of 1 axis": ("conv", np.ones(4), F),
    "x of no axes": ("conv", np.array(1.0), F),
    "no spatial axes": ("conv", np.ones((2, 4)), np.ones((2, 6))),
    "f of 3 axes": ("conv", X, F[0]),
    "f of no axes": ("conv", X, np.array(1.0)),
    "fewer channels than the filter": ("conv", X[..., :2], F),
    "more channels than the filter": ("conv", np.ones((2, 7, 7, 6)), F),
    "filters that groups do not divide": ("conv", X, F[..., :5]),
    "channels in the gradient": ("conv_input_grad", GY[..., :4], F, (7, 7)),
    "more channels in the gradient": ("conv_input_grad", np.ones((2, 5, 5, 8)), F, (7, 7)),
    "gy of 3 axes": ("conv_input_grad", GY[0], F, (7, 7)),
    "input_size too small": ("conv_input_grad", GY, F, (6, 7)),
    "input_size too large": ("conv_input_grad", GY, F, (7, 8)),
    "input_size of 3": ("conv_input_grad", GY, F, (7, 7, 7)),
    "input_size of 1": ("conv_input_grad", GY, F, (7,)),
    "input_size with channels": ("conv_input_grad", GY, F, (2, 7, 7, 4)),
    "input_size zero": ("conv_input_grad", GY, F, 0),
    "input_size negative": ("conv_input_grad", GY, F, (7, -7)),
    "kernel_size too small": ("conv_filter_grad", X, GY, (2, 3)),
    "kernel_size too large": ("conv_filter_grad", X, GY, 4),
    "kernel_size beyond the input": ("conv_filter_grad", X, GY, 9),
    "kernel_size of 3": ("conv_filter_grad", X, GY, (3, 3, 3)),
    "kernel_size zero": ("conv_filter_grad", X, GY, (0, 3)),
    "kernel_size negative": ("conv_filter_grad", X, GY, -3),
    "another batch": ("conv_filter_grad", X, GY[:1], (3, 3)),
    "gy of another rank": ("conv_filter_grad", X, GY[..., None], (3, 3)),
    "gy channels that groups do not divide": ("conv_filter_grad", X, GY[..., :5], (3, 3)),
    "x channels that groups do not divide": ("conv_filter_grad", X[..., :3], GY, (3, 3)),
    "transposed channels": ("conv_transpose", X, F),
    "transposed rank": ("conv_transpose", GY[0], F),
}


@pytest.mark.parametrize("row", BAD_SHAPES)
def test_shapes_that_do_not_meet(row):
    name, *args = BAD_SHAPES[row]
    with refused(name, ValueError):
        call(name, *args)


@pytest.mark.parametrize(
    "size", [7.0, True, "7", None, (7, 7.0), (7, None), NAN, X, [[7, 7]]], ids=repr
)
def test_sizes_are_integers(size):
    with refused("conv_input_grad", TypeError, "input_size"):
        call("conv_input_grad", GY, F, size)
    with refused("conv_filter_grad", TypeError, "kernel_size"):
        call("conv_filter_grad", X, GY, size)


@pytest.mark.parametrize(
    "bias",
    [np.ones(5), np.ones(7), np.ones((1, 6)), np.array(1.0), np.ones(0)],
    ids=lambda b: b.shape,
)
def test_a_bias_of_another_shape(bias):
    with refused("conv", ValueError, "bias"):
        call("conv", X, F, bias)


with warnings.catch_warnings(action="ignore"):  # NumPy warns of its matrix class
    MATRIX = np.asmatrix(np.ones((2, 2)))
STRUCTURED = np.zeros(X.shape, [("re", "f4"), ("im", "f4")])
NOT_ARRAYS = {
    "list": (X.tolist(), "asarray"),
    "tuple": (tuple(X.tolist()), "asarray"),
    "nothing": (None, ""),
    "number": (1.0, ""),
    "string": ("x", ""),
    "memoryview": (memoryview(X), ""),
    "generator": ((row for row in X), ""),
    "masked": (np.ma.masked_array(X, X > 0), "mask"),
    "matrix": (MATRIX, "matrix"),
    "object": (X.astype(object), "object"),
    "bytes": (X.astype("S3"), ""),
    "text": (X.astype("U3"), ""),
    "dates": (X.astype("datetime64[s]"), "datetime"),
    "durations": (X.astype("timedelta64[s]"), "timedelta"),
    "records": (STRUCTURED, ""),
    "void": (np.zeros(X.shape, "V4"), ""),
}


@pytest.mark.parametrize("kind", NOT_ARRAYS)
def test_only_arrays_of_numbers(kind):
    bad, says = NOT_ARRAYS[kind]
    pointwise = np.ones((1, 1, 2, 4))  # a filter with which x and y have one shape
    for name, args in {
        "conv": (bad, pointwise),
        "conv_input_grad": (bad, pointwise, 7),
        "conv_filter_grad": (X, bad, 1),
        "conv_transpose": (bad, pointwise),
    }.items():
        with refused(name, TypeError, says):
            call(name, *args)
    if bad is not None:
        with refused("conv", TypeError, says):
            call("conv", X, F, bad)
    with refused("conv_bias_grad", TypeError, says):
        es.conv_bias_grad(bad)
    if type(bad) is not np.ndarray:  # `windows` does no arithmetic, so any dtype may pass
        with refused("windows", TypeError, says):
            es.windows(bad, 2)


@pytest.mark.parametrize("bad", [F.tolist(), F.astype(object), F.astype("U3"), None, 1], ids=type)
def test_only_filters_of_numbers(bad):
    for name, args in {
        "conv": (X, bad),
        "conv_input_grad": (GY, bad, 7),
        "conv_transpose": (GY, bad),
        "Conv": (bad,),
        "conv4d_forward": (X[..., :2], bad, (1, 1)),
    }.items():
        with refused(name, TypeError):
            call(name, *args) if name in GOOD else getattr(es, name)(*args)


@pytest.mark.parametrize("shape", [(2,), (), (3, 2)])
def test_bias_grad_wants_a_batch_an_axis_and_channels(shape):
    with refused("conv_bias_grad", ValueError):
        es.conv_bias_grad(np.ones(shape))


@pytest.mark.parametrize("library", ["array_api_strict", "torch", "jax.numpy", "dask.array"])
def test_two_libraries(library):
    xp = pytest.importorskip(library, reason=f"{library} gives the second kind of array")
    theirs = xp.asarray(F)
    mixed = [(X, theirs), (xp.asarray(X), F)]
    if library == "dask.array":  # every chunk of an image takes the whole NumPy filter
        same(np.asarray(call("conv", *mixed.pop())), call("conv"))
    for args in mixed:
        with refused("conv", TypeError, library.split(".")[0]):
            call("conv", *args)
    with refused("conv", TypeError, "bias"):
        call("conv", X, F, xp.asarray(np.ones(6)))
    with refused("conv_filter_grad", TypeError):
        call("conv_filter_grad", X, xp.asarray(GY), 3)
    with refused("conv_transpose", TypeError):
        call("conv_transpose", GY, theirs)


def test_two_devices():
    xp = pytest.importorskip("array_api_strict", reason="array-api-strict has several devices")
    one, two = xp.Device("device1"), xp.Device("device2")
    x, f = xp.ones((1, 4, 2), device=one), xp.ones((2, 2, 3), device=one)
    y = es.conv(x, f)
    assert y.device == one
    assert es.conv_input_grad(y, f, 4).device == es.conv_filter_grad(x, y, 2).device == one
    for other in (xp.ones((2, 2, 3), device=two), xp.ones((2, 2, 3))):
        with refused("conv", TypeError, "device"):
            es.conv(x, other)
    with refused("conv", TypeError, "device"):
        es.conv(x, f, xp.ones(3, device=two))


@pytest.mark.parametrize("pair", [(1, 2), [1, 2], (0, 3)])
def test_one_dimension_and_a_bare_pair(pair):
    with refused("conv", ValueError, f"(({pair[0]}, {pair[1]}),)"):
        es.conv(np.ones((1, 9, 1)), np.ones((2, 1, 1)), padding=pair)


def test_shapes_that_overflow_are_refused_before_memory_is_asked_for():
    huge = np.broadcast_to(np.float32(1), (1, 2**40, 2**20))
    with refused("conv", ValueError):
        es.conv(huge, np.broadcast_to(np.float32(1), (1, 2**20, 2**30)))
    with refused("conv", ValueError):
        es.conv(np.ones((1, 3, 1)), np.ones((1, 1, 1)), padding=sys.maxsize)
    with refused("conv_transpose", ValueError):
        es.conv_transpose(np.ones((1, 3, 1)), np.ones((1, 1, 1)), stride=sys.maxsize)
    with refused("conv_input_grad", ValueError):
        es.conv_input_grad(np.ones((1, 1, 1)), np.ones((1, 1, 1)), sys.maxsize, stride=sys.maxsize)
