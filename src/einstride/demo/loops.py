"""Convolution as nobody should compute it: seven nested loops, to check the fast ones against.

A convolution is a set of products, each of one input element with one filter element, added to one
output element. All three algorithms walk the same set; they differ in which of the three is sought.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Host = NDArray[np.float64]
Shape = tuple[int, ...]


def products(x: Shape, f: Shape, y: Shape, stride: int) -> Iterator[tuple[Any, Any, Any]]:
    """The places in x, f and y of every product, for arrays of these shapes, padding="same"."""
    batch, height, width, channels = x
    kernel_height, kernel_width, _, filters = f
    _, out_height, out_width, _ = y
    top = zeros_before(height, kernel_height, stride)
    left = zeros_before(width, kernel_width, stride)
    for b in range(batch):
        for p in range(out_height):
            for q in range(out_width):
                for i in range(kernel_height):
                    for j in range(kernel_width):
                        row, column = p * stride + i - top, q * stride + j - left
                        if not (0 <= row < height and 0 <= column < width):
                            continue  # this tap of the filter meets padding
                        for c in range(channels):
                            for d in range(filters):
                                yield (b, row, column, c), (i, j, c, d), (b, p, q, d)


def conv(x: Host, f: Host, bias: Host, stride: int) -> Host:
    """The forward pass: y (B, H / stride, W / stride, D), rounded up."""
    batch, height, width, _ = x.shape
    y = np.zeros((batch, -(-height // stride), -(-width // stride), f.shape[-1])) + bias
    for at_x, at_f, at_y in products(x.shape, f.shape, y.shape, stride):
        y[at_y] += x[at_x] * f[at_f]
    return y


def conv_input_grad(gy: Host, f: Host, x_shape: Shape, stride: int) -> Host:
    """The gradient of the input."""
    gx = np.zeros(x_shape)
    for at_x, at_f, at_y in products(x_shape, f.shape, gy.shape, stride):
        gx[at_x] += gy[at_y] * f[at_f]
    return gx


def conv_filter_grad(x: Host, gy: Host, f_shape: Shape, stride: int) -> Host:
    """The gradient of the filter."""
    gf = np.zeros(f_shape)
    for at_x, at_f, at_y in products(x.shape, f_shape, gy.shape, stride):
        gf[at_f] += x[at_x] * gy[at_y]
    return gf


def zeros_before(size: int, kernel: int, stride: int) -> int:
    """The padding at the start of an axis; with an odd total, the odd zero is at the end."""
    positions = -(-size // stride)
    return max((positions - 1) * stride + kernel - size, 0) // 2
