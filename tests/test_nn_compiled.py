"""Layers on compiled kernels give the results of array code, for all channels and threads."""

import ctypes
import itertools
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from einstride import _testing, nn
from einstride.arrays.backends.numpy import BACKEND

pytest.importorskip("llvmlite", reason="the extra fast is missing")
PLAIN = replace(BACKEND, traits=replace(BACKEND.traits, compiled=False))
CHANNELS = (1, 3, 15, 16, 17, 33)
TIGHT = {"float32": 2e-5, "float64": 1e-12}


def pair(make, x, gy=None, training=True):
    """Return a layer's output and gradients, by compiled kernels and by array code."""
    found = []
    for b in (BACKEND, PLAIN):
        layer = make()
        nn.Model(nn.Sequential(layer), x.shape[1:], dtype=str(x.dtype))
        run = nn.Run(b, training, True)
        y, kept = layer.forward(x.copy(), run)
        g = np.random.default_rng(1).integers(-4, 5, y.shape).astype(x.dtype) if gy is None else gy
        found.append((y, *layer.backward(g.copy(), kept, run), layer.state))
    return found


def close(a, other, dtype):
    np.testing.assert_allclose(a, other, rtol=TIGHT[dtype], atol=10 * TIGHT[dtype])


@pytest.mark.parametrize("dtype", TIGHT)
@pytest.mark.parametrize("channels", CHANNELS)
def test_batch_norm(channels, dtype):
    x = np.random.default_rng(0).standard_normal((5, 7, 9, channels)).astype(dtype)
    mine, plain = pair(lambda: nn.BatchNorm(), x * 3 + 1)
    close(mine[0], plain[0], dtype)
    close(mine[1], plain[1], dtype)
    for name in ("gamma", "beta"):
        np.testing.assert_allclose(mine[2][name], plain[2][name], rtol=1e-4, atol=1e-3)
    for name in ("mean", "variance"):
        close(mine[3][name], plain[3][name], dtype)


@pytest.mark.parametrize("examples", [2, 3, 700])
@pytest.mark.parametrize("channels", [1, 17, 64])
def test_statistics_with_a_large_mean(channels, examples):
    from einstride.nn.cpu import norm

    x = np.random.default_rng(0).standard_normal((examples, 11, channels)) + 1e4
    x = x.astype("float32")
    one = np.ones(channels, "float32")
    found = norm.forward(x, one, one, 1e-5, False, np.empty_like(x), BACKEND).statistics
    exact = x.astype("float64").reshape(-1, channels)
    np.testing.assert_allclose(found[0], exact.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found[1], exact.var(0), rtol=2e-5)


@pytest.mark.parametrize("dtype", TIGHT)
@pytest.mark.parametrize("channels", CHANNELS)
def test_norm_and_relu_together_are_both_after_each_other(channels, dtype):
    x = np.random.default_rng(0).standard_normal((4, 6, 5, channels)).astype(dtype)
    gy = np.random.default_rng(1).standard_normal(x.shape).astype(dtype)
    run, together, apart = nn.Run(BACKEND, True, True), [], []
    for found, fused in ((together, True), (apart, False)):
        net = nn.Sequential(nn.BatchNorm(), nn.ReLU())
        nn.Model(net, x.shape[1:], dtype=dtype)
        if fused:
            y, kept = net.forward(x, run)
            found += [y, *net.backward(gy, kept, run)]
        else:
            first, kept = net.layers[0].forward(x, run)
            y, kept_relu = net.layers[1].forward(first, run)
            g, _ = net.layers[1].backward(gy, kept_relu, run)
            gx, own = net.layers[0].backward(g, kept, run)
            found += [y, gx, {f"0.{k}": v for k, v in own.items()}]
    np.testing.assert_array_equal(together[0], apart[0])
    np.testing.assert_array_equal(together[1], apart[1])
    for name in together[2]:
        np.testing.assert_array_equal(together[2][name], apart[2][name])


@pytest.mark.parametrize("shortcut", [False, True])
def test_residual_and_relu(shortcut):
    x = np.random.default_rng(0).standard_normal((3, 5, 5, 17)).astype("float64")

    def make():
        body = nn.Sequential(nn.BatchNorm(), nn.ReLU(), nn.BatchNorm())
        return nn.Sequential(nn.Residual(body, nn.BatchNorm() if shortcut else None), nn.ReLU())

    mine, plain = pair(make, x)
    close(mine[0], plain[0], "float64")
    close(mine[1], plain[1], "float64")


POOLS = {
    "2x2": lambda kind, **k: kind(2, **k),
    "3x3 stride 2": lambda kind, **k: kind(3, stride=2, padding=1, **k),
    "overlapping": lambda kind, **k: kind((2, 3), stride=1, **k),
    "apart": lambda kind, **k: kind(2, stride=3, **k),
    "apart padded": lambda kind, **k: kind(2, stride=3, padding=1, **k),
    "large": lambda kind, **k: kind(4, stride=3, padding=2, **k),
}


@pytest.mark.parametrize("dtype", TIGHT)
@pytest.mark.parametrize("size", [(8, 6), (7, 8)], ids=str)
@pytest.mark.parametrize("name", POOLS)
def test_pools(name, size, dtype):
    """Pools give equal results; with small integers, most windows have several maxima."""
    for channels, batch in itertools.product(CHANNELS, (1, 5)):
        x = np.random.default_rng(channels).integers(-1, 2, (batch, *size, channels)).astype(dtype)
        for kind in (nn.MaxPool, nn.AvgPool, _inside):
            mine, plain = pair(lambda kind=kind: POOLS[name](kind), x)
            close(mine[0], plain[0], dtype)
            close(mine[1], plain[1], dtype)


def _inside(*args, **keywords):
    return nn.AvgPool(*args, count_include_pad=False, **keywords)


@pytest.mark.parametrize("size", [(9,), (4, 5, 6)], ids=str)
def test_pools_of_other_ranks_with_dilation(size):
    x = np.random.default_rng(0).integers(-2, 3, (2, *size, 5)).astype("float32")
    for make in (lambda: nn.MaxPool(2, stride=1, dilation=2), lambda: nn.AvgPool(3, padding=1)):
        mine, plain = pair(make, x)
        close(mine[0], plain[0], "float32")
        close(mine[1], plain[1], "float32")


@pytest.mark.parametrize("at", [0, 1, 5, 8])
def test_a_nan_wins_its_window_alone(at):
    x = np.arange(2 * 9 * 17, dtype="float32").reshape(2, 3, 3, 17)
    x.reshape(2, 9, 17)[1, at, 16] = np.nan
    mine, plain = pair(lambda: nn.MaxPool(3), x)
    np.testing.assert_array_equal(mine[0], plain[0])
    assert np.isnan(mine[0]).sum() == 1


def test_views_with_gaps_and_steps_backwards():
    wide = np.random.default_rng(0).standard_normal((4, 12, 8, 40)).astype("float32")
    x = wide[::-1, ::2, :, 3:36:2]
    layers = (nn.BatchNorm, nn.ReLU, lambda: nn.MaxPool(2), lambda: nn.AvgPool(2))
    for make in layers:
        layer = make()
        nn.Model(nn.Sequential(layer), x.shape[1:])
        run = nn.Run(BACKEND, True, True)
        y, kept = layer.forward(x, run)
        gy = np.random.default_rng(1).standard_normal(y.shape).astype("float32")
        gx, _ = layer.backward(gy, kept, run)
        straight, kept = layer.forward(np.ascontiguousarray(x), run)
        np.testing.assert_array_equal(y, straight)
        np.testing.assert_array_equal(gx, layer.backward(gy, kept, run)[0])


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_give_the_same_bits(threads):
    x = np.random.default_rng(0).standard_normal((16, 32, 32, 17)).astype("float32")
    found = []
    for n in (1, threads):
        b = replace(BACKEND, threads=lambda n=n: n)
        for make in (nn.BatchNorm, lambda: nn.MaxPool(3, stride=2, padding=1), nn.ReLU):
            layer = make()
            nn.Model(nn.Sequential(layer), x.shape[1:])
            y, kept = layer.forward(x, nn.Run(b, True, True))
            gx, own = layer.backward(np.sin(y), kept, nn.Run(b, True, True))
            found.append([y, gx, *own.values()])
    for one, many in zip(found[:3], found[3:], strict=True):
        for a, other in zip(one, many, strict=True):
            np.testing.assert_array_equal(a, other)


def test_no_kernel_touches_memory_not_its_own():
    program = Path(__file__).with_name("guarded_layers.py")
    done = subprocess.run([sys.executable, program], capture_output=True, env=os.environ)
    assert done.returncode == 0, done.stderr.decode()


def test_the_second_sweep_waits_for_every_chunk_of_the_first():
    from einstride.nn.cpu import norm

    x = np.random.default_rng(0).standard_normal((64, 32, 32, 4)).astype("float32")
    one, y, late = np.ones(4, "float32"), np.zeros_like(x), []

    def launch(function, block, threads):
        block[0] = 1  # another thread has taken the first chunk
        other = threading.Thread(target=function, args=(ctypes.addressof(block), 0))
        other.start()
        other.join(0.2)
        late.append(other.is_alive() and not y.any())
        block[0] = 0
        function(ctypes.addressof(block), 1)
        other.join()

    norm.forward(x, one, one, 1e-5, False, y, replace(BACKEND, launch=launch))
    plain = np.empty_like(x)
    norm.forward(x, one, one, 1e-5, False, plain, BACKEND)
    assert late == [True]
    np.testing.assert_array_equal(y, plain)


def network():
    body = nn.Sequential(nn.Conv(8, 3, padding=1, bias=False), nn.BatchNorm(), nn.ReLU(),
                         nn.Conv(8, 3, padding=1), nn.BatchNorm())  # fmt: skip
    return nn.Sequential(nn.Conv(8, 3, padding=1), nn.ReLU(), nn.MaxPool(2),
                         nn.Residual(body), nn.ReLU(), nn.GlobalAvgPool(), nn.Dense(3))  # fmt: skip


def losses():
    model = nn.Model(network(), (8, 8, 2), dtype="float64", seed=3)
    rng = np.random.default_rng(0)
    x, t = rng.standard_normal((40, 8, 8, 2)), rng.integers(0, 3, 40)
    fitted = model.fit(x, t, nn.CrossEntropy(), nn.Momentum(0.05), epochs=3, batch_size=16,
                       progress=False)  # fmt: skip
    return [e["loss"] for e in fitted.epochs]


def test_training_is_the_same_with_and_without_the_extra():
    with _testing.use(absent={"llvmlite"}):
        plain = losses()
    np.testing.assert_allclose(losses(), plain, rtol=1e-9)
