"""The rounding errors of Winograd's algorithm stay below the predicted and the promised ones."""

from math import prod

import numpy as np
import pytest

import einstride as es
import oracle
from checks import PASSES, operands
from einstride import _testing
from einstride.algorithms import winograd
from einstride.algorithms.winograd import array_passes
from einstride.algorithms.winograd.plan import forward_plan, gradient_plan
from einstride.arrays import backends
from einstride.codegen import jit
from einstride.geometry import cook_toom, problem, tile_sizes, winograd_error
from einstride.geometry.arithmetic import UNIT_ROUNDOFF, Arithmetic
from einstride.geometry.convolution import Geometry
from test_winograd import make_case


def adversary(kind, shape, rng):
    values = rng.standard_normal(shape)
    if kind == "cancel":  # large neighbours nearly cancel
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
    check_error(which, kernel, kind)


@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("kernel", [(3, 3), (5, 5), (7,)])
def test_it_does_so_on_a_cpu_that_rounds_products(which, kernel):
    """A CPU without FMA rounds the product of a multiply-add, and its sum."""
    pytest.importorskip("llvmlite", reason="llvmlite, the extra fast, is missing")
    import guarded_tails

    target = guarded_tails.target_of("x86-64-v2")
    if target is None:
        pytest.skip("this machine cannot run code for x86-64-v2")
    with _testing.use(target=target):
        check_error(which, kernel, "random")


def check_error(which, kernel, kind):
    """The error stays below the worst case of roundings, times matrix norms, times operand
    norms."""
    rng = np.random.default_rng(1)
    case = make_case((14,) * len(kernel), kernel, c=16, d=8)
    x, f, gy = (
        adversary(kind, s, rng).astype("f4") for s in (case.x_shape, case.f_shape, case.y_shape)
    )
    function, args, pair = operands(which, case, x, f, gy)
    found = function(*args, algorithm="winograd")
    exact = oracle.FAST[which](*(a.astype("f8") for a in pair), case)
    s = tile_sizes_of(which, case)
    gradient = which == "filter_grad"
    terms = case.channels * s.taps if not gradient else prod(case.y_shape[:-1])
    worst = winograd_error.worst_error(s.outputs_and_taps, gradient, terms)
    norms = np.prod([np.linalg.norm(a.astype("f8")) for a in pair])
    error = np.abs(found - exact).max()
    assert error <= worst * UNIT_ROUNDOFF["float32"] * norms
    if kind == "random":
        expected = (
            winograd_error.expected_error(s.outputs_and_taps, gradient, terms) * winograd_error.PEAK
        )
        assert error <= expected * UNIT_ROUNDOFF["float32"] * np.sqrt(np.mean(exact**2))


def tile_sizes_of(which, case):
    g = Geometry.of("test", case.x_shape, case.f_shape)
    arithmetic = Arithmetic("float32", "float32")
    one_job = problem.Job(g, which, arithmetic, ("float32",) * 2, 16 << 20, threads=2)
    b = backends.of("test", ("x",), np.ones(1))
    return winograd._plan(winograd._pass_geometry(one_job), one_job, b.traits).tile_sizes


SIZES = [(m, r) for r in range(2, 8) for m in range(2, cook_toom.LARGEST + 2 - r)]
AXES = [*((size,) for size in SIZES), *((size, size) for size in SIZES if size[1] in (2, 3, 5))]


def compiled(which, x, second, g, axes):
    """Compute the pass by compiled kernels that filter all axes."""
    from einstride.arrays.backends.spin_helpers import launch
    from einstride.cpu import complex_as_real
    from einstride.cpu.winograd import calls
    from einstride.cpu.winograd.tables import FilteredAxes

    inner = (0, 1) if len(axes) == 2 else (None, 0)
    filtered = FilteredAxes(inner, (), ((1, 1), *axes)[-2:])
    pairs = np.iscomplexobj(x)
    run = complex_as_real.doubled(g) if pairs else g
    view = complex_as_real.floats if pairs else np.asarray
    if which == "forward":
        out = np.empty(g.y_shape, x.dtype)
        f = complex_as_real.filters(second) if pairs else second
        calls.forward(view(x), f, run, filtered, None, view(out), launch, 1, 16 << 20)
        return out
    out = np.empty(g.f_shape, x.dtype)
    into = np.empty(run.f_shape, "f4") if pairs else out
    calls.filter_grad(view(x), view(second), run, filtered, into, launch, 1, 16 << 20)
    if pairs:
        complex_as_real.combine(into, out)
    return out


def by_numpy(which, x, second, g, axes):
    """Compute the pass by array code."""
    b = backends.of("test", ("x",), x)
    sizes = tile_sizes.TileSizes(*(tuple(numbers) for numbers in zip(*axes, strict=True)))
    name = x.dtype.name
    job = problem.Job(g, which, Arithmetic(name, name), (name, name), 16 << 20, threads=1)
    if which == "forward":
        out, p = np.empty(g.y_shape, x.dtype), forward_plan(g, sizes, job, b.traits)
        return array_passes.correlate(x, second, p, g, job, b, None, out, None)
    p = gradient_plan(g, sizes, job, b.traits)
    return array_passes.reduce(x, second, p, job, b, np.empty(g.f_shape, x.dtype))


@pytest.mark.parametrize("passes", [compiled, by_numpy])
@pytest.mark.parametrize("name", ["float32", "complex64"])
@pytest.mark.parametrize("which", ["forward", "filter_grad"])
@pytest.mark.parametrize("channels", [16, 512])
def test_the_expected_error_is_measured(passes, name, which, channels):
    """No F(m, r) exceeds it. With random signs some reach a fifth and all a hundredth of it.

    Positive numbers have exact results far larger than the errors, which are as many.
    """
    if passes is compiled and not jit.available():
        pytest.skip("needs llvmlite")
    gradient, seen = which == "filter_grad", []
    sides = {1: (96,), 2: (18, 18)}
    for number, axes in enumerate(AXES):
        if passes is compiled and any((m + r) % 2 == 0 for m, r in axes):
            continue  # kernels need an even number of points
        rng = np.random.default_rng(number)
        case = make_case(sides[len(axes)], tuple(r for _, r in axes), c=channels, d=8)
        shapes = case.x_shape, case.y_shape if gradient else case.f_shape
        x, second = (rng.standard_normal((2, *shape)).astype("f4") for shape in shapes)
        signed = number % 3 < 2
        if not signed:
            x, second = np.abs(x), np.abs(second)
        if name == "complex64":
            x, second = (a[0] + 1j * a[1] for a in (x, second))
        else:
            x, second = x[0], second[0]
        g = Geometry.of("test", case.x_shape, case.f_shape)
        found = passes(which, x, second, g, axes)
        wide = [a.astype("complex128" if name == "complex64" else "float64") for a in (x, second)]
        exact = oracle.FAST[which](*wide, case)
        unit = UNIT_ROUNDOFF[name] * np.sqrt(np.mean(np.abs(exact) ** 2))
        error = np.abs(found - exact) / unit
        s = tile_sizes.TileSizes(*(tuple(numbers) for numbers in zip(*axes, strict=True)))
        terms = s.terms(g, gradient) * (2 if name == "complex64" else 1)
        expected = winograd_error.expected_error(axes, gradient, terms)
        assert error.max() <= winograd_error.PEAK * expected, axes
        root = np.sqrt(np.mean(error**2))
        assert root <= 1.05 * expected, axes  # the scatter of some hundred results
        if signed:
            seen.append(root / expected)
    assert min(seen) > 0.01
    assert max(seen) > 0.2


@pytest.mark.parametrize("kernel", [(3,), (7,), (2, 2), (3, 3), (5, 5), (6, 6), (3, 3, 3)])
@pytest.mark.parametrize("which", PASSES)
def test_no_tile_size_is_less_accurate_than_promised(which, kernel):
    size = tuple(40 if len(kernel) < 3 else 12 for _ in kernel)
    s = tile_sizes_of(which, make_case(size, kernel, c=256, d=256))
    growth = winograd_error.growth(s.outputs_and_taps, which == "filter_grad")
    assert growth <= winograd_error.MOST_GROWTH


def test_the_plan_tells_the_tile_and_its_error():
    text = str(es.plan((8, 56, 56, 64), (3, 3, 64, 64), padding=1))
    assert "chosen; F(4x4, 3x3), error 2e-06 normwise" in text


@pytest.mark.parametrize(("m", "r"), [(2, 7), (6, 3), (4, 5)])
def test_a_filter_gradient_has_errors_of_its_own(m, r):
    """A filter gradient has errors of its own, as its result is transformed by another matrix."""
    axes = ((m, r), (2, 3))
    forward, gradient = (
        [f(axes, backwards) for f in (winograd_error.growth, winograd_error.condition)]
        for backwards in (False, True)
    )
    assert forward != gradient
    for i, of_axis in enumerate((cook_toom.growth, cook_toom.condition)):
        assert forward[i] == of_axis(m, r, False) * of_axis(2, 3, False)
        assert gradient[i] == of_axis(m, r, True) * of_axis(2, 3, True)
