"""
Receptive fields of dilated convolutions
========================================

Which inputs does one output of a stack of layers see? The input gradient of a single one answers:
it is not zero exactly there. Four layers of three taps see 9 positions; with dilations 1, 2, 4, 8
they see 31.
"""

import matplotlib.pyplot as plt
import numpy as np

import einstride as es

f = np.ones((3, 3, 1, 1))


def seen(dilations):
    """Return how often each input reaches the output in the middle."""
    gradient = np.zeros((1, 41, 41, 1))
    gradient[0, 20, 20, 0] = 1
    for dilation in reversed(dilations):
        gradient = es.conv_input_grad(gradient, f, (41, 41), dilation=dilation, padding="same")
    return gradient[0, ..., 0]


plain, dilated = seen((1, 1, 1, 1)), seen((1, 2, 4, 8))
assert (plain > 0).any(axis=0).sum() == 9
assert (dilated > 0).any(axis=0).sum() == 31

fig, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
for ax, picture, name in zip(axes, (plain, dilated), ("1, 1, 1, 1", "1, 2, 4, 8"), strict=True):
    ax.imshow(np.where(picture > 0, picture, np.nan), cmap="viridis")
    ax.set(title=f"dilations {name}", xticks=[], yticks=[])
plt.show()
