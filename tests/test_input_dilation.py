"""input_dilation inserts zeros between the elements of x, before the padding, in every pass."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import einstride as es
import oracle
from checks import EVERY, PASSES, agrees, operands, promoted, refused, result_unless_refused, same
from oracle import span
from strategies import _padding, arrays, cases, integer_data, resolve, seeds

FEW = settings(max_examples=25)


def dilated_size(size, input_dilation):
    return tuple(max((n - 1) * t + 1, 0) for n, t in zip(size, input_dilation, strict=True))


def with_zeros(x, input_dilation):
    """Return x with zeros inserted between its elements."""
    wide = np.zeros(
        (x.shape[0], *dilated_size(x.shape[1:-1], input_dilation), x.shape[-1]), x.dtype
    )
    wide[(slice(None), *(slice(None, None, t) for t in input_dilation))] = x
    return wide


@st.composite
def dilated(draw, max_rank=3):
    """Draw (case of x, the case of x with zeros inserted, input dilation)."""
    small = draw(cases(max_rank=max_rank, padded=False))
    rank = len(small.stride)
    input_dilation = tuple(draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank)))
    wide = dilated_size(small.input_size, input_dilation)
    padding = draw(_padding(rank, 2))
    if padding is None or isinstance(padding, str | int):
        entries = [padding if padding is not None else "valid"] * rank
    else:
        entries = padding
    axes = zip(entries, wide, small.kernel_size, small.stride, small.dilation, strict=True)
    pads = tuple(resolve(*axis) for axis in axes)
    fits = zip(wide, small.kernel_size, small.dilation, pads, strict=True)
    assume(all(n + sum(pad) >= span(k, d) for n, k, d, pad in fits))
    keywords = {key: value for key, value in small.keywords.items() if key != "padding"}
    keywords |= {"padding": padding} if padding is not None else {}
    whole = replace(small, input_size=wide, pads=pads, keywords=keywords)
    return replace(small, pads=pads), whole, input_dilation


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("which", PASSES)
@FEW
@given(drawn=dilated(), dtype=st.sampled_from(["float32", "complex128", "uint8"]), seed=seeds)
def test_against_the_loops_with_zeros_inserted(backend, which, algorithm, drawn, dtype, seed):
    small, whole, input_dilation = drawn
    x = integer_data(small.x_shape, dtype, seed)
    _, f, gy = arrays(whole, dtype, seed)
    function, args, _ = operands(which, small, x, f, gy)
    written = input_dilation[0] if len(set(input_dilation)) == 1 else input_dilation
    keywords = whole.keywords | {"input_dilation": written, "algorithm": algorithm}
    result = result_unless_refused(lambda: backend(function, *args, **keywords), algorithm, dtype)
    if result is None:
        return
    _, _, pair = operands(which, whole, with_zeros(x, input_dilation), f, gy)
    expected = oracle.PASSES[which](*pair, whole)
    if which == "input_grad":
        expected = expected[(slice(None), *(slice(None, None, t) for t in input_dilation))]
    agrees(result, expected, promoted(dtype, dtype), algorithm)


@settings(max_examples=8)  # JAX compiles every shape
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@given(drawn=dilated(max_rank=2), seed=seeds)
def test_is_jax_lhs_dilation(dtype, drawn, seed):
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    jax.config.update("jax_enable_x64", True)
    small, whole, input_dilation = drawn
    assume(not whole.flip)
    x = integer_data(small.x_shape, dtype, seed)
    _, f, gy = arrays(whole, dtype, seed)
    letters = "HW"[: len(input_dilation)]

    def conv(x, f):
        return jax.lax.conv_general_dilated(
            x, f, whole.stride, whole.pads, lhs_dilation=input_dilation,
            rhs_dilation=whole.dilation,
            dimension_numbers=(f"N{letters}C", f"{letters}IO", f"N{letters}C"),
            feature_group_count=whole.groups,
        )  # fmt: skip

    y, pullback = jax.vjp(conv, x, f)
    gx, gf = pullback(jax.numpy.asarray(gy))
    keywords = whole.explicit | {"input_dilation": input_dilation}
    equal = np.testing.assert_array_equal
    equal(es.conv(x, f, **keywords), y)
    equal(es.conv_input_grad(gy, f.conj(), small.input_size, **keywords), gx)
    equal(es.conv_filter_grad(x.conj(), gy, small.kernel_size, **keywords), gf)


@pytest.mark.parametrize("mode", ["reflect", "symmetric", "circular"])
@pytest.mark.parametrize("which", PASSES)
def test_the_border_repeats_the_dilated_input(backend, which, mode):
    input_dilation, pads = (2, 3), ((2, 1), (3, 2))
    x, f = integer_data((2, 4, 3, 2), "float64", 1), integer_data((3, 2, 2, 4), "float64", 2)
    keywords = {"padding": pads, "padding_mode": mode, "stride": (1, 2)}
    wide = with_zeros(x, input_dilation)
    y = es.conv(wide, f, **keywords)
    calls = {
        "forward": (es.conv, (x, f), y),
        "filter_grad": (es.conv_filter_grad, (x, y, (3, 2)),
                        es.conv_filter_grad(wide, y, (3, 2), **keywords)),
        "input_grad": (es.conv_input_grad, (y, f, (4, 3)),
                       es.conv_input_grad(y, f, wide.shape[1:-1], **keywords)[:, ::2, ::3]),
    }  # fmt: skip
    function, args, expected = calls[which]
    same(backend(function, *args, input_dilation=input_dilation, **keywords), expected)


def test_stride_one_and_full_padding_is_the_transposed_convolution(backend):
    """conv_transpose is conv of the input with zeros inserted, with a transposed and flipped
    filter."""
    x, f = integer_data((2, 5, 4, 3), "float64", 1), integer_data((3, 2, 2, 3), "float64", 2)
    transposed = np.ascontiguousarray(f.swapaxes(-1, -2))
    y = backend(es.conv, x, transposed, input_dilation=(2, 3), padding="full", flip=True)
    same(y, es.conv_transpose(x, f, stride=(2, 3)))


@pytest.mark.parametrize("size", [0, 1, 2])
def test_small_inputs(backend, size):
    """n elements become (n - 1) * t + 1, and an empty axis stays empty."""
    x, f = np.ones((1, size, 1)), np.ones((1, 1, 1))
    y = backend(es.conv, x, f, input_dilation=4, padding=1)
    same(y, es.conv(with_zeros(x, (4,)), f, padding=1))
    assert y.shape[1] == dilated_size((size,), (4,))[0] + 2


@pytest.mark.parametrize("layout", ["channels_first", "NCHW,OIHW->NHWC"])
def test_layouts(backend, layout):
    x, f = integer_data((2, 5, 4, 3), "float64", 1), integer_data((3, 2, 3, 4), "float64", 2)
    plain = es.conv(x, f, input_dilation=(2, 1), padding="same")
    first = (
        np.ascontiguousarray(np.moveaxis(x, -1, 1)),
        np.ascontiguousarray(f.transpose(3, 2, 0, 1)),
    )
    y = backend(es.conv, *first, input_dilation=(2, 1), padding="same", layout=layout)
    same(y, np.moveaxis(plain, -1, 1) if layout == "channels_first" else plain)


@pytest.mark.parametrize(
    ("value", "kind"),
    [(0, ValueError), (-1, ValueError), ((1, 2, 3), ValueError), ((2,), ValueError),
     (1.0, TypeError), (True, TypeError), ("2", TypeError), (None, TypeError)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("which", PASSES)
def test_refusals(which, value, kind):
    x, f, gy = np.ones((1, 4, 4, 2)), np.ones((2, 2, 2, 3)), np.ones((1, 3, 3, 3))
    call = {
        "forward": lambda: es.conv(x, f, input_dilation=value),
        "input_grad": lambda: es.conv_input_grad(gy, f, (4, 4), input_dilation=value),
        "filter_grad": lambda: es.conv_filter_grad(x, gy, (2, 2), input_dilation=value),
    }[which]
    name = {"forward": "conv"}.get(which, f"conv_{which}")
    with refused(name, kind, "input_dilation"):
        call()


def test_a_transposed_convolution_has_none():
    with refused("conv_transpose", ValueError, "input_dilation"):
        es.conv_transpose(np.ones((1, 4, 1)), np.ones((2, 1, 1)), input_dilation=2)
