"""
What a filter of the digits network learned
===========================================

A small network learns to read digits. Its first filters can be looked at, and so can what each of
them answers to a digit.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits

import einstride as es
from einstride import nn

digits = load_digits()
images, labels = (digits.images / 16).astype("float32")[..., None], digits.target

net = nn.Sequential(
    nn.Conv(6, 3, padding="same"), nn.ReLU(), nn.MaxPool(2),
    nn.Conv(16, 3, padding="same"), nn.ReLU(), nn.Flatten(), nn.Dense(10),
)  # fmt: skip
model = nn.Model(net, input_shape=(8, 8, 1), seed=1)
model.fit(images[:1400], labels[:1400], nn.CrossEntropy(), nn.Adam(0.005), epochs=5, progress=False)
right = (model.predict(images[1400:]).argmax(axis=1) == labels[1400:]).mean()
assert right > 0.85

filters = next(p for p in model.parameters.values() if p.shape == (3, 3, 1, 6))
maps = es.conv(images[1400:1401], filters, padding="same")[0]

fig, axes = plt.subplots(2, 7, figsize=(9, 2.8), layout="constrained")
axes[0, 0].axis("off")
axes[1, 0].imshow(images[1400, ..., 0], cmap="gray_r")
axes[1, 0].set(title=f"a {labels[1400]}", xticks=[], yticks=[])
for n in range(6):
    for ax, picture, limit in (
        (axes[0, n + 1], filters[:, :, 0, n], 1),
        (axes[1, n + 1], maps[..., n], 2),
    ):
        ax.imshow(picture, cmap="RdBu", vmin=-limit, vmax=limit)
        ax.set(xticks=[], yticks=[])
fig.suptitle(f"first filters, and their answers; {right:.0%} of unseen digits are read")
plt.show()
