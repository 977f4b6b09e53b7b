"""
Plan and roofline of a whole network
====================================

`plan` needs shapes alone, so a network can be examined before it exists: which algorithm each of
its layers would take, how many products and bytes, and the predicted time against the machine's
two limits.
"""

from collections import defaultdict
from math import prod

import matplotlib.pyplot as plt

import einstride as es
from einstride import calibration

layers = []  # the 3x3 and 1x1 layers of a small residual network: size, channels in and out, taps
for size, channels in ((56, 64), (28, 128), (14, 256), (7, 512)):
    layers += [(size, channels, channels, 3), (size, channels, channels // 2, 1)]
layers += [(112, 3, 32, 3), (56, 96, 96, 5)]

points = defaultdict(list)
for size, c, d, k in layers:
    shapes = (8, size, size, c), (k, k, c, d)
    p = es.plan(*shapes, padding="same")
    seconds = next(x.cost.seconds for x in p.candidates if x.algorithm == p.algorithm)
    products = 8 * size * size * k * k * c * d
    bytes_moved = 4 * (prod(shapes[0]) + prod(shapes[1]) + prod(p.output_shape))
    points[p.algorithm].append((products / bytes_moved, products / seconds))

rates = calibration.rates("numpy", "float32")
fig, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for algorithm, where in points.items():
    ax.plot(*zip(*where, strict=True), "o", label=algorithm)
intensity = [1, 1000]
ax.plot(intensity, [i / rates["copy"] for i in intensity], "k:", label="memory")
ax.axhline(1 / rates["matmul"], color="k", label="arithmetic (Winograd may exceed it)")
ax.set(
    xscale="log", yscale="log", xlabel="multiply-adds per byte", ylabel="multiply-adds per second"
)
ax.legend()
assert sum(map(len, points.values())) == len(layers)
plt.show()
