"""A plan whose batch is None runs with any batch; its figures are those of one example."""

import numpy as np
import pytest

import einstride as es
from checks import refused, same
from einstride.__main__ import main

CALLS = {
    "forward": (es.conv, (9, 8, 3), (3, 2, 3, 4), {}),
    "input_grad": (es.conv_input_grad, (7, 7, 4), (3, 2, 3, 4), {"input_size": (9, 8)}),
    "filter_grad": (es.conv_filter_grad, (9, 8, 3), (7, 7, 4), {"kernel_size": (3, 2)}),
    "transpose": (es.conv_transpose, (7, 7, 4), (3, 2, 3, 4), {}),
}
BATCH_OF_BOTH = {"filter_grad"}


@pytest.mark.parametrize("direction", CALLS)
def test_it_runs_with_any_batch(backend, direction):
    function, first, second, size = CALLS[direction]
    rng = np.random.default_rng(0)
    both = direction in BATCH_OF_BOTH
    shapes = (None, *first), (None, *second) if both else second
    library = {"strict": "array_api_strict", "cupy-host": "cupy"}.get(backend.name, backend.name)
    p = es.plan(*shapes, direction=direction, dtype="float64", library=library, **size)
    one = es.plan((1, *first), (1, *second) if both else second, direction=direction,
                  dtype="float64", library=library, **size)  # fmt: skip
    assert (p.workspace, p.algorithm) == (one.workspace, one.algorithm)
    again = es.Plan.from_json(p.to_json())
    for batch in (1, 3, 2, 0):
        arrays = (rng.integers(-3, 4, (batch, *first)), rng.integers(-3, 4, second))
        if both:
            arrays = arrays[0], rng.integers(-3, 4, (batch, *second))
        arrays = [a.astype(float) for a in arrays]
        expected = function(*arrays, **size)
        for plan in (p, again):
            same(backend(plan, *arrays), expected)
        shape = expected.shape if both else (None, *expected.shape[1:])
        assert p.output_shape == shape


def test_it_is_no_plan_of_a_batch_of_one():
    p, q = (es.plan((None, 8, 8, 3), (3, 3, 3, 4)) for _ in range(2))
    assert p == q
    assert hash(p) == hash(q)
    assert p != es.plan((1, 8, 8, 3), (3, 3, 3, 4))
    assert p == es.Plan.from_json(p.to_json())
    assert repr(p) == f"<Plan forward (None, 8, 8, 3) (3, 3, 3, 4): {p.algorithm}>"
    assert "any batch" in str(p)
    assert "x (None, 8, 8, 3), f (3, 3, 3, 4) -> y (None, 6, 6, 4)" in str(p)
    assert "any batch" not in str(es.plan((1, 8, 8, 3), (3, 3, 3, 4)))


def test_layouts_groups_and_bias():
    rng = np.random.default_rng(0)
    x, f, bias = rng.random((8, 3, 5, 7)), rng.random((3, 1, 1, 2)), rng.random(3)
    keywords = {"layout": "HCNW,HOIW->WNCH", "groups": "depthwise"}
    p = es.plan((8, 3, None, 7), f, **keywords)
    assert p.output_shape == (6, None, 3, 6)
    same(p(x, f, bias), es.conv(x, f, bias, **keywords))
    gy = rng.random((6, 5, 3, 6))
    keywords |= {"kernel_size": (3, 2)}
    p = es.plan(x.shape[:2] + (None, 7), (6, None, 3, 6), direction="filter_grad",
                dtype="float64", **keywords)  # fmt: skip
    assert p.output_shape == (3, 1, 1, 2)
    same(p(x, gy), es.conv_filter_grad(x, gy, **keywords))
    p = es.plan(x.shape[:2] + (None, 7), (6, None, 3, 6), direction="filter_grad",
                dtype="float64", per_example=True, **keywords)  # fmt: skip
    assert p.output_shape == (None, 3, 1, 1, 2)
    same(p(x, gy), es.conv_filter_grad(x, gy, per_example=True, **keywords))


def test_errors():
    f = (3, 3, 3, 4)
    for shapes in (((1, None, 8, 3), f), ((None, 8, 8, 3), (None, 3, 3, 4)), ((None, 8, 3), f)):
        with refused("plan", ValueError, "only a batch may be None"):
            es.plan(*shapes)
    with refused("plan", ValueError, "only a batch may be None"):
        es.plan((None, 8, 8, 3), (2, 6, 6, 4), direction="filter_grad", kernel_size=3)
    with refused("plan", TypeError, "a shape must be an int"):
        es.plan(("batch", 8, 8, 3), f)
    p = es.plan((None, 8, 8, 3), f)
    with refused("Plan", ValueError, "it was made for shapes"):
        p(np.ones((2, 8, 7, 3), "float32"), np.ones(f, "float32"))
    with refused("Plan", ValueError, "it was made for shapes"):
        p(np.ones((2, 8, 8), "float32"), np.ones(f, "float32"))
    with refused("Plan.from_json", ValueError):
        es.Plan.from_json(p.to_json().replace("[3, 3, 3, 4]", "[null, 3, 3, 4]"))
    gradient = es.plan((None, 8, 8, 3), (None, 6, 6, 4), direction="filter_grad", kernel_size=3)
    with refused("Plan", ValueError, "batch"):
        gradient(np.ones((2, 8, 8, 3), "float32"), np.ones((3, 6, 6, 4), "float32"))


def test_the_command_takes_any_batch(capsys):
    assert main(["explain", "Nonex8x8x3", "3x3x3x4"]) == 0
    assert capsys.readouterr().out == f"{es.plan((None, 8, 8, 3), (3, 3, 3, 4))}\n"
    assert main(["explain", "8xNonex8x3", "3x3x3x4"]) == 2
    assert capsys.readouterr().err.startswith("explain: only a batch may be None")
