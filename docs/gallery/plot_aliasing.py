"""
Strides and aliasing
====================

A stride keeps every s-th output. What oscillates faster than the coarser grid can hold returns as
a false, slow pattern, unless the filter takes it away first.
"""

import matplotlib.pyplot as plt
import numpy as np

import einstride as es

n = np.arange(240)
fine = np.hypot(n[:, None] - 120, n - 120)
rings = np.cos(fine**2 / 75)[None, ..., None]

point = np.ones((1, 1, 1, 1))
t = np.arange(-6, 7)
smooth = np.exp(-(t[:, None] ** 2 + t**2) / (2 * 2.4**2))[:, :, None, None]
smooth /= smooth.sum()

sampled = es.conv(rings, point, stride=5)
filtered = es.conv(rings, smooth, stride=5, padding="same")
edge = (slice(None), slice(None, 6), slice(None, 6))  # the fastest rings
assert np.abs(filtered[edge]).max() < 0.1 < np.abs(sampled[edge]).max()

fig, axes = plt.subplots(1, 3, figsize=(9, 3.1), layout="constrained")
pictures = {"rings": rings, "every fifth: false rings": sampled, "smoothed, every fifth": filtered}
for ax, (name, picture) in zip(axes, pictures.items(), strict=True):
    ax.imshow(picture[0, ..., 0], cmap="gray", vmin=-1, vmax=1)
    ax.set(title=name, xticks=[], yticks=[])
plt.show()
