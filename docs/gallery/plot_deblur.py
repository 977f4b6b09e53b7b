"""
Deblurring a photograph by adjoints
===================================

A blurred photograph is b = A x, where A is a convolution. The adjoint of A is `conv_input_grad`,
so the gradient of the error of a guess is one call, and conjugate gradients recover x without any
matrix.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

import einstride as es

image = load_sample_image("flower.jpg")[60:380:2, 120:520:2].mean(axis=2) / 255
sharp = image[None, ..., None]
t = np.arange(-4, 5)
f = np.exp(-(t[:, None] ** 2 + t**2) / (2 * 1.6**2))[:, :, None, None]
f /= f.sum()
settings = {"padding": "same", "padding_mode": "reflect"}
size = sharp.shape[1:-1]


def blur(x):
    return es.conv(x, f, **settings)


def adjoint(y):
    return es.conv_input_grad(y, f, size, **settings)


noise = np.random.default_rng(0).normal(0, 0.002, sharp.shape)
blurred = blur(sharp) + noise

##################################################################################################
# Conjugate gradients for A* A x + weight x = A* b: each step is one convolution and one adjoint.

weight = 1e-4
x = np.zeros_like(sharp)
residual = adjoint(blurred)
direction, energy = residual, np.sum(residual**2)
for _ in range(40):
    moved = adjoint(blur(direction)) + weight * direction
    step = energy / np.sum(direction * moved)
    x, residual = x + step * direction, residual - step * moved
    energy, before = np.sum(residual**2), energy
    direction = residual + energy / before * direction


def error(guess):
    return np.linalg.norm(guess - sharp) / np.linalg.norm(sharp)


assert error(x) < 0.8 * error(blurred)

fig, axes = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
pictures = {"photograph": sharp, f"blurred: error {error(blurred):.3f}": blurred}
pictures[f"recovered: {error(x):.3f}"] = x
for ax, (name, picture) in zip(axes, pictures.items(), strict=True):
    ax.imshow(picture[0, ..., 0], cmap="gray", vmin=0, vmax=1)
    ax.set(title=name, xticks=[], yticks=[])
plt.show()
