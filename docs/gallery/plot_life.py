"""
Game of Life on a Dask board
============================

A cell of Conway's game lives on if two or three of its eight neighbours live, and is born with
three. Counting neighbours is a convolution with a filter of ones; on a board without an edge the
padding is circular, and the integers are exact. The board is a Dask array: each chunk is a task,
which reads one row and column of its neighbours, and the first and the last chunk are neighbours.
"""

import dask.array as da
import matplotlib.pyplot as plt
import numpy as np

import einstride as es

neighbours = np.ones((3, 3, 1, 1), np.uint8)
neighbours[1, 1] = 0


def next_generation(board):
    count = es.conv(board, neighbours, padding="same", padding_mode="circular")
    return ((count == 3) | ((count == 2) & (board == 1))).astype(np.uint8)


start = (np.random.default_rng(3).random((1, 96, 144, 1)) < 0.3).astype(np.uint8)
boards = {0: da.from_array(start, chunks=(1, 48, 48, 1))}
for n in range(1, 41):
    boards[n] = next_generation(boards[n - 1])  # nothing is computed yet
    if n % 10 == 0:
        boards[n] = boards[n].persist(scheduler="threads")  # ten generations of 6 chunks

expected = start
for _ in range(40):
    expected = next_generation(expected)
assert np.array_equal(boards[40].compute(), expected)  # chunks leave no seams

##################################################################################################
# Orange lines are the borders between chunks, which the game does not see.

fig, axes = plt.subplots(1, 3, figsize=(9, 2.4), layout="constrained")
for ax, n in zip(axes, (0, 10, 40), strict=True):
    ax.imshow(boards[n].compute()[0, ..., 0], cmap="Greens", interpolation="nearest")
    for border in (48, 96):
        ax.axvline(border - 0.5, color="tab:orange", lw=0.8)
    ax.axhline(47.5, color="tab:orange", lw=0.8)
    ax.set(title=f"generation {n}", xticks=[], yticks=[])
plt.show()
