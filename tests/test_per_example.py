"""conv_filter_grad(per_example=True) gives one gradient for each example."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import einstride as es
import oracle
from checks import EVERY, PYTHON_OVERHEAD, agrees, promoted, refused, result_unless_refused, same
from oracle import Case
from strategies import arrays, cases, integer_data, seeds

FEW = settings(max_examples=25)
CASE = Case(5, (9, 8), (3, 2), 4, 6, (2, 1), ((2, 1), (0, 1)), (1, 2), groups=2)


def each(x, gy, case):
    """Compute the filter gradient of every example by the loops."""
    one = replace(case, batch=1)
    found = [oracle.filter_grad(x[i : i + 1], gy[i : i + 1], one) for i in range(case.batch)]
    return np.stack(found)


@pytest.mark.parametrize("algorithm", EVERY)
@FEW
@given(
    case=cases(max_rank=4),
    batch=st.integers(1, 4),
    dtype=st.sampled_from(["float32", "complex64", "int8", "int64", "float64"]),
    seed=seeds,
)
def test_against_the_loops(backend, algorithm, case, batch, dtype, seed):
    case = replace(case, batch=batch)
    x, _, gy = arrays(case, dtype, seed)
    keywords = case.keywords | {"algorithm": algorithm}
    keywords["per_example"] = True
    args = (x, gy, case.kernel_size)
    found = result_unless_refused(
        lambda: backend(es.conv_filter_grad, *args, **keywords), algorithm, dtype
    )
    if found is not None:
        agrees(found, each(x, gy, case), promoted(dtype, dtype), algorithm)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "symmetric"])
@pytest.mark.parametrize("algorithm", ["strided", "gemm"])
def test_borders_and_dilated_inputs(backend, mode, algorithm):
    case = replace(CASE, mode=mode)
    x, _, gy = arrays(case, "float64", 1)
    keywords = case.explicit | {"algorithm": algorithm, "per_example": True}
    same(backend(es.conv_filter_grad, x, gy, (3, 2), **keywords), each(x, gy, case), "float64")
    y = es.conv(x, np.ones(CASE.f_shape), groups=2, input_dilation=2)
    keywords = {"groups": 2, "input_dilation": 2, "algorithm": algorithm}
    ones = [es.conv_filter_grad(x[i : i + 1], y[i : i + 1], (3, 2), **keywords) for i in range(5)]
    found = backend(es.conv_filter_grad, x, y, (3, 2), per_example=True, **keywords)
    same(found, np.stack(ones))


@pytest.mark.parametrize("algorithm", ["strided", "gemm"])
def test_their_sum_is_the_gradient(algorithm):
    """Their sum is the gradient, at a size with many blocks and threads."""
    case = Case(6, (40, 33), (5, 5), 16, 24, (1, 1), ((2, 2), (2, 2)), (1, 1), groups=2)
    x, _, gy = arrays(case, "float64", 2)
    keywords = case.explicit | {"algorithm": algorithm}
    found = es.conv_filter_grad(x, gy, 5, per_example=True, **keywords)
    assert found.shape == (6, *case.f_shape)
    same(found.sum(axis=0), es.conv_filter_grad(x, gy, 5, **keywords))


@pytest.mark.parametrize(
    ("layout", "order"),
    [("channels_first", (0, 4, 3, 1, 2)), ("NCHW,OHWI->NCHW", (0, 4, 1, 2, 3)),
     ("WNHC,IHWO->NHWC", (0, 3, 1, 2, 4))],
)  # fmt: skip
def test_examples_come_first_in_every_layout(backend, layout, order):
    x, _, gy = arrays(CASE, "float64", 1)
    parts = layout.replace("channels_first", "NCHW,OIHW->NCHW").replace("->", ",").split(",")
    in_layout = [
        np.ascontiguousarray(a.transpose(["NHWC".index(letter) for letter in part]))
        for a, part in ((x, parts[0]), (gy, parts[2]))
    ]
    keywords = CASE.explicit | {"layout": layout}
    if parts[0].index("W") < parts[0].index(
        "H"
    ):  # tuples have the order of the spatial letters of x
        keywords |= {name: keywords[name][::-1] for name in ("stride", "padding", "dilation")}
    size = CASE.kernel_size if parts[0].index("H") < parts[0].index("W") else CASE.kernel_size[::-1]
    found = backend(es.conv_filter_grad, *in_layout, size, per_example=True, **keywords)
    same(found, each(x, gy, CASE).transpose(order), "float64")


def test_out_and_flip():
    x, _, gy = arrays(CASE, "float64", 1)
    for flip in (False, True):
        for algorithm in ("strided", "gemm"):
            keywords = CASE.explicit | {"flip": flip, "algorithm": algorithm, "per_example": True}
            out = np.full((5, *CASE.f_shape), np.nan)
            found = es.conv_filter_grad(x, gy, (3, 2), out=out, **keywords)
            assert found is out
            same(out, each(x, gy, replace(CASE, flip=flip)), "float64")


@pytest.mark.parametrize("batch", [0, 1])
def test_few_examples(backend, batch):
    x, gy = np.ones((batch, 4, 2)), np.ones((batch, 3, 3))
    found = backend(es.conv_filter_grad, x, gy, 2, per_example=True)
    same(found, np.full((batch, 2, 2, 3), 3.0))


def test_positions_without_a_window():
    """With an output of no positions, every example has a gradient of zero."""
    x, gy = np.ones((3, 0, 2)), np.ones((3, 0, 4))
    same(es.conv_filter_grad(x, gy, 2, padding="same", per_example=True), np.zeros((3, 2, 2, 4)))


@pytest.mark.parametrize("limit", [150_000, 400_000])
def test_max_workspace_holds(peak_bytes, limit):
    case = Case(4, (40, 40), (3, 3), 16, 16, (1, 1), ((1, 1), (1, 1)), (1, 1))
    x, _, gy = arrays(case, "float32", 1)
    keywords = case.explicit | {"per_example": True, "max_workspace": limit}
    found, used = peak_bytes(es.conv_filter_grad, x, gy, 3, **keywords)
    assert used <= limit
    same(found, es.conv_filter_grad(x, gy, 3, per_example=True, **case.explicit))


@pytest.fixture
def peak_bytes():
    from test_workspace import peak

    def measure(function, *args, **keywords):
        result, used = peak(function, *args, **keywords)
        return result, used - PYTHON_OVERHEAD

    return measure


def test_against_jax_vmap():
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    jax.config.update("jax_enable_x64", True)
    x, f, gy = arrays(CASE, "float64", 1)

    def energy(f, x, gy):
        y = jax.lax.conv_general_dilated(
            x[None], f, CASE.stride, CASE.pads, rhs_dilation=CASE.dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2,
        )  # fmt: skip
        return jax.numpy.sum(y[0] * gy)

    theirs = jax.vmap(jax.grad(energy), in_axes=(None, 0, 0))(f, x, gy)
    ours = es.conv_filter_grad(x, gy, (3, 2), per_example=True, **CASE.explicit)
    same(ours, np.asarray(theirs))


@pytest.mark.parametrize("value", [1, 0, None, "yes"])
def test_it_is_true_or_false(value):
    x, gy = integer_data((2, 4, 1), "float64", 1), integer_data((2, 3, 1), "float64", 2)
    with refused("conv_filter_grad", TypeError, "per_example"):
        es.conv_filter_grad(x, gy, 2, per_example=value)
