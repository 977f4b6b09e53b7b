"""The rounding errors of Winograd's algorithm: predicted, promised and measured."""

from math import prod

import numpy as np
import pytest

import einstride as es
import oracle
from checks import PASSES, operands
from einstride.algorithms import winograd
from einstride.arrays import backends
from einstride.geometry import problem, tile_sizes
from einstride.geometry.arithmetic import Arithmetic
from einstride.geometry.convolution import Geometry
from test_winograd import one


def adversary(kind, shape, rng):
    values = rng.standard_normal(shape)
    if kind == "cancel":  # large neighbours that nearly cancel
        return (-1.0) ** np.indices(shape).sum(axis=0) * (1e4 + values)
    if kind == "huge channel":
        values[..., 0] *= 1e6
    if kind == "range":
        values = np.ldexp(values, rng.integers(-20, 21, shape))
    return values


@pytest.mark.parametrize("kind", ["random", "cancel", "huge channel", "range"])
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (7, 1), (2, 3, 3), (7,)])
def test_the_error_stays_below_the_bound_by_norms(which, kernel, kind):
    """n u times the condition of the matrices times the norms of what is multiplied."""
    rng = np.random.default_rng(1)
    case = one((14,) * len(kernel), kernel, c=16, d=8)
    x, f, gy = (
        adversary(kind, s, rng).astype("f4") for s in (case.x_shape, case.f_shape, case.y_shape)
    )
    function, args, pair = operands(which, case, x, f, gy)
    found = function(*args, algorithm="winograd")
    exact = oracle.FAST[which](*(a.astype("f8") for a in pair), case)
    s = scheme_of(which, case)
    n = case.channels * prod(s.window) * 3 if which != "filter_grad" else prod(case.y_shape)
    condition = s.condition("filter_grad" if which == "filter_grad" else "forward")
    norms = np.prod([np.linalg.norm(a.astype("f8")) for a in pair])
    error = np.abs(found - exact).max()
    assert error <= n * tile_sizes.UNIT["float32"] * condition * norms
    if kind == "random":
        assert error <= s.error("float32", which) * np.abs(exact).max() * 1.5


def scheme_of(which, case):
    g = Geometry.of("test", case.x_shape, case.f_shape)
    arithmetic = Arithmetic("float32", "float32")
    one_job = problem.Job(g, which, arithmetic, ("float32",) * 2, 16 << 20, threads=2)
    b = backends.of("test", ("x",), np.ones(1))
    return winograd._plan(winograd._run(one_job), one_job, b.traits).scheme


@pytest.mark.parametrize("kernel", [(3,), (7,), (2, 2), (3, 3), (5, 5), (6, 6), (3, 3, 3)])
@pytest.mark.parametrize("which", PASSES)
def test_no_scheme_is_less_accurate_than_promised(which, kernel):
    size = tuple(40 if len(kernel) < 3 else 12 for _ in kernel)
    s = scheme_of(which, one(size, kernel, c=256, d=256))
    assert s.error("float32", which) <= 1.1e-5


def test_the_plan_tells_the_tile_and_its_error():
    text = str(es.plan((8, 56, 56, 64), (3, 3, 64, 64), padding=1))
    assert "chosen; F(4x4, 3x3), error 4e-06 normwise" in text
