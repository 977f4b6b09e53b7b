"""es.tune measures algorithms within a time limit, and saves results in a file of the caller."""

import json

import numpy as np
import pytest

import einstride as es
from checks import refused
from einstride import _testing
from einstride.algorithms import ALGORITHMS
from einstride.api import tune


def given(dtype="float32"):
    rng = np.random.default_rng(0)
    return (rng.integers(-4, 5, shape).astype(dtype) for shape in ((2, 9, 8, 4), (3, 3, 4, 6)))


@pytest.mark.parametrize("direction", ["forward", "input_grad", "filter_grad", "transpose"])
def test_a_plan_that_runs(direction, backend):
    x, f = given()
    gy = np.ones((2, 9, 8, 6), "float32")
    k = {"padding": "same", "seconds": 0.0}
    if direction == "forward":
        a, b, expected = x, f, es.conv(x, f, padding="same")
    elif direction == "filter_grad":
        a, b, expected = x, gy, es.conv_filter_grad(x, gy, (3, 3), padding="same")
        k["kernel_size"] = (3, 3)
    elif direction == "input_grad":
        a, b, expected = gy, f, es.conv_input_grad(gy, f, (9, 8), padding="same")
        k["input_size"] = (9, 8)
    else:
        a, b, expected = gy, f, es.conv_transpose(gy, f, padding="same")

    def run(a, b):
        return es.tune(a, b, direction=direction, **k)(a, b)

    np.testing.assert_allclose(backend(run, a, b), expected, rtol=1e-4, atol=1e-4)


def test_the_fastest_wins_and_slow_ones_get_one_turn():
    now = [0.0]
    cost = {"a": 1.0, "b": 0.5, "c": 30.0}
    turns = dict.fromkeys(cost, 0)

    def run(name):
        turns[name] += 1
        now[0] += cost[name] * (10 if turns[name] == 1 else 1)  # the first call compiles

    with _testing.replacing("read the clock", lambda real: now[0]):
        times = tune._measure({name: name for name in cost}, run, 12.0)
    assert times == cost
    assert turns == {"a": 10, "b": 10, "c": 2}


def test_a_file_is_believed_without_measuring(tmp_path):
    x, f = given()
    path = tmp_path / "tuned.json"
    first = es.tune(x, f, seconds=0, path=path)
    other = es.tune(x, f, padding=1, seconds=0, path=path)
    saved = json.loads(path.read_text())
    assert len(saved["results"]) == 2
    with _testing.failing("measure the algorithms", AssertionError("measured again")):
        assert es.tune(x, f, path=path).algorithm == first.algorithm
        assert es.tune(x, f, padding=1, path=str(path)).algorithm == other.algorithm
        for result in saved["results"].values():
            result["algorithm"] = "gemm"
        path.write_text(json.dumps(saved))
        assert es.tune(x, f, path=path).algorithm == "gemm"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"tuned": 2, "results": {}}', '{"results": 1}'])
def test_a_foreign_file_is_refused_and_left_alone(tmp_path, text):
    x, f = given()
    path = tmp_path / "mine.json"
    path.write_text(text)
    with refused("tune", ValueError, "path"):
        es.tune(x, f, seconds=0, path=path)
    assert path.read_text() == text


def test_auto_goes_on_predicting():
    x, f = given()
    before = es.plan(x, f).algorithm
    es.tune(x, f, seconds=0)
    assert es.plan(x, f).algorithm == before
    assert es.tune(x, f, seconds=0).algorithm in ALGORITHMS


@pytest.mark.parametrize("seconds", [-1, float("inf"), float("nan"), "1", None])
def test_bad_seconds(seconds):
    x, f = given()
    with refused("tune", ValueError, "seconds"):
        es.tune(x, f, seconds=seconds)


def test_bad_shapes_are_refused_in_its_name():
    x, f = given()
    with refused("tune", ValueError):
        es.tune(x[..., :2], f)
