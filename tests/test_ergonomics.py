"""Errors propose what was meant, objects say what they are, and calls can be logged."""

import logging

import numpy as np
import pytest

import einstride as es
from checks import refused


@pytest.mark.parametrize(
    ("x", "f", "remedy"),
    [
        ((9,), (3,), "x[None, :, None]"),
        ((9, 8), (3, 3), "x[None, ..., None]"),
        ((9, 8, 3), (3, 3), 'groups="depthwise"'),
        ((9, 8, 3), (3, 3, 3, 4), "x[None]"),
        ((1, 9, 8, 3), (3, 3), "f[..., None, None]"),
    ],
)
def test_a_wrong_rank_is_answered_with_what_was_meant(x, f, remedy):
    with refused("conv", ValueError, remedy):
        es.conv(np.ones(x), np.ones(f))


def test_the_remedies_are_right():
    """The image of the remedies is filtered as by the function that they name."""
    image, photo, f = np.random.rand(9, 8), np.random.rand(9, 8, 3), np.random.rand(3, 3)
    keywords = {"padding": "same", "padding_mode": "symmetric"}
    y = es.conv(image[None, ..., None], f[..., None, None], **keywords)[0, ..., 0]
    np.testing.assert_allclose(y, es.ndimage.correlate(image, f))
    y = es.conv(photo[None], f[..., None, None], groups="depthwise", **keywords)[0]
    np.testing.assert_allclose(y, es.ndimage.correlate(photo, f, axes=(0, 1)))


@pytest.mark.parametrize("mode", ["symmetric", ("constant", "reflect")])
def test_windows_of_a_padded_array(backend, mode):
    x, f = np.arange(24.0).reshape(1, 4, 6, 1), np.random.rand(3, 2, 1, 1)
    keywords = {"padding": ((1, 1), (0, 1)), "padding_mode": mode, "fill": 2.0}
    w = backend(es.windows, x, (3, 2), (1, 2), **keywords)
    y = np.einsum("bhwijc,ijcd->bhwd", w, f)
    np.testing.assert_allclose(y, es.conv(x, f, stride=(1, 2), **keywords))


def test_plans_of_equal_calls_are_equal():
    p, q = (es.plan((1, 8, 8, 3), (3, 3, 3, 4), padding="same") for _ in range(2))
    assert p == q
    assert hash(p) == hash(q)
    assert p == es.Plan.from_json(p.to_json())
    assert p != es.plan((2, 8, 8, 3), (3, 3, 3, 4), padding="same")
    assert p != es.plan((1, 8, 8, 3), (3, 3, 3, 4), padding="same", algorithm="strided")
    assert p != "a plan"


def test_a_layer_says_what_it_is():
    layer = es.Conv(np.ones((3, 3, 2, 4), "float32"), np.ones(4, "float32"), padding="same")
    assert repr(layer) == "<Conv f (3, 3, 2, 4) float32, bias (4,), padding='same'>"


def test_a_call_is_logged_at_debug(caplog):
    x, f = np.ones((1, 8, 8, 3)), np.ones((3, 3, 3, 4))
    for _ in range(3):
        es.conv(x, f)
    assert not caplog.records
    with caplog.at_level(logging.DEBUG, "einstride"):
        for algorithm in ("strided", "gemm"):
            es.conv(x, f, algorithm=algorithm)
    first, second = (r.getMessage() for r in caplog.records)
    assert first.startswith("conv: strided (asked for)")
    assert second.startswith("conv: gemm (asked for)")
    assert "workspace" in first
    assert " ms" in first


def test_tuned_results_are_the_default_of_a_process(tmp_path):
    x, f = np.ones((1, 9, 9, 4)), np.ones((3, 3, 4, 8))
    path = tmp_path / "tuned.json"
    p = es.tune(x, f, seconds=0, path=path)
    name = "strided" if p.algorithm != "strided" else "gemm"
    path.write_text(
        path.read_text().replace(f'"algorithm": "{p.algorithm}"', f'"algorithm": "{name}"')
    )
    try:
        es.use_tuned(path)
        assert es.plan(x, f).algorithm == name
        assert str(path) in str(es.plan(x, f))
        assert es.plan(x, f, algorithm="gemm").algorithm == "gemm"
        assert es.plan(x, f, padding=1).algorithm == es.plan(x, f, padding=1).algorithm
    finally:
        es.use_tuned(None)
    assert str(path) not in str(es.plan(x, f))
    with refused("use_tuned", ValueError, "path"):
        es.use_tuned(__file__)
