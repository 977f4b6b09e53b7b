"""
A bank of wavelets
==================

Thirty-two complex wavelets of rising frequency, as the output channels of one filter, show which
pitch sounds when. The arrays are complex64; nothing is conjugated.
"""

import matplotlib.pyplot as plt
import numpy as np

import einstride as es

rate = 4000
t = np.arange(2 * rate) / rate
pitch = 200 + 500 * t**2 / 4  # a rising sweep
sound = np.sin(2 * np.pi * np.cumsum(pitch) / rate) + 0.5 * np.sin(2 * np.pi * 900 * t) * (t > 1)

frequencies = np.geomspace(100, 1200, 32)
time = (np.arange(401) - 200) / rate
width = 4 / frequencies
bank = np.exp(-((time[:, None] / width) ** 2) - 2j * np.pi * frequencies * time[:, None])
bank /= np.abs(bank).sum(axis=0)

x = sound.astype(np.complex64)[None, :, None]
power = np.abs(es.conv(x, bank.astype(np.complex64)[:, None, :], stride=16, padding="same"))[0]
assert power.shape == (500, 32)
loudest = frequencies[power[100].argmax()]
assert abs(loudest - pitch[1600]) < 0.15 * loudest

fig, ax = plt.subplots(figsize=(8, 3.2), layout="constrained")
ax.pcolormesh(np.arange(500) * 16 / rate, frequencies, power.T, cmap="magma")
ax.set(yscale="log", xlabel="seconds", ylabel="Hz", title="power by time and frequency")
plt.show()
