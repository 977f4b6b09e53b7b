"""Each padding name means its documented pads, and all forms of the same pads agree."""

import numpy as np
import pytest
from hypothesis import given

import einstride as es
import oracle
from checks import PASSES, operands, same
from oracle import Case
from strategies import arrays, cases, integer_data, seeds

ONES = np.ones((1, 5, 1))


def line(x, f, **keywords):
    """Convolve two vectors."""
    x, f = np.asarray(x, float), np.asarray(f, float)
    return es.conv(x.reshape(1, -1, 1), f.reshape(-1, 1, 1), **keywords).ravel().tolist()


def test_valid_is_the_default():
    assert (
        line([1, 2, 3, 4], [1, 10, 100])
        == line([1, 2, 3, 4], [1, 10, 100], padding="valid")
        == [321, 432]
    )


def test_same_puts_the_extra_at_the_end():
    assert line([1, 2, 3, 4], [1, 10], padding="same") == [21, 32, 43, 4]
    assert line([1, 2, 3, 4], [1, 10], padding="same_lower") == [10, 21, 32, 43]


def test_same_depends_on_the_stride():
    assert line([1, 2, 3, 4], [1, 10, 100], stride=2, padding="same") == [321, 43]
    assert line([1, 2, 3, 4], [1, 10, 100], stride=2, padding="same_lower") == [210, 432]
    assert line([1, 2, 3, 4, 5], [1, 10, 100], stride=2, padding="same") == [210, 432, 54]


def test_full_meets_every_tap():
    assert line([1, 2], [1, 10, 100], padding="full") == [100, 210, 21, 2]


def test_causal_sees_only_the_past():
    assert line([1, 2, 3], [1, 10], padding="causal") == [10, 21, 32]
    assert line([1, 2, 3, 4], [1, 10], padding="causal", dilation=2) == [10, 20, 31, 42]


def test_negative_padding_crops():
    assert line([1, 2, 3, 4, 5], [1], padding=-1) == [2, 3, 4]
    assert line([1, 2, 3, 4, 5], [1], padding=((-2, 1),)) == [3, 4, 5, 0]
    assert line([1, 2, 3, 4, 5], [1, 10], padding=((1, -3),)) == [10, 21]


def test_a_crop_wider_than_the_input_leaves_zeros():
    assert line([1, 2], [1], padding=((-3, 4),)) == [0, 0, 0]


@pytest.mark.parametrize("name", ["valid", "same", "same_lower", "full", "causal"])
@pytest.mark.parametrize("which", PASSES)
def test_a_name_is_its_pads(which, name):
    size, kernel, stride, dilation = (7, 8), (3, 2), (2, 1), (1, 3)
    axes = zip(size, kernel, stride, dilation, strict=True)
    pads = tuple(oracle.pads_of(name, *axis) for axis in axes)
    case = Case(2, size, kernel, 2, 3, stride, pads, dilation)
    function, args, pair = operands(which, case, *arrays(case, "float64", 5))
    for padding in (name, (name, name), [name, pads[1]], pads, tuple(map(list, pads))):
        result = function(*args, stride=stride, dilation=dilation, padding=padding)
        same(result, oracle.PASSES[which](*pair, case), "float64")


@pytest.mark.parametrize(
    "padding", [2, (2, 2), [2, 2], ((2, 2), 2), ((2, 2), (2, 2)), [[2, 2], [2, 2]]]
)
def test_written_forms_of_the_same_pads(padding):
    x, f = integer_data((1, 5, 6, 2), "float64", 1), integer_data((3, 3, 2, 2), "float64", 2)
    same(es.conv(x, f, padding=padding), es.conv(np.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)]), f))


def test_one_dimension_wants_a_pair_in_a_tuple():
    assert es.conv(ONES, np.ones((1, 1, 1)), padding=((1, 2),)).shape == (1, 8, 1)
    assert es.conv(ONES, np.ones((1, 1, 1)), padding=(1,)).shape == (1, 7, 1)


@given(case=cases(), seed=seeds)
def test_every_form_agrees_with_its_explicit_pads(case, seed):
    for which in PASSES:
        function, args, _ = operands(which, case, *arrays(case, "float64", seed))
        same(function(*args, **case.keywords), function(*args, **case.explicit))
