"""
Reverb
======

A room answers a clap with thousands of echoes: its impulse response. Sound in the room is the
sound convolved with the response, so a filter with 12,000 taps. The planner takes `fft` for it.
"""

import matplotlib.pyplot as plt
import numpy as np

import einstride as es

rate, rng = 8000, np.random.default_rng(0)
t = np.arange(int(1.5 * rate)) / rate
response = rng.normal(size=t.size) * np.exp(-t / 0.25)
response[0] = 8.0

notes = [262, 330, 392, 523]  # a broken chord of C major
sound = np.zeros(2 * rate)
for n, pitch in enumerate(notes):
    at = np.arange(rate // 4)
    decay = np.exp(-at / (0.08 * rate))
    sound[n * rate // 4 :][: at.size] += np.sin(2 * np.pi * pitch * at / rate) * decay

taps = response[::-1, None, None].copy()  # a convolution in the mathematician's sense is reversed
wet = es.conv(sound[None, :, None], taps, padding="causal")[0, :, 0]
plan = es.plan((1, sound.size, 1), taps.shape, dtype="float64", padding="causal")
assert plan.algorithm == "fft"
assert np.isclose(wet[9000], sound[:9001] @ response[9000::-1])

fig, axes = plt.subplots(3, 1, figsize=(8, 4.5), layout="constrained", sharex=True)
signals = {"dry": sound, "impulse response of the room": response, "wet": wet}
for ax, (name, signal) in zip(axes, signals.items(), strict=True):
    ax.plot(np.arange(signal.size) / rate, signal, lw=0.6)
    ax.set(title=name, yticks=[])
axes[-1].set(xlabel="seconds")
plt.show()
