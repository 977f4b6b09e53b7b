"""
Deblurring a photograph by adjoints
===================================

A blurred photograph is b = A x, where A is a convolution. The adjoint of A is `conv_input_grad`,
so the gradient of the error of a guess is one call. Three methods recover x without any matrix: a
Wiener filter, Richardson-Lucy, and conjugate gradients.
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
# A Wiener filter is one convolution: its taps are those of (A* A + weight)^-1 A* for an endless
# photograph. They are found in the frequency domain, and decay, so that 61 on each axis are enough.

noise_to_signal = 2e-3
spectrum = np.fft.fft2(np.roll(np.pad(f[..., 0, 0], (0, 119)), (-4, -4), (0, 1)))
taps = np.fft.ifft2(spectrum.conj() / (abs(spectrum) ** 2 + noise_to_signal)).real
taps = np.roll(taps, (30, 30), (0, 1))[:61, :61, None, None]
wiener = es.conv(blurred, taps, flip=True, **settings)

##################################################################################################
# Richardson-Lucy multiplies a guess by the adjoint of what is seen over what the guess would show.
# It keeps the guess positive, as light is, and each step is one convolution and one adjoint.

seen = np.maximum(blurred, 1e-6)
lucy = np.full_like(sharp, seen.mean())
weights = adjoint(np.ones_like(sharp))
for _ in range(60):
    lucy *= adjoint(seen / blur(lucy)) / weights

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


recovered = {"Wiener": wiener, "Richardson-Lucy": lucy, "conjugate gradients": x}
for guess in recovered.values():
    assert error(guess) < 0.8 * error(blurred)

fig, axes = plt.subplots(1, 5, figsize=(15, 2.8), layout="constrained")
pictures = {"photograph": sharp, f"blurred: error {error(blurred):.3f}": blurred}
pictures |= {f"{name}: {error(guess):.3f}": guess for name, guess in recovered.items()}
for ax, (name, picture) in zip(axes, pictures.items(), strict=True):
    ax.imshow(picture[0, ..., 0], cmap="gray", vmin=0, vmax=1)
    ax.set(title=name, xticks=[], yticks=[])
plt.show()
