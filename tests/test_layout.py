"""channels_first and any layout string give the channels-last result with its axes moved."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import einstride as es
from checks import EVERY, PASSES, agrees, operands, refused, same, unless_refused
from strategies import arrays, cases, integer_data, seeds

LETTERS = "HWDTZ"  # any letters but N, C, I, O may name the spatial axes


def moved(array, canonical, part):
    """Return an array with axes `canonical`, transposed to the order of axes `part`."""
    return np.ascontiguousarray(array.transpose([canonical.index(letter) for letter in part]))


def parts(spec):
    operands_part, y = spec.split("->")
    return (*operands_part.split(","), y)


@st.composite
def specs(draw, rank):
    """Draw a layout string; the spatial letters of x give the order of every tuple."""
    x = "".join(draw(st.permutations("NC" + LETTERS[:rank])))
    f = "".join(draw(st.permutations("IO" + LETTERS[:rank])))
    y = "".join(draw(st.permutations("NC" + LETTERS[:rank])))
    return f"{x},{f}->{y}"


def check(backend, which, spec, case, seed, **keywords):
    """Compare a pass under the layout `spec` with the canonical pass, its axes moved."""
    xpart, fpart, ypart = parts(spec)
    spatial = "".join(letter for letter in xpart if letter not in "NC")
    names = {"x": f"N{spatial}C", "f": f"{spatial}IO", "y": f"N{spatial}C"}
    x, f, gy = arrays(case, "float64", seed)
    function, args, _ = operands(which, case, x, f, gy)
    expected = function(*args, **case.keywords)
    x, f, gy = (
        moved(x, names["x"], xpart),
        moved(f, names["f"], fpart),
        moved(gy, names["y"], ypart),
    )
    _, args, _ = operands(which, case, x, f, gy)
    result = backend(
        function, *args, **(case.keywords | keywords | {"layout": keywords.get("layout", spec)})
    )
    name, part = {"forward": ("y", ypart), "input_grad": ("x", xpart), "filter_grad": ("f", fpart)}[
        which
    ]
    agrees(result, moved(expected, names[name], part), None, keywords.get("algorithm", "auto"))


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("which", PASSES)
@given(data=st.data(), case=cases(), seed=seeds)
def test_any_permutation(backend, which, algorithm, data, case, seed):
    spec = data.draw(specs(len(case.input_size)))
    with unless_refused(algorithm):
        check(backend, which, spec, case, seed, algorithm=algorithm)


@pytest.mark.parametrize("which", PASSES)
@given(case=cases(), seed=seeds)
def test_channels_first(backend, which, case, seed):
    spatial = LETTERS[: len(case.input_size)]
    spec = f"NC{spatial},OI{spatial}->NC{spatial}"
    check(backend, which, spec, case, seed, layout="channels_first")
    check(backend, which, spec, case, seed)


@pytest.mark.parametrize("which", PASSES)
@given(case=cases(max_rank=3), seed=seeds)
def test_channels_last_by_name_and_by_spec(which, case, seed):
    spatial = LETTERS[: len(case.input_size)]
    function, args, _ = operands(which, case, *arrays(case, "float64", seed))
    spec = f"N{spatial}C,{spatial}IO->N{spatial}C"
    plain = function(*args, **case.keywords)
    same(function(*args, **case.keywords, layout="channels_last"), plain)
    same(function(*args, **case.keywords, layout=spec), plain)


def test_tuples_follow_the_spatial_letters_of_x(backend):
    x, f = integer_data((1, 9, 5, 2), "float64", 1), integer_data((2, 3, 2, 4), "float64", 2)
    y = backend(es.conv, x, f, layout="NWHC,HWIO->NHWC", stride=(2, 1))
    assert y.shape == (1, 4, 4, 4)  # the stride of 2 belongs to W, as do the 3 taps
    gf = backend(es.conv_filter_grad, x, y, (3, 2), layout="NWHC,HWIO->NHWC", stride=(2, 1))
    assert gf.shape == f.shape


def test_bias_follows_the_output_channels(backend):
    x, f = integer_data((2, 3, 6, 5), "float64", 1), integer_data((4, 3, 2, 2), "float64", 2)
    bias = np.array([1.0, 10.0, 100.0, 1000.0])
    y = backend(es.conv, x, f, bias, layout="NCHW,OIHW->NHWC")
    same(y, backend(es.conv, x, f, layout="NCHW,OIHW->NHWC") + bias)
    y = backend(es.conv, x, f, bias, layout="channels_first")
    same(y, backend(es.conv, x, f, layout="channels_first") + bias[:, None, None])


X, F = np.ones((1, 5, 5, 2)), np.ones((2, 2, 2, 3))


@pytest.mark.parametrize(
    "layout",
    [
        "channels_middle",
        "",
        "NHWC",
        "NHWC,HWIO",
        "NHWC->NHWC",
        "NHWC,HWIO->NHW",
        "NHWC,HWIO->NHWW",
        "NHHC,HWIO->NHWC",
        "NHWC,HWIO->NHDC",
        "NHWC,HWOO->NHWC",
        "NHWC,HWIO->NHWC->NHWC",
        "NHWC,HWIO,->NHWC",
        "NHWDC,HWDIO->NHWDC",  # three spatial letters, two spatial axes
        "NHC,HIO->NHC",
        "N.WC,.WIO->N.WC",
        "NH C,H IO->NH C",
    ],
)
def test_bad_specs(layout):
    with refused("conv", ValueError, "layout"):
        es.conv(X, F, layout=layout)
    with refused("conv_input_grad", ValueError, "layout"):
        es.conv_input_grad(np.ones((1, 4, 4, 3)), F, 5, layout=layout)


@pytest.mark.parametrize("layout", [None, 3, ("NHWC", "HWIO", "NHWC"), b"channels_last"])
def test_a_layout_is_a_string(layout):
    with refused("conv", TypeError, "layout"):
        es.conv(X, F, layout=layout)
