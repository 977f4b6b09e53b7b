"""
Reverb
======

A room answers a clap with thousands of echoes: its impulse response. Sound in the room is the
sound convolved with the response. The sound is real music, which comes with pygame-ce; the room is
simulated, by noise that decays. Its filter has 11,025 taps, and the planner takes `fft` for it.
"""

import base64
import io
from importlib.util import find_spec
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.io import wavfile

import einstride as es

file = Path(find_spec("pygame").origin).parent / "examples" / "data" / "house_lo.wav"
rate, samples = wavfile.read(file)
sound = (samples.astype("float32") - 128) / 128

rng = np.random.default_rng(0)
t = np.arange(rate) / rate  # one second
response = (rng.normal(size=rate) * np.exp(-t / 0.2)).astype("float32")
response[0] = 12

# A convolution in the mathematician's sense reverses the filter: flip=True.
x, f = sound[None, :, None], response[:, None, None]
wet = es.conv(x, f, padding="causal", flip=True)[0, :, 0]
assert es.plan(x, f, padding="causal", flip=True).algorithm == "fft"
assert np.isclose(wet[20000], sound[8976:20001] @ response[::-1], atol=1e-3)

fig, axes = plt.subplots(3, 1, figsize=(8, 4.5), layout="constrained", sharex=True)
signals = {"the music": sound, "impulse response of the room": response, "in the room": wet}
for ax, (name, signal) in zip(axes, signals.items(), strict=True):
    ax.plot(np.arange(signal.size) / rate, signal, lw=0.4)
    ax.set(title=name, yticks=[])
axes[-1].set(xlabel="seconds")
plt.show()


##################################################################################################
# Hear both:


class Player:
    """Plays a sound in the page."""

    def __init__(self, name, signal):
        self.name, self.file = name, io.BytesIO()
        bits = np.round(127 * signal / np.abs(signal).max() + 128).astype(np.uint8)
        wavfile.write(self.file, rate, bits)

    def _repr_html_(self):
        data = base64.b64encode(self.file.getvalue()).decode()
        return f'<p>{self.name} <audio controls src="data:audio/wav;base64,{data}"></audio></p>'


Player("The music", sound)

##################################################################################################

Player("In the room", wet)
