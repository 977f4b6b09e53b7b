"""conv_jvp is the derivative of conv, and second derivatives are compositions of passes."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import einstride as es
import oracle
from checks import ALGORITHMS, refused, same
from oracle import Case
from strategies import arrays, cases, integer_data, seeds

FEW = settings(max_examples=25)
CASE = Case(2, (7, 6), (3, 2), 4, 6, (2, 1), ((1, 0), (0, 1)), (1, 2), groups=2)


def changes(case, dtype, seed):
    return integer_data(case.x_shape, dtype, seed + 7), integer_data(case.f_shape, dtype, seed + 8)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@FEW
@given(
    case=cases(max_rank=4),
    given=st.sampled_from(["both", "dx", "df"]),
    dtype=st.sampled_from(["float64", "complex64", "int64"]),
    seed=seeds,
)
def test_against_the_loops(backend, algorithm, case, given, dtype, seed):
    x, f, _ = arrays(case, dtype, seed)
    dx, df = changes(case, dtype, seed)
    dx, df = (None if given == "df" else dx), (None if given == "dx" else df)
    expected = 0
    if dx is not None:
        expected = expected + oracle.forward(dx, f, case)
    if df is not None:
        expected = expected + oracle.forward(x, df, case)
    dy = backend(es.conv_jvp, x, f, dx, df, algorithm=algorithm, **case.keywords)
    same(dy, expected, dtype)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular", "symmetric"])
def test_is_the_difference_quotient_of_a_bilinear_map(backend, mode):
    """conv(x + dx, f + df) - conv(x, f) is exactly conv_jvp + conv(dx, df)."""
    case = Case(2, (7, 6), (3, 2), 4, 6, (2, 1), ((1, 0), (2, 1)), (1, 2), 2, mode=mode)
    x, f, _ = arrays(case, "float64", 1)
    dx, df = changes(case, "float64", 1)
    change = es.conv(x + dx, f + df, **case.explicit) - es.conv(x, f, **case.explicit)
    dy = backend(es.conv_jvp, x, f, dx, df, **case.explicit)
    same(dy, change - es.conv(dx, df, **case.explicit))


def test_keywords_reach_both_terms(backend):
    x, f = integer_data((2, 3, 4, 2), "float32", 1), integer_data((3, 2, 2, 3), "float32", 2)
    dx, df = x[::-1].copy(), f[::-1].copy()
    keywords = {"input_dilation": (2, 1), "padding": "same_lower", "flip": True,
                "accumulate": "float64", "batch_invariant": True}  # fmt: skip
    dy = backend(es.conv_jvp, x, f, dx, df, **keywords)
    same(dy, es.conv(dx, f, **keywords) + es.conv(x, df, **keywords))
    first = backend(
        es.conv_jvp, *(np.ascontiguousarray(np.moveaxis(a, -1, 1)) for a in (x,)),
        np.ascontiguousarray(f.transpose(3, 2, 0, 1)), np.ascontiguousarray(np.moveaxis(dx, -1, 1)),
        np.ascontiguousarray(df.transpose(3, 2, 0, 1)), layout="channels_first", **keywords,
    )  # fmt: skip
    same(first, np.moveaxis(dy, -1, 1))


def test_against_jax():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    jax.config.update("jax_enable_x64", True)
    for dtype in ("float64", "complex128"):
        x, f, _ = arrays(CASE, dtype, 1)
        dx, df = changes(CASE, dtype, 1)

        def conv(x, f):
            return jax.lax.conv_general_dilated(
                x, f, CASE.stride, CASE.pads, rhs_dilation=CASE.dilation,
                dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=CASE.groups,
            )  # fmt: skip

        _, theirs = jax.jvp(conv, (x, f), (dx, df))
        same(es.conv_jvp(x, f, dx, df, **CASE.explicit), np.asarray(theirs))


# Second derivatives, as documented: the derivative along df of a function that is linear in f is
# the function of df. E = <conv(x, f), gy> is linear in each of x, f and gy.


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@given(case=cases(max_rank=3), seed=seeds)
def test_second_derivatives_are_compositions(backend, dtype, case, seed):
    x, f, gy = arrays(case, dtype, seed)
    dx, df = changes(case, dtype, seed)
    keywords = case.keywords

    def gx(f):
        return backend(es.conv_input_grad, gy, f, case.input_size, **keywords)

    def gf(x):
        return backend(es.conv_filter_grad, x, gy, case.kernel_size, **keywords)

    same(gx(f + df) - gx(f), gx(df))  # d gx / d f in the direction df
    same(gf(x + dx) - gf(x), gf(dx))  # d gf / d x in the direction dx
    # The mixed derivative is symmetric: <df, d gf(dx)> = <dx, d gx(df)>, both <conv(dx, df), gy>.
    mixed = np.sum(backend(es.conv, dx, df, **keywords).conj() * gy)
    assert np.sum(df.conj() * gf(dx)) == np.sum(dx.conj() * gx(df)) == mixed


def test_a_hessian_vector_product_against_torch():
    """The Hessian-vector product of |conv(x, f)|^2 / 2, composed of passes, equals PyTorch's."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    x, f, _ = arrays(CASE, "float64", 1)
    dx, df = changes(CASE, "float64", 1)
    k = CASE.explicit
    y, dy = es.conv(x, f, **k), es.conv_jvp(x, f, dx, df, **k)
    input_grad = lambda gy, f: es.conv_input_grad(gy, f, CASE.input_size, **k)  # noqa: E731
    filter_grad = lambda x, gy: es.conv_filter_grad(x, gy, CASE.kernel_size, **k)  # noqa: E731
    hx = input_grad(dy, f) + input_grad(y, df)
    hf = filter_grad(x, dy) + filter_grad(dx, y)

    def energy(x, f):
        first, filters = x.permute(0, 3, 1, 2), f.permute(3, 2, 0, 1)
        (top, bottom), (left, right) = CASE.pads
        first = torch.nn.functional.pad(first, (left, right, top, bottom))
        y = torch.nn.functional.conv2d(first, filters, None, CASE.stride, 0, CASE.dilation, 2)
        return (y * y).sum() / 2

    tensors, vectors = (tuple(map(torch.tensor, pair)) for pair in ((x, f), (dx, df)))
    _, theirs = torch.autograd.functional.hvp(energy, tensors, vectors)
    same(hx, theirs[0].numpy())
    same(hf, theirs[1].numpy())


def test_the_composition_is_documented():
    text = " ".join(inspect.getdoc(es.conv_jvp).split())
    assert "bilinear" in text
    assert "conv_input_grad(gy, df)" in text


X, F = np.ones((1, 5, 2)), np.ones((3, 2, 4))


@pytest.mark.parametrize(
    ("dx", "df", "kind", "says"),
    [
        (None, None, ValueError, "dx or df"),
        (X[:, :4], None, ValueError, "dx must have the shape of x"),
        (None, F[:2], ValueError, "df must have the shape of f"),
        (X, F[..., :1], ValueError, "df must have the shape of f"),
        ([1.0], None, TypeError, "dx"),
        (None, "f", TypeError, "df"),
    ],
    ids=str,
)
def test_refusals(dx, df, kind, says):
    with refused("conv_jvp", kind, says):
        es.conv_jvp(X, F, dx, df)


@pytest.mark.parametrize("name", ["x", "f"])
def test_x_and_f_are_checked_even_where_they_are_not_used(name):
    """With dx alone the values of x are not read, but a wrong shape of x is an error."""
    x, f = (X[:, :4], F) if name == "x" else (X, F[:2])
    dx, df = (X, None) if name == "x" else (None, F)
    with refused("conv_jvp", ValueError, f"shape of {name}"):
        es.conv_jvp(x, f, dx, df)
