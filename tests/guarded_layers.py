"""Program: runs the kernels of layers on arrays that begin or end beside a page without access."""

from __future__ import annotations

import sys

import numpy as np

from einstride.arrays.backends.numpy import BACKEND as B
from einstride.nn.cpu import elementwise, norm, pooling
from guarded_channelwise import guarded


def main() -> None:
    """Run every kernel with pages without access at both ends, with and without vector tails."""
    rng = np.random.default_rng(0)
    for channels in (1, 3, 15, 16, 17, 33):
        for dtype in ("float32", "float64"):
            for end in (True, False):

                def normal(*shape: int, dtype: str = dtype, end: bool = end) -> np.ndarray:
                    return guarded(rng.standard_normal(shape).astype(dtype), end)

                x, y, g = (normal(3, 5, 7, channels) for _ in range(3))
                gamma, beta = normal(channels), normal(channels)
                statistics = norm.forward(x, gamma, beta, 1e-5, True, y, B)
                norm.backward(g, x, gamma, statistics, y, B)
                elementwise.apply("add_relu", (x, g), y, B)
                elementwise.apply("relu_gradient", (g, x), y, B)
                for kernel, stride, padding in ((2, 2, 0), (3, 2, 1), (4, 3, 2)):
                    sizes = [(n + 2 * padding - kernel) // stride + 1 for n in (5, 7)]
                    windows = tuple(
                        pooling.Window(n, kernel, stride, padding, 1, o)
                        for n, o in zip((5, 7), sizes, strict=True)
                    )
                    p = normal(3, *sizes, channels)
                    for largest in (True, False):
                        pooling.pool(x, windows, largest, False, p, B)
                        pooling.pool_gradient(p, x if largest else None, windows, False, y, B)


if __name__ == "__main__":
    sys.exit(main())
