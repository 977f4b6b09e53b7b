"""
Half of a scan, filled by a convolution
=======================================

Magnetic resonance scanners measure k-space line by line. Every other line is left out here, and
predicted from its neighbours in all coils by a filter that the middle of k-space teaches: the
method GRAPPA. The head is real and comes with Matplotlib; the eight coils are simulated.
"""

import matplotlib.cbook as cbook
import matplotlib.pyplot as plt
import numpy as np

import einstride as es

with cbook.get_sample_data("s1045.ima.gz") as file:
    head = np.frombuffer(file.read(), np.uint16).reshape(256, 256) / 2**15

n, coils = 256, 8
axis = np.linspace(-1, 1, n)
rows, columns = axis[:, None, None], axis[:, None]
angles = 2 * np.pi * np.arange(coils) / coils
distance = (rows - np.sin(angles)) ** 2 + (columns - np.cos(angles)) ** 2
maps = np.exp(-distance + 1j * (angles + rows * np.cos(angles)))
noise = np.random.default_rng(0).normal(0, 0.003, (2, n, n, coils))
heard = head[..., None] * maps + noise[0] + 1j * noise[1]
k_space = np.fft.fftshift(np.fft.fft2(heard, axes=(0, 1)), axes=(0, 1))[None].astype("complex64")

sampled = k_space.copy()
sampled[:, 1::2] = 0

##################################################################################################
# Windows of 4 x 5 samples, two lines apart, are a view. Least squares over all windows in the
# middle give the filter; a convolution with stride 2 gives the missing lines.

middle = k_space[:, 112:144]
known = es.windows(middle, (4, 5), dilation=(2, 1)).reshape(-1, 4 * 5 * coils)
wanted = middle[0, 3:-3, 2:-2].reshape(-1, coils)
normal = known.conj().T @ known
normal += 1e-4 * np.trace(normal).real / len(normal) * np.eye(len(normal), dtype="complex64")
f = np.linalg.solve(normal, known.conj().T @ wanted).reshape(4, 5, coils, coils)

filled = sampled.copy()
filled[:, 1::2] = es.conv(
    sampled, f, stride=(2, 1), dilation=(2, 1), padding=((2, 4), (2, 2))
)  # fmt: skip


def image(k):
    each = np.fft.ifft2(np.fft.ifftshift(k[0], axes=(0, 1)), axes=(0, 1))
    return np.linalg.norm(each, axis=-1)


true = image(k_space)
error = np.linalg.norm(image(filled) - true) / np.linalg.norm(true)
assert error < 0.01

fig, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
pictures = {"all lines": true, "every other line": 2 * image(sampled)}
pictures[f"filled: error {error:.1%}"] = image(filled)
for ax, (name, picture) in zip(axes, pictures.items(), strict=True):
    ax.imshow(picture, cmap="gray", vmin=0, vmax=true.max())
    ax.set(title=name, xticks=[], yticks=[])
plt.show()
