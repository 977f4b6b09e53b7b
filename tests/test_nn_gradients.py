"""Gradients of layers equal finite differences, pools equal loops, and examples are independent."""

from __future__ import annotations

import contextlib
from itertools import product
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from einstride import nn
from einstride.arrays.backends import by_name
from einstride.nn.layer import Run
from nn_cases import CASES

RNG = np.random.default_rng(11)
B = by_name("test", "numpy")
STEP = 1e-6


def passes(layer, x, training=True):
    """Return (output, function from the output's gradient to all gradients)."""
    run = Run(B, training, True)
    y, kept = layer.forward(x, run)
    return y, lambda gy: layer.backward(gy, kept, run)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_finite_differences(name, training):
    """Gradients equal finite differences along random directions of the input and each
    parameter."""
    case = CASES[name]
    layer = case.ours()
    model = nn.Model(nn.Sequential(layer), case.shape, dtype="float64", seed=3)
    model.assign({k: RNG.random(a.shape) + 0.5 for k, a in model.parameters.items()})
    x = RNG.standard_normal((3, *case.shape))
    y, back = passes(model.net, x, training)
    weights = RNG.standard_normal(y.shape)
    gx, gradients = back(weights.copy())
    arrays = {"x": x} | model.parameters
    for key, gradient in ({"x": gx} | gradients).items():
        direction, array = RNG.standard_normal(gradient.shape), arrays[key]
        ends = []
        for sign in (1, -1):
            array += sign * STEP * direction
            ends.append(np.sum(weights * passes(model.net, x, training)[0]))
            array -= sign * STEP * direction
        slope = (ends[0] - ends[1]) / (2 * STEP)
        np.testing.assert_allclose(np.sum(gradient * direction), slope, rtol=2e-5, atol=1e-6)


@st.composite
def pools(draw):
    rank = draw(st.integers(1, 3))
    axes = []
    for _ in range(rank):
        k, d = draw(st.integers(1, 3)), draw(st.integers(1, 2))
        p, s = draw(st.integers(0, k // 2)), draw(st.integers(1, 3))
        least = max(d * (k - 1) + 1 - 2 * p, 1)
        axes.append((draw(st.integers(least, least + 4)), k, s, p, d))
    return [tuple(a) for a in zip(*axes, strict=True)], draw(st.integers(1, 3))


def windows(x, geometry):
    """Yield the elements of x in the window of every output position, in row-major order."""
    size, kernel, stride, padding, dilation = geometry
    outs = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]
    for o in product(*map(range, outs)):
        at = []
        for taps in product(*map(range, kernel)):
            i = tuple(a * s - p + t * d for a, s, p, t, d in
                      zip(o, stride, padding, taps, dilation, strict=True))  # fmt: skip
            if all(0 <= j < n for j, n in zip(i, size, strict=True)):
                at.append(i)
        yield o, at


@pytest.mark.parametrize("kernels", [True, False], ids=["kernels", "array code"])
@given(pools(), st.randoms(use_true_random=False))
def test_max_pool_against_loops(kernels, case, random):
    """Few different values, so that ties are everywhere: the first in row-major order wins."""
    with contextlib.nullcontext() if kernels else array_code():
        max_pool_against_loops(case, random)


def max_pool_against_loops(case, random):
    geometry, channels = case
    size, kernel, stride, padding, dilation = geometry
    x = np.array([random.randint(-2, 2) for _ in range(2 * np.prod(size) * channels)], float)
    x = x.reshape(2, *size, channels)
    layer = nn.MaxPool(kernel, stride=stride, padding=padding, dilation=dilation)
    if any(not at for _, at in windows(x, geometry)):
        with pytest.raises(ValueError, match="no padding"):
            nn.Model(nn.Sequential(layer), (*size, channels))
        return
    nn.Model(nn.Sequential(layer), (*size, channels), dtype="float64")
    y, back = passes(layer, x)
    gy = np.arange(1.0, y.size + 1).reshape(y.shape)
    want, gx = np.zeros_like(y), np.zeros_like(x)
    for o, at in windows(x, geometry):
        for n, c in product(range(2), range(channels)):
            best = max(at, key=lambda i, n=n, c=c: x[(n, *i, c)])  # the first of the largest
            want[(n, *o, c)] = x[(n, *best, c)]
            gx[(n, *best, c)] += gy[(n, *o, c)]
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(back(gy)[0], gx)


def array_code():
    """Use array code instead of kernels, as for other libraries."""
    return mock.patch("einstride.nn.cpu.calls.ready", return_value=False)


@given(pools(), st.booleans())
def test_avg_pool_against_loops(case, include):
    geometry, channels = case
    size, kernel, stride, padding, _ = geometry
    geometry = (size, kernel, stride, padding, (1,) * len(size))
    if any(2 * p > k for p, k in zip(padding, kernel, strict=True)) or any(
        n + 2 * p < k for n, p, k in zip(size, padding, kernel, strict=True)
    ):
        return
    x = RNG.standard_normal((2, *size, channels))
    layer = nn.AvgPool(kernel, stride=stride, padding=padding, count_include_pad=include)
    nn.Model(nn.Sequential(layer), (*size, channels), dtype="float64")
    y, back = passes(layer, x)
    gy = RNG.standard_normal(y.shape)
    want, gx = np.zeros_like(y), np.zeros_like(x)
    for o, at in windows(x, geometry):
        count = np.prod(kernel) if include else len(at)
        for i in at:
            want[(slice(None), *o)] += x[(slice(None), *i)] / count
            gx[(slice(None), *i)] += gy[(slice(None), *o)] / count
    np.testing.assert_allclose(y, want, atol=1e-12)
    found = back(gy)[0]
    np.testing.assert_allclose(found, gx, atol=1e-12)
    np.testing.assert_allclose(np.sum(y * gy), np.sum(x * found), atol=1e-10)  # adjoint


def test_pools_on_other_libraries(backend):
    if backend.name in ("torch", "jax", "dask"):
        pytest.skip("not promised")
    x = RNG.standard_normal((2, 7, 6, 3))
    for layer in (
        nn.MaxPool((3, 2), stride=2, padding=1),
        nn.AvgPool(3, stride=2, padding=1, count_include_pad=False),
    ):
        y, back = passes(layer, x)
        gy = RNG.standard_normal(y.shape)
        theirs = by_name("test", str(backend.xp.__name__)) if "numpy" not in backend.name else B
        run = Run(theirs, True, True)
        found, kept = layer.forward(backend.asarray(x), run)
        gx = layer.backward(backend.asarray(gy), kept, run)[0]
        np.testing.assert_allclose(backend.asnumpy(found), y, atol=1e-12)
        np.testing.assert_allclose(backend.asnumpy(gx), back(gy)[0], atol=1e-12)


def net(*extra):
    return nn.Sequential(
        nn.Conv(4, 3, padding=1), nn.Tanh(), nn.MaxPool(2),
        nn.Residual(nn.Conv(4, 3, padding=1, groups=2), nn.Conv(4, 1)), *extra,
        nn.ConvTranspose(3, 2, stride=2), nn.ReLU(), nn.Flatten(), nn.Dense(5),
    )  # fmt: skip


def test_gradients_for_each_example_are_those_of_batches_of_one(backend):
    if backend.name in ("torch", "jax", "dask"):
        pytest.skip("not promised")
    library = backend.xp.__name__ if "numpy" not in backend.name else "numpy"
    model = nn.Model(net(), (4, 4, 2), dtype="float64", library=library)
    x, t = RNG.standard_normal((4, 4, 4, 2)), RNG.integers(0, 5, 4)
    loss = nn.CrossEntropy()
    _, every = model.gradients(backend.asarray(x), backend.asarray(t), loss, per_example=True)
    _, batch = model.gradients(backend.asarray(x), backend.asarray(t), loss)
    assert set(every) == set(batch) == set(model.parameters)
    for i in range(4):
        _, one = model.gradients(backend.asarray(x[i : i + 1]), backend.asarray(t[i : i + 1]), loss)
        for name, g in one.items():
            np.testing.assert_allclose(
                backend.asnumpy(every[name])[i], backend.asnumpy(g), atol=1e-12, err_msg=name
            )
    for name, g in batch.items():
        mean = backend.asnumpy(every[name]).mean(axis=0)
        np.testing.assert_allclose(mean, backend.asnumpy(g), atol=1e-12, err_msg=name)


def test_batch_norm_refuses_gradients_for_each_example():
    model = nn.Model(net(nn.BatchNorm()), (4, 4, 2), dtype="float64")
    with pytest.raises(ValueError, match=r"layer 4 \(BatchNorm\).*mix its examples"):
        model.gradients(
            np.ones((2, 4, 4, 2)), np.zeros(2, int), nn.CrossEntropy(), per_example=True
        )


@pytest.mark.parametrize("size", [6, 64])
@pytest.mark.parametrize("mean", [0.0, 1.0, 30.0, 1e4])
def test_batch_norm_loses_nothing_to_a_large_mean(mean, size):
    """float32 agrees with float64 for any mean, with statistics in one block and in several."""
    model = nn.Model(nn.Sequential(nn.BatchNorm()), (size, size, 3))
    x = (RNG.standard_normal((96, size, size, 3)) + mean).astype("float32")
    wide = nn.Model(nn.Sequential(nn.BatchNorm()), (size, size, 3), dtype="float64")
    gy = RNG.standard_normal(x.shape).astype("float32")
    (y, tape), (y64, tape64) = model.forward(x), wide.forward(x.astype("float64"))
    np.testing.assert_allclose(y, y64, atol=2e-5)
    gx, g = model.backward(gy, tape, inner=True)
    gx64, g64 = wide.backward(gy.astype("float64"), tape64, inner=True)
    np.testing.assert_allclose(gx, gx64, atol=2e-5)
    scale = np.sqrt(x.size / 3)
    np.testing.assert_allclose(g["0.gamma"], g64["0.gamma"], atol=1e-5 * scale)
    np.testing.assert_allclose(g["0.beta"], g64["0.beta"], atol=2e-6 * scale)


@pytest.mark.parametrize("layer", [nn.BatchNorm, nn.GlobalAvgPool, lambda **k: nn.MaxPool(2, **k),
                                   lambda **k: nn.AvgPool(2, **k),
                                   lambda **k: nn.Conv(3, 3, **k)])  # fmt: skip
def test_channels_first_is_the_same_moved(layer):
    x = RNG.standard_normal((3, 6, 4, 2))
    first = np.moveaxis(x, -1, 1)
    last, moved = layer(), layer(layout="channels_first")
    a = nn.Model(nn.Sequential(last), (6, 4, 2), dtype="float64")
    b = nn.Model(nn.Sequential(moved), (2, 6, 4), dtype="float64")
    if "0.f" in a.parameters:
        b.assign({"0.f": np.moveaxis(a.parameters["0.f"], (-1, -2), (0, 1))})
    (y, tape), (z, other) = a.forward(x), b.forward(first)
    np.testing.assert_allclose(z, np.moveaxis(y, -1, 1) if y.ndim > 2 else y, atol=1e-12)
    gy = RNG.standard_normal(y.shape)
    gx, _ = a.backward(gy, tape, inner=True)
    gz, _ = b.backward(np.moveaxis(gy, -1, 1) if gy.ndim > 2 else gy, other, inner=True)
    np.testing.assert_allclose(gz, np.moveaxis(gx, -1, 1), atol=1e-12)


def test_a_residual_layer_gives_both_ways_the_whole_gradient():
    """The body and the shortcut both get the full gradient, also if layers work in place."""
    layers = [nn.Residual(nn.ReLU()), nn.Residual(nn.ReLU(), nn.LeakyReLU(0.5)), nn.Tanh()]
    model = nn.Model(nn.Sequential(nn.Dense(4), *layers), (4,), dtype="float64")
    x, w = RNG.standard_normal((5, 4)), model.parameters["0.w"]
    y, tape = model.forward(x)
    gx, _ = model.backward(np.ones_like(y), tape, inner=True)
    a = x @ w
    h = np.maximum(a, 0) + a
    slope = (1 - y * y) * (1.0 * (h > 0) + np.where(h > 0, 1, 0.5)) * (1.0 * (a > 0) + 1)
    np.testing.assert_allclose(gx, slope @ w.T, atol=1e-12)
