"""Are the convolutions right? Compared with seven loops, and with central finite differences.

Both layers of the network are checked on real digits, in float64, with random filters. The error
whose gradient is sought is E = |y|^2 / 2, where y = conv(x, f, bias): then gy = dE/dy is y itself,
and because E is a parabola along every single element, the central difference

    (E(a + h) - E(a - h)) / 2h

is its exact slope, but for rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import einstride as es
from einstride.demo import loops
from einstride.demo.libraries import Library
from einstride.demo.loops import Host

FILTER_1, STRIDE_1 = (3, 3, 1, 16), 1  # the layers of `network.small`
FILTER_2, STRIDE_2 = (3, 3, 16, 32), 2
ALGORITHMS = ("strided", "gemm")
LOOPS, DIFFERENCES = "the seven loops", "finite differences"
ALLOWED = {LOOPS: 1e-12, DIFFERENCES: 1e-8}
STEP = 1e-3  # h; as E is a parabola, it need not be tiny
SAMPLES = 50  # elements of an array that are moved by h


class Deviation(NamedTuple):
    """How far a function was off in the worst case, relative to the largest value compared."""

    function: str
    against: str
    size: float

    @property
    def passed(self) -> bool:
        """Small enough to be rounding? (A NaN is not.)"""
        return self.size <= ALLOWED[self.against]


def check(images: NDArray[np.float32], library: Library) -> list[Deviation]:
    """The largest deviation of every function, over both layers and every algorithm."""
    rng = np.random.default_rng(0)
    x = images.astype(np.float64)
    found: dict[tuple[str, str], float] = {}
    for shape, stride in ((FILTER_1, STRIDE_1), (FILTER_2, STRIDE_2)):
        f, bias = rng.standard_normal(shape), rng.standard_normal(shape[-1])
        for algorithm in ALGORITHMS:
            layer = _Layer(stride, algorithm, library)
            for d in (*_against_loops(layer, x, f, bias), *_against_slopes(layer, x, f, bias, rng)):
                key = d.function, d.against
                found[key] = float(np.maximum(found.get(key, 0.0), d.size))
        x = np.maximum(loops.conv(x, f, bias, stride), 0)  # what the second layer sees
    return [Deviation(function, against, size) for (function, against), size in found.items()]


class _Layer(NamedTuple):
    """The functions under test, taking and giving NumPy arrays."""

    stride: int
    algorithm: str
    library: Library

    def conv(self, x: Host, f: Host, bias: Host) -> Host:
        return self._call(es.conv, x, f, bias)

    def conv_input_grad(self, gy: Host, f: Host, x: Host) -> Host:
        return self._call(es.conv_input_grad, gy, f, input_size=x.shape[1:-1])

    def conv_filter_grad(self, x: Host, gy: Host, f: Host) -> Host:
        return self._call(es.conv_filter_grad, x, gy, kernel_size=f.shape[:2])

    def conv_bias_grad(self, gy: Host) -> Host:
        return self._host(es.conv_bias_grad(self.library.xp.asarray(gy)))

    def _call(self, function: Any, *arrays: Host, **sizes: Any) -> Host:
        given = [self.library.xp.asarray(a) for a in arrays]
        keywords = {"stride": self.stride, "padding": "same", "algorithm": self.algorithm}
        return self._host(function(*given, **sizes, **keywords))

    def _host(self, array: Any) -> Host:
        host: Host = self.library.asnumpy(array)
        return host


def _against_loops(layer: _Layer, x: Host, f: Host, bias: Host) -> list[Deviation]:
    y = loops.conv(x, f, bias, layer.stride)
    gx = loops.conv_input_grad(y, f, x.shape, layer.stride)
    gf = loops.conv_filter_grad(x, y, f.shape, layer.stride)
    return [
        Deviation("conv", LOOPS, _deviation(layer.conv(x, f, bias), y)),
        Deviation("conv_input_grad", LOOPS, _deviation(layer.conv_input_grad(y, f, x), gx)),
        Deviation("conv_filter_grad", LOOPS, _deviation(layer.conv_filter_grad(x, y, f), gf)),
    ]


def _against_slopes(
    layer: _Layer, x: Host, f: Host, bias: Host, rng: np.random.Generator
) -> list[Deviation]:
    def error() -> float:
        return float(np.sum(layer.conv(x, f, bias) ** 2)) / 2

    y = layer.conv(x, f, bias)
    gradients = {
        "conv_input_grad": (x, layer.conv_input_grad(y, f, x)),
        "conv_filter_grad": (f, layer.conv_filter_grad(x, y, f)),
        "conv_bias_grad": (bias, layer.conv_bias_grad(y)),
    }
    found = []
    for function, (moved, gradient) in gradients.items():
        chosen = rng.choice(moved.size, min(SAMPLES, moved.size), replace=False)
        slopes = [_slope(error, moved, i) for i in chosen]
        size = _deviation(gradient.reshape(-1)[chosen], np.array(slopes))
        found.append(Deviation(function, DIFFERENCES, size))
    return found


def _slope(error: Any, moved: Host, i: int) -> float:
    """The central difference of `error` for element i of an array that it reads."""
    before = moved.flat[i]
    moved.flat[i] = before + STEP
    above = error()
    moved.flat[i] = before - STEP
    below = error()
    moved.flat[i] = before
    return float(above - below) / (2 * STEP)


def _deviation(ours: Host, theirs: Host) -> float:
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))
