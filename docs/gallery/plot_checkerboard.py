"""
The checkerboard of transposed convolutions, and its cure
=========================================================

A transposed convolution whose stride does not divide its filter writes some outputs more often
than others: a constant input gives a checkerboard. A filter whose size is a multiple of the
stride, or enlarging first and convolving then, does not.
"""

import matplotlib.pyplot as plt
import numpy as np

import einstride as es

x = np.ones((1, 8, 8, 1))


def enlarged(size):
    f = np.ones((size, size, 1, 1)) / (size / 2) ** 2
    return es.conv_transpose(x, f, stride=2)[0, size:-size, size:-size, 0]


uneven, even = enlarged(3), enlarged(4)
repeated = x.repeat(2, axis=1).repeat(2, axis=2)
resized = es.conv(repeated, np.ones((3, 3, 1, 1)) / 9)[0, ..., 0]
assert np.ptp(uneven) > 0.3
assert np.ptp(even) < 1e-12
assert np.ptp(resized) < 1e-12

fig, axes = plt.subplots(1, 3, figsize=(9, 3.1), layout="constrained")
pictures = {"3 taps, stride 2": uneven, "4 taps, stride 2": even, "enlarged, then 3 taps": resized}
for ax, (name, picture) in zip(axes, pictures.items(), strict=True):
    ax.imshow(picture, cmap="gray", vmin=0, vmax=2)
    ax.set(title=name, xticks=[], yticks=[])
plt.show()
