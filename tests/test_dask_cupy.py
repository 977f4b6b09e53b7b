"""Dask arrays with chunks of CuPy, in one process: values, types of chunks, and no transfer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import einstride as es
from cupy_host import events
from einstride import _testing, nn

da = pytest.importorskip("dask.array", reason="dask is not installed")

pytest_plugins = ["cupy_host.fixtures"]

RNG = np.random.default_rng(0)
X = RNG.integers(-3, 4, (3, 11, 9, 4)).astype("float32")
F = RNG.integers(-3, 4, (3, 3, 2, 6)).astype("float32")
BIAS = RNG.integers(-3, 4, 6).astype("float32")
KEYWORDS: dict[str, dict[str, Any]] = {
    "zeros": {"padding": "same", "stride": 2},
    "circular": {"padding": 2, "padding_mode": "circular", "dilation": (1, 2)},
    "constant": {"padding": 1, "padding_mode": "constant", "fill": 3.0},
    "dilated": {"padding": ((2, -1), (0, 1)), "input_dilation": (2, 1)},
}


def calls(x: Any, f: Any, gy: Any, bias: Any, keywords: dict[str, Any]) -> list[Any]:
    keywords = {**keywords, "groups": 2}
    return [
        es.conv(x, f, bias, **keywords),
        es.conv_input_grad(gy, f, X.shape[1:3], **keywords),
        es.conv_filter_grad(x, gy, (3, 3), **keywords),
        es.conv_filter_grad(x, gy, (3, 3), per_example=True, **keywords),
        es.conv_bias_grad(gy),
    ]


@pytest.mark.parametrize("name", KEYWORDS)
def test_chunks_on_the_device(gpu, name):
    """Chunks of results are CuPy's, as their meta says, before and after `compute`."""
    keywords = KEYWORDS[name]
    gy = es.conv(X, F, groups=2, **keywords)
    expected = calls(X, F, gy, BIAS, keywords)
    x, g = (da.from_array(gpu.asarray(a), chunks=(2, 4, 5, 2), asarray=False) for a in (X, gy))
    for f, bias in ((F, BIAS), (gpu.asarray(F), gpu.asarray(BIAS))):
        found = calls(x, f, g, bias, keywords)
        for ours, theirs in zip(found, expected, strict=True):
            assert isinstance(ours._meta, gpu.array_type)
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
            value = ours.compute(scheduler="synchronous")
            assert isinstance(value, gpu.array_type)
            np.testing.assert_array_equal(gpu.asnumpy(value), theirs)


def test_nothing_leaves_the_device(host, cp):
    """Chunks and a filter of CuPy: no transfer, and no waiting, but what Dask's own code does."""
    x = da.from_array(cp.asarray(X), chunks=(2, 4, 5, 4), asarray=False)
    y = es.conv(x, cp.asarray(F), padding="same", padding_mode="reflect", groups=2)
    gf = es.conv_filter_grad(x, y, (3, 3), padding="same", groups=2)
    for lazy in (y, gf):
        lazy.persist(scheduler="synchronous")
        with host.recording() as seen:
            lazy.persist(scheduler="synchronous")
        assert not [e for e in seen.of(events.Copy) if e.kind != "device_to_device"]
        assert not seen.of(events.Synchronize)


def test_other_chunks_beside_them_are_refused(gpu):
    x, f = da.from_array(gpu.asarray(X), asarray=False), da.from_array(F)
    with pytest.raises(TypeError, match="conv: chunks and arrays must come from one library; "):
        es.conv(x, f, groups=2)
    with pytest.raises(TypeError, match="conv: chunks and arrays must come from one library; "):
        es.conv(da.from_array(X), gpu.asarray(F), groups=2)


def test_training_on_the_device(gpu):
    """Shards are computed where the model is; gradients stay there."""
    net = [nn.Sequential(nn.Conv(4, 3), nn.ReLU(), nn.Flatten(), nn.Dense(2)) for _ in range(2)]
    x, t = RNG.standard_normal((8, 6, 6, 2)), RNG.integers(0, 2, 8)
    here, there = (nn.Model(n, (6, 6, 2), dtype="float64") for n in net)
    there.to("cupy")
    lazy = da.from_array(gpu.asarray(x), chunks=(3, 6, 6, 2), asarray=False)
    given = {"epochs": 1, "batch_size": 4, "progress": False, "shards": 2}
    here.fit(x, t, nn.CrossEntropy(), nn.SGD(0.1), **given)
    there.fit(lazy, t, nn.CrossEntropy(), nn.SGD(0.1), cluster="synchronous", **given)
    for name, p in there.parameters.items():
        assert isinstance(p, gpu.array_type)
        np.testing.assert_allclose(gpu.asnumpy(p), here.parameters[name], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["forward", "input_grad"])
def test_pieces_on_the_device(gpu, name):
    """Blocks of whole rows, of which margins alone are copied."""
    x = da.from_array(gpu.asarray(X), chunks=(2, 5, -1, -1), asarray=False)
    call, sizes = (es.conv, ()) if name == "forward" else (es.conv_input_grad, (X.shape[1:3],))
    f = F if name == "forward" else np.ascontiguousarray(F[..., :4])
    expected = call(X, f, *sizes, padding="same", groups=2)
    with _testing.use(constants={"bytes worth pieces": 0, "share of a chunk worth pieces": 0}):
        found = call(x, f, *sizes, padding="same", groups=2).compute(scheduler="synchronous")
    assert isinstance(found, gpu.array_type)
    np.testing.assert_array_equal(gpu.asnumpy(found), expected)
