"""
Denoising by a small trained network
====================================

Two convolutional layers learn, in a few seconds on real handwritten digits, to take noise away.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from einstride import nn

clean = (load_digits().images / 16).astype("float32")[..., None]
noisy = clean + np.random.default_rng(0).normal(0, 0.25, clean.shape).astype("float32")
train, test = slice(0, 1200), slice(1200, None)

net = nn.Sequential(
    nn.Conv(16, 3, padding="same"), nn.ReLU(), nn.Conv(16, 3, padding="same"), nn.ReLU(),
    nn.Conv(1, 3, padding="same"),
)  # fmt: skip
model = nn.Model(net, input_shape=(8, 8, 1), seed=0)
model.fit(noisy[train], clean[train], nn.L2(), nn.Adam(0.005), epochs=4, progress=False)
denoised = model.predict(noisy[test])


def error(x):
    return float(np.mean((x - clean[test]) ** 2))


assert error(denoised) < 0.6 * error(noisy[test])

fig, axes = plt.subplots(3, 8, figsize=(8, 3.3), layout="constrained")
rows = {"noisy": noisy[test], "denoised": denoised, "clean": clean[test]}
for row, (name, images) in zip(axes, rows.items(), strict=True):
    for ax, image in zip(row, images, strict=False):
        ax.imshow(image[..., 0], cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(name)
plt.show()
