"""Design the low-pass filters of `resample_poly` and `decimate`: a windowed sinc.

This is `scipy.signal.firwin` for one cutoff. Any other filter is designed there, or elsewhere, and
its taps are passed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from einstride.support.errors import bad_value, shown

COSINES = {
    "boxcar": (1.0,), "rectangular": (1.0,), "hann": (0.5, 0.5), "hamming": (0.54, 0.46),
    "blackman": (0.42, 0.5, 0.08),
}  # fmt: skip
"""Windows that are sums of cosines: their coefficients, with alternating signs."""


def lowpass(where: str, count: int, cutoff: float, window: Any) -> Any:
    """Return `count` taps with a gain of 1 at frequency zero; 1 is the Nyquist frequency."""
    name, *parameters = (window,) if isinstance(window, str) else tuple(window)
    m = np.arange(count) - (count - 1) / 2
    if name in COSINES:
        angle = 2 * np.pi * np.arange(count) / max(count - 1, 1)
        shape = sum((-1) ** i * c * np.cos(i * angle) for i, c in enumerate(COSINES[name]))
    elif name == "kaiser" and len(parameters) == 1:
        shape = np.kaiser(count, parameters[0])
    elif name in ("bartlett", "triang") and not parameters:
        shape = np.bartlett(count) if name == "bartlett" else 1 - abs(m) / ((count + count % 2) / 2)
    else:
        raise bad_value(
            where, "window is unknown here", shown(window),
            f"use one of {(*COSINES, 'bartlett', ('kaiser', 5.0))}, or pass the taps themselves",
        )  # fmt: skip
    taps = cutoff * np.sinc(cutoff * m) * shape
    return taps / taps.sum()
