"""Compiled Winograd kernels equal the loops within the bound, stay in bounds, and repeat bits."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import oracle
from checks import PYTHON_OVERHEAD
from einstride.geometry import input_gradient_phases
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Settings
from einstride.geometry.winograd_error import MOST_GROWTH, growth
from guarded import guarded

pytest.importorskip("llvmlite")

from einstride.arrays.backends.spin_helpers import launch
from einstride.codegen.jit import Target, host_target
from einstride.cpu.winograd import calls, choice
from einstride.cpu.winograd.tables import FilteredAxes

LIMIT = 16 << 20

FLAT = FilteredAxes((None, 0), (), ((1, 1), (4, 3)))
F23, F43, F63 = (FilteredAxes((0, 1), (), ((m, 3), (m, 3))) for m in (2, 4, 6))
DEEP = FilteredAxes((1, 2), (0,), ((4, 3), (2, 3)))

CASES: dict[str, tuple[FilteredAxes, dict[str, Any]]] = {
    "1-D": (FLAT, {"size": (9,), "kernel": (3,), "channels": 3, "filters": 17}),
    "one channel": (F43, {"channels": 1, "filters": 1}),
    "tails": (F23, {"channels": 15, "filters": 33}),
    "more tails": (F43, {"channels": 33, "filters": 15, "batch": 1}),
    "valid": (F43, {"padding": ((0, 0), (0, 0)), "filters": 3}),
    "cropped": (F43, {"padding": ((-1, 2), (1, -2))}),
    "reflect": (F43, {"padding_mode": "reflect", "padding": ((2, 1), (1, 3))}),
    "replicate": (F63, {"padding_mode": "replicate", "size": (7, 13), "channels": 3}),
    "circular": (F23, {"padding_mode": "circular", "padding": ((2, 2), (0, 3))}),
    "dilated": (F43, {"dilation": (2, 3), "padding": ((2, 2), (3, 3)), "size": (9, 10)}),
    "flipped": (F43, {"flip": True}),
    "5 x 5": (FilteredAxes((0, 1), (), ((4, 5), (2, 5))), {"kernel": (5, 5)}),
    "1 x 7": (FilteredAxes((None, 1), (0,), ((1, 1), (2, 7))), {"kernel": (1, 7), "size": (4, 9)}),
    "7 x 1": (FilteredAxes((0, None), (1,), ((2, 7), (1, 1))), {"kernel": (7, 1), "size": (9, 4)}),
    "3-D": (DEEP, {"size": (3, 5, 5), "kernel": (3, 3, 3), "channels": 3, "filters": 5}),
    "strided depth": (
        DEEP,
        {"size": (5, 4, 4), "kernel": (2, 3, 3), "stride": (2, 1, 1), "channels": 2, "batch": 1},
    ),
}


def geometry(
    size: tuple[int, ...] = (5, 7), kernel: tuple[int, ...] = (3, 3), channels: int = 5,
    filters: int = 6, batch: int = 2, **settings: Any,
) -> tuple[Geometry, oracle.Case]:  # fmt: skip
    """Return a geometry, and the case of `oracle` for it."""
    settings.setdefault("padding", tuple((k // 2, k // 2) for k in kernel))
    g = Geometry.of(
        "test", (batch, *size, channels), (*kernel, channels, filters), Settings(**settings)
    )
    case = oracle.Case(
        g.batch, g.size, g.kernel, g.channels, g.filters, g.stride, g.padding, g.dilation,
        1, g.flip, g.padding_mode,
    )  # fmt: skip
    return g, case


def operands(g: Geometry, dtype: str, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Return x, f, gy and bias."""
    rng = np.random.default_rng(seed)
    shapes = (g.x_shape, g.f_shape, g.y_shape, (g.filters,))
    return tuple(rng.standard_normal(s).astype(dtype) for s in shapes)


def forward(
    x: np.ndarray, f: np.ndarray, g: Geometry, axes: FilteredAxes, bias: Any = None,
    prepare: bool = False, threads: int = 1, limit: int = LIMIT, out: Any = None,
    target: Target | None = None,
) -> np.ndarray:  # fmt: skip
    y = np.full(g.y_shape, np.nan, x.dtype) if out is None else out
    prepared = calls.prepare(f, g, axes, launch, threads, target) if prepare else None
    calls.forward(x, f, g, axes, bias, y, launch, threads, limit, prepared, target)
    return y


def filter_grad(
    x: np.ndarray, gy: np.ndarray, g: Geometry, axes: FilteredAxes, threads: int = 1,
    limit: int = LIMIT, out: Any = None, target: Target | None = None,
) -> np.ndarray:  # fmt: skip
    gf = np.full(g.f_shape, np.nan, x.dtype) if out is None else out
    calls.filter_grad(x, gy, g, axes, gf, launch, threads, limit, target)
    return gf


def close(actual: np.ndarray, expected: np.ndarray) -> None:
    """Check the normwise error against the bound of the dtype."""
    expected = expected.astype(np.float64)
    error = np.linalg.norm(actual - expected) / np.linalg.norm(expected)
    assert error < {"float32": 5e-6, "float64": 1e-14}[actual.dtype.name]


DOUBLE = ("1-D", "more tails", "dilated", "3-D")


@pytest.mark.parametrize(
    ("name", "dtype"), [(n, "float32") for n in CASES] + [(n, "float64") for n in DOUBLE]
)
def test_against_the_loops(name: str, dtype: str) -> None:
    axes, settings = CASES[name]
    g, case = geometry(**settings)
    x, f, gy, bias = operands(g, dtype)
    expected = oracle.forward(x, f, case)
    close(forward(x, f, g, axes), expected)
    close(forward(x, f, g, axes, bias, prepare=True), expected + bias)
    close(filter_grad(x, gy, g, axes), oracle.filter_grad(x, gy, case))


@pytest.mark.parametrize(
    "name", ["1-D", "tails", "more tails", "cropped", "flipped", "5 x 5", "3-D"]
)
def test_the_input_gradient_is_a_forward_pass(name: str) -> None:
    axes, settings = CASES[name]
    g, case = geometry(**settings)
    _, f, gy, _ = operands(g, "float32")
    (phase,) = input_gradient_phases.phases(g)
    adjoint = f.swapaxes(-1, -2)
    adjoint = adjoint if g.flip else np.flip(adjoint, tuple(range(g.rank)))
    assert phase.geometry is not None
    close(forward(gy, adjoint, phase.geometry, axes), oracle.input_grad(gy, f, case))


@pytest.mark.parametrize("order", ["contiguous", "channels", "filters first", "any"])
def test_filters_of_any_strides(order: str) -> None:
    g, _ = geometry(channels=35, filters=37)
    x, f, _, _ = operands(g, "float32")
    axes = {"contiguous": (0, 1, 2, 3), "channels": (0, 1, 3, 2), "filters first": (3, 2, 0, 1)}
    if order == "any":
        strided = np.repeat(f, 2, axis=-1)[::-1, ..., ::2][::-1]
    else:
        order_of_axes = axes[order]
        strided = np.ascontiguousarray(f.transpose(order_of_axes)).transpose(
            np.argsort(order_of_axes)
        )
    for prepare in (False, True):
        np.testing.assert_array_equal(
            forward(x, strided, g, F43, prepare=prepare), forward(x, f, g, F43, prepare=prepare)
        )


def test_arrays_that_run_backwards() -> None:
    g, case = geometry(channels=17)
    x, f, gy, _ = operands(g, "float32")
    reverse = (slice(None, None, -1),) * 3
    y = np.full(g.y_shape, np.nan, np.float32)[reverse]
    x_reversed, gy_reversed = x[reverse].copy()[reverse], gy[reverse].copy()[reverse]
    close(forward(x_reversed, f, g, F43, out=y), oracle.forward(x, f, case))
    close(filter_grad(x_reversed, gy_reversed, g, F43), oracle.filter_grad(x, gy, case))


def targets() -> dict[str, Target]:
    """Return targets with narrower vectors whose code this CPU can execute."""
    native = host_target()
    found = {f"{size} bytes": replace(native, vector_bytes=size, registers=16) for size in (32, 16)}
    if native.vector_bytes == 64:
        found["x86-64-v3"] = Target("x86-64-v3", "", 32, 16)
        found["64 bytes"] = native
    return found


@pytest.mark.parametrize("unit", targets())
@pytest.mark.parametrize("name", ["tails", "more tails", "reflect", "1-D"])
def test_any_width_of_vectors(unit: str, name: str) -> None:
    axes, settings = CASES[name]
    g, case = geometry(**settings)
    x, f, gy, bias = operands(g, "float32")
    target = targets()[unit]
    expected = oracle.forward(x, f, case) + bias
    for given in (f, np.asfortranarray(f)):
        close(forward(x, given, g, axes, bias, target=target), expected)
    close(filter_grad(x, gy, g, axes, target=target), oracle.filter_grad(x, gy, case))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", [(2, 30, 31, 20, 70), (1, 14, 14, 130, 140), (3, 33, 17, 3, 64)])
def test_many_blocks_and_partial_sums(shape: tuple[int, ...], threads: int) -> None:
    batch, *size, channels, filters = shape
    g, case = geometry(tuple(size), channels=channels, filters=filters, batch=batch)
    x, f, gy, bias = operands(g, "float32")
    wide = [a.astype(np.float64) for a in (x, f, gy)]
    expected = oracle.fast_forward(wide[0], wide[1], case) + bias
    for prepare in (False, True):
        close(forward(x, f, g, F43, bias, prepare, threads), expected)
    gradient = filter_grad(x, gy, g, F43, threads)
    close(gradient, oracle.fast_filter_grad(wide[0], wide[2], case))


@pytest.mark.parametrize("shape", [(2, 30, 31, 20, 70), (1, 14, 14, 130, 130), (3, 33, 17, 64, 3)])
def test_the_same_bits_for_any_threads_and_limit(shape: tuple[int, ...]) -> None:
    batch, *size, channels, filters = shape
    g, _ = geometry(tuple(size), channels=channels, filters=filters, batch=batch)
    x, f, gy, bias = operands(g, "float32")
    expected = forward(x, f, g, F43, bias)
    gradient = filter_grad(x, gy, g, F43)
    for threads in (2, 3, 7):
        np.testing.assert_array_equal(filter_grad(x, gy, g, F43, threads), gradient)
        for limit in (0, 1 << 20, LIMIT, 1 << 30):
            for prepare in (False, True):
                found = forward(x, f, g, F43, bias, prepare, threads, limit)
                np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("limit", [3 << 20, LIMIT])
def test_workspace_is_what_was_predicted(threads: int, limit: int) -> None:
    g, _ = geometry((40, 40), channels=48, filters=48)
    x, f, gy, _ = operands(g, "float32")
    y, gf = np.empty(g.y_shape, x.dtype), np.empty(g.f_shape, x.dtype)
    overhead = PYTHON_OVERHEAD // 2  # less than in a public function, which also checks and plans
    for prepare in (False, True):
        prepared = calls.prepare(f, g, F43, launch, threads) if prepare else None
        predicted = calls.forward_workspace(g, F43, "float32", threads, limit, prepare)
        assert predicted <= limit
        run = (x, f, g, F43, None, y, launch, threads, limit, prepared)
        assert _peak(calls.forward, *run) <= predicted + overhead
    predicted = calls.gradient_workspace(g, F43, "float32", threads, limit)
    assert predicted <= limit
    used = _peak(calls.filter_grad, x, gy, g, F43, gf, launch, threads, limit)
    assert used <= predicted + overhead


def _peak(function: Any, *args: Any) -> int:
    """Return the most bytes allocated at once in a call, after a first call that fills the
    caches."""
    function(*args)
    tracemalloc.start()
    try:
        function(*args)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_nan_stays_within_its_tiles_and_outside_is_never_read() -> None:
    """A NaN stays within its tiles, and inputs that no output needs are not read."""
    g, case = geometry((11, 11), padding=((0, -2), (0, -2)), channels=4)
    x, f, gy, _ = operands(g, "float32")
    x[:, 9:], x[:, :, 9:] = np.nan, np.nan
    close(forward(x, f, g, F43), oracle.forward(x[:, :9, :9], f, replace(
        case, input_size=(9, 9), pads=((0, 0), (0, 0)))))  # fmt: skip
    assert not np.isnan(filter_grad(x, gy, g, F43)).any()


GUARDED = ("more tails", "reflect", "cropped", "1-D", "strided depth")


def guard() -> None:
    """Run cases whose arrays end, then begin, beside pages without access."""
    native = [target for target in targets().values() if target.name == host_target().name]
    for name in GUARDED:
        axes, settings = CASES[name]
        for channels, filters in ((17, 19), (3, 50)):
            g, _ = geometry(**settings | {"channels": channels, "filters": filters})
            for end in (True, False):
                x, f, gy, bias = (guarded(a, end) for a in operands(g, "float32"))
                y, gf = (guarded(np.zeros(s, np.float32), end) for s in (g.y_shape, g.f_shape))
                transposed = guarded(np.ascontiguousarray(f.swapaxes(-1, -2)), end).swapaxes(-1, -2)
                for target in native:
                    forward(x, f, g, axes, bias, out=y, target=target)
                    forward(x, transposed, g, axes, bias, prepare=True, out=y, target=target)
                    filter_grad(x, gy, g, axes, out=gf, target=target)


@pytest.mark.skipif(not hasattr(__import__("mmap"), "MAP_PRIVATE"), reason="needs mprotect")
def test_nothing_out_of_bounds_is_touched() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "import test_simd_winograd as t; t.guard(); print('done')"],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.stdout == "done\n", (ran.returncode, ran.stderr[-2000:])


@pytest.mark.parametrize("gradient", [False, True])
def test_the_choice_of_tiles_depends_on_no_thread_and_keeps_the_error(gradient: bool) -> None:
    for size in ((7, 7), (14, 14), (56, 56), (9, 30, 30)):
        g, _ = geometry(size, (3,) * len(size), 64, 64, 8)
        found = {
            choice.choose_axes(g, 4, threads, host_target(), gradient, prepared=False)[0]
            for threads in (1, 2, 16)
        }
        assert len(found) == 1
        assert growth(found.pop().outputs_and_taps, gradient) <= MOST_GROWTH
