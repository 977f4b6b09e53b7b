"""Filters of CuPy arrays equal those of cupyx.scipy that the host can compile."""

import importlib
import inspect
import sys
import warnings
from types import ModuleType

import numpy as np
import pytest

from einstride import ndimage, signal

pytest_plugins = ["cupy_host.fixtures"]

UNLIKE = {
    "upfirdn": "cupyx's kernel needs nvcc: the host's compiler refuses it",
    "resample_poly": "cupyx calls its own upfirdn",
    "decimate": "cupyx calls its own upfirdn",
    "correlation_lags": "no argument tells of CuPy: einstride's lags are an array of NumPy",
    "choose_conv_method": "cupyx compares its own two methods, einstride its algorithms",
    "generic_laplace": "cupyx takes no function of einstride, nor einstride one of cupyx",
    "generic_gradient_magnitude": "the same",
}
"""Functions of both that are not compared, each with its reason."""

IMAGES = {
    "correlate": ("w",), "convolve": ("w",), "correlate1d": ("v",), "convolve1d": ("v",),
    "uniform_filter1d": (3,), "uniform_filter": (3,), "gaussian_filter1d": (1.0,),
    "gaussian_filter": (1.0,), "sobel": (), "prewitt": (), "laplace": (),
    "gaussian_laplace": (1.0,), "gaussian_gradient_magnitude": (1.0,),
}  # fmt: skip
SIGNALS = {
    "convolve": ("s", "v"), "correlate": ("s", "v"), "fftconvolve": ("s", "v"),
    "oaconvolve": ("s", "v"), "convolve2d": ("x", "w"), "correlate2d": ("x", "w"),
    "sepfir2d": ("x", "v", "v"), "lfilter": ("v", "one", "s"),
}  # fmt: skip


@pytest.fixture
def modules(cp, monkeypatch):
    """Import the modules of cupyx.scipy, with empty modules for libraries that the host lacks."""
    libraries = importlib.import_module("cupy_backends.cuda.libs")
    for name in ("cusparse", "cusolver"):
        empty = ModuleType(f"{libraries.__name__}.{name}")
        vars(empty).update(__file__=None, __getattr__=lambda _: 0)
        monkeypatch.setitem(sys.modules, empty.__name__, empty)
        monkeypatch.setitem(vars(libraries), name, empty)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):
        return {n: importlib.import_module(f"cupyx.scipy.{n}") for n in ("ndimage", "signal")}


def arrays(cp, dtype):
    rng = np.random.default_rng(0)
    shapes = {"x": (7, 9), "w": (3, 2), "v": (3,), "s": (40,)}
    found = {n: cp.asarray(rng.integers(-5, 6, s).astype(dtype)) for n, s in shapes.items()}
    return found | {"one": cp.asarray(np.ones(1, dtype))}


def compare(cp, ours, theirs, name, args, **keywords):
    expected, found = (getattr(room, name)(*args, **keywords) for room in (theirs, ours))
    assert isinstance(found, type(expected))
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    bound = 64 * np.finfo("float32" if found.dtype.char in "fF" else "float64").eps
    found, expected = cp.asnumpy(found), cp.asnumpy(expected)
    np.testing.assert_allclose(found, expected, 0, bound * (1 + abs(expected).max()))


@pytest.mark.parametrize("name", IMAGES)
def test_images(cp, modules, name):
    given = arrays(cp, "float32")
    args = (given["x"], *(given.get(a, a) if isinstance(a, str) else a for a in IMAGES[name]))
    for mode in ("reflect", "mirror", "nearest", "wrap", "constant"):
        # cupyx makes one pass of the two of SciPy's edges, between which there is a border, too
        cval = 0.0 if name in ("sobel", "prewitt") else 2.0
        compare(cp, ndimage, modules["ndimage"], name, args, mode=mode, cval=cval)


@pytest.mark.parametrize("name", SIGNALS)
def test_signals(cp, modules, name):
    for dtype in ("float64", "float32"):
        given = arrays(cp, dtype)
        args = tuple(given[a] if isinstance(a, str) else a for a in SIGNALS[name])
        modes = ("full", "same", "valid") if "con" in name or "corr" in name else (None,)
        for mode in modes:
            more = {} if mode is None else {"mode": mode}
            compare(cp, signal, modules["signal"], name, args, **more)


def test_every_function_of_both_is_compared_or_has_a_reason(modules):
    for ours, theirs, named in (
        (ndimage, modules["ndimage"], IMAGES), (signal, modules["signal"], SIGNALS),
    ):  # fmt: skip
        both = {
            n for n in ours.__all__ if hasattr(theirs, n) and inspect.isfunction(getattr(ours, n))
        }
        assert both - set(UNLIKE) == set(named)
