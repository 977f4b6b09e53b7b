"""
Coil sensitivities from the middle of k-space
=============================================

A magnetic resonance scanner listens with several coils, each of which hears the nearer part of
the body better. Neighbouring samples of k-space then depend on each other, by a small filter: all
windows of the calibration region, as rows of a matrix, have few large singular values, and their
null space tells the sensitivities. This is the idea of ESPIRiT; the windows are
`einstride.windows`, without a copy. The head is real and comes with Matplotlib; the four coils are
simulated, so that what is found can be compared.
"""

import matplotlib.cbook as cbook
import matplotlib.pyplot as plt
import numpy as np

import einstride as es

with cbook.get_sample_data("s1045.ima.gz") as file:
    head = np.frombuffer(file.read(), np.uint16).reshape(64, 4, 64, 4).mean(axis=(1, 3)) / 2**15

n, coils, taps = 64, 4, 5
axis = np.linspace(-1, 1, n)
centres = [(-1, -1), (-1, 1), (1, -1), (1, 1)]
maps = np.stack(
    [np.exp(-((axis[:, None] - a) ** 2 + (axis - b) ** 2) / 2 + 1j * a * axis) for a, b in centres],
    axis=-1,
)
k_space = np.fft.fftshift(np.fft.fft2(head[..., None] * maps, axes=(0, 1)), axes=(0, 1))

region = k_space[20:44, 20:44][None]  # 24 x 24 samples in the middle
rows = es.windows(region, taps).reshape(-1, taps * taps * coils)
_, sizes, basis = np.linalg.svd(rows, full_matrices=False)
rank = int((sizes > 0.02 * sizes[0]).sum())
assert rank < taps * taps * coils / 2

##################################################################################################
# The large singular vectors, as filters in image space, are large along the sensitivities: at each
# pixel, the sensitivities are the eigenvector of the largest eigenvalue.

kernels = basis[:rank].conj().reshape(rank, taps, taps, coils)
images = np.fft.fft2(kernels, s=(n, n), axes=(1, 2))
gram = np.einsum("rhwc,rhwd->hwcd", images.conj(), images)
found = np.linalg.eigh(gram)[1][..., -1]
found = np.abs(found) / np.linalg.norm(found, axis=-1, keepdims=True)
true = np.abs(maps) / np.linalg.norm(maps, axis=-1, keepdims=True)
body = head > 0.05
match = np.abs((found * true).sum(axis=-1))[body].mean()
assert match > 0.95, match

fig, axes = plt.subplots(2, 5, figsize=(9, 3.8), layout="constrained")
axes[0, 0].imshow(head, cmap="gray")
axes[0, 0].set(xticks=[], yticks=[], title="the head")
axes[1, 0].axis("off")
for row, values, name in zip(axes, (true, found), ("true", "found"), strict=True):
    for ax, coil in zip(row[1:], range(coils), strict=True):
        ax.imshow(np.where(body, values[..., coil], np.nan), vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[], title=f"coil {coil}, {name}")
plt.show()
