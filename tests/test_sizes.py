"""output_size and same_padding return the sizes and pads of conv."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import einstride as es
from checks import refused
from strategies import NAMES, cases, integer_data, pads_of


def steps_of(rank, seed):
    return tuple(np.random.default_rng(seed).integers(1, 4, rank).tolist())


@given(case=cases(max_rank=4), seed=st.integers(0, 99))
def test_output_size_is_what_conv_gives(case, seed):
    keywords = {k: v for k, v in case.keywords.items() if k in ("stride", "padding", "dilation")}
    size = es.output_size(case.input_size, case.kernel_size, **keywords)
    assert size == case.out_size
    x, f = np.ones(case.x_shape, "f4"), np.ones(case.f_shape, "f4")
    assert es.conv(x, f, **case.keywords).shape[1:-1] == size
    spread = steps_of(len(size), seed)
    keywords["padding"] = "full"  # leaves room for any filter
    wide = es.output_size(case.input_size, case.kernel_size, input_dilation=spread, **keywords)
    keywords |= {"groups": case.groups, "input_dilation": spread}
    assert es.conv(x, f, **keywords).shape[1:-1] == wide


@given(case=cases(max_rank=4, padded=False), lower=st.booleans())
def test_same_padding_is_what_same_pads(case, lower):
    sizes = case.input_size, case.kernel_size
    keywords = {"stride": case.stride, "dilation": case.dilation}
    name = "same_lower" if lower else "same"
    pads = es.same_padding(*sizes, lower=lower, **keywords)
    axes = zip(*sizes, case.stride, case.dilation, strict=True)
    assert pads == tuple(pads_of(name, *axis) for axis in axes)
    x, f = integer_data(case.x_shape, "float64", 1), integer_data(case.f_shape, "float64", 2)
    y = es.conv(x, f, padding=pads, groups=case.groups, **keywords)
    np.testing.assert_array_equal(y, es.conv(x, f, padding=name, groups=case.groups, **keywords))
    expected = tuple(-(-n // s) for n, s in zip(case.input_size, case.stride, strict=True))
    assert es.output_size(*sizes, padding=pads, **keywords) == y.shape[1:-1] == expected
    for low, high in pads:
        assert 0 <= (low - high if lower else high - low) <= 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", range(1, 9))
def test_every_padding_name(name, size):
    for kernel, stride, dilation in [(1, 1, 1), (3, 2, 1), (2, 3, 2), (4, 1, 2)]:
        keywords = {"stride": stride, "padding": name, "dilation": dilation}
        x, f = np.ones((1, size, 1)), np.ones((kernel, 1, 1))
        if name == "valid" and size < (kernel - 1) * dilation + 1:
            with refused("output_size", ValueError, "axis 0"):
                es.output_size(size, kernel, **keywords)
            continue
        found = es.output_size(size, kernel, **keywords)
        assert type(found) is int
        assert found == es.conv(x, f, **keywords).shape[1]


@pytest.mark.parametrize(
    ("input_size", "kernel_size", "expected"),
    [(28, 3, 26), ((28,), 3, (26,)), ((28, 20), 3, (26, 18)), ((28, 20), (3, 5), (26, 16)),
     ([28, 20], [3, 5], (26, 16)), (np.int64(28), np.int8(3), 26)],
    ids=str,
)  # fmt: skip
def test_ints_and_tuples(input_size, kernel_size, expected):
    """The result is an int if the input size is one, else a tuple."""
    found = es.output_size(input_size, kernel_size)
    assert found == expected
    assert type(found) is type(expected)


def test_known_layers():
    assert es.output_size((224, 224), 7, stride=2, padding=3) == (112, 112)
    assert es.output_size(28, 5, padding="full") == 32
    assert es.output_size(10, 3, padding="causal", dilation=4) == 10
    assert es.output_size(5, 3, input_dilation=2, padding=1) == 9
    assert es.same_padding(28, 4) == ((1, 2),)
    assert es.same_padding(28, 4, lower=True) == ((2, 1),)
    assert es.same_padding((224, 8), (7, 3), stride=(2, 1)) == ((2, 3), (1, 1))
    assert es.same_padding(8, 1, stride=3) == ((0, 0),)
    assert es.output_size(0, 3, padding="same") == 0


def test_sizes_beyond_any_array():
    """Sizes are integers of Python, so that nothing is allocated or overflows."""
    assert es.output_size(2**40, 3, stride=2) == 2**39 - 1
    assert es.output_size((2**20, 2**20), (2**10, 1)) == (2**20 - 2**10 + 1, 2**20)


@pytest.mark.parametrize("function", ["output_size", "same_padding"])
@pytest.mark.parametrize(
    ("arguments", "keywords", "kind", "says"),
    [
        ((8, 0), {}, ValueError, "kernel_size"),
        ((-1, 3), {}, ValueError, "input_size"),
        (((), 3), {}, ValueError, "input_size"),
        (((8, 8), (3, 3, 3)), {}, ValueError, "kernel_size"),
        ((8.0, 3), {}, TypeError, "input_size"),
        ((8, 3.0), {}, TypeError, "kernel_size"),
        ((True, 3), {}, TypeError, "input_size"),
        (("8", 3), {}, TypeError, "input_size"),
        ((8, 3), {"stride": 0}, ValueError, "stride"),
        ((8, 3), {"stride": (1, 1)}, ValueError, "stride"),
        ((8, 3), {"dilation": -1}, ValueError, "dilation"),
        ((8, 3), {"stride": None}, TypeError, "stride"),
    ],
    ids=str,
)
def test_refusals(function, arguments, keywords, kind, says):
    with refused(function, kind, says):
        getattr(es, function)(*arguments, **keywords)


@pytest.mark.parametrize(
    ("keywords", "kind", "says"),
    [({"padding": "sam"}, ValueError, "padding"), ({"padding": (1, 2)}, ValueError, "((1, 2),)"),
     ({"padding": -3}, ValueError, "axis 0"),
     ({"input_dilation": 0}, ValueError, "input_dilation")],
    ids=str,
)  # fmt: skip
def test_refusals_of_output_size(keywords, kind, says):
    with refused("output_size", kind, says):
        es.output_size(8, 3, **keywords)


@pytest.mark.parametrize("value", [1, None, "yes"])
def test_lower_is_true_or_false(value):
    with refused("same_padding", TypeError, "lower"):
        es.same_padding(8, 3, lower=value)
