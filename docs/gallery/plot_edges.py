"""
Edge detection
==============

Two Sobel filters give the gradient of a photograph in both directions, by one call with two
output channels. The photograph is one that scikit-learn ships.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

import einstride as es

image = load_sample_image("china.jpg")[::2, ::2].mean(axis=2).astype("float32")
sobel = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], "float32")
filters = np.stack([sobel, sobel.T], axis=-1)[:, :, None, :]  # (3, 3, 1, 2)

gradient = es.conv(image[None, ..., None], filters, padding="same", padding_mode="reflect")[0]
edges = np.hypot(gradient[..., 0], gradient[..., 1])
assert edges.shape == image.shape

fig, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for ax, picture, name in zip(
    axes, (image, edges), ("photograph", "size of the gradient"), strict=True
):
    ax.imshow(picture, cmap="gray")
    ax.set(title=name, xticks=[], yticks=[])
plt.show()
