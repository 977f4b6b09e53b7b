"""Convolution and its gradients as seven nested loops, the reference for the demo's checks.

A convolution is a sum of products, each of one input element with one filter element, added to one
output element. The forward pass and both gradients loop over the same triples of elements; they
differ in which of the three is computed from the two others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

HostArray = NDArray[np.float64]
Shape = tuple[int, ...]


def products(x: Shape, f: Shape, y: Shape, stride: int) -> Iterator[tuple[Any, Any, Any]]:
    """Yield the indices in x, f and y of every product, for padding="same"."""
    batch, height, width, channels = x
    kernel_height, kernel_width, _, filters = f
    _, out_height, out_width, _ = y
    top = low_padding(height, kernel_height, stride)
    left = low_padding(width, kernel_width, stride)
    for b in range(batch):
        for p in range(out_height):
            for q in range(out_width):
                for i in range(kernel_height):
                    for j in range(kernel_width):
                        row, column = p * stride + i - top, q * stride + j - left
                        if not (0 <= row < height and 0 <= column < width):
                            continue  # padding
                        for c in range(channels):
                            for d in range(filters):
                                yield (b, row, column, c), (i, j, c, d), (b, p, q, d)


def conv(x: HostArray, f: HostArray, bias: HostArray, stride: int) -> HostArray:
    """Compute the forward pass y (B, ceil(H / stride), ceil(W / stride), D)."""
    batch, height, width, _ = x.shape
    y = np.zeros((batch, -(-height // stride), -(-width // stride), f.shape[-1])) + bias
    for i_x, i_f, i_y in products(x.shape, f.shape, y.shape, stride):
        y[i_y] += x[i_x] * f[i_f]
    return y


def conv_input_grad(gy: HostArray, f: HostArray, x_shape: Shape, stride: int) -> HostArray:
    """Compute the gradient of the input."""
    gx = np.zeros(x_shape)
    for i_x, i_f, i_y in products(x_shape, f.shape, gy.shape, stride):
        gx[i_x] += gy[i_y] * f[i_f]
    return gx


def conv_filter_grad(x: HostArray, gy: HostArray, f_shape: Shape, stride: int) -> HostArray:
    """Compute the gradient of the filter."""
    gf = np.zeros(f_shape)
    for i_x, i_f, i_y in products(x.shape, f_shape, gy.shape, stride):
        gf[i_f] += x[i_x] * gy[i_y]
    return gf


def low_padding(size: int, kernel: int, stride: int) -> int:
    """Return the padding at the start of an axis; the larger half of an odd total is at the end."""
    positions = -(-size // stride)
    return max((positions - 1) * stride + kernel - size, 0) // 2
