"""Compare convolutions with seven nested loops, and gradients with central finite differences.

Both layers of the network are checked on real digits, in float64, with random filters. The function
to differentiate is E = |y|^2 / 2, where y = conv(x, f, bias): then gy = dE/dy is y itself, and
because E is a parabola along every single element, the central difference

    (E(a + h) - E(a - h)) / 2h

is its exact derivative, except for rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import einstride as es
from einstride.demo import loops
from einstride.demo.libraries import Library
from einstride.demo.loops import HostArray

FILTER_1, STRIDE_1 = (3, 3, 1, 16), 1  # the layers of `network.small`
FILTER_2, STRIDE_2 = (3, 3, 16, 32), 2
ALGORITHMS = ("strided", "gemm")
LOOPS, DIFFERENCES = "the seven loops", "finite differences"  # also headings of the report
TOLERANCES = {LOOPS: 1e-12, DIFFERENCES: 1e-8}  # largest deviations
STEP_SIZE = 1e-3  # h; as E is a parabola, it need not be small
SAMPLES = 50  # elements of an array that are varied by h


class Deviation(NamedTuple):
    """The largest deviation of a function's results, relative to their largest value."""

    function: str
    against: str
    size: float

    @property
    def passed(self) -> bool:
        """True if the deviation is within the tolerance for rounding; False for NaN."""
        return self.size <= TOLERANCES[self.against]


def check(images: NDArray[np.float32], library: Library) -> list[Deviation]:
    """Return the largest deviation of each function, over both layers and all algorithms."""
    rng = np.random.default_rng(0)
    x = images.astype(np.float64)
    found: dict[tuple[str, str], float] = {}
    for shape, stride in ((FILTER_1, STRIDE_1), (FILTER_2, STRIDE_2)):
        f, bias = rng.standard_normal(shape), rng.standard_normal(shape[-1])
        for algorithm in ALGORITHMS:
            layer = _Layer(stride, algorithm, library)
            for d in (
                *_against_loops(layer, x, f, bias),
                *_against_differences(layer, x, f, bias, rng),
            ):
                key = d.function, d.against
                found[key] = float(np.maximum(found.get(key, 0.0), d.size))
        x = np.maximum(loops.conv(x, f, bias, stride), 0)  # input of the second layer
    return [Deviation(function, against, size) for (function, against), size in found.items()]


class _Layer(NamedTuple):
    """The functions under test, with NumPy arrays as arguments and results."""

    stride: int
    algorithm: str
    library: Library

    def conv(self, x: HostArray, f: HostArray, bias: HostArray) -> HostArray:
        return self._call(es.conv, x, f, bias)

    def conv_input_grad(self, gy: HostArray, f: HostArray, x: HostArray) -> HostArray:
        return self._call(es.conv_input_grad, gy, f, input_size=x.shape[1:-1])

    def conv_filter_grad(self, x: HostArray, gy: HostArray, f: HostArray) -> HostArray:
        return self._call(es.conv_filter_grad, x, gy, kernel_size=f.shape[:2])

    def conv_bias_grad(self, gy: HostArray) -> HostArray:
        return self._host(es.conv_bias_grad(self.library.xp.asarray(gy)))

    def _call(self, function: Any, *arrays: HostArray, **sizes: Any) -> HostArray:
        given = [self.library.xp.asarray(a) for a in arrays]
        keywords = {"stride": self.stride, "padding": "same", "algorithm": self.algorithm}
        return self._host(function(*given, **sizes, **keywords))

    def _host(self, array: Any) -> HostArray:
        host: HostArray = self.library.asnumpy(array)
        return host


def _against_loops(layer: _Layer, x: HostArray, f: HostArray, bias: HostArray) -> list[Deviation]:
    y = loops.conv(x, f, bias, layer.stride)
    gx = loops.conv_input_grad(y, f, x.shape, layer.stride)
    gf = loops.conv_filter_grad(x, y, f.shape, layer.stride)
    return [
        Deviation("conv", LOOPS, _deviation(layer.conv(x, f, bias), y)),
        Deviation("conv_input_grad", LOOPS, _deviation(layer.conv_input_grad(y, f, x), gx)),
        Deviation("conv_filter_grad", LOOPS, _deviation(layer.conv_filter_grad(x, y, f), gf)),
    ]


def _against_differences(
    layer: _Layer, x: HostArray, f: HostArray, bias: HostArray, rng: np.random.Generator
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
    for function, (varied, gradient) in gradients.items():
        chosen = rng.choice(varied.size, min(SAMPLES, varied.size), replace=False)
        differences = [_central_difference(error, varied, i) for i in chosen]
        size = _deviation(gradient.reshape(-1)[chosen], np.array(differences))
        found.append(Deviation(function, DIFFERENCES, size))
    return found


def _central_difference(error: Any, varied: HostArray, i: int) -> float:
    """Return the central difference of `error` with respect to element i of an array it reads."""
    before = varied.flat[i]
    varied.flat[i] = before + STEP_SIZE
    upper = error()
    varied.flat[i] = before - STEP_SIZE
    lower = error()
    varied.flat[i] = before
    return float(upper - lower) / (2 * STEP_SIZE)


def _deviation(computed: HostArray, expected: HostArray) -> float:
    return float(np.max(np.abs(computed - expected)) / np.max(np.abs(expected)))
