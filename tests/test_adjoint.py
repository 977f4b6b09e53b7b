"""Gradients are adjoints: <conv(x, f), gy> = <x, input_grad(gy, f)> = <f, filter_grad(x, gy)>."""

import numpy as np
import pytest
from hypothesis import given, settings

import einstride as es
from checks import ALGORITHMS
from strategies import arrays, cases, seeds


def inner(a, b):
    return np.sum(a * b.conj())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@given(case=cases(), seed=seeds)
@settings(max_examples=25)
def test_exact(backend, algorithm, dtype, case, seed):
    x, f, gy = arrays(case, dtype, seed)
    keywords = case.keywords | {"algorithm": algorithm}
    energy = inner(backend(es.conv, x, f, **keywords), gy)
    assert inner(x, backend(es.conv_input_grad, gy, f, case.input_size, **keywords)) == energy
    assert inner(f, backend(es.conv_filter_grad, x, gy, case.kernel_size, **keywords)) == energy


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_in_floating_point(backend, algorithm, dtype):
    rng = np.random.default_rng(0)

    def normal(*shape):
        imaginary = 1j * rng.normal(size=shape) if dtype.startswith("c") else 0
        return (rng.normal(size=shape) + imaginary).astype(dtype)

    x, f, gy = normal(4, 33, 30, 8), normal(3, 5, 4, 12), normal(4, 17, 28, 12)
    keywords = {"stride": (2, 1), "padding": 1, "groups": 2, "algorithm": algorithm}
    energy = inner(backend(es.conv, x, f, **keywords), gy)
    through_x = inner(x, backend(es.conv_input_grad, gy, f, (33, 30), **keywords))
    through_f = inner(f, backend(es.conv_filter_grad, x, gy, (3, 5), **keywords))
    scale = np.linalg.norm(x) * np.linalg.norm(f) * np.linalg.norm(gy) * np.finfo(dtype).eps
    assert abs(energy - through_x) < scale
    assert abs(energy - through_f) < scale


def test_finite_differences():
    """The gradients of 0.5 |conv(x, f)|^2 equal its central differences."""
    rng = np.random.default_rng(1)
    x, f = rng.normal(size=(2, 7, 6, 4)), rng.normal(size=(3, 2, 2, 6))
    keywords = {"stride": (1, 2), "dilation": (2, 1), "groups": 2, "padding": "same"}

    def energy(x, f):
        return 0.5 * np.sum(es.conv(x, f, **keywords) ** 2)

    gy = es.conv(x, f, **keywords)
    gx = es.conv_input_grad(gy, f, (7, 6), **keywords)
    gf = es.conv_filter_grad(x, gy, (3, 2), **keywords)
    for _ in range(10):
        dx, df = rng.normal(size=x.shape) * 1e-5, rng.normal(size=f.shape) * 1e-5
        np.testing.assert_allclose(
            energy(x + dx, f) - energy(x - dx, f), 2 * np.sum(gx * dx), rtol=1e-6
        )
        np.testing.assert_allclose(
            energy(x, f + df) - energy(x, f - df), 2 * np.sum(gf * df), rtol=1e-6
        )


def test_the_conjugate_is_in_the_gradients_only(backend):
    x, f, gy = (np.full(shape, 1j) for shape in ((1, 1, 1), (1, 1, 1), (1, 1, 1)))
    assert backend(es.conv, x, f).item() == -1  # nothing is conjugated
    assert backend(es.conv_input_grad, gy, f, 1).item() == 1  # gy * conj(f)
    assert backend(es.conv_filter_grad, x, gy, 1).item() == 1  # conj(x) * gy
