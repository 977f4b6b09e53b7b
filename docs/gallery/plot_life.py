"""
Game of Life
============

A cell of Conway's game lives on if two or three of its eight neighbours live, and is born with
three. Counting neighbours is a convolution with a filter of ones; on a board without an edge the
padding is circular, and the integers are exact.
"""

import matplotlib.pyplot as plt
import numpy as np

import einstride as es

neighbours = np.ones((3, 3, 1, 1), np.uint8)
neighbours[1, 1] = 0
board = (np.random.default_rng(3).random((1, 64, 96, 1)) < 0.3).astype(np.uint8)

generations = [board]
for _ in range(60):
    count = es.conv(board, neighbours, padding="same", padding_mode="circular")
    board = ((count == 3) | ((count == 2) & (board == 1))).astype(np.uint8)
    generations.append(board)

fig, axes = plt.subplots(1, 3, figsize=(9, 2.4), layout="constrained")
for ax, n in zip(axes, (0, 10, 60), strict=True):
    ax.imshow(generations[n][0, ..., 0], cmap="Greens")
    ax.set(title=f"generation {n}", xticks=[], yticks=[])
plt.show()
