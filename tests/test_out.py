"""`out` must have the result's shape, dtype and library; all of it is written, and it may not
alias."""

import numpy as np
import pytest
from hypothesis import given

import einstride as es
from checks import ALGORITHMS, PASSES, operands, refused, same
from oracle import Case
from strategies import arrays, cases, integer_data, seeds

CASE = Case(2, (6, 5), (3, 2), 4, 6, (2, 1), ((1, 0), (0, 2)), (1, 2), groups=2)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("which", PASSES)
@given(case=cases(), seed=seeds)
def test_every_element_is_written_and_out_returned(which, algorithm, case, seed):
    function, args, _ = operands(which, case, *arrays(case, "float64", seed))
    keywords = case.keywords | {"algorithm": algorithm}
    expected = function(*args, **keywords)
    out = np.full(expected.shape, np.nan)  # the former values may not be read
    assert function(*args, **keywords, out=out) is out
    same(out, expected)


@pytest.mark.parametrize("dtype", ["float32", "complex64", "float16", "int8", "int64"])
@pytest.mark.parametrize("which", PASSES)
def test_of_each_dtype(which, dtype):
    function, args, _ = operands(which, CASE, *arrays(CASE, dtype, 1))
    expected = function(*args, **CASE.explicit)
    out = np.full(expected.shape, 77, expected.dtype)
    assert function(*args, **CASE.explicit, out=out) is out
    same(out, expected)


def strided(shape):
    return np.full([2 * n for n in shape], np.nan)[tuple(slice(None, None, 2) for _ in shape)]


OUTS = {
    "fortran": lambda shape: np.full(shape, np.nan, order="F"),
    "strided": strided,
    "reversed": lambda shape: np.full(shape, np.nan)[::-1, ::-1, ::-1, ::-1],
}


@pytest.mark.parametrize("make", OUTS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("which", PASSES)
def test_of_any_strides(which, algorithm, make):
    function, args, _ = operands(which, CASE, *arrays(CASE, "float64", 2))
    keywords = {"algorithm": algorithm, **CASE.explicit}
    expected = function(*args, **keywords)
    out = OUTS[make](expected.shape)
    assert function(*args, **keywords, out=out) is out
    same(out, expected)


@pytest.mark.parametrize("layout", ["channels_first", "NCHW,HWIO->HWNC"])
def test_in_any_layout_with_a_bias(layout):
    x = integer_data((2, 3, 6, 5), "float64", 1)
    f = integer_data((4, 3, 2, 2) if layout == "channels_first" else (2, 2, 3, 4), "float64", 2)
    bias = np.arange(4.0)
    expected = es.conv(x, f, bias, layout=layout)
    out = np.full(expected.shape, np.nan)
    assert es.conv(x, f, bias, layout=layout, out=out) is out
    same(out, expected)


def test_of_a_transposed_convolution():
    x, f, bias = (
        integer_data((2, 4, 3, 6), "float64", 1),
        integer_data((3, 3, 2, 6), "float64", 2),
        np.ones(2),
    )
    expected = es.conv_transpose(x, f, bias, stride=2, output_padding=1)
    out = np.full(expected.shape, np.nan)
    assert es.conv_transpose(x, f, bias, stride=2, output_padding=1, out=out) is out
    same(out, expected)


def test_neighbours_of_out_are_not_touched():
    x, f = integer_data((1, 6, 5, 2), "float64", 1), integer_data((3, 2, 2, 4), "float64", 2)
    frame = np.full((3, 8, 8, 8), 7.0)
    out = frame[1:2, 2:6, 2:6, 2:6]
    same(es.conv(x, f, out=out), es.conv(x, f))
    out[...] = 7
    assert (frame == 7).all()


X, F = np.ones((1, 5, 2)), np.ones((2, 2, 3))
SWAPPED = np.dtype("float64").newbyteorder()  # another dtype to NumPy: float64 != SWAPPED


@pytest.mark.parametrize(
    ("out", "kind"),
    [
        (np.zeros((1, 4, 2)), ValueError),
        (np.zeros((1, 4, 3, 1)), ValueError),
        (np.zeros((4, 3)), ValueError),
        (np.zeros(()), ValueError),
        (np.zeros((1, 4, 3), "float32"), (TypeError, ValueError)),
        (np.zeros((1, 4, 3), "complex128"), (TypeError, ValueError)),
        (np.zeros((1, 4, 3), "float64").astype(SWAPPED), (TypeError, ValueError)),
        (np.zeros((1, 4, 3)).tolist(), TypeError),
        (np.ma.zeros((1, 4, 3)), TypeError),
        (5, TypeError),
        (np.broadcast_to(np.zeros((1, 1, 3)), (1, 4, 3)), ValueError),
    ],
    ids=[
        "channels",
        "rank",
        "no batch",
        "scalar",
        "float32",
        "complex",
        "swapped",
        "list",
        "masked",
        "int",
        "read-only",
    ],
)
def test_refused(out, kind):
    with refused("conv", kind, "out"):
        es.conv(X, F, out=out)


def test_an_out_that_overlaps_itself_is_refused():
    buffer = np.zeros(12)
    out = np.lib.stride_tricks.as_strided(buffer, (1, 4, 3), (0, 8, 8))
    with refused("conv", ValueError, "out"):
        es.conv(X, F, out=out)


@pytest.mark.parametrize("which", ["x", "f", "bias"])
def test_memory_shared_with_an_input_is_refused(which):
    buffer = np.ones(40)
    operands = {"x": np.ones((1, 5, 2)), "f": np.ones((2, 2, 3)), "bias": np.ones(3)}
    operands[which] = buffer[: operands[which].size].reshape(operands[which].shape)
    out = buffer[2:14].reshape(1, 4, 3)
    with refused("conv", ValueError, "out"):
        es.conv(*operands.values(), out=out)
    assert (buffer == 1).all()


def test_memory_side_by_side_is_not_shared():
    buffer = np.ones(40)
    x, out = buffer[:10].reshape(1, 5, 2), buffer[10:22].reshape(1, 4, 3)
    same(es.conv(x, F, out=out), es.conv(X, F))
    assert (buffer[:10] == 1).all()
    assert (buffer[22:] == 1).all()


def test_another_library_is_refused():
    xp = pytest.importorskip(
        "array_api_strict", reason="array-api-strict gives the other kind of array"
    )
    with refused("conv", TypeError, "out"):
        es.conv(X, F, out=xp.zeros((1, 4, 3), dtype=xp.float64))


def test_immutable_arrays_are_refused():
    jnp = pytest.importorskip("jax.numpy", reason="JAX has immutable arrays")
    x, f = jnp.ones((1, 5, 2), "float32"), jnp.ones((2, 2, 3), "float32")
    with refused("conv", TypeError, "out"):
        es.conv(x, f, out=jnp.zeros((1, 4, 3), "float32"))
